"""Tables of figures, for stdout."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from .console import Table

if TYPE_CHECKING:
    from ..evaluation.results import Comparison, Mean, Run

CLASSIFIED = ("loss", "accuracy", "auroc")  # columns of a comparison's table of networks
BY_CLASS = ("recall", "precision", "auroc", "average_precision")  # and of its table of classes
NETWORKS = 4  # columns of a table that has one for each network
CONFUSED = 8  # classes of a confusion matrix that fits 80 columns
MISTAKES = 10  # that are listed of more classes
LONGEST = 22  # letters of a class's number and name
CLASSIFIED_BY_CLASS = ("accuracy", "balanced_accuracy", "auroc")  # of several classes
LOCATED = ("exact_match", "recall", "auroc")  # and of its table of maps: those of the paper


def with_interval(mean: "Mean") -> str:
    """Write a mean as in "0.905 (0.87 to 0.94)"."""
    if math.isnan(mean.mean):
        return "undefined"
    interval = "" if math.isnan(mean.low) else f" ({mean.low:.2f} to {mean.high:.2f})"
    return f"{mean.mean:.3f}{interval}"


def explained_table(explained: Sequence[Any], what: str = "probability of") -> Table:
    """Tabulate the images of `patchnet explain`; `what` are the numbers of their classes."""
    if explained and len(explained[0].probabilities) > 1:
        table = Table("image", "class", "probability", "maps", "files")
        for image in explained:
            q = f"{image.probability:.4f}"
            table.add_row(str(image.path), image.class_name, q, ", ".join(image.drawn), f"{image.stem}_*")
        return table
    table = Table("image", "class", f"{what} class 1", "files")
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
    """Tabulate what `patchnet evaluate` measured, over all classes."""
    from ..evaluation.metrics import CLASS_TITLES, TITLES

    titles = CLASS_TITLES | TITLES
    table = Table("measure", "value (95 % interval)", "images")
    for split, measures in (("validation", measured.validation), ("test", measured.test)):
        for name, mean in (measures or {}).items():
            images = str(mean.images + mean.skipped)
            table.add_row(f"{split} {titles.get(name, name)}", with_interval(mean), images)
    for name, mean in (measured.localization or {}).items():
        title = f"{TITLES.get(name, name)} ({measured.masks})"
        table.add_row(title, with_interval(mean), str(mean.images))
    return table


def evaluation_tables(measured: "Run") -> Iterator[Table]:
    """Give the tables of `patchnet evaluate`: the figures of all classes, and of several those of each.

    The figures of each class are those of the test images, where there are any, or else of the validation
    images. A confusion matrix of more than 8 classes does not fit a terminal: of those, the most frequent
    mistakes are listed.
    """
    yield evaluation_table(measured)
    names, what = measured.classes or (), "label" if measured.multilabel else "class"
    tested = measured.test is not None
    split = "test" if tested else "validation"
    if figures := measured.test_per_class if tested else measured.per_class:
        table = Table(what, "images", title=f"{split} images", caption="AP: average precision")
        for heading in ("recall", "prec.", "AUROC", "AP"):
            table.add_column(heading, justify="right", no_wrap=True)
        limits = measured.thresholds
        if limits:
            table.add_column("threshold", justify="right", no_wrap=True)
        for k, of_class in enumerate(figures.values()):
            images = str(of_class["recall"].images) if "recall" in of_class else ""
            cells = [bare(of_class.get(measure)) for measure in BY_CLASS]
            table.add_row(numbered(k, names), images, *cells, *([f"{limits[k]:.3f}"] if limits else []))
        yield table
    counts = measured.test_confusion if tested else measured.confusion
    if counts and len(names) <= CONFUSED:
        table = Table("true", title=f"{split} images by true and predicted class")
        for k in range(len(names)):
            table.add_column(str(k), justify="right", no_wrap=True)
        for k, row in enumerate(counts):
            table.add_row(numbered(k, names), *(str(count) if count else "·" for count in row))
        yield table
    elif counts:
        from ..evaluation.results import frequent_mistakes

        table = Table("true", "predicted", "images", title=f"most frequent mistakes, {split} images")
        for k, j, count in frequent_mistakes(counts, MISTAKES):
            table.add_row(numbered(k, names), numbered(j, names), str(count))
        yield table
    if measured.localization_per_class:
        table = Table(
            "label" if measured.multilabel else "class", "images", title=f"maps against {measured.masks}"
        )
        for heading in ("exact match", "recall", "AUROC"):
            table.add_column(heading, justify="right", no_wrap=True)
        for k, of_class in enumerate(measured.localization_per_class.values()):
            images = str(of_class["exact_match"].images) if "exact_match" in of_class else ""
            table.add_row(numbered(k, names), images, *(bare(of_class.get(measure)) for measure in LOCATED))
        yield table
    if measured.calibration:
        table = Table("calibration", "error (ECE)", "temperature")
        fitted = measured.calibration
        table.add_row("validation", f"{fitted.error:.3f}", f"{fitted.temperature:.2f}")
        if measured.test_calibration:
            table.add_row("test", f"{measured.test_calibration.error:.3f}", "")
        yield table


def batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """Give items in lists of `size`, the last of which may be shorter."""
    items = list(items)
    return (items[k : k + size] for k in range(0, len(items), size))


def bare(mean: "Mean | None") -> str:
    """Write a mean without its interval."""
    return "" if mean is None else "–" if math.isnan(mean.mean) else f"{mean.mean:.3f}"


def numbered(k: int, names: Sequence[str]) -> str:
    """Return a class's number and name, cut so that a table keeps to 80 columns."""
    text = f"{k}: {names[k]}"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


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
    from ..evaluation.metrics import CLASS_TITLES, TITLES
    from ..evaluation.results import count_images

    titles = CLASS_TITLES | TITLES
    binary = len(compared.class_names) == 2 and not compared.multilabel
    classified = CLASSIFIED if binary else CLASSIFIED_BY_CLASS

    def cell(mean: "Mean") -> Text:
        counted = f", {mean.images} images" if mean.skipped else ""
        return Text(with_interval(mean).replace(" (", "\n(") + counted)  # of two lines

    for split in ("validation", "test"):
        measured = {model.label: getattr(model, split) for model in compared.models if getattr(model, split)}
        table = Table("model", *(titles.get(name, name) for name in classified))
        for label, measures in measured.items():
            table.add_row(label, *(cell(measures[name]) for name in classified))
        if measured:
            table.title = f"{split}, {count_images(next(iter(measured.values())))} images"
            yield table

    table = Table("model", "epochs", "s/epoch", "parameters", title="training")
    for model in compared.models:
        table.add_row(
            model.label, str(model.epochs), f"{model.seconds_per_epoch:.2f}", f"{model.parameters:,}"
        )
    yield table

    for split in ("validation", "test"):
        field = "per_class" if split == "validation" else "test_per_class"
        measured = {model.label: getattr(model, field) for model in compared.models if getattr(model, field)}
        # One column for each network: of many, those that fit.
        for labels in batched(measured, NETWORKS):
            table = Table("class", *labels, title=f"AUROC of each class against the others, {split}")
            for k, name in enumerate(compared.class_names):
                cells = [bare(measured[label][name].get("auroc")) for label in labels]
                table.add_row(numbered(k, compared.class_names), *cells)
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
