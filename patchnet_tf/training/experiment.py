"""A run: train a PatchNet or a baseline, evaluate it, explain images with it.

Everything that it leaves is in one folder:

    config.yaml        the whole configuration, defaults included
    checkpoint.npz     after each epoch: all that training needs to go on as if nothing had happened
    history.csv        a row for each finished epoch
    model.keras        the best weights; it is there when training has finished
    metrics.json       what `evaluate` measured
    heatmaps/          pictures
    report.html        all of this on one page, by `patchnet_tf.reporting.report`
    tensorboard/       the same history and pictures, for TensorBoard

Each file is written beside its place and then renamed, so it is never half there.
"""

import errno
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from ..baselines import cam, grad_cam, vgg11, vgg19_cam
from ..baselines.vgg import SMALLEST
from ..config import Config, FilesData, PatchNetModel, Vgg11Model, Vgg19CamModel, load_config
from ..data import Dataset, Examples, check_images, load_dataset
from ..data.batches import Batches
from ..errors import InputError
from ..evaluation import metrics
from ..files import replacing, write_array, write_json
from ..images import pictures
from ..images.pixels import resized
from ..images.reading import read_image
from ..model.heatmaps import Drawing, heatmap_model
from ..model.layers import GammaCorrection, ShadesOfGray
from ..model.patchnet import PatchNet, load_model
from .callbacks import Convergence, HeatmapSnapshots
from .distribution import assemble
from .history import Row, write_history

LAYERS = {"gamma": GammaCorrection, "shades_of_gray": ShadesOfGray}  # by their kind in a configuration
NETWORKS = {"patchnet": PatchNet, "vgg11": vgg11, "vgg19_cam": vgg19_cam}
STRIP = 6  # rows of the picture that `evaluate` draws


class Progress(Protocol):
    """Is told how far a task is: `done` of `total` steps, and a few words about the last one."""

    def __call__(self, task: str, done: float, total: int, note: str = "") -> None:
        """Show it."""
        ...


