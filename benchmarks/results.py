"""PatchNet and its rivals on nine public data sets: the tables of docs/results.md.

    python -m benchmarks.results IMAGES BENCHMARKS --out DIR

IMAGES has skin_isic2017, texture_cracked_perforated_60 and nuclei_3t3_u2os, BENCHMARKS has steel_sd900 and
five more, each in its own layout; docs/results.md says which images they are. A cell of the tables is one
training and its measures, DIR/cells/SET/METHOD-SEED.json: what is there is not run again, so that the same
command goes on where it was cut off, and the most valuable cells come first. At the end, and with --tables
alone, it writes DIR/results.md and for each set DIR/SET.png, the maps of all methods side by side.

The rule by which PatchNet's setting is chosen, once for each set: patches of 35 pixels, `border: reflect`,
and of the poolings `mean` and `topk` the one with the lower validation loss of seed 0. Nothing else is
chosen, for PatchNet or its rivals, but the epoch with the lowest validation loss, for all of them. All have
the same images, mirrorings and epochs.
"""

import argparse
import contextlib
import itertools
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import patchnet_tf as pn

import keras  # isort: skip  (after patchnet_tf, which switches oneDNN on)
from keras import ops  # isort: skip
from patchnet_tf.baselines.pretrained import split_pretrained
from patchnet_tf.config import Config, load_config
from patchnet_tf.data import Dataset, load_dataset
from patchnet_tf.data.files import read_rows
from patchnet_tf.evaluation import metrics
from patchnet_tf.evaluation.evaluate import draw_maps, probabilities_of
from patchnet_tf.files import parse_json, place, replacing, staging, write_array, write_json, write_rows
from patchnet_tf.images.pictures import framed, grey, in_rows, legend, rgb, save_png
from patchnet_tf.images.reading import read_image
from patchnet_tf.model.losses import loss_of
from patchnet_tf.progress import silent
from patchnet_tf.studies.comparison.images import Chosen, choose, spread
from patchnet_tf.training.callbacks import Convergence
from patchnet_tf.training.features import FeatureBatches
from patchnet_tf.training.kinds import kind_of
from patchnet_tf.training.kinds.base import Draw
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import train

BASE = Path(__file__).parents[1] / "configs" / "folder.yaml"
# As --set has them. Below 300 training images these are mirrored.
SETS = {
    "textures": ["data.path={images}/texture_cracked_perforated_60", "training.epochs=60"],
    "nuclei": [
        "data.path={images}/nuclei_3t3_u2os",
        "data.mask=chromocentre",
        "model.crop=[44,44]",
        "training.epochs=30",
    ],
    "skin": [
        "data.path={images}/skin_isic2017",
        "data.size=[96,128]",
        "data.mask=lesion",
        "training.epochs=30",
    ],
    "steel": [
        "data.path={benchmarks}/steel_sd900",
        "data.size=[128,128]",
        "data.mask=defect",
        "training.epochs=20",
    ],
    "tiles": [
        "data.path={benchmarks}/tiles_magnetic6",
        "data.size=[160,160]",
        "data.mask=defect",
        "training.epochs=20",
    ],
    "ultrasound": [
        "data.path={benchmarks}/ultrasound_busi",
        "data.size=[128,160]",
        "data.mask=tumour",
        "training.epochs=20",
    ],
    "cells": ["data.path={benchmarks}/cells_hep2", "training.epochs=10"],
    "leaves": [
        "data={{kind: manifest, path: {benchmarks}/coffee_lara2018/labels.csv, multilabel: true, "
        "size: [96, 192], classes: [cercospora, healthy, miner, phoma, rust]}}",
        "training.epochs=10",
    ],
    "retina": [
        "data={{kind: manifest, path: {out}/retina/labels.csv, multilabel: true, "
        "classes: [microaneurysms, haemorrhages, hard_exudates, soft_exudates, optic_disc]}}",
        "training.epochs=10",
    ],
}
MIRRORED = ("skin", "textures", "nuclei")
FACTORS = ("skin", "tiles", "nuclei")  # large, small and repeated evidence
WINDOW = (178, 134)  # (height, width) of the windows of retina, 4 x 8 of an image of 712 x 1072
PATCH = 32  # side of the patches that are classified one by one
MAPPED, OCCLUDED = 24, 8  # images, at most, of which maps are measured
SHOWN = 6  # images in a picture


