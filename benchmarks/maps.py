"""One image's map by PatchNet, CAM, Grad-CAM and occlusion, side by side: time and memory.

    python -m benchmarks.maps [--size 224] [--patch-size 17] [--repeats 3]

Random weights, one colour image. PatchNet's full S (7 convolutions, 64 filters), with its zero padding and
without ("valid"), decides at every pixel; CAM is on VGG-19 with three pooling layers; Grad-CAM and occlusion
are on VGG-11, occlusion with a black square of --square pixels every --step. A map is timed from pixels to an
array as large as the image. Every figure is from a process of its own; the processes take turns, so that a
busy machine slows all alike. Times are the best of the turns after a first call; memory is the most that the
process ever held, libraries and weights included.

A tiny run: --size 32 --patch-size 15 --filters 4 --square 16 --step 16 --repeats 1
"""

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.dense import DEPTH, FILTERS
from benchmarks.export import side_by_side


def image(size: int) -> np.ndarray:
    """Return the image, (1, size, size, 3), uint8."""
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), "uint8")


def patchnet(options: argparse.Namespace, padding: str) -> Callable[[], object]:
    """Return a call that draws PatchNet's heatmap."""
    import keras

    import patchnet_tf as pn

    keras.utils.set_random_seed(0)
    model = pn.PatchNet(
        (None, None, 3), options.patch_size, filters=options.filters, depth=DEPTH, padding=padding
    )
    maps, pixels = pn.heatmap_model(model), image(options.size)
    return lambda: maps.predict_on_batch(pixels)


def other(options: argparse.Namespace, method: str) -> Callable[[], object]:
    """Return a call that draws the map of another method."""
    import keras

    from patchnet_tf import baselines

    keras.utils.set_random_seed(0)
    pixels = image(options.size)
    if method == "CAM":
        model = baselines.vgg19_cam(pixels.shape[1:])
        return lambda: baselines.cam(model, pixels)
    model = baselines.vgg11(pixels.shape[1:])
    if method == "Grad-CAM":
        return lambda: baselines.grad_cam(model, pixels)
    return lambda: baselines.occlusion(model, pixels, size=options.square, stride=options.step)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="sides of the image, at least 32")
    parser.add_argument("--patch-size", type=int, default=17)
    parser.add_argument("--filters", type=int, default=FILTERS)
    parser.add_argument("--square", type=int, default=32)
    parser.add_argument("--step", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    p = options.patch_size
    jobs = {
        f"PatchNet, p = {p}": (patchnet, options, "same"),
        f'PatchNet, p = {p}, padding="valid"': (patchnet, options, "valid"),
        "CAM, VGG-19": (other, options, "CAM"),
        "Grad-CAM, VGG-11": (other, options, "Grad-CAM"),
        f"occlusion, VGG-11, {options.square} pixels every {options.step}": (other, options, "occlusion"),
    }
    print(f"One image of {options.size} x {options.size} x 3, {len(os.sched_getaffinity(0))} cores\n")
    print("| map | time | peak memory |\n|---|---|---|", flush=True)
    for name, (seconds, mebibytes) in side_by_side(jobs, options.repeats).items():
        print(f"| {name} | {seconds * 1000:.0f} ms | {mebibytes:.0f} MiB |")


if __name__ == "__main__":
    main()
