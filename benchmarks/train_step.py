"""One training step of G beside the same network in PyTorch, in one run, and where TensorFlow's time goes.

    python -m benchmarks.train_step [--torch-python PYTHON]

128 x 128 x 3 images, p = 17, batch 4, Adam, binary cross-entropy, float32, on the processor. PyTorch runs in
a process of its own, of the interpreter PYTHON (this one unless told otherwise), so that the threads of one
library do not disturb the other's. Whatever is timed takes turns, so that a busy machine slows all of it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import patchnet_tf as pn

import keras  # isort: skip  (after patchnet_tf, which switches oneDNN on)
import tensorflow as tf  # isort: skip

SIZE, P, BATCH = 128, 17, 4
WARM_UP, ROUNDS = 2, 9
Call = Callable[[], object]


@contextmanager
def torch_step(
    python: str, model: keras.Model, images: np.ndarray, labels: np.ndarray, threads: int
) -> Iterator[Call]:
    """Start PyTorch's process; give the function that does one step there and returns its loss."""
    worker = Path(__file__).with_name("torch_step.py")
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.npz"
        weights = {f"weight_{k}": weight for k, weight in enumerate(model.get_weights())}
        np.savez(start, images=images, labels=labels, **weights)
        with subprocess.Popen(
            [python, worker, start, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:

            def step() -> float:
                print(file=process.stdin, flush=True)
                return float(process.stdout.readline() or "nan")  # nan: it has ended, and said why

            yield step
            process.stdin.close()


def parts(model: keras.Model, images: np.ndarray) -> dict[tuple[str, str], Call]:
    """Return {(last part, direction): G from its start to that part, forward, or forward and backward}."""
    images = tf.constant(images)
    patches = keras.Model(model.input, model.standardize(model.patches(model.input)))
    subnet = model.subnet
    calls = {}
    for part, last in {
        "patches, convolution 1": "conv1",
        "convolutions 2 to 7": "conv7",
        "readout": "readout",
        "tanh, unit, sigmoid": "decision",
    }.items():
        start = keras.Model(subnet.input, subnet.get_layer(last).output)

        def forward(start=start):
            cut = patches(images)  # (B, P, p, p, C)
            return tf.reduce_sum(start(tf.reshape(cut, (-1, *cut.shape[2:]))))

        def both(start=start, forward=forward):
            with tf.GradientTape() as tape:
                total = forward()
            return tape.gradient(total, start.trainable_variables)

        calls[part, "forward"] = tf.function(forward)
        calls[part, "both"] = tf.function(both)
    return calls


def milliseconds(calls: dict[object, Call]) -> dict[object, list[float]]:
    """Time each call ROUNDS times; the calls take turns."""
    times = {name: [] for name in calls}
    for _ in range(WARM_UP + ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: spent[WARM_UP:] for name, spent in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(threads)

    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype("float32")
    labels = np.array([[0], [1]] * (BATCH // 2), "float32")
    model = pn.PatchNet((SIZE, SIZE, 3), P)
    model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy")
    with torch_step(arguments.torch_python, model, images, labels, threads) as other_step:
        loss, other = float(model.train_on_batch(images, labels)), other_step()
        print(f"loss: TensorFlow {loss:.6f}, PyTorch {other:.6f}")
        if not abs(loss - other) < 1e-4:
            sys.exit("The losses differ: these are not the same network, or PyTorch did not run.")
        times = milliseconds(
            {
                "TensorFlow": lambda: model.train_on_batch(images, labels),
                "PyTorch": other_step,
                **parts(model, images),
            }
        )
    for name, statistic in (("median", statistics.median), ("fastest", min)):
        ours, theirs = statistic(times["TensorFlow"]), statistic(times["PyTorch"])
        print(
            f"a training step, {threads} threads, {name} of {ROUNDS}: "
            f"TensorFlow {ours:.0f} ms, PyTorch {theirs:.0f} ms, ratio {ours / theirs:.2f}"
        )
    spent = {name: statistics.median(of_call) for name, of_call in times.items()}
    print(f"{'of TensorFlow (ms)':24}{'forward':>10}{'backward':>10}")
    before = {"forward": 0.0, "both": 0.0}
    for part in dict.fromkeys(name[0] for name in spent if isinstance(name, tuple)):
        forward, both = (spent[part, way] - before[way] for way in before)
        print(f"    {part:24}{forward:6.0f}{both - forward:10.0f}")
        before = {way: spent[part, way] for way in before}
    print(f"    {'Adam and the rest':24}{spent['TensorFlow'] - before['both']:16.0f}")


if __name__ == "__main__":
    main()
