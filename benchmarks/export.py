"""Exported files side by side: ONNX Runtime and TensorFlow, and the dense ONNX file and a patch-by-patch one.

    python -m benchmarks.export [--patch-sizes 17 31] [--batches 1 8] [--repeats 3]

The full S (7 convolutions, 64 filters) with random weights, 128 x 128 x 3 images, on the processor. ONNX
Runtime runs the ONNX file, TensorFlow the SavedModel, each output asked for alone. Every figure is from a
process of its own, which does nothing else; the processes take turns, so that a busy machine slows both
alike. Times are the best of the turns after a first call; memory is the most that the process ever held,
libraries included. The patch-by-patch file is S alone, fed with patches that are cut already; it is timed on
--patches of them and quoted per patch. The shared-work ratio is how many times fewer products the dense map
needs (docs/dense-heatmap.md).
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.dense import DEPTH, FILTERS, products
from benchmarks.turns import side_by_side

SIZE, CHANNELS = 128, 3


def onnx_runtime(path: Path, output: str, images: np.ndarray) -> Callable[[], object]:
    """Return a call of an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: images}
    if output == "probability":
        feeds["heatmap_wanted"] = np.array(False)
    return lambda: session.run([output], feeds)


def tensorflow(path: Path, output: str, images: np.ndarray) -> Callable[[], object]:
    """Return a call of a SavedModel."""
    import patchnet_tf  # noqa: F401, I001  (switches oneDNN on, before TensorFlow is imported)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(len(os.sched_getaffinity(0)))
    loaded = tf.saved_model.load(str(path))
    call, image = loaded.signatures[output], tf.constant(images)
    return lambda: (loaded, call(image=image)[output].numpy())


def export(p: int, folder: Path) -> None:
    """Write the three files of a model, and print how long that takes and how large they are."""
    import keras
    import tensorflow as tf
    import tf2onnx

    import patchnet_tf as pn

    keras.utils.set_random_seed(0)
    model = pn.PatchNet((None, None, CHANNELS), p, filters=FILTERS, depth=DEPTH)
    for name, to in (("ONNX", pn.export.to_onnx), ("SavedModel", pn.export.to_saved_model)):
        began = time.perf_counter()
        written = to(model, folder / ("model.onnx" if name == "ONNX" else "saved")).path
        seconds = time.perf_counter() - began
        found = [written] if written.is_file() else written.rglob("*")
        megabytes = sum(file.stat().st_size for file in found if file.is_file()) / 1e6
        print(f"p = {p}: {name} exported and verified in {seconds:.0f} s, {megabytes:.1f} MB", flush=True)
    subnet = model.subnet
    spec = tf.TensorSpec((None, p, p, CHANNELS), name="patch")
    function = tf.function(lambda patch: {"decision": subnet(patch)[:, 0]}, autograph=False)
    tf2onnx.convert.from_function(
        function, input_signature=[spec], opset=18, output_path=str(folder / "patch.onnx")
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patch-sizes", type=int, nargs="+", default=[17, 31])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patches", type=int, default=1024)
    options = parser.parse_args()

    fresh = multiprocessing.get_context("spawn")
    rng = np.random.default_rng(0)
    for p in options.patch_sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            process = fresh.Process(target=export, args=(p, folder))
            process.start()
            process.join()
            onnx, saved = folder / "model.onnx", folder / "saved" / "1"
            for batch in options.batches:
                images = rng.integers(0, 256, (batch, SIZE, SIZE, CHANNELS), "uint8")
                for output in ("probability", "heatmap"):
                    jobs = {
                        "ONNX Runtime": ("onnxruntime", onnx_runtime, onnx, output, images),
                        "TensorFlow": ("tensorflow", tensorflow, saved, output, images),
                    }
                    measured = side_by_side(jobs, options.repeats).values()
                    ort, tf = (min(turns.seconds) for turns in measured)
                    ort_memory, tf_memory = (turns.peak for turns in measured)
                    print(
                        f"p = {p}, batch {batch}, {output}: "
                        f"ONNX Runtime {ort * 1000:.0f} ms, {ort_memory:.0f} MiB; "
                        f"TensorFlow {tf * 1000:.0f} ms, {tf_memory:.0f} MiB; ratio {tf / ort:.2f}",
                        flush=True,
                    )
            images = rng.integers(0, 256, (1, SIZE, SIZE, CHANNELS), "uint8")
            patches = rng.normal(size=(options.patches, p, p, CHANNELS)).astype("float32")
            jobs = {
                "dense": ("onnxruntime", onnx_runtime, onnx, "heatmap", images),
                "patch": ("onnxruntime", onnx_runtime, folder / "patch.onnx", "decision", patches),
            }
            dense, patch = (min(turns.seconds) for turns in side_by_side(jobs, options.repeats).values())
            dense, patch = dense / SIZE**2, patch / options.patches
            every = sum(9 * c * FILTERS * p**2 for c in [CHANNELS] + [FILTERS] * (DEPTH - 1))
            shared = every / products(p, CHANNELS, "same")
            print(
                f"p = {p}, ONNX Runtime per pixel: dense {dense * 1e6:.0f} us, "
                f"patch by patch {patch * 1e6:.0f} us, {patch / dense:.2f} times; "
                f"{patch / dense / shared:.0%} of the shared-work ratio {shared:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
