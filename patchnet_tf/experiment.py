"""A run: train a PatchNet, evaluate it, explain images with it. Everything that it leaves is in one folder.

    config.yaml        the whole configuration, defaults included
    checkpoint.npz     after each epoch: all that training needs to go on as if nothing had happened
    history.csv        a row for each finished epoch
    model.keras        the best weights; it is there when training has finished
    metrics.json       what `evaluate` measured
    heatmaps/          pictures
    tensorboard/       the same history and pictures, for TensorBoard

Each file is written beside its place and then renamed, so it is never half there.
"""

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np

from . import metrics, pictures
from .callbacks import Convergence, HeatmapSnapshots
from .config import Config, FolderData, InputError, load_config
from .data import Batches, Dataset, check_images, load_dataset
from .data.folder import read_image
from .heatmaps import Drawing, heatmap_model
from .patchnet import PatchNet, load_model

STRIP = 6  # rows of the picture that `evaluate` draws


class Progress(Protocol):
    """Is told how far a task is: `done` of `total` steps, and a few words about the last one."""

    def __call__(self, task: str, done: float, total: int, note: str = "") -> None:
        """Show it."""
        ...


def silent(task: str, done: float, total: int, note: str = "") -> None:
    """Ignore progress."""


class Row(NamedTuple):
    """One finished epoch, as in history.csv; `epoch` counts from 1."""

    epoch: int
    seconds: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True)
class Training:
    """How a training ended: every epoch, the one whose weights were kept, and what stopped it."""

    rows: list[Row]
    best: Row
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What was written for one image: `stem`_heatmap.png, _heatmap.npy and _overlay.png."""

    path: Path
    probability: float
    class_name: str
    stem: str


def train(
    config: Config, folder: str | Path, *, resume: bool = False, progress: Progress = silent
) -> Training:
    """Train the PatchNet of a configuration.

    With one seed, machine and configuration the history is the same each time, also when the run was cut
    off, at any moment, and resumed: the order of the images follows from the seed and the epoch, and the
    checkpoint holds the optimizer.

    Args:
        config: what to train on and how.
        folder: the run folder; made if need be.
        resume: continue the run that is there, where there is one. Only `training.epochs` may differ from
            its configuration. A run that failed in its first epoch is none yet: any other may replace it.
        progress: told after each batch.

    Raises:
        InputError: the data or the model's arguments cannot be used, or the folder holds something else.
        FloatingPointError: the loss became NaN or infinite.
        OSError: something cannot be written.

    Example:
        >>> train(load_config("configs/demo.yaml"), "runs/demo").best.val_accuracy
        1.0
    """
    folder = Path(folder)
    data = load_dataset(config)
    named = config.data.model_copy(update={"classes": data.class_names})
    config = config.model_copy(update={"data": named})
    claim(folder, config, resume)

    settings = config.training
    keras.utils.set_random_seed(settings.seed)
    model = build(config, data)
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    convergence = Convergence(settings.patience, verbose=0)
    batches = Batches(data.train, settings.batch_size, settings.seed, settings.flips)

    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.yaml") as part:
        part.write_text(config.to_yaml(), encoding="utf-8")
    recorder = Recorder(folder, batches, convergence, progress)
    reason = recorder.restore(model)
    if not reason and len(recorder.rows) < settings.epochs:
        board = keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)
        model.fit(
            batches,
            validation_data=Batches(data.val, settings.batch_size),
            initial_epoch=len(recorder.rows),
            epochs=settings.epochs,
            shuffle=False,
            verbose=0,
            callbacks=[convergence, recorder, board, *snapshots(config, data, folder)],
        )
        reason = convergence.reason
    else:
        model.set_weights(convergence.best_weights)
    with replacing(folder / "model.keras") as part:
        model.save(part)
    best = recorder.rows[convergence.get_state()["best_epoch"]]
    return Training(recorder.rows, best, reason or f"all {len(recorder.rows)} epochs are done")


def claim(folder: Path, config: Config, resume: bool) -> None:
    """Raise InputError unless `folder` is free for this configuration, or holds its run to resume."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    if not folder.exists() or not [f for f in folder.iterdir() if not f.name.startswith(".")]:
        return
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: not empty, and not a run; choose another --out")
    if unstarted(folder):
        return
    if not resume:
        raise InputError(f"{folder}: holds a run already; --resume continues it, --out starts another")
    then, now = (flat(c.model_dump()) for c in (load_config(folder / "config.yaml"), config))
    changed = [key for key in then.keys() | now.keys() if then.get(key) != now.get(key)]
    if changed := sorted(set(changed) - {"training.epochs"}):
        raise InputError(f"{folder}: the run there has another {', '.join(changed)}; choose another --out")


