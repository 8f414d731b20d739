"""The figures of one network and of its maps; maps and curves that are there are read, not made again."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from scipy.integrate import trapezoid

from ...config import Config
from ...data import Dataset
from ...evaluation import metrics, results
from ...evaluation.evaluate import classified, draw_maps, located, probabilities_of
from ...evaluation.faithfulness import deletion, insertion
from ...files import replacing
from ...progress import Progress, silent
from ...training.history import seconds_per_epoch
from ...training.kinds import kind_of
from ...training.run import open_run
from ...training.train import Training
from .candidates import Candidate
from .images import Chosen, new_array, opened_array, read_arrays, spread

STEPS = 25  # of the deletion and insertion curves


class Drawn(NamedTuple):
    """The figures of the maps that a method drew.

    Attributes:
        method: of all maps.
        per_image: what `metrics.per_image` returns; empty without masks.
    """

    method: results.Method
    per_image: dict[str, np.ndarray]


class Measured(NamedTuple):
    """The figures of a network and of its methods.

    Attributes:
        model: of the network.
        methods: of its maps.
        probability: of class 1, or of each class, for each chosen image.
    """

    model: results.Model
    methods: list[Drawn]
    probability: list[float] | list[list[float]]


def measure(
    folder: Path, candidate: Candidate, ending: Training, data: Dataset, chosen: Chosen, progress: Progress
) -> Measured:
    """Measure the network that a training ended with, in the folder of a comparison."""
    names = candidate.names
    config, model = open_run(folder / names.slug)
    methods = kind_of(config).methods(config.model)

    def step(number: int) -> Progress:
        def show(task: str, done: float, total: int, note: str = "") -> None:
            progress(f"{names.label}: measuring", number + done / total, 2 + 2 * len(methods), task)

        return show

    figures = classified(model, data, config, lambda split: step(split == "test"))
    # (N, 1) or (N, K)
    q = probabilities_of(model, chosen.images, config.training.batch_size, "images", silent)
    probability = (q[:, 0] if data.classes.binary else q).tolist()

    drawn = []
    for k, (of_method, drawing) in enumerate(methods, 1):
        path = folder / "maps" / f"{of_method.method}.npy"
        maps = opened_array(path)
        if maps is None:
            with replacing(path) as part:
                maps = new_array(part, "float32", chosen.images.shape[:3])
                draw_maps(drawing(model), chosen.images, step(2 * k), chosen.classes, maps)
                maps.flush()
        per_image = {} if chosen.masks is None else metrics.per_image(maps, chosen.masks)
        by_class = None
        if per_image and chosen.classes is not None:
            by_class = located(maps, data.masked, data.classes)["localization_per_class"]
        curves = folder / "maps" / f"{of_method.method}_curves.npz"
        method = results.Method(
            slug=of_method.method,
            label=of_method.method_label,
            model=names.slug,
            min_max_normalized=kind_of(config).min_max_normalized,
            localization={name: metrics.summarize(values) for name, values in per_image.items()} or None,
            localization_per_class=by_class,
            faithfulness=faithfulness(curves, model, maps, chosen, config, step(2 * k + 1)),
        )
        drawn.append(Drawn(method, per_image))
    return Measured(
        results.Model(
            slug=names.slug,
            label=names.label,
            kind=config.model.kind,
            patch_size=config.model.patch_size if kind_of(config).patches else None,
            parameters=model.count_params(),
            epochs=len(ending.rows),
            best_epoch=ending.best.epoch,
            seconds_per_epoch=seconds_per_epoch(ending.rows),
            ended=ending.reason,
            **figures,
        ),
        drawn,
        probability,
    )


def faithfulness(
    path: Path, model: keras.Model, maps: np.ndarray, chosen: Chosen, config: Config, progress: Progress
) -> results.Faithfulness | None:
    """Return areas and mean curves of deletion and insertion, which a network and its own maps have.

    They are over the first `comparison.images` images of class 1, or of both classes at once; of several
    classes over so many images from all, each by the probability and the map of its class. They are the same
    for all methods. `path` keeps "share" (25 steps), "deletion" and "insertion" (images, 26).
    """
    count = config.comparison.images
    if chosen.classes is None:
        ones = [k for k, label in enumerate(chosen.labels) if label != 0][:count]
    else:  # they stand class by class
        ones = spread(len(chosen.images), count)
    if not ones:
        return None
    curves = read_arrays(path)
    if curves is None or len(curves["deletion"]) != len(ones):
        curves = draw_curves(model, maps, chosen, ones, progress)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **curves)
    areas = {name: trapezoid(curves[name], curves["share"]) for name in ("deletion", "insertion")}
    means = {name: curves[name].mean(axis=0).tolist() for name in areas}
    return results.Faithfulness(
        **{name: metrics.summarize(values) for name, values in areas.items()},
        curves=results.Curves(share=curves["share"].tolist(), **means),
    )


def draw_curves(
    model: keras.Model, maps: np.ndarray, chosen: Chosen, indices: list[int], progress: Progress
) -> dict[str, np.ndarray]:
    """Delete and insert the pixels of some of the images: "share" (26,), the others (images, 26)."""
    curves = {"deletion": [], "insertion": []}
    for done, k in enumerate(indices):
        progress("deletion and insertion", done, len(indices), chosen.names[k])
        for name, curve in (("deletion", deletion), ("insertion", insertion)):
            of_class = None if chosen.classes is None else int(chosen.classes[k])
            image, heatmap = chosen.images[k : k + 1], maps[k : k + 1]
            curves[name].append(
                curve(model, image, heatmap, class_index=of_class, steps=STEPS, pixels=chosen.pixels)
            )
    progress("deletion and insertion", len(indices), len(indices))
    probabilities = {name: np.concatenate([c.probabilities for c in each]) for name, each in curves.items()}
    return {"share": curves["deletion"][0].shares} | probabilities
