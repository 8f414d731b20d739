"""A run: the folder of a trained model. Everything that training, evaluation and explanation leave is in it.

    config.yaml        the whole configuration, defaults included
    checkpoint.npz     after each epoch: all that training needs to go on as if nothing had happened
    history.csv        a row for each finished epoch
    identity.json      which model and which configuration belong together
    model.keras        the best weights; it is there when training has finished
    metrics.json       what `evaluate` measured
    heatmaps/          pictures
    report.html        all of this on one page, by `patchnet_tf.reporting.report`
    tensorboard/       the same history and pictures, for TensorBoard

Each file is written beside its place and then renamed, so it is never half there.
"""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
from pydantic_core import to_jsonable_python

from ..config import Config, load_config
from ..contract import Classes, Pixels, make_classes
from ..data import Dataset
from ..errors import InputError, one_line
from ..files import holding, parse_json, write_json
from ..model.identity import identity
from ..model.saving import load_model

CONFIG = "config.yaml"
CHECKPOINT = "checkpoint.npz"
HISTORY = "history.csv"
MODEL = "model.keras"
IDENTITY = "identity.json"
METRICS = "metrics.json"
HEATMAPS = "heatmaps"
TENSORBOARD = "tensorboard"


def with_classes(config: Config, data: Dataset) -> Config:
    """Return the configuration as it stands in the run folder, with what was found in the data.

    These are the class names and, of other pixels than those from 0 to 255, their dtype and range.
    """
    found: dict[str, Any] = {"classes": data.class_names}
    pixels = data.pixels
    if pixels != Pixels(channels=pixels.channels, select=pixels.select, frame=pixels.frame):
        found |= {"dtype": pixels.dtype, "clip": pixels.clip}
        found |= {} if pixels.per_image else {"range": pixels.range}
    return config.model_copy(update={"data": config.data.model_copy(update=found)})


def classes_of(config: Config) -> Classes:
    """Return the classes of a configuration in a run folder; the oldest runs have no names of two."""
    names = config.data.classes or ("class 0", "class 1")
    return make_classes(names, exclusive=not getattr(config.data, "multilabel", False))


def claim(folder: Path, config: Config, resume: bool) -> bool:
    """Raise InputError unless `folder` is free for this configuration, or holds its run to resume.

    Returns whether there is a checkpoint of that run.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    if not folder.exists() or not names_in(folder):
        return False
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: not empty, and not a run; choose another --out")
    if unstarted(folder):
        return False
    if not resume:
        raise InputError(f"{folder}: holds a run already; --resume continues it, --out starts another")
    then, now = load_config(folder / CONFIG).identity(), config.identity()
    if changed := sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key)):
        raise InputError(f"{folder}: the run there has another {', '.join(changed)}; choose another --out")
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file() and not checkpoint.stat().st_size:
        raise InputError(f"{checkpoint}: not the checkpoint of this run, or damaged")
    return checkpoint.is_file()


@contextlib.contextmanager
def begun(folder: Path, config: Config, resume: bool) -> Iterator[bool]:
    """`claim` a folder and hold it, so that no other training writes there.

    It is made if need be, and goes again where it stays empty.
    """
    claim(folder, config, resume)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with holding(folder):
            yield claim(folder, config, resume)  # again: what was there may have become another's
    except BlockingIOError:
        raise InputError(f"{folder}: another training writes there; choose another --out") from None
    finally:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def unstarted(folder: Path) -> bool:
    """Return whether a run failed there before its first epoch was finished: a new one loses nothing."""
    if names_in(folder) - {CONFIG, TENSORBOARD}:
        return False
    # A configuration that a person wrote, which has comments or leaves defaults out, is not ours to replace.
    ours = load_config(folder / CONFIG).to_yaml()
    return ours == (folder / CONFIG).read_text(encoding="utf-8", errors="replace")


def names_in(folder: Path) -> set[str]:
    """Return the names of what is in a folder, without hidden ones."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def open_run(folder: str | Path) -> tuple[Config, keras.Model]:
    """Load the configuration and the model of a finished run.

    Raises:
        InputError: the folder is no run, its training has not finished, or its configuration has other
            classes than its model.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: not a run folder (there is no {CONFIG} in it)")
    if runs := sorted(path.parent.name for path in folder.glob(f"*/{MODEL}")):
        raise InputError(f"{folder}: not a run but the folder of several, {', '.join(runs)}; choose one")
    if not (folder / MODEL).is_file():
        raise InputError(f"{folder}: its training has not finished; continue it with train --resume")
    config = load_config(folder / CONFIG)
    try:
        model = load_model(folder / MODEL)
    except Exception as error:  # a damaged archive raises whatever zip, JSON or HDF5 stumble over
        raise InputError(f"{folder / MODEL}: not a model ({one_line(error)})") from None
    classes = classes_of(config)
    if model.output_shape[-1] != classes.outputs:
        raise InputError(
            f"{folder / CONFIG}: the classes there are not those of {MODEL}, which has "
            f"{model.output_shape[-1]} output(s). Received: {', '.join(classes.names)}"
        )
    check_identity(folder, config, model)
    return config, model


def identity_of(config: Config, model: keras.Model) -> dict[str, Any]:
    """Return what identity.json says: the identity of a model and that of its configuration."""
    values = to_jsonable_python(config.identity())
    values.pop("data.path", None)  # the images may move
    return {"model": identity(model, classes_of(config)), "configuration": values}


def write_identity(folder: Path, config: Config, model: keras.Model) -> None:
    """Write identity.json."""
    write_json(folder / IDENTITY, identity_of(config, model))


def check_identity(folder: Path, config: Config, model: keras.Model) -> None:
    """Raise InputError where a run's configuration or model is another than that of the training."""
    path = folder / IDENTITY
    if not path.is_file():
        warnings.warn(
            f"{folder}: there is no {IDENTITY}, as older versions wrote none; whether {CONFIG} and {MODEL} "
            "belong together is not known",
            stacklevel=3,
        )
        return
    then, now = parse_json(path.read_bytes(), str(path)), identity_of(config, model)
    if not (isinstance(then, dict) and isinstance(then.get("configuration"), dict)):
        raise InputError(f"{path}: not written by a training")
    # A key that one of the two lacks came or went with another version of this package.
    both = then["configuration"].keys() & now["configuration"].keys()
    if changed := sorted(key for key in both if then["configuration"][key] != now["configuration"][key]):
        raise InputError(
            f"{folder / CONFIG}: not what {MODEL} was trained with; it has another {', '.join(changed)}"
        )
    if then.get("model") != now["model"]:
        raise InputError(
            f"{folder / MODEL}: not the model that was trained there, whose identity is "
            f"{str(then.get('model'))[:64]}. Received: {now['model']}"
        )