def silent(task: str, done: float, total: int, note: str = "") -> None:
    """Ignore progress."""


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
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    data: Dataset | None = None,
) -> Training:
    """Train the model of a configuration.

    With one seed, machine and configuration the history is the same each time, also when the run was cut
    off, at any moment, and resumed: the order of the images follows from the seed and the epoch, and the
    checkpoint holds the optimizer. Of several processes that train together (see `distribution`), each calls
    this with the same configuration; one writes.

    Args:
        config: what to train on and how.
        folder: the run folder; made if need be.
        resume: continue the run that is there, where there is one. Only `training.epochs` may differ from
            its configuration. A run that failed in its first epoch is none yet: any other may replace it.
        progress: told after each batch.
        data: what `load_dataset` returned for the configuration, where that is done already.

    Raises:
        InputError: the data or the model's arguments cannot be used, or the folder holds something else.
        FloatingPointError: the loss became NaN or infinite.
        OSError: something cannot be written.

    Example:
        >>> train(load_config("configs/demo.yaml"), "runs/demo").best.val_accuracy
        1.0
    """
    folder = Path(folder)
    settings = config.training
    if settings.snapshot_every and config.model.kind != "patchnet":
        raise InputError(
            "training.snapshot_every: expected null, as only a PatchNet's heatmaps are drawn in training. "
            f"Received: {settings.snapshot_every} with model.kind {config.model.kind}"
        )
    keras.utils.set_random_seed(settings.seed)
    team = assemble(settings.distribution)
    if settings.snapshot_every and team.devices > 1:
        raise InputError(
            "training.snapshot_every: expected null where training.distribution has several devices. "
            f"Received: {settings.snapshot_every}, {team.devices} devices"
        )
    data = data or load_dataset(config, progress)
    config = with_classes(config, data)
    path = folder / "checkpoint.npz"
    checkpoint = team.at_first(lambda: path.read_bytes() if claim(folder, config, resume) else b"")

    with team.scope:
        model = build(config, data)
        optimizer = keras.optimizers.Adam(settings.learning_rate)
        model.compile(optimizer, "binary_crossentropy", weighted_metrics=["accuracy"])
        convergence = Convergence(settings.patience, accuracy=settings.stop_when_accurate, verbose=0)
        batches = Batches(
            data.train,
            settings.batch_size,
            settings.seed,
            flips=settings.flips,
            rotations=settings.rotations,
            zoom=settings.zoom or 1,
            balanced=settings.balanced,
        )
        shared = team.share(batches), team.share(Batches(data.val, settings.batch_size))

        if team.leads:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "config.yaml") as part:
                part.write_text(config.to_yaml(), encoding="utf-8")
        recorder = Recorder(folder, digest(data.train), batches, convergence, progress, writes=team.leads)
        reason = recorder.restore(model, checkpoint) if checkpoint else None
        if not reason and len(recorder.rows) < settings.epochs:
            if team.leads:
                (folder / "model.keras").unlink(missing_ok=True)  # of fewer epochs
            callbacks = [convergence, recorder, *snapshots(config, data, folder)]
            if keras.backend.backend() == "tensorflow":  # which TensorBoard needs
                callbacks.append(keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False))
            model.fit(
                shared[0],
                validation_data=shared[1],
                initial_epoch=len(recorder.rows),
                epochs=settings.epochs,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
        else:
            model.set_weights(convergence.best_weights)
    # Outside the scope: Keras makes a variable on the way, for which all processes would have to meet.
    if team.leads:
        with replacing(folder / "model.keras") as part:
            model.save(part)
    return ending(recorder.rows, convergence.get_state())


def finish(
    config: Config, folder: str | Path, *, progress: Progress = silent, data: Dataset | None = None
) -> Training:
    """Train a run to its end: begin it, go on with it, or, where it has ended, only read how.

    Args, errors and what is returned are those of `train`. Of a run that has ended nothing is written.

    Example:
        >>> finish(load_config("configs/demo.yaml"), "runs/demo").best.val_accuracy
        1.0
    """
    data = data or load_dataset(config, progress)
    found = ended(config, folder, data)
    return found or train(config, folder, resume=True, progress=progress, data=data)


def ended(config: Config, folder: str | Path, data: Dataset) -> Training | None:
    """Return how the training in a folder ended, or None where it has not.

    Raises:
        InputError: the folder holds something else than a run of this configuration.
    """
    folder = Path(folder)
    there = claim(folder, with_classes(config, data), resume=True)
    if not there or not (folder / "model.keras").is_file():
        return None
    path = folder / "checkpoint.npz"
    rows, state = read_checkpoint(path, path, digest(data.train))
    return ending(rows, state) if state["reason"] or len(rows) >= config.training.epochs else None


def ending(rows: list[Row], state: dict[str, Any]) -> Training:
    """Return how a training ended, given its epochs and the state of `Convergence`."""
    return Training(rows, rows[state["best_epoch"]], state["reason"] or f"all {len(rows)} epochs are done")


def with_classes(config: Config, data: Dataset) -> Config:
    """Return the configuration with the class names that were found, as it stands in the run folder."""
    return config.model_copy(update={"data": config.data.model_copy(update={"classes": data.class_names})})


def claim(folder: Path, config: Config, resume: bool) -> bool:
    """Raise InputError unless `folder` is free for this configuration, or holds its run to resume.

    Returns whether there is a checkpoint of that run.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    if not folder.exists() or not [f for f in folder.iterdir() if not f.name.startswith(".")]:
        return False
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: not empty, and not a run; choose another --out")
    if unstarted(folder):
        return False
    if not resume:
        raise InputError(f"{folder}: holds a run already; --resume continues it, --out starts another")
    # What a comparison does besides changes no run, nor does what maps are measured on.
    both = (load_config(folder / "config.yaml"), config)
    then, now = (flat(c.model_dump(exclude={"comparison": True, "data": {"mask"}})) for c in both)
    changed = [key for key in then.keys() | now.keys() if then.get(key) != now.get(key)]
    if changed := sorted(set(changed) - {"training.epochs"}):
        raise InputError(f"{folder}: the run there has another {', '.join(changed)}; choose another --out")
    checkpoint = folder / "checkpoint.npz"
    if checkpoint.is_file() and not checkpoint.stat().st_size:
        raise InputError(f"{checkpoint}: not the checkpoint of this run, or damaged")
    return checkpoint.is_file()


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


def build(config: Config, data: Dataset, *, measured: bool = True) -> keras.Model:
    """Make the model of a configuration, standardized by the pixels that it is trained on.

    Args:
        config: its `model` says which.
        data: what it will be trained on.
        measured: False leaves mean and standard deviation of the pixels at their defaults, which takes no
            time: to find out whether the model can be made.

    Raises:
        InputError: an image is smaller than the model needs, or the model's arguments do not fit together.
    """
    for split, examples in (("train", data.train), ("val", data.val), ("masked", data.masked)):
        if examples:
            check_images(examples.images, smallest=smallest(config.model), what=f"{split} images")
    arguments = config.model.model_dump(exclude={"kind"})
    arguments["preprocessing"] = preprocessing = [
        LAYERS[step.kind](**step.model_dump(exclude={"kind"}), name=f"preprocessing_{k}")
        for k, step in enumerate(config.model.preprocessing, 1)
    ]
    height, width, channels = data.train.images.shape[1:]
    shape = (height, width, channels) if fixed(config.model) else (None, None, channels)
    try:
        if measured:
            pixels = seen(data.train.images, preprocessing, config.model.crop)
            arguments["mean"], arguments["std"] = mean_and_std(pixels)
        return NETWORKS[config.model.kind](shape, **arguments)
    except ValueError as error:
        raise InputError(f"model: {error}") from None


def smallest(model: PatchNetModel | Vgg11Model | Vgg19CamModel) -> tuple[int, int]:
    """Return the (height, width) that an image must have at least."""
    if model.crop:
        return model.crop
    if isinstance(model, PatchNetModel):
        return model.patch_size, model.patch_size
    if isinstance(model, Vgg11Model) and model.resize:
        return 1, 1
    return (SMALLEST[model.kind],) * 2


def fixed(model: PatchNetModel | Vgg11Model | Vgg19CamModel) -> bool:
    """Return whether all images must have the size of the training images."""
    return isinstance(model, Vgg11Model) and not model.resize and not model.crop


def drawing(
    config: Config, model: keras.Model
) -> Callable[[np.ndarray, Callable[[float], None]], np.ndarray]:
    """Return what draws the map of an image (H, W, C), as (H, W) in [0, 1].

    A PatchNet's heatmap, VGG-19's CAM or VGG-11's Grad-CAM. Like `heatmaps.Drawing`, it tells the share done.
    """
    if config.model.kind == "patchnet":
        return Drawing(heatmap_model(model))
    method = {"vgg19_cam": cam, "vgg11": grad_cam}[config.model.kind]

    def draw(image: np.ndarray, progress: Callable[[float], None]) -> np.ndarray:
        heatmap = method(model, image[None])[0]
        progress(1)
        return heatmap

    return draw


def seen(
    images: np.ndarray, preprocessing: Sequence[keras.layers.Layer] = (), crop: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """Yield what patches are cut from, one image after another: (h, w, C) in 0..1, float64.

    Args:
        images: (N, H, W, C), uint8.
        preprocessing: layers that take and return (B, H, W, C) images in 0..1.
        crop: (height, width) of the central region; None means all of it.
    """
    height, width = crop or images.shape[1:3]
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    for image in images:
        pixels = image / 255
        for layer in preprocessing:
            pixels = keras.ops.convert_to_numpy(layer(pixels[None]))[0].astype("float64")
        yield pixels[top : top + height, left : left + width]


def mean_and_std(images: Iterable[np.ndarray]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of images (H, W, C) in 0..1."""
    count, total, squares = 0, 0.0, 0.0
    for image in images:
        count += image[..., 0].size
        total += image.sum(axis=(0, 1))
        squares += np.square(image).sum(axis=(0, 1))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # Images of one colour have no deviation to divide by: one grey level stands for it.
    return mean.tolist(), np.maximum(std, 1 / 255).tolist()


def snapshots(config: Config, data: Dataset, folder: Path) -> list[HeatmapSnapshots]:
    """Return the callback that draws the first two validation images of each class, if it is wanted."""
    if not (every := config.training.snapshot_every):
        return []
    images, labels = some_of_each(data.val)
    return [
        HeatmapSnapshots(
            images,
            folder / "heatmaps",
            every,
            labels=labels,
            class_names=data.class_names,
            log_dir=folder / "tensorboard",
        )
    ]


def some_of_each(examples: Examples) -> Examples:
    """Return the first two images of each class."""
    chosen = np.concatenate([np.flatnonzero(examples.labels == k)[:2] for k in (0, 1)])
    return Examples(examples.images[chosen], examples.labels[chosen])


class Recorder(keras.callbacks.Callback):
    """Keeps history.csv and checkpoint.npz after each epoch; stands after `convergence` in the list.

    The checkpoint is one file, so what is in it belongs together at whatever moment the run is killed: the
    weights, the optimizer's variables, the best weights, the history, the state of `convergence`, and a
    digest of the images, because an epoch of others would go with none before.
    Without `writes` it only counts the epochs: of the processes that train together, one writes.
    """

    def __init__(
        self,
        folder: Path,
        images: str,
        batches: Batches,
        convergence: Convergence,
        progress: Progress,
        *,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.images = images  # what `digest` returned
        self.batches = batches
        self.convergence = convergence
        self.progress = progress if writes else silent
        self.writes = writes
        self.rows: list[Row] = []

    def restore(self, model: keras.Model, checkpoint: bytes) -> str | None:
        """Go back to where a checkpoint was written, and return why that training had ended, or None."""
        path = self.folder / "checkpoint.npz"
        model.optimizer.build(model.trainable_variables)
        variables = self.variables(model)
        self.rows, state = read_checkpoint(path, io.BytesIO(checkpoint), self.images)
        try:
            with np.load(io.BytesIO(checkpoint), allow_pickle=False) as saved:
                for k, variable in enumerate(variables):
                    variable.assign(saved[f"variable_{k}"])
                best = [saved[f"best_{k}"] for k in range(len(model.weights))]
            self.convergence.set_state(state, best)
            reason = state["reason"]
        except Exception:  # a damaged archive raises whatever zip, NumPy or JSON stumble over
            raise InputError(f"{path}: not the checkpoint of this run, or damaged") from None
        if self.writes:
            write_history(self.folder / "history.csv", self.rows)
        return reason

    def variables(self, model: keras.Model) -> list[keras.Variable]:
        """Return all that training changes in a model: the weights, the optimizer, the seeds of dropout."""
        return [*model.weights, *model.optimizer.variables, *model.non_trainable_variables]

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
        if not self.writes:
            return
        variables = enumerate(self.variables(self.model))
        arrays = {f"variable_{k}": keras.ops.convert_to_numpy(v) for k, v in variables}
        arrays |= {f"best_{k}": w for k, w in enumerate(self.convergence.best_weights)}
        state = json.dumps(self.convergence.get_state())
        with replacing(self.folder / "checkpoint.npz") as part, part.open("wb") as file:
            np.savez(file, **arrays, history=np.array(self.rows), convergence=state, images=self.images)
        write_history(self.folder / "history.csv", self.rows)
        self.progress("training", len(self.rows), self.params["epochs"], self.note())

    def note(self) -> str:
        """Return the last finished epoch in a few words."""
        if not self.rows:
            return ""
        row = self.rows[-1]
        return (
            f"loss {row.loss:.3f}  accuracy {row.accuracy:.3f}  "
            f"val_loss {row.val_loss:.3f}  val_accuracy {row.val_accuracy:.3f}"
        )


def read_checkpoint(path: Path, file: Path | io.BytesIO, images: str) -> tuple[list[Row], dict[str, Any]]:
    """Return the epochs of a run and the state of its `Convergence`; of a file without reading its weights.

    `path` is what errors call it, `images` the `digest` of those to train on.

    Raises:
        InputError: the checkpoint is damaged, or of a training on other images.
    """
    try:
        with np.load(file, allow_pickle=False) as saved:
            rows = [Row(int(row[0]), *map(float, row[1:])) for row in saved["history"]]
            state, trained = json.loads(str(saved["convergence"])), str(saved["images"])
    except Exception:  # a damaged archive raises whatever zip, NumPy or JSON stumble over
        raise InputError(f"{path}: not the checkpoint of this run, or damaged") from None
    if trained != images:
        raise InputError(
            f"{path.parent}: the run there was trained on other images, or other labels; choose another --out"
        )
    return rows, state


def digest(examples: Examples) -> str:
    """Return what tells images and labels from others."""
    found = hashlib.sha256(repr(examples.images.shape).encode())
    for array in examples:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def open_run(folder: str | Path) -> tuple[Config, keras.Model]:
    """Load the configuration and the model of a finished run.

    Raises:
        InputError: the folder is no run, or its training has not finished.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: not a run folder (there is no config.yaml in it)")
    if runs := sorted(path.parent.name for path in folder.glob("*/model.keras")):
        raise InputError(f"{folder}: not a run but the folder of several, {', '.join(runs)}; choose one")
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
            stretched=config.model.kind != "patchnet",
        )
        (folder / "heatmaps").mkdir(exist_ok=True)
        pictures.save_png(strip, folder / "heatmaps" / f"{masked.name}.png")
    measured["versions"] = versions()
    write_json(folder / "metrics.json", measured)
    return measured


def versions() -> dict[str, str]:
    """Return the versions of what figures are made with; a checkout that is not installed has none."""
    found = {"python": platform.python_version()}
    for name in ("patchnet-tf", "keras", "tensorflow", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def draw_maps(config: Config, model: keras.Model, images: np.ndarray, progress: Progress) -> np.ndarray:
    """Draw the maps (N, H, W), float32 in [0, 1], of images (N, H, W, C); tells after each strip."""
    draw = drawing(config, model)
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


def explain(
    folder: str | Path,
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    resize: bool = False,
    progress: Progress = silent,
) -> list[Explanation]:
    """Draw the heatmap of each image with the model of a finished run.

    A baseline's map is its CAM or Grad-CAM, scaled for each image; of a PatchNet no value is ever rescaled.
    A colour image is read as grey where the model is grey, a grey one as RGB where the model is RGB. All
    images are checked before the first is drawn.

    Args:
        folder: the run folder.
        paths: image files.
        out: where to write NAME_heatmap.png (8-bit grey, white = class 1), NAME_heatmap.npy (float32
            (H, W) in [0, 1]) and NAME_overlay.png; None means heatmaps/ in the run folder. Of images with
            the same NAME the second becomes NAME-2, and so on.
        resize: bring images to the size to which those of training were resized (data.size); otherwise
            they keep their own.
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
    trained = config.data.size if isinstance(config.data, FilesData) else None
    images = []
    for path in paths:
        image = read_image(path, model.input_shape[-1])
        image = resized(image, trained) if resize else image
        check_images(image[None], smallest=smallest(config.model), what=str(path))
        if fixed(config.model) and image.shape[:2] != model.input_shape[1:3]:
            height, width = model.input_shape[1:3]
            raise InputError(
                f"{path}: expected {height} x {width} pixels, as in training (model.resize is null). "
                f"Received: {image.shape[0]} x {image.shape[1]}"
            )
        if trained and image.shape[:2] != trained:
            warnings.warn(
                f"{path}: the model has seen images resized to {trained[0]} x {trained[1]}; this one is "
                f"explained as it is, {image.shape[0]} x {image.shape[1]} (resize=True, --resize)",
                stacklevel=2,
            )
        images.append(image)

    out = Path(folder) / "heatmaps" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)
    draw = drawing(config, model)
    names = config.data.classes or ("class 0", "class 1")
    explained: list[Explanation] = []
    for path, image in zip(map(Path, paths), images, strict=True):
        done = len(explained)
        progress("heatmaps", done, len(images), path.name)

        def show(share: float, done: int = done, name: str = path.name) -> None:
            progress("heatmaps", done + share, len(images), name)

        heatmap = draw(image, show).astype("float32")  # (H, W)
        probability = float(model.predict(image[None], verbose=0)[0, 0])
        stem = free_stem(path.stem, {e.stem for e in explained})
        write_array(out / f"{stem}_heatmap.npy", heatmap)
        pictures.save_png(pictures.grey(heatmap), out / f"{stem}_heatmap.png")
        overlay = pictures.overlay(image, heatmap)
        overlay = pictures.with_legend(overlay, names, stretched=config.model.kind != "patchnet")
        pictures.save_png(overlay, out / f"{stem}_overlay.png")
        explained.append(Explanation(path, probability, names[probability > 0.5], stem))
    progress("heatmaps", len(images), len(images))
    return explained


def free_stem(stem: str, taken: set[str]) -> str:
    """Return `stem`, or stem-2, stem-3, ...: the first that is not taken."""
    candidates = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
