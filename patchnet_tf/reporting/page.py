"""The page, written by a template: figures as tables, curves as charts, pictures as data URIs."""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
import numpy as np
import yaml

from ..evaluation.metrics import TITLES
from ..evaluation.results import Comparison, Mean, Model, count_images
from ..images import pictures
from . import plots
from .contents import Contents
from .gallery import auroc_of, data_uri

ROWS = 1000  # of the table of images
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
CLASSIFICATION = ("accuracy", "auroc", "loss")  # columns of the table of networks, and others after them
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
    located = [method.localization for method in results.methods if method.localization]
    splits = [split for model in results.models for split in (model.validation, model.test) if split]
    return templates.get_template("report.html").render(
        results=results,
        comparison=contents.compared,
        charts=training_charts(contents),
        faithfulness=faithfulness_charts(results),
        classification=ordered(CLASSIFICATION, splits),
        measures=ordered(TITLES, located),
        averages=lambda name: averages([measures[name] for measures in located if name in measures]),
        has_masks=any(case.mask for group in contents.groups for case in group.cases),
        auroc_of=auroc_of,
        groups=contents.groups,
        pictures=contents.pictures,
        left_out=contents.left_out,
        scale=data_uri(pictures.grey(np.linspace(0, 1, 256)[None])),
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True),
        counts=counts,
        titles=TITLES,
        meanings=MEANINGS,
        paper=PAPER,
        rows=ROWS,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


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
                ylabel="probability of class 1",
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
