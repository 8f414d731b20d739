"""`patchnet serve` for minutes under all that clients do: whether answers stay right, and what memory does.

    python -m benchmarks.soak [--minutes 10]

Two small networks with random weights take turns as the served version. At once there are: clients that
ask for images of mixed sizes by V1 (pixels, files) and V2 (binary), and compare every bit with
`Predictor` of the version that answered; clients that leave; readers that do not read; senders that
stop; bad requests; probes, from a process of their own, each on a new connection; and a new version
every 20 seconds. What else the machine does shows in probes of a process that does nothing but answer
them, taken in turn with those of the server. It exits with 1 where an answer was wrong or a status not
one that is documented.
"""

import argparse
import asyncio
import base64
import collections
import io
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import urllib3
from PIL import Image

from patchnet_tf.serving import Predictor

from .serving import HEADER_LENGTH, export, request, serving

SIZES = [(5, 5), (16, 24), (40, 40), (33, 64), (96, 96), (128, 128), (200, 300)]
SWAP_SECONDS, SAMPLE_SECONDS, PROBE_SECONDS = 20, 5, 0.1
FINE = {200, 503}  # the latter is what `Client` repeats
LEAVING, SLOW = (512, 512), (1024, 1024)  # the answers to the latter, 4 MB, are more than sockets hold


