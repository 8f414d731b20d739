"""The page, written by a template: figures as tables, curves as charts, pictures as data URIs."""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import yaml

from ..evaluation import metrics
from ..evaluation.results import (
    Comparison,
    Image,
    Mean,
    Measures,
    Method,
    Model,
    count_images,
    frequent_mistakes,
)
from ..images import pictures
from . import plots
from .contents import Contents
from .gallery import auroc_of, data_uri, is_binary, labels_of

ROWS = 1000  # of the table of images
CONFUSED = 30  # classes of a confusion matrix; of more, as many of the most frequent mistakes are listed
LISTED = 8  # names of classes in a sentence
TEMPLATES = Path(__file__).parent / "templates"
MEANINGS = {
    "auroc": "chance that a pixel of the mask is whiter than one outside; 0.5 is guessing",
    "exact_match": "share of pixels where the map, rounded to black or white, equals the mask",
    "recall": "share of the mask's pixels that are white in the rounded map",
    "average_precision": "area under the precision-recall curve; guessing gives the mask's share of pixels",
    "iou": "what the mask and the rounded map's white share, divided by what they cover together",
    "best_iou": "the same, rounded at the level that suits each image best: an upper bound",
    "pointing_game": "how often the whitest pixel is in the mask",
    "mass_inside": "share of the map's sum that is in the mask; not for maps where grey means undecided",
}
# Columns of the table of networks, and others after them.
CLASSIFICATION = ("accuracy", "balanced_accuracy", "auroc", "average_precision", "loss")
TITLES = metrics.CLASS_TITLES | metrics.TITLES
BY_CLASS = ("recall", "precision", "auroc", "average_precision")  # columns of the table of classes
PAPER = ("auroc", "exact_match", "recall")  # columns of the table of images


def render(contents: Contents) -> str:
    """Return the page."""
    results = contents.results
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.tests["known"] = lambda figure: figure is not None and not math.isnan(figure)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    cases = [case for group in contents.groups for case in group.cases]
    located = [method.localization for method in results.methods if method.localization]
    splits = [split for model in results.models for split in (model.validation, model.test) if split]
    return templates.get_template("report.html").render(
        name=contents.name,
        results=results,
        binary=is_binary(results),
        listed=LISTED,
        by_class=by_class(results),
        confusions=confusions(results),
        calibrations=calibrations(results),
        located_by_class=[method for method in results.methods if method.localization_per_class],
        decision=lambda image, method: decision(results, image, method),
        labels_of=labels_of,
        comparison=contents.compared,
        charts=training_charts(contents),
        faithfulness=faithfulness_charts(results),
        classification=ordered(CLASSIFICATION, splits),
        measures=ordered(metrics.TITLES, located),
        averages=lambda name: averages([measures[name] for measures in located if name in measures]),
        has_masks=any(case.mask for case in cases),
        choosable=any(len(maps) > 1 for case in cases for maps in case.maps.values()),
        auroc_of=auroc_of,
        groups=contents.groups,
        pictures=contents.pictures,
        left_out=contents.left_out,
        scale=data_uri(pictures.grey(np.linspace(0, 1, 256)[None])),
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True),
        counts=counts,
        titles=TITLES,
        titled=lambda measures: [TITLES.get(name, name) for name in measures],
        meanings=MEANINGS,
        paper=PAPER,
        rows=ROWS,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


class Decision(NamedTuple):
    """What a network decided about an image: the probability, of which classes, and whether it is wrong."""

    probability: float | None
    names: str
    wrong: bool


def decision(results: Comparison, image: Image, method: Method) -> Decision:
    """Return what the network of a method decided: the most probable class, or all labels above thresholds.

    The probability is that of class 1 of two classes, or else of what is most probable.
    """
    q = image.probability.get(method.model)
    if q is None or not isinstance(q, list):
        known = q is not None and not math.isnan(q) and image.label is not None
        return Decision(q, "", known and (q > 0.5) != (image.label == 1))
    model = next(model for model in results.models if model.slug == method.model)
    highest = int(np.nanargmax(q)) if not np.isnan(q).all() else 0
    if results.multilabel:
        limits = model.thresholds or [0.5] * len(q)
        given = [k for k, (p, limit) in enumerate(zip(q, limits, strict=True)) if p > limit]
    else:
        given = [highest]
    names = ", ".join(results.class_names[k] for k in given) or "none"
    return Decision(q[highest], names, image.label is not None and given != sorted(labels_of(image)))


