"""What a comparison leaves beside its runs and maps: the figures, a table, and pictures by patch size."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation import metrics, results
from ...evaluation.results import Mean, count_images, to_json
from ...files import write_rows
from ...images.pictures import save_png, side_by_side
from ...images.pixels import displayed
from ...reporting import plots
from .images import Chosen, opened_array, spread

SHOWN = 4  # images in heatmaps.png
UNDEFINED = Mean(math.nan, math.nan, math.nan, 0, 0)
LOSS, ACCURACY, AUROC, SECONDS = (
    "validation\nloss",
    "validation\naccuracy",
    "AUROC of heatmaps\nagainst masks",
    "seconds\nper epoch",
)


def write_outputs(folder: Path, compared: results.Comparison, chosen: Chosen) -> None:
    """Write comparison.csv, both pictures where there are several patch sizes, and comparison.json."""
    models = {model.slug: model for model in compared.models}
    pairs = [(models[method.model], method) for method in compared.methods]
    write_rows(folder / "comparison.csv", [row(*pair) for pair in pairs])
    patchnets = [(model, method) for model, method in pairs if model.patch_size is not None]
    pictures = (folder / "patch_sizes.png", folder / "heatmaps.png")
    if len(patchnets) > 1:
        save_png(chart(compared.name, patchnets), pictures[0])
        save_png(heatmaps(folder / "maps", compared, patchnets, chosen), pictures[1])
    else:
        for path in pictures:
            path.unlink(missing_ok=True)  # of a comparison with more patch sizes
    compared.write(folder / "comparison.json")


def row(model: results.Model, method: results.Method) -> dict[str, Any]:
    """Return a row of comparison.csv; None where a figure is undefined."""
    cells: dict[str, Any] = {"method": method.label, "model": model.label}
    cells |= {key: getattr(model, key) for key in ("patch_size", "parameters", "epochs", "best_epoch")}
    cells["seconds_per_epoch"] = to_json(model.seconds_per_epoch)
    for split, measures in (("validation", model.validation), ("test", model.test)):
        cells[f"{split}_images"] = None if measures is None else count_images(measures)
        for name in model.validation or ():
            mean = (measures or {}).get(name, UNDEFINED)
            cells |= columns(f"{split}_{name}", mean)
    localization, faithfulness = method.localization or {}, method.faithfulness
    of_maps = {f"map_{name}": localization.get(name, UNDEFINED) for name in metrics.MEASURES}
    for name in ("deletion", "insertion"):
        of_maps[name] = getattr(faithfulness, name) if faithfulness else UNDEFINED
    for name, mean in of_maps.items():
        cells |= columns(name, mean) | {f"{name}_images": mean.images or None}
    return cells


def columns(name: str, mean: Mean) -> dict[str, float | None]:
    """Return a mean and both ends of its interval, by the names of their columns."""
    return {name: to_json(mean.mean), f"{name}_low": to_json(mean.low), f"{name}_high": to_json(mean.high)}


def chart(name: str, patchnets: list[tuple[results.Model, results.Method]]) -> np.ndarray:
    """Draw loss, accuracy, time and, with masks, localization by patch size."""
    figures: dict[str, list[Mean]] = {
        LOSS: [model.validation["loss"] for model, _ in patchnets],
        ACCURACY: [model.validation["accuracy"] for model, _ in patchnets],
    }
    if all(method.localization for _, method in patchnets):
        figures[AUROC] = [method.localization["auroc"] for _, method in patchnets]
    figures[SECONDS] = [UNDEFINED._replace(mean=model.seconds_per_epoch) for model, _ in patchnets]
    return plots.by_patch_size(
        [model.patch_size for model, _ in patchnets],
        {label: [mean[:3] for mean in means] for label, means in figures.items()},
        shares=(ACCURACY, AUROC),
        title=f"{name}: patch sizes compared (bars: 95 % intervals)",
    )


def heatmaps(
    maps: Path,
    compared: results.Comparison,
    patchnets: list[tuple[results.Model, results.Method]],
    chosen: Chosen,
) -> np.ndarray:
    """Draw a few of the images as each PatchNet sees them: the first with masks, or some of each class."""
    shown = list(range(len(chosen.images)))[:SHOWN]
    if chosen.classes is not None:
        shown = spread(len(chosen.images), SHOWN)
    elif chosen.masks is None:
        shown = [k for label in (0, 1) for k in np.flatnonzero(np.equal(chosen.labels, label))[: SHOWN // 2]]
    labels, class_names = [chosen.labels[k] for k in shown], compared.class_names
    if chosen.classes is not None:
        labels, class_names = [None], ("other classes", "its class")

    def probability(k: int, slug: str) -> float:
        q = compared.images[k].probability[slug]
        return q if chosen.classes is None else q[chosen.classes[k]]

    names = {f"p = {model.patch_size}": (model, method) for model, method in patchnets}
    return side_by_side(
        np.stack([displayed(image, chosen.pixels) for image in chosen.images[shown]]),
        {name: opened_array(maps / f"{method.slug}.npy")[shown] for name, (_, method) in names.items()},
        {name: [probability(k, model.slug) for k in shown] for name, (model, _) in names.items()},
        None if None in labels else labels,
        None if chosen.masks is None else chosen.masks[shown],
        class_names,
    )