def unstarted(folder: Path) -> bool:
    """Return whether a run failed there before its first epoch was finished: a new one loses nothing."""
    if {f.name for f in folder.iterdir() if not f.name.startswith(".")} - {"config.yaml", "tensorboard"}:
        return False
    # A configuration that a person wrote, which has comments or leaves defaults out, is not ours to replace.
    written = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
    return load_config(folder / "config.yaml").to_yaml() == written


def flat(section: dict, prefix: str = "") -> dict[str, Any]:
    """Return {"model.depth": 7, ...}."""
    pairs = {}
    for key, value in section.items():
        pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return pairs


def build(config: Config, data: Dataset) -> keras.Model:
    """Make the PatchNet of a configuration, standardized by the pixels that it is trained on."""
    arguments = config.model.model_dump()
    p, crop = arguments["patch_size"], arguments["crop"]
    for split, examples in (("train", data.train), ("val", data.val)):
        check_images(examples.images, smallest=crop or (p, p), what=f"{split} images")
    height, width, channels = data.train.images.shape[1:]
    rows, columns = crop or (height, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    mean, std = mean_and_std(data.train.images[:, top : top + rows, left : left + columns])
    try:
        return PatchNet((None, None, channels), **arguments, mean=mean, std=std)
    except ValueError as error:
        raise InputError(f"model: {error}") from None


def mean_and_std(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 images (N, H, W, C) scaled to 0..1."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in np.moveaxis(images, -1, 0):
        share = sum(np.bincount(image.ravel(), minlength=256) for image in channel) / channel.size  # (256,)
        means.append(float(share @ levels))
        # Images of one colour have no deviation to divide by: one grey level stands for it.
        stds.append(max(math.sqrt(share @ (levels - means[-1]) ** 2), levels[1]))
    return means, stds


def snapshots(config: Config, data: Dataset, folder: Path) -> list[HeatmapSnapshots]:
    """Return the callback that draws the first two validation images of each class, if it is wanted."""
    if not (every := config.training.snapshot_every):
        return []
    chosen = np.concatenate([np.flatnonzero(data.val.labels == k)[:2] for k in (0, 1)])
    return [
        HeatmapSnapshots(
            data.val.images[chosen],
            folder / "heatmaps",
            every,
            labels=data.val.labels[chosen],
            class_names=data.class_names,
            log_dir=folder / "tensorboard",
        )
    ]


class Recorder(keras.callbacks.Callback):
    """Keeps history.csv and checkpoint.npz after each epoch; stands after `convergence` in the list.

    The checkpoint is one file, so what is in it belongs together at whatever moment the run is killed: the
    weights, the optimizer's variables, the best weights, the history and the state of `convergence`.
    """

    def __init__(self, folder: Path, batches: Batches, convergence: Convergence, progress: Progress) -> None:
        super().__init__()
        self.folder = folder
        self.batches = batches
        self.convergence = convergence
        self.progress = progress
        self.rows: list[Row] = []

    def restore(self, model: keras.Model) -> str | None:
        """Load the checkpoint, if there is one, and return why that training had ended, or None."""
        path = self.folder / "checkpoint.npz"
        if not path.is_file():
            return None
        model.optimizer.build(model.trainable_variables)
        variables = [*model.weights, *model.optimizer.variables]
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
                for k, variable in enumerate(variables):
                    variable.assign(saved[f"variable_{k}"])
                best = [saved[f"best_{k}"] for k in range(len(model.weights))]
                self.rows = [Row(int(row[0]), *map(float, row[1:])) for row in saved["history"]]
                state = json.loads(str(saved["convergence"]))
            self.convergence.set_state(state, best)
            reason = state["reason"]
        except Exception:  # a damaged archive raises whatever zip, NumPy or JSON stumble over
            raise InputError(f"{path}: not the checkpoint of this run, or damaged") from None
        self.write_history()
        return reason

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Choose the order of the epoch's batches."""
        self.batches.epoch = epoch
        self.began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Tell how far training is, in epochs."""
        if batch + 1 < len(self.batches):
            done = len(self.rows) + (batch + 1) / len(self.batches)
            self.progress("training", done, self.params["epochs"], self.note())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write the epoch down."""
        figures = [float(logs[name]) for name in Row._fields[2:]]
        if not np.isfinite(figures).all():
            raise FloatingPointError(
                f"the loss is no longer finite in epoch {epoch + 1}; try a smaller training.learning_rate"
            )
        self.rows.append(Row(epoch + 1, time.monotonic() - self.began, *figures))
        variables = [*self.model.weights, *self.model.optimizer.variables]
        arrays = {f"variable_{k}": keras.ops.convert_to_numpy(v) for k, v in enumerate(variables)}
        arrays |= {f"best_{k}": w for k, w in enumerate(self.convergence.best_weights)}
        state = json.dumps(self.convergence.get_state())
        with replacing(self.folder / "checkpoint.npz") as part, part.open("wb") as file:
            np.savez(file, **arrays, history=np.array(self.rows), convergence=state)
        self.write_history()
        self.progress("training", len(self.rows), self.params["epochs"], self.note())

    def write_history(self) -> None:
        """Write all rows to history.csv."""
        lines = [",".join(map(str, row)) for row in [Row._fields, *self.rows]]
        with replacing(self.folder / "history.csv") as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def note(self) -> str:
        """Return the last finished epoch in a few words."""
        if not self.rows:
            return ""
        row = self.rows[-1]
        return (
            f"loss {row.loss:.3f}  accuracy {row.accuracy:.3f}  "
            f"val_loss {row.val_loss:.3f}  val_accuracy {row.val_accuracy:.3f}"
        )


def open_run(folder: str | Path) -> tuple[Config, keras.Model]:
    """Load the configuration and the model of a finished run.

    Raises:
        InputError: the folder is no run, or its training has not finished.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: not a run folder (there is no config.yaml in it)")
    if not (folder / "model.keras").is_file():
        raise InputError(f"{folder}: its training has not finished; continue it with train --resume")
    config = load_config(folder / "config.yaml")
    try:
        return config, load_model(folder / "model.keras")
    except Exception as error:  # a damaged archive raises whatever zip, JSON or HDF5 stumble over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder / 'model.keras'}: not a model ({reason})") from None


def evaluate(folder: str | Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure a finished run on its validation images, and its heatmaps on the masks, where there are any.

    Writes metrics.json and, with masks, a picture of the first of them to heatmaps/.

    Returns:
        What is in metrics.json: "validation" with "images", "loss", "accuracy" and "auroc" of the
        classification; with masks also "localization" with "masks" (what they show) and, for each measure
        of `metrics.localization`, "mean" (None where undefined), "images" and "skipped".

    Raises:
        InputError: the folder is no finished run, or its data cannot be read.
        OSError: something cannot be written.

    Example:
        >>> evaluate("runs/demo")["validation"]["accuracy"]
        1.0
    """
    folder = Path(folder)
    config, model = open_run(folder)
    data = load_dataset(config)
    batches = Batches(data.val, config.training.batch_size)
    q = []
    for k in range(len(batches)):
        q.extend(model.predict_on_batch(batches[k][0])[:, 0].tolist())
        progress("evaluating", k + 1, len(batches))
    labels, probabilities = data.val.labels, np.array(q)
    # The probability of the true class; float32 can be exactly 0.
    right = np.clip(np.where(labels == 1, probabilities, 1 - probabilities), 1e-7, 1)
    measured: dict[str, Any] = {
        "validation": {
            "images": len(labels),
            "loss": float(-np.log(right).mean()),
            "accuracy": float(np.mean((probabilities > 0.5) == labels)),
            "auroc": metrics.auroc(probabilities[None], labels[None]),
        }
    }
    if masked := data.masked:
        maps = []
        model_of_maps = heatmap_model(model)
        for k, image in enumerate(masked.images):
            maps.append(model_of_maps.predict(image[None], verbose=0)[0])
            progress("heatmaps", k + 1, len(masked.images))
        measures = metrics.localization(maps, masked.masks)
        measured["localization"] = {"masks": masked.name} | {
            name: measure._asdict() | {"mean": None if math.isnan(measure.mean) else measure.mean}
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
        )
        (folder / "heatmaps").mkdir(exist_ok=True)
        pictures.save_png(strip, folder / "heatmaps" / f"{masked.name}.png")
    with replacing(folder / "metrics.json") as part:
        part.write_text(json.dumps(measured, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return measured


def explain(
    folder: str | Path,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    progress: Progress = silent,
) -> list[Explanation]:
    """Draw the heatmap of each image with the model of a finished run.

    Images keep their size, and values are never rescaled. A colour image is read as grey where the model
    is grey, a grey one as RGB where the model is RGB. All images are checked before the first is drawn.

    Args:
        folder: the run folder.
        paths: image files.
        out: where to write NAME_heatmap.png (8-bit grey, white = class 1), NAME_heatmap.npy (float32
            (H, W) in [0, 1]) and NAME_overlay.png; None means heatmaps/ in the run folder. Of images with
            the same NAME the second becomes NAME-2, and so on.
        progress: told after each image.

    Raises:
        InputError: the folder is no finished run, or an image cannot be read or is too small.
        OSError: something cannot be written.

    Warns:
        UserWarning: the model has been trained on images resized to another size.

    Example:
        >>> explain("runs/demo", ["wall.png"])[0].probability
        0.031
    """
    config, model = open_run(folder)
    p = config.model.patch_size
    resized = config.data.size if isinstance(config.data, FolderData) else None
    images = []
    for path in paths:
        image = read_image(path, model.input_shape[-1])
        check_images(image[None], smallest=config.model.crop or (p, p), what=str(path))
        if resized and image.shape[:2] != resized:
            warnings.warn(
                f"{path}: the model has seen images resized to {resized[0]} x {resized[1]}; this one is "
                f"explained as it is, {image.shape[0]} x {image.shape[1]}",
                stacklevel=2,
            )
        images.append(image)

    out = Path(folder) / "heatmaps" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    drawing = Drawing(heatmap_model(model))
    names = config.data.classes or ("class 0", "class 1")
    explained: list[Explanation] = []
    for path, image in zip(map(Path, paths), images, strict=True):
        done = len(explained)
        progress("heatmaps", done, len(images), path.name)

        def show(share: float, done: int = done, name: str = path.name) -> None:
            progress("heatmaps", done + share, len(images), name)

        heatmap = drawing(image, show).astype("float32")  # (H, W)
        probability = float(model.predict(image[None], verbose=0)[0, 0])
        stem = free_stem(path.stem, {e.stem for e in explained})
        with replacing(out / f"{stem}_heatmap.npy") as part, part.open("wb") as file:
            np.save(file, heatmap, allow_pickle=False)
        pictures.save_png(pictures.grey(heatmap), out / f"{stem}_heatmap.png")
        overlay = pictures.with_legend(pictures.overlay(image, heatmap), names)
        pictures.save_png(overlay, out / f"{stem}_overlay.png")
        explained.append(Explanation(path, probability, names[probability > 0.5], stem))
    progress("heatmaps", len(images), len(images))
    return explained


def free_stem(stem: str, taken: set[str]) -> str:
    """Return `stem`, or stem-2, stem-3, ...: the first that is not taken."""
    candidates = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which becomes `path` when all went well and vanishes otherwise."""
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:  # whose name, where it has one, is that of the part
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)