class Setting(NamedTuple):
    """Of a PatchNet with a pretrained S."""

    patch_size: int = 35
    pooling: str = "mean"
    border: str = "reflect"
    weights: str = "imagenet"
    tuned: bool = False
    longer: bool = False  # four times the epochs

    @property
    def slug(self) -> str:
        """The name of the method in files."""
        return "-".join(
            [f"patchnet{self.patch_size}", self.pooling, self.border]
            + ["random"] * (self.weights != "imagenet")
            + ["tuned"] * self.tuned
            + ["longer"] * self.longer
        )

    @property
    def overrides(self) -> list[str]:
        """Itself, as --set has it."""
        return [
            f"model.patch_size={self.patch_size}",
            f"model.pooling={self.pooling}",
            f"model.border={self.border}",
            f"model.subnet.weights={self.weights}",
            f"model.subnet.fine_tune={str(self.tuned).lower()}",
            # Of weights that know nothing, all have the rate that the head has.
            f"model.subnet.fine_tune_rate={'1e-4' if self.weights == 'imagenet' else '1e-3'}",
        ]


PLAIN = Setting()
CANDIDATES = [PLAIN, Setting(pooling="topk")]
FACTORED = {
    "patch size": [Setting(19), PLAIN, Setting(67)],
    "pooling": [PLAIN, Setting(pooling="topk"), Setting(pooling="lse")],
    "border": [PLAIN, Setting(border="zero")],
    "weights": [PLAIN, Setting(tuned=True), Setting(weights="null"), Setting(weights="null", tuned=True)],
    "budget": [PLAIN, Setting(longer=True)],
}
# Why PatchNet is behind the network in full where it is: the pooling there is `topk`.
TRIED = ("tiles", "ultrasound", "cells")
TRIALS = [
    Setting(pooling="topk"),
    Setting(pooling="topk", longer=True),
    Setting(67, "topk"),
]
# The others that a configuration can say. From scratch, narrow: the paper's widths want a GPU.
CONFIGURED = {
    "full": ["model={kind: pretrained}"],
    "paper": ["model={kind: patchnet, patch_size: 17, subnet: {kind: paper, filters: 16, padding: valid}}"],
    "vgg19": [
        "model={kind: vgg19_cam, width: 0.125}",
        "training.learning_rate=3e-4",
        "training.batch_size=16",
    ],
    "vgg11": [
        "model={kind: vgg11, width: 0.125, resize: [96, 96]}",
        "training.learning_rate=3e-4",
        "training.batch_size=16",
    ],
}
PATCHNETS = {each.slug: each.overrides for settings in (*FACTORED.values(), TRIALS) for each in settings}
CONFIGURED |= PATCHNETS
# Columns of the tables.
METHODS = {
    "patchnet": "PatchNet",
    "full": "in full",
    "patches": "patches one by one",
    "paper": "the paper's S",
    "vgg19": "VGG-19",
    "vgg11": "VGG-11",
    "statistics": "statistics",
}
MAPS = {
    ("patchnet", "patchnet"): "PatchNet",
    ("full", "pretrained_cam"): "in full, CAM",
    ("full", "pretrained_grad_cam"): "in full, Grad-CAM",
    ("full", "occlusion"): f"in full, occlusion, {OCCLUDED} images",
    ("patches", "patches"): "patches one by one",
    ("paper", "patchnet17"): "the paper's S",
    ("vgg19", "cam"): "VGG-19, CAM",
    ("vgg11", "grad_cam"): "VGG-11, Grad-CAM",
}
CLASSIFIED = {"accuracy": "Accuracy", "auroc": "AUROC (macro)", "calibration": "Calibration error"}
LOCATED = {
    "auroc": "AUROC of maps",
    "exact_match": "Exact match of maps",
    "average_precision": "Average precision of maps",
    "pointing_game": "Pointing game",
}