class OfClasses(NamedTuple):
    """A network's figures of each class on one split."""

    model: Model
    split: str
    measures: list[str]
    rows: list[tuple[str, int, Measures, float | None]]  # name, images, figures, threshold of a label


def by_class(results: Comparison) -> list[OfClasses]:
    """Return the figures of each class, on the test images where there are any, or else on validation."""
    tables = []
    for model in results.models:
        split, figures = ("test", model.test_per_class) if model.test else ("validation", model.per_class)
        if not figures:
            continue
        limits = model.thresholds or [None] * len(figures)
        rows = [
            (name, measured["recall"].images if "recall" in measured else 0, measured, limit)
            for (name, measured), limit in zip(figures.items(), limits, strict=True)
        ]
        tables.append(OfClasses(model, split, ordered(BY_CLASS, figures.values()), rows))
    return tables


class Confusion(NamedTuple):
    """A network's confusion matrix on one split, or the most frequent mistakes of many classes."""

    model: Model
    split: str
    rows: list[tuple[str, list[tuple[int, float]]]]  # true class: count and share of the row by column
    mistakes: list[tuple[str, str, int, float]]  # true, predicted, count and share of the true


def confusions(results: Comparison) -> list[Confusion]:
    """Return the confusion matrices, on the split that `by_class` takes."""
    drawn = []
    for model in results.models:
        split, counts = ("test", model.test_confusion) if model.test else ("validation", model.confusion)
        if not counts:
            continue
        shares = [[count / max(1, sum(row)) for count in row] for row in counts]
        names = results.class_names
        if len(names) <= CONFUSED:
            rows = [
                (name, list(zip(*row, strict=True))) for name, *row in zip(names, counts, shares, strict=True)
            ]
            drawn.append(Confusion(model, split, rows, []))
            continue
        wrong = frequent_mistakes(counts, CONFUSED)
        mistakes = [(names[k], names[j], count, shares[k][j]) for k, j, count in wrong]
        drawn.append(Confusion(model, split, [], mistakes))
    return drawn


def calibrations(results: Comparison) -> list[tuple[Model, str, float, float, str]]:
    """Draw how reliable probabilities are: network, split, error, temperature of validation, chart."""
    binary = is_binary(results)
    of = "class 1" if binary else "labels" if results.multilabel else "the predicted class"
    right = (
        "share of class 1"
        if binary
        else "share that is there"
        if results.multilabel
        else "share that is right"
    )
    return [
        (
            model,
            split,
            calibration.error,
            model.calibration.temperature,
            plots.reliability(calibration, xlabel=f"probability of {of}", ylabel=right),
        )
        for model in results.models
        for split, calibration in (("validation", model.calibration), ("test", model.test_calibration))
        if calibration and model.calibration
    ]


def training_charts(contents: Contents) -> list[tuple[Model, str]]:
    """Draw the training of each network that has epochs."""
    return [
        (model, plots.training(contents.histories[model.slug], model.best_epoch))
        for model in contents.results.models
        if contents.histories[model.slug]
    ]


def faithfulness_charts(results: Comparison) -> list[tuple[str, str]]:
    """Draw the curves of deletion and of insertion, where there are any, each below its heading."""
    curves = {
        method.label: method.faithfulness.curves
        for method in results.methods
        if method.faithfulness and method.faithfulness.curves
    }
    return [
        (
            f"{kind.capitalize()} curves",
            plots.shares(
                {label: (of_method.share, getattr(of_method, kind)) for label, of_method in curves.items()},
                xlabel=f"share of the pixels {done}",
                ylabel="probability of class 1" if is_binary(results) else "probability of the class",
            ),
        )
        for kind, done in (("deletion", "taken away"), ("insertion", "put back"))
        if curves
    ]


def ordered(known: Iterable[str], measured: Iterable[Iterable[str]]) -> list[str]:
    """Return the names that were measured: those that are known in their order, then the others."""
    names = dict.fromkeys(name for measures in measured for name in measures)
    return [name for name in known if name in names] + [name for name in names if name not in known]


def averages(means: Sequence[Mean]) -> list[tuple[int, int]]:
    """Return the different numbers of images that means are over, and of those skipped."""
    return sorted({(mean.images, mean.skipped) for mean in means})


def counts(models: Sequence[Model], split: str) -> str:
    """Return how many images of a split networks were measured on, which is one number as a rule."""
    return " or ".join(map(str, sorted({count_images(getattr(model, split)) for model in models})))
