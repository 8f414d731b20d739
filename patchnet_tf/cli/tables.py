"""Tables of figures, for stdout."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .console import Table

if TYPE_CHECKING:
    from ..evaluation.results import Comparison, Mean, Run

CLASSIFIED = ("loss", "accuracy", "auroc")  # columns of a comparison's table of networks
LOCATED = ("exact_match", "recall", "auroc")  # and of its table of maps: those of the paper


def with_interval(mean: "Mean") -> str:
    """Write a mean as in "0.905 (0.87 to 0.94)"."""
    if math.isnan(mean.mean):
        return "undefined"
    interval = "" if math.isnan(mean.low) else f" ({mean.low:.2f} to {mean.high:.2f})"
    return f"{mean.mean:.3f}{interval}"


def explained_table(explained: Sequence[Any]) -> Table:
    """Tabulate the images of `patchnet explain`."""
    table = Table("image", "class", "probability of class 1", "files")
    for image in explained:
        table.add_row(str(image.path), image.class_name, f"{image.probability:.4f}", f"{image.stem}_*")
    return table


def data_table(checked: Any) -> Table:
    """Tabulate how many images each split and class has; a row is a split of two classes, a class of more."""
    if not checked.classes.binary:
        return classes_table(checked)
    classes = [f"{k}: {name}" for k, name in enumerate(checked.class_names)]
    table = Table("split", *classes, "share of class 1")
    for split in dict.fromkeys(split for split, _ in checked.counts):
        counts = [checked.counts[split, label] for label in (0, 1)]
        table.add_row(split, *map(str, counts), f"{counts[1] / sum(counts):.0%}")
    return table


def classes_table(checked: Any) -> Table:
    """Tabulate how many images each class has in each split, and which share of the split they are."""
    table = Table("class", *checked.images)
    for k, name in enumerate(checked.class_names):
        counts = {split: checked.counts[split, k] for split in checked.images}
        cells = [f"{count} ({count / checked.images[split]:.0%})" for split, count in counts.items()]
        table.add_row(f"{k}: {name}", *cells)
    table.add_section()
    table.add_row("images", *map(str, checked.images.values()))
    return table


def evaluation_table(measured: "Run") -> Table:
    """Tabulate what `patchnet evaluate` measured."""
    from ..evaluation.metrics import TITLES

    table = Table("measure", "value (95 % interval)", "images")
    for split, measures in (("validation", measured.validation), ("test", measured.test)):
        for name, mean in (measures or {}).items():
            images = str(mean.images + mean.skipped)
            table.add_row(f"{split} {TITLES.get(name, name)}", with_interval(mean), images)
    for name, mean in (measured.localization or {}).items():
        title = f"{TITLES.get(name, name)} ({measured.masks})"
        table.add_row(title, with_interval(mean), str(mean.images))
    return table


def convergence_table(points: dict[str, Any]) -> Table:
    """Tabulate the decisions of `patchnet convergence` beside the closed form and the paper's figures."""
    table = Table("images", "a", "b", "p0", "closed form", "paper", "p1 (limit 1)", "paper")
    rows = [("64 patches", points["square"]), ("4 patches", points["four_patches"])]
    rows += [("16, small S", point) for point in points.get("sweep", [])]
    rows += [(f"lse, r = {point['sharpness']:g}", point) for point in points.get("sweep_lse", [])]
    for name, point in rows:
        paper = [f"{point['paper'][p]:.3f}" if "paper" in point else "" for p in ("p0", "p1")]
        p0, closed_form, p1 = (f"{q:.4f}" for q in (point["p0"], point["closed_form"]["p0"], point["p1"]))
        table.add_row(name, str(point["a"]), str(point["b"]), p0, closed_form, paper[0], p1, paper[1])
    return table


def comparison_tables(compared: "Comparison") -> Iterator[Table]:
    """Give the tables of a comparison: the networks, their training, and their maps."""
    from ..evaluation.metrics import TITLES
    from ..evaluation.results import count_images

    def cell(mean: "Mean") -> str:
        counted = f", {mean.images} images" if mean.skipped else ""
        return with_interval(mean).replace(" (", "\n(") + counted

    for split in ("validation", "test"):
        measured = {model.label: getattr(model, split) for model in compared.models if getattr(model, split)}
        table = Table("model", *(TITLES.get(name, name) for name in CLASSIFIED))
        for label, measures in measured.items():
            table.add_row(label, *(cell(measures[name]) for name in CLASSIFIED))
        if measured:
            table.title = f"{split}, {count_images(next(iter(measured.values())))} images"
            yield table

    table = Table("model", "epochs", "s/epoch", "parameters", title="training")
    for model in compared.models:
        table.add_row(
            model.label, str(model.epochs), f"{model.seconds_per_epoch:.2f}", f"{model.parameters:,}"
        )
    yield table

    if compared.masks:
        table = Table("method", *(TITLES[name] for name in LOCATED))
        table.title = f"maps of {len(compared.images)} images against {compared.masks}"
        for method in compared.methods:
            table.add_row(method.label, *(cell(method.localization[name]) for name in LOCATED))
        yield table

    faithful = {method.label: method.faithfulness for method in compared.methods if method.faithfulness}
    if faithful:
        table = Table("method", "deletion (less is better)", "insertion (more is better)")
        for label, areas in faithful.items():
            table.add_row(label, with_interval(areas.deletion), with_interval(areas.insertion))
        table.title = f"areas below curves, {count_images({'': areas.deletion})} images"
        table.caption = "For maps of one network: between networks it says as much about their probabilities."
        yield table