class Soak:
    """What all that goes on at once shares."""

    def __init__(self, url: str, folder: Path, predictors: list[Predictor]) -> None:
        self.url, self.folder, self.predictors = url, folder, predictors
        self.port = urllib3.util.parse_url(url).port
        self.over = threading.Event()
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.samples: list[tuple[float, int, int, int]] = []
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*size, 3), "uint8") for size in SIZES]
        self.files = [png(image) for image in self.images]
        # What versions 0, 2, 4, ... and 1, 3, 5, ... answer.
        self.expected = [[predict(image) for image in self.images] for predict in predictors]

    def v2(self, pool: urllib3.PoolManager, k: int) -> None:
        """Ask for a heatmap by V2 in binary; the answer names its version."""
        body, headers = request(self.images[k], "heatmap")
        answer = self.post(pool, "/v2/models/cells/infer", body, headers)
        if answer is None:
            return
        length = int(answer.headers[HEADER_LENGTH])
        version = int(json.loads(answer.data[:length])["model_version"])
        heatmap = np.frombuffer(answer.data[length:], "<f4").reshape(SIZES[k])
        self.compare("v2", np.array_equal(heatmap, self.expected[version % 2][k].heatmap))

    def v1(self, pool: urllib3.PoolManager, k: int) -> None:
        """Ask for both by V1, in pixels or as a file; either version may have answered."""
        as_file = {"b64": base64.b64encode(self.files[k]).decode()}
        instance = self.images[k].tolist() if SIZES[k][0] < 50 and k % 2 else as_file
        body = json.dumps({"instances": [instance]}).encode()
        answer = self.post(pool, "/v1/models/cells:predict", body, {})
        if answer is None:
            return
        [row] = json.loads(answer.data)["predictions"]
        heatmap, probability = np.float32(row["heatmap"]), np.float32(row["probability"])
        fitting = [
            probability == np.float32(expected[k].probability)
            and np.array_equal(heatmap, expected[k].heatmap)
            for expected in self.expected
        ]
        self.compare("v1", any(fitting))

    def post(self, pool: urllib3.PoolManager, path: str, body: bytes, headers: dict) -> object | None:
        """Return the answer with status 200; 503 is counted."""
        answer = pool.request("POST", self.url + path, body=body, headers=headers)
        self.counts[f"answers {answer.status}"] += 1
        if answer.status not in FINE:
            self.wrong.append(f"{path}: {answer.status} {answer.data[:200]!r}")
        return answer if answer.status == 200 else None

    def compare(self, what: str, equal: bool) -> None:
        """Count an answer, and note one that is wrong."""
        self.counts[f"equal {what}"] += equal
        if not equal:
            self.wrong.append(f"{what}: another answer than Predictor's")

    def run(self, task: Callable, *arguments: int) -> None:
        """Do one of what follows; what it raises is wrong."""
        try:
            task(*arguments)
        except Exception as error:
            self.wrong.append(f"{task.__name__}: {error!r}")

    def client(self, seed: int) -> None:
        """Ask on and on, by both protocols."""
        rng, pool = np.random.default_rng(seed), urllib3.PoolManager(retries=False, timeout=120)
        while not self.over.is_set():
            ask = self.v1 if rng.random() < 0.5 else self.v2
            ask(pool, int(rng.integers(len(SIZES))))

    def leaver(self) -> None:
        """Ask for a large heatmap, and leave."""
        rng = np.random.default_rng(0)
        while not self.over.wait(0.5 * rng.random()):
            with self.connection(self.whole(LEAVING)):
                self.over.wait(0.3 * rng.random())
            self.counts["left"] += 1

    def slow_reader(self) -> None:
        """Ask for an answer of megabytes, and read nothing of it for longer than the server waits."""
        while not self.over.is_set():
            with self.connection(self.whole(SLOW)):
                self.over.wait(60)
            self.counts["not read"] += 1

    def slow_sender(self) -> None:
        """Send a body that ends early, and wait for the refusal."""
        while not self.over.is_set():
            with self.connection(self.whole(SLOW)[:-1]) as stopped:
                stopped.settimeout(30)
                answer = stopped.recv(100)
            self.counts[f"stopped {answer[9:12].decode()}"] += 1

    def bad(self) -> None:
        """Ask what is refused."""
        pool = urllib3.PoolManager(retries=False, timeout=60)
        v1, v2 = "/v1/models/cells:predict", "/v2/models/cells/infer"
        damaged = {"b64": base64.b64encode(self.files[4][:-40]).decode()}
        bodies = [
            *((v1, body) for body in (b"", b"{", b"[" * 100_000, b'{"instances": 7}', b"\xff\xfe")),
            (v1, json.dumps({"instances": [damaged]}).encode()),
            (v1, json.dumps({"instances": [[[[300, 0, 0]] * 9] * 9]}).encode()),
            (v1, b"[1]," * 2**20),
            (v2, b'{"inputs": [{"name": "image", "shape": [1, 99999, 99999, 3], "datatype": "UINT8"}]}'),
            ("/v1/models/dogs:predict", b"{}"),
        ]
        number = 0
        while not self.over.wait(0.2):
            path, body = bodies[number % len(bodies)]
            status = pool.request("POST", self.url + path, body=body).status
            self.counts[f"refused {status}"] += 1
            if not 400 <= status < 500:
                self.wrong.append(f"{path}: {status} for {body[:60]!r}")
            number += 1

    def swapper(self) -> None:
        """Add a version, and remove the one before the last."""
        number = 0
        while not self.over.wait(SWAP_SECONDS):
            number += 1
            add_version(self.folder, number, self.predictors)
            shutil.rmtree(self.folder / str(number - 2), ignore_errors=True)
            self.counts["versions"] += 1

    def sampler(self, pid: int) -> None:
        """Note memory, files and threads of the server."""
        began, files = time.monotonic(), Path(f"/proc/{pid}/fd")
        while not self.over.wait(SAMPLE_SECONDS):
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            )
            memory, threads = (int(status[key].split()[0]) for key in ("VmRSS", "Threads"))
            opened = len(list(files.iterdir()))
            self.samples.append((time.monotonic() - began, memory // 1024, opened, threads))

    def whole(self, size: tuple[int, int]) -> bytes:
        """Return a request with an image of zeros."""
        body, headers = request(np.zeros((*size, 3), "uint8"), "heatmap")
        head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        length = f"content-length: {len(body)}\r\n\r\n"
        return f"POST /v2/models/cells/infer HTTP/1.1\r\nhost: localhost\r\n{head}{length}".encode() + body

    def connection(self, content: bytes) -> socket.socket:
        """Return a connection with a small buffer, on which something was sent."""
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect(("127.0.0.1", self.port))
        made.sendall(content)
        return made


def png(image: np.ndarray) -> bytes:
    """Return an image file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def add_version(folder: Path, number: int, predictors: list[Predictor]) -> None:
    """Move a version into the folder, whole."""
    staged = folder.with_name("staged")
    staged.mkdir()
    shutil.copy(predictors[number % 2].path, staged / "model.onnx")
    staged.rename(folder / str(number))


def probe(url: str, over: Any, answers: Any) -> None:
    """Ask for liveness and readiness, and an idle process, each on a new connection; put the seconds."""
    times: dict[str, list[float]] = {"server": [], "idle": []}
    failed, number = 0, 0
    reading, writing = multiprocessing.Pipe(duplex=False)
    idle = multiprocessing.get_context("spawn").Process(target=answer_probes, args=(writing,), daemon=True)
    idle.start()
    at = {"server": url, "idle": f"http://127.0.0.1:{reading.recv()}"}
    while not over.wait(PROBE_SECONDS):
        number += 1
        for name, seconds in times.items():
            began = time.perf_counter()
            path = f"/v2/health/{('live', 'ready')[number % 2]}"
            try:
                answer = urllib3.request("GET", at[name] + path, timeout=10, retries=False)
                failed += answer.status != 200
            except urllib3.exceptions.HTTPError:
                failed += 1
            seconds.append(time.perf_counter() - began)
    answers.put((times, failed))


def answer_probes(port: Any) -> None:
    """Answer, and send on which port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder, predictors = Path(name) / "cells", []
        folder.mkdir()
        for k in range(2):
            export(Path(name) / f"{k}.onnx", 5, 4, 2)
            predictors.append(Predictor(Path(name) / f"{k}.onnx"))
        add_version(folder, 0, predictors)
        with serving(folder) as (url, pid):
            soak, over, answers = Soak(url, folder, predictors), processes.Event(), processes.Queue()
            probing = processes.Process(target=probe, args=(url, over, answers))
            probing.start()
            tasks: list[tuple[Callable, ...]] = [(soak.client, k) for k in range(arguments.clients)]
            tasks += [(soak.leaver,), (soak.slow_reader,), (soak.slow_sender,), (soak.bad,), (soak.swapper,)]
            threads = [threading.Thread(target=soak.run, args=task) for task in [*tasks, (soak.sampler, pid)]]
            for thread in threads:
                thread.start()
            soak.over.wait(60 * arguments.minutes)
            soak.over.set()
            for thread in threads:
                thread.join()
            over.set()
            times, failed = answers.get(timeout=60)
            probing.join()
        report(soak, times, failed)
    sys.exit(bool(soak.wrong))


def report(soak: Soak, times: dict[str, list[float]], failed: int) -> None:
    """Print what was counted."""
    for what, count in sorted(soak.counts.items()):
        print(f"{what:16} {count}")
    for name, seconds in times.items():
        middle, late, most = 1000 * np.percentile(seconds, [50, 99, 100])
        within = np.mean(np.array(seconds) < 0.2)
        print(
            f"probes of {name:6} {len(seconds)}: median {middle:.0f} ms, 99 % {late:.0f} ms, "
            f"slowest {most:.0f} ms, {within:.2%} below 200 ms"
        )
    print(f"probes failed    {failed}")
    print("minute, memory (MB), open files, threads of the server:")
    step = max(1, len(soak.samples) // 11)
    for at, memory, files, count in soak.samples[::step]:
        print(f"  {at / 60:5.1f} {memory:6} {files:4} {count:4}")
    for complaint in soak.wrong[:10]:
        print(f"WRONG: {complaint}")


if __name__ == "__main__":
    main()
