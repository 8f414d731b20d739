"""A data set larger than memory: what training takes of it, and how long its steps wait for images.

    python -m benchmarks.large FOLDER [--images 20000] [--steps 100]

Makes so many JPEG files of 256 x 256 x 3 below FOLDER, of two classes, a tenth of them for validation, and
trains on them for an epoch with `data.memory` of 512 MiB, so the images lie in a file below FOLDER too. The
files stay, and a second call goes on with them; delete FOLDER afterwards.

Memory is that of the process at its largest, less what it had before the data set was read and after a first
few steps of the same model, a small one, so that its steps are short. The waiting is measured where the
pipeline that `fit` gets gives the next batch to a step: its share of both.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

import patchnet_tf as pn
from patchnet_tf.config import Config
from patchnet_tf.data import load_dataset
from patchnet_tf.data.batches import Batches, read_ahead
from patchnet_tf.training.train import train

import keras  # isort: skip  (after patchnet_tf, which switches oneDNN on)

SIDE, BATCH, WARM_UP = 256, 32, 10
MODEL = {"patch_size": 16, "stride": 16, "subnet": {"filters": 8, "depth": 2}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    folder, steps = arguments.folder, arguments.steps
    timed("writing the files", lambda: write(folder / "images", arguments.images))

    config = Config.model_validate(
        {
            "name": "large",
            "data": {
                "kind": "folder",
                "path": str(folder / "images"),
                "memory": 512,
                "cache": str(folder / "cache"),
            },
            "model": MODEL,
            "training": {"epochs": 1, "batch_size": BATCH, "flips": True, "stop_when_accurate": False},
        }
    )
    model = pn.PatchNet((SIDE, SIDE, 3), 16, filters=8, depth=2)
    model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", weighted_metrics=["accuracy"])
    for _ in range(3):
        model.train_on_batch(np.zeros((BATCH, SIDE, SIDE, 3), "uint8"), np.zeros((BATCH, 1)))
    before = largest()
    data = timed("reading and keeping the images", lambda: load_dataset(config))
    print(f"  {len(data.train.images) + len(data.val.images)} images, {kept(folder / 'cache'):.2f} GiB kept")
    with tempfile.TemporaryDirectory() as run:
        timed("training for an epoch, data set given", lambda: train(config, Path(run) / "run", data=data))
    print(f"memory at its largest: {largest() - before:.2f} GiB above the {before:.2f} before")
    timed("reading again, from what is kept", lambda: load_dataset(config))
    waiting, stepping = waited(model, Batches(data.train, BATCH, 0, flips=True), steps)
    print(
        f"{steps} steps of {BATCH}: waited {1000 * waiting / steps:.2f} ms of "
        f"{1000 * (waiting + stepping) / steps:.0f} each, {waiting / (waiting + stepping):.2%}"
    )


def write(folder: Path, count: int) -> None:
    """Write the files that are not there yet: noise of few details, darker in the first class."""

    def one(k: int) -> None:
        split = "val" if k % 10 == 9 else "train"
        path = folder / split / "ab"[k // 10 % 2] / f"{k:06}.jpg"
        if not path.exists():
            rng = np.random.default_rng(k)
            coarse = rng.integers(0, 160, (32, 32, 3), "uint8") + np.uint8(95 * (k // 10 % 2))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(count)))


def waited(model: keras.Model, batches: Batches, steps: int) -> tuple[float, float]:
    """Return the seconds that so many steps wait for their batches, and those that they take, in all."""
    waiting = stepping = 0.0
    pipeline = endless(batches)
    for k in range(WARM_UP + steps):
        began = time.perf_counter()
        batch = next(pipeline)
        given = time.perf_counter()
        model.train_on_batch(*batch)
        if k >= WARM_UP:
            waiting += given - began
            stepping += time.perf_counter() - given
    return waiting, stepping


def endless(batches: Batches) -> Iterator:
    """Yield batches, epoch after epoch, from the pipeline that `fit` makes of them."""
    pipeline = read_ahead(batches)
    while True:
        yield from pipeline
        batches.epoch += 1


def timed(what, action):
    """Print how long something takes, and return what it returns."""
    began = time.perf_counter()
    result = action()
    print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)
    return result


def largest() -> float:
    """Return the most memory that the process has had so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def kept(folder: Path) -> float:
    """Return the size of the files in a folder, in GiB."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**30


if __name__ == "__main__":
    main()