class Fitted(NamedTuple):
    """A method after its training.

    Attributes:
        predict: takes images (N, H, W, C), and returns probabilities (N, 1) or (N, K).
        draw: by the name of a map, what draws it.
        best: the epoch whose weights it has; None where there are no epochs.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    draw: Mapping[str, Draw]
    best: int | None


def configuration(name: str, method: str, seed: int, roots: Mapping[str, Path]) -> Config:
    """Return what a method is trained by, or, where no configuration can say it, its data and budget."""
    settings = [text.format(**roots) for text in SETS[name]]
    crop = [text for text in settings if text.startswith("model.crop")]
    data = [text for text in settings if text not in crop]
    epochs = next(int(text.partition("=")[2]) for text in settings if text.startswith("training.epochs"))
    epochs *= 4 if method.endswith("-longer") else 1
    return load_config(
        BASE,
        [
            f"name={name}",
            *data,
            f"training.flips={str(name in MIRRORED).lower()}",
            f"training.epochs={epochs}",
            f"training.patience={epochs}",
            f"training.seed={seed}",
            *CONFIGURED.get(method, []),
            *crop,  # after the model that it belongs to
        ],
    )


def cut_windows(source: Path, target: Path) -> None:
    """Cut the retina's images into windows, each with the labels whose masks have a pixel in it.

    Every second one is taken, as on a chessboard. Whole images all show the same.
    """
    if target.exists():
        return
    with staging(target) as folder:
        part, rows = folder / target.name, []
        part.mkdir()
        for split, path, masks in retina_rows(source):
            image = read_image(source / path, 3)
            layers = {name: read_image(source / mask, 1) for name, mask in masks.items()}
            height, width = WINDOW
            for top in range(0, image.shape[0] - height + 1, height):
                for left in range(0, image.shape[1] - width + 1, width):
                    if (top // height + left // width) % 2:
                        continue
                    window = np.s_[top : top + height, left : left + width]
                    stem = f"{Path(path).stem}_{top}_{left}"
                    here = {name: layer[window] for name, layer in layers.items() if layer[window].any()}
                    for kind, pixels in {"": image[window], **here}.items():
                        save_png(np.broadcast_to(pixels, (*WINDOW, 3)), part / f"{stem}{kind}.png")
                    rows.append(
                        {
                            "path": f"{stem}.png",
                            "split": split,
                            "labels": ";".join(here),
                            "masks": ";".join(f"{name}:{stem}{name}.png" for name in here),
                        }
                    )
        write_rows(part / "labels.csv", rows)
        place(part, target)


def retina_rows(source: Path) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Give the split, the path and the masks of each image."""
    for _, row in read_rows(source / "labels.csv", ("split", "path", "masks")):
        pairs = (pair.partition(":") for pair in row["masks"].split(";"))
        yield row["split"], row["path"], {name: path for name, _, path in pairs}


def fit_configured(config: Config, data: Dataset, folder: Path) -> Fitted:
    """Train as `patchnet train` does."""
    ending = train(config, folder / "run", data=data)
    config, model = open_run(folder / "run")
    draw = {names.method: drawing(model) for names, drawing in kind_of(config).methods(config.model)}
    if config.model.kind == "pretrained" and not config.training.seed:
        draw["occlusion"] = partial(occluded, model)
    predict = partial(probabilities_of, model, batch_size=16, task="", progress=silent)
    return Fitted(predict, draw, ending.best.epoch)


