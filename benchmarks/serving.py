"""Requests per second and latencies of `patchnet serve`, beside `Predictor` called in a process.

    python -m benchmarks.serving [--clients 8] [--probabilities 400] [--heatmaps 24]

Random weights, images of 128 x 128 x 3, on the processor. Clients are threads of one process that ask one
after the other, all of them at once, by the V2 protocol with binary data over REST, on connections that stay
open; "in process" is the same threads calling a `Predictor`, which is what the network and the server add to.
"no batches" is --max-batch 1. The first requests of each client are not counted. Latency is from asking to
having the answer as an array, so with all clients asking at once most of it is waiting for each other.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import urllib3

SIZE, CHANNELS = 128, 3
HEADER_LENGTH = "inference-header-content-length"
Ask = Callable[[np.ndarray], object]


def export(path: Path, patch_size: int, filters: int, depth: int) -> None:
    """Write an ONNX file with random weights."""
    import patchnet_tf as pn

    model = pn.PatchNet((None, None, CHANNELS), patch_size, filters=filters, depth=depth)
    pn.export.to_onnx(model, path)


@contextlib.contextmanager
def serving(path: Path, *options: object) -> Iterator[tuple[str, int]]:
    """Serve a model; yield the server's address and its process."""
    command = [
        sys.executable,
        "-m",
        "patchnet_tf.cli",
        "serve",
        path,
        "--port",
        0,
        "--grpc-port",
        -1,
    ]
    server = subprocess.Popen(
        [str(part) for part in (*command, *options)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        for line in server.stderr:
            if b'"serving"' in line:
                host, port = json.loads(line)["http"]
                break
        else:
            sys.exit("the server did not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield f"http://{host}:{port}", server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def request(image: np.ndarray, output: str) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a V2 request for one output of an image, both as bytes."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, *image.shape]}
    tensor["parameters"] = {"binary_data_size": image.size}
    said = {
        "inputs": [tensor],
        "outputs": [{"name": output}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(said).encode()
    return head + image.tobytes(), {HEADER_LENGTH: str(len(head))}


def asking(address: str, model: str, output: str) -> Ask:
    """Return a function that asks a server for one output of an image."""
    pool = urllib3.PoolManager(maxsize=64, retries=False, timeout=600)

    def ask(image: np.ndarray) -> np.ndarray:
        body, headers = request(image, output)
        answer = pool.request("POST", f"{address}/v2/models/{model}/infer", body=body, headers=headers)
        if answer.status != 200:
            raise RuntimeError(answer.data.decode())
        return np.frombuffer(answer.data[int(answer.headers[HEADER_LENGTH]) :], "<f4")

    return ask


def measure(ask: Ask, clients: int, count: int) -> tuple[float, np.ndarray]:
    """Return the seconds that `count` requests of some clients took together, and the seconds of each."""
    images = np.random.default_rng(0).integers(0, 256, (clients, SIZE, SIZE, CHANNELS), "uint8")
    latencies: list[float] = []
    ready = threading.Barrier(clients + 1)

    def client(k: int) -> None:
        ask(images[k])
        ready.wait()
        for _ in range(count // clients):
            began = time.perf_counter()
            ask(images[k])
            latencies.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began, np.array(latencies)


def mean_batch(address: str, output: str) -> float:
    """Return how many images a server computed at once, on average."""
    metrics = urllib3.request("GET", f"{address}/metrics").data.decode()
    total, count = (
        float(re.search(rf'patchnet_batch_images_{part}{{output="{output}"}} (\S+)', metrics)[1])
        for part in ("sum", "count")
    )
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--probabilities", type=int, default=400, help="requests for a probability alone")
    parser.add_argument("--heatmaps", type=int, default=24, help="requests for a heatmap")
    parser.add_argument("--patch-size", type=int, default=17)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--depth", type=int, default=7)
    options = parser.parse_args()
    counts = {"probability": options.probabilities, "heatmap": options.heatmaps}
    if min(counts.values()) < options.clients:
        parser.error("expected at least one request of each kind for each client")

    from patchnet_tf.serving import Predictor

    def row(way: str, output: str, ask: Ask, address: str = "") -> None:
        spent, latencies = measure(ask, options.clients, counts[output])
        p50, p95, p99 = np.percentile(latencies, (50, 95, 99))
        batch = f"{mean_batch(address, output):.1f}" if address else ""
        print(
            f"| {output} | {way} | {len(latencies) / spent:.2f} | {1000 * p50:.0f} | {1000 * p95:.0f} "
            f"| {1000 * p99:.0f} | {batch} |",
            flush=True,
        )

    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{options.clients} clients, {cores} cores, load {load:.1f} before\n")
    print("| output | way | requests/s | p50 ms | p95 ms | p99 ms | images in a batch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(path, options.patch_size, options.filters, options.depth)
        predict = Predictor(path)
        row("in process", "probability", predict.probability)
        row("in process", "heatmap", predict)
        for way, max_batch in (("no batches", 1), ("batches", options.clients)):
            with serving(path, "--max-batch", max_batch, "--max-waiting", 10_000) as (address, _):
                for output in counts:
                    row(f"served, {way}", output, asking(address, path.stem, output), address)


if __name__ == "__main__":
    main()
