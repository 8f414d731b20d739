"""The exact dense heatmap beside S patch by patch: time, memory, and share of the machine's matrix rate.

    python -m benchmarks.dense

Both sides run the full S (7 convolutions, 64 filters) with random weights, in turns, in one process with
the same threads; each figure is the median of the turns. Patch by patch costs the same for every patch, so
it is timed on a part of the image (--patches) and quoted per pixel. The matrix rate is that of a
2048 x 2048 float32 product in the same turns; the share counts the products of docs/dense-heatmap.md's table,
which is what sharing needs in theory without the frame around the image.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import patchnet_tf as pn
from patchnet_tf.model.dense import MEMORY, DenseMap
from patchnet_tf.model.patchwise import PatchwiseMap

import tensorflow as tf  # isort: skip  (after patchnet_tf, which switches oneDNN on)

DEPTH, FILTERS, SIDE = 7, 64, 2048


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def products(p: int, channels: int, padding: str) -> int:
    """Multiplications of S's convolutions for each pixel of a map that shares all work."""
    inputs = [channels] + [FILTERS] * (DEPTH - 1)
    states = [min(p, 2 * k + 1) ** 2 if padding == "same" else 1 for k in range(1, DEPTH + 1)]
    return sum(9 * c * FILTERS * n for c, n in zip(inputs, states, strict=True))


class PeakMemory:
    """Most resident memory above that at entry, in MiB."""

    def __enter__(self) -> "PeakMemory":
        self.base, self.mebibytes, self.done = self.resident(), 0.0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def watch(self) -> None:
        """Look every 10 ms."""
        while not self.done.wait(0.01):
            self.mebibytes = max(self.mebibytes, self.resident() - self.base)

    @staticmethod
    def resident() -> float:
        """Resident memory of this process, in MiB."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(p: int, channels: int, size: int, padding: str, options: argparse.Namespace) -> dict[str, float]:
    """Time one case: microseconds per pixel of both, matrix rate, peak memory, largest difference."""
    subnet = pn.PatchSubnet(p, channels, padding=padding)
    signature = [tf.TensorSpec((None, None, None, channels))]
    exact = tf.function(DenseMap(subnet, memory=options.memory), input_signature=signature)
    plain = tf.function(PatchwiseMap(subnet), input_signature=signature)
    rng = np.random.default_rng(0)
    image = tf.constant(rng.normal(size=(1, size + p - 1, size + p - 1, channels)), "float32")
    columns = 32
    rows = max(1, options.patches // columns * 17**2 // p**2)  # about the same time for every p
    part = image[:, : rows + p - 1, : columns + p - 1]
    matrix = tf.random.normal((SIDE, SIDE))
    product = tf.function(lambda a: tf.matmul(a, a))

    first = seconds(lambda: exact(part))
    plain(part), product(matrix)
    with PeakMemory() as peak:
        whole = exact(image)
    error = float(tf.reduce_max(tf.abs(whole[:, :rows, :columns] - plain(part))))
    turns = [
        (seconds(lambda: exact(image)), seconds(lambda: plain(part)), seconds(lambda: product(matrix)))
        for _ in range(options.repeats)
    ]
    dense, patchwise, matmul = (statistics.median(column) for column in zip(*turns, strict=True))
    dense, patchwise = dense / size**2, patchwise / (rows * columns)
    rate = 2 * SIDE**3 / matmul
    return {
        "exact us/px": dense * 1e6,
        "patchwise us/px": patchwise * 1e6,
        "ratio": patchwise / dense,
        "GFLOP/s of matmul": rate / 1e9,
        "share of it": 2 * products(p, channels, padding) / dense / rate,
        "peak MiB": peak.mebibytes,
        "first call s": first,
        "difference": error,
    }


def main() -> None:
    """Print a Markdown table, a row per case as it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patch-sizes", type=int, nargs="+", default=[11, 15, 17, 21, 31, 63])
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 256], help="side of the image, pixels")
    parser.add_argument("--valid", type=int, nargs="*", default=[31], help='patch sizes with padding="valid"')
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patches", type=int, default=1024, help="timed patch by patch at p = 17")
    parser.add_argument("--memory", type=int, default=MEMORY, help="of the exact map, MiB")
    options = parser.parse_args()

    cases = [(p, "same") for p in options.patch_sizes] + [(p, "valid") for p in options.valid]
    header = None
    # A fresh process for each case, so that memory that an earlier one has kept does not hide a peak.
    fresh = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with concurrent.futures.ProcessPoolExecutor(**fresh) as processes:
        for size, channels, (p, padding) in itertools.product(options.sizes, options.channels, cases):
            result = processes.submit(measure, p, channels, size, padding, options).result()
            if header is None:
                header = ["p", "padding", "c", "image", *result]
                print("|", " | ".join(header), "|")
                print("|", " | ".join("---" for _ in header), "|")
            cells = [f"{value:.3g}" for value in result.values()]
            print(
                "|",
                " | ".join([str(p), padding, str(channels), f"{size} x {size}", *cells]),
                "|",
                flush=True,
            )


if __name__ == "__main__":
    main()
