"""What a larger patch gains and costs: one PatchNet for each patch size (Tables 5 and 8 of the paper).

p11/, p17/, ...    a run for each patch size
tradeoff.json      all figures
tradeoff.csv       the table: a row for each patch size
tradeoff.png       loss, accuracy and time by patch size
heatmaps.png       the same images as each of the models sees them
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..data import Dataset, load_dataset
from ..errors import InputError
from ..files import write_json, write_rows
from ..images.pictures import save_png, side_by_side
from ..model.heatmaps import heatmap_model
from ..model.patchnet import PatchNet
from ..reporting import plots
from ..training import experiment
from ..training.experiment import Progress, silent
from ..training.history import seconds_per_epoch

SHOWN = 4  # images in heatmaps.png
LOSS, ACCURACY, AUROC, SECONDS = (
    "validation\nloss",
    "validation\naccuracy",
    "AUROC of heatmaps\nagainst masks",
    "seconds\nper epoch",
)


def tradeoff(
    config: Config,
    patch_sizes: Sequence[int],
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Train a PatchNet for each patch size, measure them, and draw what they see.

    Args:
        config: what to train on and how; its `model.patch_size` is replaced. Where `model.stride` is null,
            patches stand side by side whatever their size.
        patch_sizes: in pixels.
        folder: where the runs go, and the files above.
        resume: continue runs that were cut off; finished ones are not trained again.
        progress: told after each batch.

    Returns:
        For each patch size, the smallest first: "patch_size", "parameters", "epochs", "best_epoch" (whose
        weights were kept), "reason" (what ended the training), "seconds_per_epoch" (median, with the
        validation at its end) and what `experiment.evaluate` measured, "validation" among it.

    Raises:
        InputError: before anything is trained: a patch size is given twice or does not fit the images, or
            a run folder cannot be used; see `experiment.train`.
        FloatingPointError: a loss became NaN or infinite.
        OSError: something cannot be written.

    Example:
        >>> tradeoff(load_config("configs/demo.yaml"), [11, 17], "runs/sizes")[1]["validation"]["accuracy"]
        1.0
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    if config.model.kind != "patchnet":
        raise InputError(f"model.kind: expected patchnet, which has patches. Received: {config.model.kind!r}")
    if len(set(patch_sizes)) < len(patch_sizes) or not patch_sizes:
        raise InputError(f"patch sizes: expected each once. Received: {', '.join(map(str, patch_sizes))}")
    data = load_dataset(config, progress)
    runs = {}
    for p in sorted(patch_sizes):
        model = config.model.model_copy(update={"patch_size": p})
        runs[folder / f"p{p}"] = experiment.with_classes(config.model_copy(update={"model": model}), data)
    for run, settings in runs.items():
        check(run, settings, data, resume)
    found = [measure(run, settings, data, progress) for run, settings in runs.items()]

    save_png(heatmaps(runs, data, progress), folder / "heatmaps.png")
    save_png(chart(config.name, found), folder / "tradeoff.png")
    write_json(folder / "tradeoff.json", found)
    write_rows(folder / "tradeoff.csv", [row(figures) for figures in found])
    return found


def check(run: Path, config: Config, data: Dataset, resume: bool) -> None:
    """Raise InputError where a run could not be trained."""
    experiment.claim(run, config, resume)
    try:
        PatchNet(data.train.images.shape[1:], **config.model.model_dump(exclude={"kind", "preprocessing"}))
    except ValueError as error:
        raise InputError(f"patch size {config.model.patch_size}: {error}") from None


def measure(run: Path, config: Config, data: Dataset, progress: Progress) -> dict[str, Any]:
    """Train one run to its end and return its figures."""
    p = config.model.patch_size

    def named(task: str, done: float, total: int, note: str = "") -> None:
        progress(f"p = {p}, {task}", done, total, note)

    trained = experiment.finish(config, run, progress=named, data=data)
    measured = experiment.evaluate(run, progress=named)
    _, model = experiment.open_run(run)
    return {
        "patch_size": p,
        "parameters": model.count_params(),
        "epochs": len(trained.rows),
        "best_epoch": trained.best.epoch,
        "reason": trained.reason,
        "seconds_per_epoch": seconds_per_epoch(trained.rows),
    } | measured


def row(found: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one patch size as columns; empty where a measure is undefined."""
    columns = {
        "patch_size": found["patch_size"],
        "val_loss": found["validation"]["loss"],
        "val_accuracy": found["validation"]["accuracy"],
        "seconds_per_epoch": found["seconds_per_epoch"],
        "epochs": found["epochs"],
        "best_epoch": found["best_epoch"],
        "parameters": found["parameters"],
    }
    localization = found.get("localization", {})
    return columns | {
        f"localization_{name}": measure["mean"] for name, measure in localization.items() if name != "masks"
    }


def chart(name: str, found: list[dict[str, Any]]) -> np.ndarray:
    """Draw loss, accuracy, time and, with masks, localization by patch size."""
    figures = {
        label: [(f["validation"][key], *f["validation"]["intervals"][key]) for f in found]
        for label, key in ((LOSS, "loss"), (ACCURACY, "accuracy"))
    }
    if "localization" in found[0]:
        measures = [f["localization"]["auroc"] for f in found]
        figures[AUROC] = [(m["mean"], m["low"], m["high"]) for m in measures]
    figures[SECONDS] = [(f["seconds_per_epoch"], None, None) for f in found]
    sizes = [f["patch_size"] for f in found]
    title = f"{name}: patch sizes compared (bars: 95 % intervals)"
    return plots.by_patch_size(sizes, figures, shares=(ACCURACY, AUROC), title=title)


def heatmaps(runs: dict[Path, Config], data: Dataset, progress: Progress) -> np.ndarray:
    """Draw the first validation images, those with masks where there are any, as each model sees them."""
    if masked := data.masked:
        images, labels, masks = masked.images[:SHOWN], masked.labels, masked.masks[:SHOWN]
        labels = None if labels is None else labels[:SHOWN]
    else:
        (images, labels), masks = experiment.some_of_each(data.val), None
    maps, probabilities = {}, {}
    for k, (run, config) in enumerate(runs.items()):
        _, model = experiment.open_run(run)
        name = f"p = {config.model.patch_size}"
        progress("heatmaps side by side", k, len(runs), name)
        maps[name] = heatmap_model(model).predict(images, batch_size=1, verbose=0)
        probabilities[name] = model.predict(images, batch_size=1, verbose=0)
    progress("heatmaps side by side", len(runs), len(runs))
    return side_by_side(images, maps, probabilities, labels, masks, data.class_names)
