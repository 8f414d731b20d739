"""Measure a run: its classification, and its maps against masks."""

import datetime
import errno
import importlib.metadata
import os
import platform
from pathlib import Path

import keras
import numpy as np

from ..data import Examples, load_dataset
from ..data.batches import Batches
from ..images import pictures
from ..progress import Progress, silent
from ..training.history import read_history
from ..training.kinds import Draw, kind_of
from ..training.run import HEATMAPS, HISTORY, METRICS, open_run
from . import metrics, results

STRIP = 6  # rows of the picture of maps


def evaluate(folder: str | Path, *, progress: Progress = silent) -> results.Run:
    """Measure a finished run on its validation images, and its heatmaps on the masks, where there are any.

    A test split, where the data set has one, is measured as the validation images are.

    Writes metrics.json and, with masks, a picture of the first of them to heatmaps/.

    Returns:
        What is in metrics.json.

    Raises:
        InputError: the folder is no finished run, or its data cannot be read.
        OSError: something cannot be written.

    Example:
        >>> evaluate("runs/demo").validation["accuracy"].mean
        1.0
    """
    folder = Path(folder)
    config, model = open_run(folder)
    # What would stop this after the long work is found out before.
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    read_history(folder / HISTORY)  # as the report does
    data = load_dataset(config, progress)
    batch_size = config.training.batch_size
    validation = classification(model, data.val, batch_size, "evaluating", progress)
    test = classification(model, data.test, batch_size, "testing", progress) if data.test else None
    localization = None
    if masked := data.masked:
        maps = draw_maps(kind_of(config).drawing(model), masked.images, progress)
        localization = metrics.localization(maps, masked.masks)
        shown = slice(STRIP)
        strip = pictures.strip(
            masked.images[shown],
            maps[shown],
            model.predict(masked.images[shown], verbose=0),
            labels=None if masked.labels is None else masked.labels[shown],
            masks=masked.masks[shown],
            class_names=data.class_names,
            normalized=kind_of(config).min_max_normalized,
        )
        (folder / HEATMAPS).mkdir(exist_ok=True)
        pictures.save_png(strip, folder / HEATMAPS / f"{masked.name}.png")
    measured = results.Run(
        date=datetime.date.today(),
        versions=versions(),
        validation=validation,
        test=test,
        masks=masked.name if masked else None,
        localization=localization,
    )
    measured.write(folder / METRICS)
    return measured


def versions() -> dict[str, str]:
    """Return the versions of what figures are made with; a checkout that is not installed has none."""
    numbers = {"python": platform.python_version()}
    for name in ("patchnet-tf", "keras", "tensorflow", "numpy"):
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers


def draw_maps(draw: Draw, images: np.ndarray, progress: Progress) -> np.ndarray:
    """Draw the maps (N, H, W), float32 in [0, 1], of images (N, H, W, C); tells after each strip."""
    maps = np.empty(images.shape[:3], "float32")
    for k, image in enumerate(images):
        maps[k] = draw(image, lambda share, k=k: progress("heatmaps", k + share, len(images)))
    return maps


def classification(
    model: keras.Model, examples: Examples, batch_size: int, task: str, progress: Progress
) -> results.Measures:
    """Measure how well a model classifies examples."""
    batches = Batches(examples, batch_size)
    q: list[float] = []
    for k in range(len(batches)):
        q.extend(model.predict_on_batch(batches[k][0])[:, 0].tolist())
        progress(task, k + 1, len(batches))
    return metrics.classification(q, examples.labels)
