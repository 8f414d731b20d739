"""Tables of figures, for stdout."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table


def with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Write a figure as in "0.905 (0.87 to 0.94)"."""
    if mean is None:
        return "undefined"
    return f"{mean:.3f}" if low is None else f"{mean:.3f} ({low:.2f} to {high:.2f})"


def explained_table(explained: Sequence[Any]) -> Table:
    """Tabulate the images of `patchnet explain`."""
    table = Table("image", "class", "probability of class 1", "files")
    for image in explained:
        table.add_row(str(image.path), image.class_name, f"{image.probability:.4f}", f"{image.stem}_*")
    return table


def data_table(checked: Any) -> Table:
    """Tabulate how many images each split and class has."""
    classes = [f"{k}: {name}" for k, name in enumerate(checked.class_names)]
    table = Table("split", *classes, "share of class 1")
    for split in dict.fromkeys(split for split, _ in checked.counts):
        zero, one = (checked.counts[split, label] for label in (0, 1))
        table.add_row(split, str(zero), str(one), f"{one / (zero + one):.0%}")
    return table


def evaluation_table(measured: dict[str, Any]) -> Table:
    """Tabulate what `patchnet evaluate` measured."""
    from ..evaluation.metrics import TITLES

    table = Table("measure", "value (95 % interval)", "images")
    for split in ("validation", "test"):
        for name in ("accuracy", "loss", "auroc") if split in measured else ():
            of_split = measured[split]
            value = with_interval(of_split[name], *of_split["intervals"][name])
            table.add_row(f"{split} {TITLES.get(name, name)}", value, str(of_split["images"]))
    if localization := measured.get("localization"):
        for name, title in TITLES.items():
            m = localization[name]
            value = with_interval(m["mean"], m["low"], m["high"])
            table.add_row(f"{title} ({localization['masks']})", value, str(m["images"]))
    return table


def convergence_table(points: dict[str, Any]) -> Table:
    """Tabulate the decisions of `patchnet convergence` beside the closed form and the paper's figures."""
    table = Table("images", "a", "b", "p0", "closed form", "paper", "p1 (limit 1)", "paper")
    rows = [("64 patches", points["square"]), ("4 patches", points["four_patches"])]
    rows += [("16, small S", point) for point in points.get("sweep", [])]
    for name, point in rows:
        paper = [f"{point['paper'][p]:.3f}" if "paper" in point else "" for p in ("p0", "p1")]
        p0, closed_form, p1 = (f"{q:.4f}" for q in (point["p0"], point["closed_form"]["p0"], point["p1"]))
        table.add_row(name, str(point["a"]), str(point["b"]), p0, closed_form, paper[0], p1, paper[1])
    return table


def tradeoff_table(rows: Sequence[dict[str, Any]], *, masks: bool) -> Table:
    """Tabulate what each patch size gains and costs."""
    table = Table("p", "val_loss", "val_accuracy", "s/epoch", "epochs", "parameters")
    if masks:
        table.add_column("map AUROC")
    for row in rows:
        cells = [str(row["patch_size"]), f"{row['val_loss']:.4f}", f"{row['val_accuracy']:.3f}"]
        cells += [f"{row['seconds_per_epoch']:.2f}", str(row["epochs"]), f"{row['parameters']:,}"]
        if masks:
            cells.append(with_interval(row["localization_auroc"], None, None))
        table.add_row(*cells)
    return table


def comparison_tables(compared: dict[str, Any]) -> Iterator[Table]:
    """Give the tables of a comparison: the models, and their maps."""

    def cell(m: dict[str, Any]) -> str:
        counted = f", {m['images']} images" if m.get("skipped") else ""
        return with_interval(m["mean"], m["low"], m["high"]) + counted

    for split in ("validation", "test"):
        rows = [model for model in compared["models"] if model[split]]
        of_split = Table("model", "loss", "accuracy", "epochs", "s/epoch")
        for model in rows:
            figures = model[split]
            measures = [
                dict(zip(("mean", "low", "high"), (figures[name], *figures["intervals"][name]), strict=True))
                for name in ("loss", "accuracy")
            ]
            seconds = f"{model['seconds_per_epoch']:.2f}"
            of_split.add_row(model["label"], *map(cell, measures), str(model["epochs"]), seconds)
        if rows:
            of_split.title = f"{split}, {rows[0][split]['images']} images"
            yield of_split

    methods = compared["methods"]
    if compared["masks"]:
        from ..evaluation.metrics import TITLES

        names = ("exact_match", "recall", "auroc")
        located = Table("method", *(TITLES[name] for name in names))
        located.title = f"maps of {len(compared['images'])} images against {compared['masks']}"
        for method in methods:
            cells = [cell(method["localization"][name]) for name in names]
            located.add_row(method["label"], *(text.replace(" (", "\n(") for text in cells))
        yield located
    if methods[0]["faithfulness"]:
        curves = Table("method", "deletion (less is better)", "insertion (more is better)")
        for method in methods:
            of_both = (method["faithfulness"][name] for name in ("deletion", "insertion"))
            curves.add_row(method["label"], *map(cell, of_both))
        curves.title = f"areas below curves, {methods[0]['faithfulness']['deletion']['images']} images"
        curves.caption = (
            "For maps of one network: between networks it says as much about their probabilities."
        )
        yield curves