def occluded(
    model: keras.Model, image: np.ndarray, progress: Callable, classes: Sequence[int] | None = None
) -> np.ndarray:
    """Draw by occlusion with squares of a quarter of the image, half of it apart."""
    size = min(image.shape[:2]) // 4
    options = {"size": size, "stride": size // 2, "batch_size": 16}
    if classes is None:
        return pn.baselines.occlusion(model, image[None], **options)[0]
    maps = [pn.baselines.occlusion(model, image[None], class_index=k, **options)[0] for k in classes]
    return np.stack(maps, axis=-1)


def fit_patches(config: Config, data: Dataset, folder: Path) -> Fitted:
    """Train a linear unit on the network in full, frozen, on patches one by one: the mean of their logits.

    That is how MedicalPatchNet (TruhnLab) decides, which fine-tunes its network. Images are enlarged to the
    next multiple of the patch, so that nothing is cut off. As the unit is linear, the mean of the logits is
    the logit of the mean of the features.
    """
    keras.utils.set_random_seed(config.training.seed)
    outputs, exclusive = data.classes.outputs, data.classes.exclusive
    image = x = keras.Input(data.train.images.shape[1:])
    if config.model.crop:
        x = keras.layers.CenterCrop(*config.model.crop)(x)
    rows, columns = (-(-side // PATCH) for side in x.shape[1:3])
    x = keras.layers.Resizing(rows * PATCH, columns * PATCH)(x)
    x = ops.reshape(x, (-1, rows, PATCH, columns, PATCH, x.shape[-1]))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, PATCH, PATCH, x.shape[-1]))
    network, _ = split_pretrained(pn.baselines.pretrained_full(x.shape[1:]))
    features = ops.reshape(network(x), (-1, rows, columns, network.output.shape[-1]))
    local = keras.Model(image, features)
    mean = keras.Model(image, ops.mean(features, (1, 2)))
    end = "softmax" if outputs > 1 and exclusive else "sigmoid"
    unit = keras.Sequential([keras.Input(mean.output.shape[1:]), keras.layers.Dense(outputs, activation=end)])
    unit.compile(
        keras.optimizers.Adam(config.training.learning_rate),
        **loss_of(len(data.classes.names), not exclusive),
    )

    settings, batches = config.training, []
    for examples, options in ((data.train, {"seed": settings.seed, "flips": settings.flips}), (data.val, {})):
        batches.append(FeatureBatches(examples, settings.batch_size, outputs=outputs, **options))
        batches[-1].compute(mean, folder, settings.feature_memory, silent)
    convergence = Convergence(settings.patience, accuracy=False, verbose=0)
    unit.fit(
        batches[0],
        validation_data=batches[1],
        epochs=settings.epochs,
        shuffle=False,
        verbose=0,
        callbacks=[convergence],
    )

    def predict(images: np.ndarray) -> np.ndarray:
        return unit.predict(mean.predict(images, batch_size=16, verbose=0), verbose=0)

    def draw(image: np.ndarray, progress: Callable, classes: Sequence[int] | None = None) -> np.ndarray:
        q = unit.predict_on_batch(local.predict_on_batch(image[None]).reshape(-1, unit.input_shape[-1]))
        q = q.reshape(rows, columns, outputs)
        height, width = config.model.crop or image.shape[:2]
        inside = q[np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]
        whole = np.zeros((*image.shape[:2], outputs), "float32")
        whole[inside_of(config.model.crop, image.shape[:2])[1:]] = inside
        return whole[..., 0] if outputs == 1 else whole[..., list(classes)]

    return Fitted(predict, {"patches": draw}, convergence.get_state()["best_epoch"] + 1)


def fit_statistics(config: Config, data: Dataset, folder: Path) -> Fitted:
    """Fit a logistic regression on nine statistics of the whole image, as they came with the images."""

    def statistics(images: np.ndarray) -> np.ndarray:
        images = images[inside_of(config.model.crop, images.shape[1:3])]
        pixels = images.reshape(len(images), -1, images.shape[-1]) / 255
        ranks = (1, 5, 25, 50, 75, 95, 99) if images.shape[-1] == 1 else (50,)
        return np.concatenate([pixels.mean(1), pixels.std(1), *np.percentile(pixels, ranks, axis=1)], axis=1)

    unit = LogisticRegression(max_iter=5000)
    unit = unit if data.classes.exclusive else OneVsRestClassifier(unit)
    fitted = make_pipeline(StandardScaler(), unit).fit(statistics(data.train.images), data.train.labels)

    def predict(images: np.ndarray) -> np.ndarray:
        q = fitted.predict_proba(statistics(images))
        return q[:, 1:] if data.classes.binary else q

    return Fitted(predict, {}, None)


@contextlib.contextmanager
def remembered(key: tuple, features: dict[tuple, tuple[np.ndarray, float]]) -> Iterator[list[float]]:
    """Compute the features of a frozen network once for all trainings with one key.

    Gives a list of the seconds that those took which were not computed again.
    """
    compute, saved = FeatureBatches.compute, []

    def once(batches: FeatureBatches, *arguments: Any) -> None:
        place = (*key, len(batches.images), len(batches.ways))
        if place in features:
            batches.features, seconds = features[place]
            saved.append(seconds)
        else:
            begun = time.process_time()
            compute(batches, *arguments)
            features[place] = batches.features, time.process_time() - begun

    with unittest.mock.patch.object(FeatureBatches, "compute", once):
        yield saved


FITS = {"patches": fit_patches, "statistics": fit_statistics}


def run_cell(
    config: Config, data: Dataset, method: str, features: dict
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Train and measure: the cell, and the first maps of each kind.

    Seconds are those of processors, all cores together, which other programs change less than those of the
    clock; features that were there already are counted.
    """
    model = config.model
    frozen = (model.patch_size, model.border, model.subnet.weights) if method in PATCHNETS else (method,)
    with tempfile.TemporaryDirectory() as folder, remembered((config.name, *frozen), features) as saved:
        begun = time.process_time()
        fitted = FITS.get(method, fit_configured)(config, data, Path(folder))
        seconds = time.process_time() - begun + sum(saved)
        q = fitted.predict(data.val.images)
        chosen, maps, shown = choose(config, data), {}, {}
        for name, draw in fitted.draw.items():
            maps[name], shown[name] = measure_maps(draw, chosen, config, few=name == "occlusion")
        called = None if chosen.masks is None else without_masked(fitted, chosen)
    return {
        "best": fitted.best,
        "seconds": seconds,
        **measure(q, data),
        "maps": maps,
        "called": called,
    }, shown


def measure(q: np.ndarray, data: Dataset) -> dict[str, Any]:
    """Measure the classification, and say of each validation image how much of it is right."""
    labels, classes = data.val.labels, data.classes
    if classes.binary:
        figures, right = metrics.classification(q, labels), (q[:, 0] > 0.5) == labels
    elif classes.exclusive:
        figures, right = metrics.classification_of_classes(q, labels)[0], q.argmax(1) == labels
    else:
        limits = metrics.choose_thresholds(q, labels)
        figures = metrics.classification_of_classes(q, labels, limits)[0]
        right = ((q > limits) == labels).mean(1)
    values = {name: figures[name].mean for name in ("loss", "accuracy", "auroc")}
    return values | {
        "calibration": metrics.calibration(q, labels).error,
        "right": right.astype(float).tolist(),
    }


def without_masked(fitted: Fitted, chosen: Chosen) -> list[float]:
    """Return the mean probability of the masks' class, and that when the masked pixels are painted over.

    They are filled in from their surroundings (Telea 2004): where the probability stays, the evidence is
    elsewhere.
    """
    indices = picked(chosen)
    pictures, masks = chosen.images[indices], chosen.masks[indices].astype("uint8")
    painted = [
        cv2.inpaint(np.squeeze(image), mask, 3, cv2.INPAINT_TELEA).reshape(image.shape)
        for image, mask in zip(pictures, masks, strict=True)
    ]
    column = np.zeros(len(indices), int) if chosen.classes is None else chosen.classes[indices]
    rows = np.arange(len(indices))
    return [float(fitted.predict(images)[rows, column].mean()) for images in (pictures, np.stack(painted))]


def measure_maps(draw: Draw, chosen: Chosen, config: Config, few: bool) -> tuple[dict[str, Any], np.ndarray]:
    """Measure maps against masks, where there are any, inside the crop; and return some of them."""
    indices = picked(chosen, few)
    classes = None if chosen.classes is None else chosen.classes[indices]
    draw_maps(draw, chosen.images[indices[:1]], silent, None if classes is None else classes[:1])  # compiles
    begun = time.process_time()
    maps = draw_maps(draw, chosen.images[indices], silent, classes)
    different = 1 + sum(
        not np.array_equal(chosen.images[a], chosen.images[b]) for a, b in itertools.pairwise(indices)
    )
    figures: dict[str, Any] = {"seconds": (time.process_time() - begun) / different}
    if chosen.masks is not None:
        inside = inside_of(config.model.crop, chosen.masks.shape[1:])
        values = metrics.per_image(maps[inside], chosen.masks[indices][inside])
        for name in ("auroc", "exact_match", "recall", "average_precision", "pointing_game"):
            figures[name] = metrics.summarize(values[name]).mean
        figures["aurocs"] = [None if np.isnan(value) else value for value in values["auroc"].tolist()]
    return figures, maps[spread(len(maps), SHOWN)]


def inside_of(crop: tuple[int, int] | None, shape: tuple[int, int]) -> tuple[slice, ...]:
    """Return where the network looks, of arrays (N, H, W)."""
    starts = [(side - part) // 2 for side, part in zip(shape, crop or shape, strict=True)]
    return (np.s_[:], *(np.s_[at : at + part] for at, part in zip(starts, crop or shape, strict=True)))


def picked(chosen: Chosen, few: bool = False) -> np.ndarray:
    """Return of which images maps are drawn; where nothing is measured, those of the picture."""
    count = SHOWN if chosen.masks is None else OCCLUDED if few else MAPPED
    return np.array(spread(len(chosen.images), count))


class Study:
    """The cells that are there, and those that are not yet."""

    def __init__(self, roots: Mapping[str, Path], sets: Sequence[str], seeds: int) -> None:
        self.roots, self.sets, self.seeds = roots, sets, seeds
        self.out = roots["out"]
        self.features: dict[tuple, tuple[np.ndarray, float]] = {}

    @cache  # noqa: B019
    def data(self, name: str) -> Dataset:
        """Return a data set."""
        return load_dataset(configuration(name, PLAIN.slug, 0, self.roots))

    def path(self, name: str, method: str, seed: int) -> Path:
        """Return where a cell is."""
        return self.out / "cells" / name / f"{method}-{seed}.json"

    def cell(self, name: str, method: str, seed: int = 0) -> dict[str, Any] | None:
        """Return a cell, or None where it is not there."""
        path = self.path(name, method, seed)
        return parse_json(path.read_bytes(), str(path)) if path.is_file() else None

    def run(self, name: str, method: str, seed: int = 0) -> dict[str, Any]:
        """Return a cell, run if it is not there."""
        if cell := self.cell(name, method, seed):
            return cell
        path = self.path(name, method, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        cell, shown = run_cell(
            configuration(name, method, seed, self.roots), self.data(name), method, self.features
        )
        keras.backend.clear_session()
        if not seed:
            for label, maps in shown.items():
                write_array(path.parent / f"{method}-{label}.npy", maps)
        write_json(path, cell)
        figures = {key: round(cell[key], 3) for key in ("loss", "accuracy", "auroc", "seconds")}
        print(name, method, seed, figures, flush=True)
        return cell

    def side(self, name: str) -> int:
        """Return the shorter side of what a network sees."""
        crop = configuration(name, PLAIN.slug, 0, self.roots).model.crop
        return min(crop or self.data(name).train.images.shape[1:3])

    def choose(self, name: str, run: Callable[[str, str], dict | None]) -> Setting | None:
        """Return the setting that the rule takes; `run` returns cells, or None where one is not there yet."""
        cells = {setting: run(name, setting.slug) for setting in CANDIDATES}
        return None if None in cells.values() else min(cells, key=lambda setting: cells[setting]["loss"])

    def method(self, name: str, method: str) -> str | None:
        """Return the method by its name in files: of "patchnet" its chosen setting, or None."""
        if method != "patchnet":
            return method
        setting = self.choose(name, self.cell)
        return setting and setting.slug

    def cells(self, name: str, method: str) -> list[dict[str, Any]]:
        """Return the cells that are there, one for each seed."""
        method = self.method(name, method)
        found = [self.cell(name, method, seed) for seed in range(self.seeds)] if method else []
        return [cell for cell in found if cell]

    def figure(self, name: str, method: str, key: str, kind: str | None = None) -> list[float]:
        """Return a figure, of the network or of one of its maps, one for each seed where it is defined."""
        cells = self.cells(name, method)
        values = [(cell if kind is None else map_of(cell, kind)).get(key) for cell in cells]
        return [value for value in values if value is not None]

    def masked(self, name: str) -> bool:
        """Return whether there are masks."""
        return bool(self.figure(name, "full", "auroc", "pretrained_cam"))

    def fill(self) -> None:
        """Run what is not there, the most valuable first."""
        for name in self.sets:
            self.choose(name, self.run)
            self.run(name, "full")
            self.run(name, "statistics")
        for name in (name for name in TRIED if name in self.sets):
            for method in (*(setting.slug for setting in TRIALS), "patches"):
                self.run(name, method)
        factored = [(name, each) for name in FACTORS if name in self.sets for each in self.factored(name)]
        for name, setting in factored:
            if not setting.tuned:
                self.run(name, setting.slug)
        for method in ("patches", "vgg11", "paper", "vgg19"):
            for name in (name for name in self.sets if name in MIRRORED or method == "patches"):
                self.run(name, method)
        for seed in range(1, self.seeds):
            for name in self.sets:
                self.run(name, self.method(name, "patchnet"), seed)
                self.run(name, "full", seed)
        for method in ("vgg11", "paper", "vgg19"):
            for name in self.sets:
                self.run(name, method)
        for name, setting in factored:
            self.run(name, setting.slug)

    def factored(self, name: str) -> list[Setting]:
        """Return the settings of the tables of one factor."""
        every = [setting for settings in FACTORED.values() for setting in settings]
        return [setting for setting in dict.fromkeys(every) if setting.patch_size <= self.side(name)]


def tables(study: Study) -> str:
    """Return all tables, in Markdown, of the cells that are there."""
    with_masks = [name for name in study.sets if study.masked(name)]
    parts = [settings(study)]
    for key, title in CLASSIFIED.items():
        parts.append(table(title, study.sets, METHODS, lambda name, m, k=key: study.figure(name, m, k)))
    for key, title in LOCATED.items():
        parts.append(table(title, with_masks, MAPS, lambda name, m, k=key: study.figure(name, m[0], k, m[1])))
    parts.append(differences(study))
    seconds = partial(study.figure, key="seconds")
    parts.append(table("Seconds to train", study.sets, METHODS, seconds, digits=0))
    parts.append(
        table("Seconds a map", study.sets, MAPS, lambda name, m: study.figure(name, m[0], "seconds", m[1]), 2)
    )
    return (
        "\n\n".join(
            [
                *parts,
                painted_over(study),
                trials(study),
                factors(study),
            ]
        )
        + "\n"
    )


def settings(study: Study) -> str:
    """Return the validation losses by which PatchNet's setting was chosen."""
    rows = [["setting", *study.sets]]
    for setting in CANDIDATES:
        row = [f"{setting.patch_size}, {setting.pooling}"]
        for name in study.sets:
            cell = study.cell(name, setting.slug, 0)
            text = "" if cell is None else f"{cell['loss']:.3f}"
            row.append(f"**{text}**" if setting.slug == study.method(name, "patchnet") else text)
        rows.append(row)
    return "Validation loss, seed 0\n\n" + markdown(rows)


def table(
    title: str,
    sets: Sequence[str],
    columns: Mapping[Any, str],
    figure: Callable[[str, Any], list],
    digits: int = 3,
) -> str:
    """Return a table of sets by columns: the mean over the seeds, and their range."""
    rows = [["", *columns.values()]]
    rows += [[name, *(mean_and_range(figure(name, column), digits) for column in columns)] for name in sets]
    return f"{title}\n\n{markdown(rows)}"


def mean_and_range(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean of the seeds, and in brackets their range where there are several."""
    if not values:
        return ""
    texts = [f"{value:.{digits}f}" for value in (np.mean(values), min(values), max(values))]
    return texts[0] if len(values) == 1 or not digits else "{} ({} to {})".format(*texts)


def differences(study: Study) -> str:
    """Return by how much PatchNet is better than the network in full, image by image, with 95 % intervals."""
    rows = [["", "seeds", "accuracy", "AUROC of maps, less CAM's", "less Grad-CAM's"]]
    for name in study.sets:
        ours, full = study.cells(name, "patchnet"), study.cells(name, "full")
        count = min(len(ours), len(full))
        if not count:
            continue
        pairs = [(per_image(ours[:count], "right"), per_image(full[:count], "right"))]
        if study.masked(name):
            mine = per_image(ours[:count], "aurocs", "patchnet")
            pairs += [
                (mine, per_image(full[:count], "aurocs", f"pretrained_{kind}"))
                for kind in ("cam", "grad_cam")
            ]
        means = [metrics.summarize(a - b) for a, b in pairs]
        texts = [f"{mean.mean:+.3f} ({mean.low:+.3f} to {mean.high:+.3f})" for mean in means]
        rows.append([name, str(count), *texts, *[""] * (3 - len(texts))])
    return "PatchNet less the network in full\n\n" + markdown(rows)


def per_image(cells: Sequence[dict], key: str, kind: str | None = None) -> np.ndarray:
    """Return the mean over seeds of what cells say of each image, NaN where it is undefined."""
    return np.mean(
        [np.array((cell if kind is None else map_of(cell, kind))[key], "float64") for cell in cells], axis=0
    )


def map_of(cell: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the figures of a map; of a PatchNet it is called by its patch size."""
    return next(iter(cell["maps"].values())) if kind == "patchnet" else cell["maps"].get(kind, {})


def factors(study: Study) -> str:
    """Return the table in which one factor changes at a time and all else is plain, seed 0."""
    names = [name for name in FACTORS if name in study.sets]
    rows = [["factor", "setting", *names]]
    for factor, every in FACTORED.items():
        for setting in every:
            cells = [study.cell(name, setting.slug) for name in names]
            if any(cells):
                rows.append([factor, setting.slug, *(brief(cell) if cell else "" for cell in cells)])
    title = "One factor: accuracy / AUROC / AUROC of maps / exact match of maps / seconds"
    return f"{title}\n\n{markdown(rows)}"


def brief(cell: dict[str, Any]) -> str:
    """Return the main figures of a PatchNet in one text."""
    located = map_of(cell, "patchnet")
    figures = (cell["accuracy"], cell["auroc"], located["auroc"], located["exact_match"])
    return " / ".join([*(f"{figure:.3f}" for figure in figures), f"{cell['seconds']:.0f}"])


def painted_over(study: Study) -> str:
    """Return the probability of the masks' class, as images are and with the masked pixels painted over."""
    rows = [["", *METHODS.values()]]
    for name in study.sets:
        row = [name]
        for method in METHODS:
            pairs = [cell["called"] for cell in study.cells(name, method) if cell.get("called")]
            row.append("{:.3f}, {:.3f}".format(*np.mean(pairs, axis=0)) if pairs else "")
        rows += [row] if any(row[1:]) else []
    return "Probability of the masks' class, as it is, and painted over\n\n" + markdown(rows)


def trials(study: Study) -> str:
    """Return what was tried where PatchNet is behind."""
    rows = [["", "network", "loss", "accuracy", "AUROC", "best epoch"]]
    for name in (name for name in TRIED if name in study.sets):
        for method in (*(setting.slug for setting in TRIALS), "patches", "full"):
            if cell := study.cell(name, method):
                figures = [f"{cell[key]:.3f}" for key in ("loss", "accuracy", "auroc")]
                rows.append([name, METHODS.get(method, method), *figures, str(cell["best"])])
    return "Trials, seed 0\n\n" + markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is its heading; columns that are empty below it are left out."""
    kept = [k for k in range(len(rows[0])) if k == 0 or any(row[k] for row in rows[1:])]
    lines = ["| " + " | ".join(row[k] for k in kept) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(kept), *lines[1:]])


def picture(study: Study, name: str) -> None:
    """Draw the maps of all methods of seed 0 side by side, of some images."""
    chosen = choose(configuration(name, PLAIN.slug, 0, study.roots), study.data(name))
    indices = picked(chosen)[spread(len(picked(chosen)), SHOWN)]
    maps = {}
    for (method, kind), label in MAPS.items():
        method = study.method(name, method)
        found = sorted(study.path(name, method, 0).parent.glob(f"{method}-{kind}*.npy")) if method else []
        if found and kind != "occlusion":  # of other images
            maps[label] = np.load(found[0])
    if maps:
        columns = {"image": chosen.images[indices]}
        if chosen.masks is not None:
            columns["mask"] = 255 * chosen.masks[indices].astype("uint8")
        columns |= {label: [grey(each) for each in drawn] for label, drawn in maps.items()}
        rows = [[framed(rgb(part)) for part in row] for row in zip(*columns.values(), strict=True)]
        key = partial(legend, ("other classes", "its class"), colours="grey")
        save_png(in_rows(list(columns), rows, [""] * len(rows), key), study.out / f"{name}.png")


def main() -> None:
    """Run what is missing, and write the tables and pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tables", action="store_true", help="run nothing")
    options = parser.parse_args()
    roots = {key: getattr(options, key).absolute() for key in ("images", "benchmarks", "out")}
    roots["out"].mkdir(parents=True, exist_ok=True)
    if "retina" in options.sets:
        cut_windows(roots["benchmarks"] / "retina_idrid", roots["out"] / "retina")
    study = Study(roots, options.sets, options.seeds)
    if not options.tables:
        study.fill()
    for name in options.sets:
        picture(study, name)
    with replacing(roots["out"] / "results.md") as part:
        part.write_text(tables(study), encoding="utf-8")


if __name__ == "__main__":
    main()
