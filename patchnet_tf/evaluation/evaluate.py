"""Measure a run: its classification, and its maps against masks."""

import datetime
import errno
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..config import Config
from ..contract import Classes
from ..data import Dataset, load_dataset
from ..data.dataset import Masked
from ..data.store import Images
from ..images import pictures
from ..images.pixels import displayed
from ..progress import Progress, silent
from ..training.features import room
from ..training.history import read_history
from ..training.kinds import Draw, kind_of
from ..training.run import HEATMAPS, HISTORY, METRICS, open_run
from . import metrics, results

STRIP = 6  # rows of the picture of maps
MEMORY = 1024  # MiB for the maps of images with masks; more go into a file
VALIDATION = "validation"  # the picture of validation images, where there are no masks


def evaluate(folder: str | Path, *, progress: Progress = silent) -> results.Run:
    """Measure a finished run on its validation images, and its heatmaps on the masks, where there are any.

    A test split, where the data set has one, is measured as the validation images are. Labels are decided by
    thresholds that are chosen on the validation images, as `evaluation.threshold` says; of several exclusive
    classes the most probable wins. A map is measured against the masks of its class.

    Writes metrics.json, and to heatmaps/ a picture of the first images with masks, named after what the masks
    show, or else of some validation images of each class, validation.png.

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
    figures = classified(model, data, config, lambda split: progress)
    draw = kind_of(config).drawing(model)
    maps, localized = None, {}
    if masked := data.masked:
        maps = room(masked.images.shape[:3], folder, MEMORY)
        draw_maps(draw, masked.images, progress, None if data.classes.binary else masked.labels, maps)
        localized = {"masks": masked.name} | located(maps, masked, data.classes)
    (folder / HEATMAPS).mkdir(exist_ok=True)
    picture = draw_picture(model, data, config, figures.get("thresholds"), draw, maps, progress)
    pictures.save_png(picture, folder / HEATMAPS / f"{masked.name if masked else VALIDATION}.png")
    measured = results.Run(
        date=datetime.date.today(), versions=versions(), counts=counts_of(data), **figures, **localized
    )
    measured.write(folder / METRICS)
    return measured


def classified(
    model: keras.Model, data: Dataset, config: Config, progress: Callable[[str], Progress]
) -> dict[str, Any]:
    """Measure how well a model classifies each split: the fields of `results.Run` and `results.Model`.

    Args:
        model: of a run.
        data: its `val`, and its `test`, where there is one.
        config: of the run.
        progress: takes the name of a split, and returns what is told about it.
    """
    classes, fields = data.classes, {}
    if not classes.binary:
        fields |= {"classes": classes.names, "multilabel": not classes.exclusive}
    thresholds = None
    splits = {"": ("validation", "evaluating", data.val), "test_": ("test", "testing", data.test)}
    for prefix, (split, task, examples) in splits.items():
        if examples is None:
            continue
        q = probabilities_of(model, examples.images, config.training.batch_size, task, progress(split))
        if classes.binary:
            fields[split] = metrics.classification(q, examples.labels)
            continue
        if not classes.exclusive and thresholds is None:
            rule = config.evaluation.threshold
            thresholds = metrics.choose_thresholds(q, examples.labels, rule=rule)
            fields |= {"thresholds": list(thresholds), "thresholds_by": rule}
        fields[split], by_class = metrics.classification_of_classes(q, examples.labels, thresholds)
        fields[f"{prefix}per_class"] = dict(zip(classes.names, by_class, strict=True))
        fields[f"{prefix}calibration"] = metrics.calibration(q, examples.labels)
        if classes.exclusive:
            fields[f"{prefix}confusion"] = metrics.confusion_matrix(q, examples.labels).tolist()
    return fields


def counts_of(data: Dataset) -> dict[str, dict[str, int]]:
    """Return how many images each split has of each class, or with each label."""
    splits = {"training": data.train, "validation": data.val, "test": data.test}
    names = data.class_names
    counts = {
        split: (
            np.bincount(examples.labels, minlength=len(names))
            if data.classes.exclusive
            else examples.labels.sum(0, dtype=int)
        ).tolist()
        for split, examples in splits.items()
        if examples is not None
    }
    return {split: dict(zip(names, of_class, strict=True)) for split, of_class in counts.items()}


def probabilities_of(
    model: keras.Model, images: Images, batch_size: int, task: str, progress: Progress
) -> np.ndarray:
    """Return what a model makes of images (N, H, W, C), (N, 1) or (N, K); tells after each batch."""
    batches = []
    count = -(-len(images) // batch_size)
    for k in range(count):
        batches.append(model.predict_on_batch(images[k * batch_size : (k + 1) * batch_size]))
        progress(task, k + 1, count)
    return np.concatenate(batches)


def located(maps: np.ndarray, masked: Masked, classes: Classes) -> dict[str, Any]:
    """Measure maps (M, H, W) against their masks: over all, and of several classes each by itself."""
    fields: dict[str, Any] = {"localization": metrics.localization(maps, masked.masks)}
    if not classes.binary:
        each = metrics.localization_by_class(maps, masked.masks, masked.labels, len(classes.names))
        fields["localization_per_class"] = dict(zip(classes.names, each, strict=True))
    return fields


def draw_maps(
    draw: Draw,
    images: Images,
    progress: Progress,
    classes: np.ndarray | None = None,
    maps: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the maps (N, H, W), float32 in [0, 1], of images (N, H, W, C); tells after each strip.

    `classes` says of which class, where there are several. Equal images beside each other, which have masks
    of several labels, are drawn once. They are put into `maps`, where that is given.
    """
    maps = np.empty(images.shape[:3], "float32") if maps is None else maps
    k = 0
    while k < len(images):
        image, end = images[k], k + 1
        while end < len(images) and np.array_equal(images[end], image):
            end += 1

        def show(share: float, k: int = k, end: int = end) -> None:
            progress("heatmaps", k + share * (end - k), len(images))

        if classes is None:
            maps[k:end] = draw(image, show)
        else:
            maps[k:end] = np.moveaxis(draw(image, show, classes[k:end].tolist()), -1, 0)
        k = end
    return maps


