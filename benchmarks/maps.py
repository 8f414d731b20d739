"""One image's map by PatchNet, CAM, Grad-CAM and occlusion, side by side: time and memory.

    python -m benchmarks.maps

One colour image. PatchNet decides at every pixel: with EfficientNet-Lite0's beginning as S, through Keras
and, as an ONNX file, through ONNX Runtime; and with the paper's S (7 convolutions, 64 filters) without zero
padding. CAM is on VGG-19 with three pooling layers, Grad-CAM on VGG-11. --slow adds the paper's S with its
padding, and occlusion on VGG-11, a black square of --square pixels every --step. --large N adds the local
networks on an image of N x N.

A map is timed from pixels to an array as large as the image, what ONNX Runtime draws with the probability.
Every map is drawn in a process of its own; the processes take turns, so that a busy machine slows all alike.
Times are the medians of the turns after a first call, ratios to CAM the medians of the ratios within a turn;
memory is the most that the process ever held, above what it held with its framework imported.

A tiny run: --size 67 --weights none --filters 4 --slow --square 16 --step 16 --repeats 1
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.turns import Turns, side_by_side

CAM = "CAM, VGG-19"


def image(size: int) -> np.ndarray:
    """Return the image, (1, size, size, 3), uint8."""
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), "uint8")


def local(p: int, weights: str) -> object:
    """Return a PatchNet whose S is the beginning of EfficientNet-Lite0."""
    import keras

    import patchnet_tf as pn

    keras.utils.set_random_seed(0)
    weights = None if weights == "none" else weights
    subnet = pn.local_network("efficientnet_lite0", patch_size=p, weights=weights)
    return pn.PatchNet((None, None, 3), subnet=subnet)


def local_maps(options: argparse.Namespace, p: int, size: int) -> Callable[[], object]:
    """Return a call that draws such a PatchNet's heatmap."""
    import patchnet_tf as pn

    maps, pixels = pn.heatmap_model(local(p, options.weights)), image(size)
    return lambda: maps.predict_on_batch(pixels)


def export(options: argparse.Namespace, p: int, path: Path) -> None:
    """Write such a PatchNet as an ONNX file."""
    import patchnet_tf as pn

    pn.export.to_onnx(local(p, options.weights), path)


def onnx_maps(options: argparse.Namespace, path: Path, size: int) -> Callable[[], object]:
    """Return a call that draws an ONNX file's heatmap, with the probability."""
    from patchnet_tf.serving import Predictor

    predict, pixels = Predictor(path), image(size)
    return lambda: predict(pixels)


def papers_maps(options: argparse.Namespace, padding: str) -> Callable[[], object]:
    """Return a call that draws the heatmap of the paper's S."""
    import keras

    import patchnet_tf as pn

    keras.utils.set_random_seed(0)
    model = pn.PatchNet((None, None, 3), options.patch_size, filters=options.filters, padding=padding)
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


def print_table(measured: dict[str, Turns]) -> None:
    """Print a row for each job."""
    cam = measured[CAM].seconds if CAM in measured else None
    print("| map | time | of CAM's | first call | memory |\n|---|---|---|---|---|")
    for name, turns in measured.items():
        ratio = statistics.median(a / b for a, b in zip(turns.seconds, cam, strict=True)) if cam else None
        print(
            f"| {name} | {statistics.median(turns.seconds) * 1000:.0f} ms | "
            f"{'' if ratio is None else f'{ratio:.2f}'} | {turns.first:.1f} s | "
            f"{turns.peak - turns.framework:.0f} MiB |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=224, help="sides of the image, at least 32")
    parser.add_argument("--large", type=int, help="of a further image, for the local networks alone")
    parser.add_argument("--local", type=int, nargs="+", default=[35, 67], help="their patch sizes")
    parser.add_argument("--weights", default="imagenet", help="of the local networks; none: random")
    parser.add_argument("--patch-size", type=int, default=17, help="of the paper's S")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--square", type=int, default=32)
    parser.add_argument("--step", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        files = {p: Path(folder) / f"{p}.onnx" for p in options.local}
        for p, path in files.items():
            process = multiprocessing.get_context("spawn").Process(target=export, args=(options, p, path))
            process.start()
            process.join()

        def local_jobs(size: int) -> dict[str, tuple]:
            keras = {
                f"EfficientNet-Lite0, p = {p}": ("tensorflow", local_maps, options, p, size) for p in files
            }
            onnx = {
                f"EfficientNet-Lite0, p = {p}, ONNX Runtime": ("onnxruntime", onnx_maps, options, path, size)
                for p, path in files.items()
            }
            return keras | onnx

        p = options.patch_size
        jobs = {
            **local_jobs(options.size),
            f'the paper\'s S, p = {p}, padding="valid"': ("tensorflow", papers_maps, options, "valid"),
            CAM: ("tensorflow", other, options, "CAM"),
            "Grad-CAM, VGG-11": ("tensorflow", other, options, "Grad-CAM"),
        }
        if options.slow:
            jobs[f"the paper's S, p = {p}"] = ("tensorflow", papers_maps, options, "same")
            name = f"occlusion, VGG-11, {options.square} pixels every {options.step}"
            jobs[name] = ("tensorflow", other, options, "occlusion")
        print(f"One image of {options.size} x {options.size} x 3, {len(os.sched_getaffinity(0))} cores\n")
        print_table(side_by_side(jobs, options.repeats))
        if options.large:
            print(f"\nOne image of {options.large} x {options.large} x 3, one map after another\n")
            jobs = local_jobs(options.large)
            print_table({name: side_by_side({name: job}, 1)[name] for name, job in jobs.items()})


if __name__ == "__main__":
    main()
