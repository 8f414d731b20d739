"""Measure a run: its classification, and its maps against masks."""

import errno
import importlib.metadata
import math
import os
import platform
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..config import Config
from ..data import Examples, load_dataset
from ..data.batches import Batches
from ..files import write_json
from ..images import pictures
from ..progress import Progress, silent
from ..training.kinds import kind_of
from ..training.run import HEATMAPS, METRICS, open_run
from . import metrics

STRIP = 6  # rows of the picture of maps


def evaluate(folder: str | Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure a finished run on its validation images, and its heatmaps on the masks, where there are any.

    A test split, where the data set has one, is measured as the validation images are.

    Writes metrics.json and, with masks, a picture of the first of them to heatmaps/.

    Returns:
        What is in metrics.json: "validation" with "images", "loss", "accuracy" and "auroc" of the
        classification, and under "intervals" the two ends of each; "test" with the same where there is
        such a split; with masks also "localization" with "masks" (what they show) and, for each measure of
        `metrics.localization`, "mean", "low" and "high" (None where undefined), "images" and "skipped".
        "versions" says of what, see `versions`.

    Raises:
        InputError: the folder is no finished run, or its data cannot be read.
        OSError: something cannot be written.

    Example:
        >>> evaluate("runs/demo")["validation"]["accuracy"]
        1.0
    """
    folder = Path(folder)
    config, model = open_run(folder)
    if not os.access(folder, os.W_OK):  # found out before the long work
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    data = load_dataset(config, progress)
    batch_size = config.training.batch_size
    measured: dict[str, Any] = {
        "validation": classification(model, data.val, batch_size, "evaluating", progress)
    }
    if data.test:
        measured["test"] = classification(model, data.test, batch_size, "testing", progress)
    if masked := data.masked:
        maps = draw_maps(config, model, masked.images, progress)
        measures = metrics.localization(maps, masked.masks)
        measured["localization"] = {"masks": masked.name} | {
            name: {key: number(value) for key, value in measure._asdict().items()}
            for name, measure in measures.items()
        }
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
    measured["versions"] = versions()
    write_json(folder / METRICS, measured)
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


def draw_maps(config: Config, model: keras.Model, images: np.ndarray, progress: Progress) -> np.ndarray:
    """Draw the maps (N, H, W), float32 in [0, 1], of images (N, H, W, C); tells after each strip."""
    draw = kind_of(config).drawing(model)
    maps = np.empty(images.shape[:3], "float32")
    for k, image in enumerate(images):
        maps[k] = draw(image, lambda share, k=k: progress("heatmaps", k + share, len(images)))
    return maps


def number(value: float) -> float | None:
    """Return a figure as JSON knows it, which has no NaN."""
    return None if math.isnan(value) else value


def classification(
    model: keras.Model, examples: Examples, batch_size: int, task: str, progress: Progress
) -> dict[str, Any]:
    """Return "images", "loss", "accuracy" and "auroc" of a model, and "intervals" with both ends of each."""
    batches = Batches(examples, batch_size)
    q = []
    for k in range(len(batches)):
        q.extend(model.predict_on_batch(batches[k][0])[:, 0].tolist())
        progress(task, k + 1, len(batches))
    classified = metrics.classification(q, examples.labels)
    return (
        {"images": len(q)}
        | {name: number(measure.mean) for name, measure in classified.items()}
        | {"intervals": {name: [number(m.low), number(m.high)] for name, m in classified.items()}}
    )
