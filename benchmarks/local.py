"""Every patch of an image by a pretrained network made local: time, memory, and how exact it is.

    python -m benchmarks.local

EfficientNet-Lite0 at each patch size, its head random: decisions about the patches at every `stride`-th pixel
of an image of normal pixels, H x W padded by p - 1. Seconds are the median of the turns;
the difference is the largest from S on patches cut out one by one, of the decisions and of their logits.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import patchnet_tf as pn

from .dense import PeakMemory, seconds

import tensorflow as tf  # isort: skip  (after patchnet_tf, which switches oneDNN on)


def differences(S: keras.Model, image: np.ndarray, stride: int, patches: int) -> tuple[float, float]:
    """Return the largest difference from patch by patch, at random places, of decisions and of logits."""
    p = S.patch_size
    layers = S.every_patch(stride=stride), S.every_patch(stride=stride, logits=True)
    decisions, logits = (np.asarray(layer(image))[0] for layer in layers)
    rng = np.random.default_rng(1)
    places = [tuple(rng.integers(0, size) for size in decisions.shape) for _ in range(patches)]
    cut = np.stack([image[0, i * stride :, j * stride :][:p, :p] for i, j in places])
    rows, columns = zip(*places, strict=True)
    one_by_one = np.asarray(S.head(S.body(cut)))[:, 0, 0, 0]
    return (
        float(np.abs(decisions[rows, columns] - np.asarray(S(cut))[:, 0]).max()),
        float(np.abs(logits[rows, columns] - one_by_one).max()),
    )


def measure(p: int, stride: int, size: int, options: argparse.Namespace) -> dict[str, float]:
    """Time one case."""
    weights = None if options.random else "imagenet"
    S = pn.local_network("efficientnet_lite0", patch_size=p, weights=weights)
    side = size + S.patch_size - 1
    image = np.random.default_rng(0).normal(size=(1, side, side, 3)).astype("float32")
    signature = [tf.TensorSpec((None, None, None, 3))]
    memory = options.memory if size > options.untiled else None
    run = tf.function(S.every_patch(stride=stride, memory=memory), input_signature=signature)
    tensor = tf.constant(image)
    with PeakMemory() as peak:
        first = seconds(lambda: run(tensor).numpy())
    turns = [seconds(lambda: run(tensor).numpy()) for _ in range(options.repeats)]
    result = {"seconds": statistics.median(turns), "first": first, "peak MiB": peak.mebibytes}
    if size <= options.untiled:
        result["of Q"], result["of logits"] = differences(S, image, stride, options.patches)
    return result


def main() -> None:
    """Print a Markdown table, a row per case as it is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patch-sizes", type=int, nargs="+", default=[35, 67])
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--sizes", type=int, nargs="+", default=[224], help="side of the image, pixels")
    parser.add_argument("--untiled", type=int, default=512, help="largest side that is decided at once")
    parser.add_argument("--memory", type=int, default=512, help="of a tile of larger images, MiB")
    parser.add_argument("--patches", type=int, default=64, help="cut out one by one")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--random", action="store_true", help="random weights")
    options = parser.parse_args()

    columns = ["seconds", "first", "peak MiB", "of Q", "of logits"]
    print("|", " | ".join(["p", "image", "stride", *columns]), "|")
    print("|", " | ".join("---" for _ in range(3 + len(columns))), "|")
    # A fresh process for each case, so that memory that an earlier one has kept does not hide a peak.
    fresh = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with concurrent.futures.ProcessPoolExecutor(**fresh) as processes:
        for size, p, stride in itertools.product(options.sizes, options.patch_sizes, options.strides):
            result = processes.submit(measure, p, stride, size, options).result()
            cells = [f"{result[name]:.3g}" if name in result else "" for name in columns]
            print("|", " | ".join([str(p), f"{size} x {size}", str(stride), *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