def draw_picture(
    model: keras.Model,
    data: Dataset,
    config: Config,
    thresholds: Sequence[float] | None,
    draw: Draw,
    maps: np.ndarray | None,
    progress: Progress,
) -> np.ndarray:
    """Draw a strip of images with masks, of which `maps` are there, or else of some validation images."""
    classes, normalized = data.classes, kind_of(config).min_max_normalized
    if masked := data.masked:
        few = first_of_each(None if classes.binary else masked.labels, len(masked.images))
        images, masks, maps = masked.images[few], masked.masks[few], maps[few]
        labels = None if masked.labels is None else masked.labels[few]
    else:
        few = data.val.some_of_each(2 if len(classes.names) <= STRIP // 2 else 1)
        images, labels, masks = few.images[: 2 * STRIP], few.labels[: 2 * STRIP], None
    probabilities = model.predict(images, verbose=0)
    shown = np.stack([displayed(image, data.pixels) for image in images])
    if not classes.binary and not normalized:
        every = [draw(image, lambda share: progress("heatmaps", share, 1)) for image in images]  # (H, W, K)
        return pictures.class_strip(
            shown, every, probabilities, labels, masks, classes.names, thresholds=thresholds
        )
    names, of_class = classes.names, None
    if not classes.binary:  # maps that do not compare between classes: each image has that of its own
        of_class = labels if np.ndim(labels) == 1 else np.argmax(labels, axis=1)
        probabilities, labels = probabilities[np.arange(len(images)), of_class], None
        names = ("other classes", "its class") if classes.exclusive else ("not its label", "its label")
    maps = draw_maps(draw, images, progress, of_class) if maps is None else maps
    return pictures.strip(shown, maps, probabilities, labels, masks, names, normalized=normalized)


def first_of_each(labels: np.ndarray | None, count: int) -> np.ndarray:
    """Return which of `count` images a strip shows: the first, of several classes the first of each."""
    if labels is None:
        return np.arange(min(STRIP, count))
    return np.unique(labels, return_index=True)[1][:STRIP]


def thresholds_of(folder: Path) -> list[float] | None:
    """Return the thresholds of a run's labels, as `evaluate` left them; None where it did not."""
    path = folder / METRICS
    return results.Run.read(path).thresholds if path.is_file() else None


def versions() -> dict[str, str]:
    """Return the versions of what figures are made with; a checkout that is not installed has none."""
    numbers = {"python": platform.python_version()}
    for name in ("patchnet-tf", "keras", "tensorflow", "numpy"):
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            numbers[name] = "not installed"
    return numbers
