"""PatchNet against what the paper compares it with, on the same images (its Tables 1, 2 and 7).

A PatchNet for each patch size, VGG-19 with CAM and VGG-11 with Grad-CAM are trained by the same pipeline and
stopping rule, and measured: the classification, the maps against masks where there are any, and the
probability while pixels are deleted and inserted in the order of the maps. The folder of a comparison has

    config.yaml                 the configuration, defaults included
    patchnet17/, cam/, vgg11/   a run for each model, see `patchnet_tf.training.experiment`
    maps/images.npy             (N, H, W, C), uint8: the images that maps were drawn of: those with masks, or
                                else some validation images of each class
    maps/masks.npy              (N, H, W), bool; absent where there are no masks
    maps/METHOD.npy             (N, H, W), float32 in [0, 1]; METHOD is patchnet17, ..., cam or grad_cam
    maps/METHOD_curves.npz      what became of the probability, see `faithful`
    comparison.json             all figures
    comparison.csv              a row for each method with the main ones
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from scipy.integrate import trapezoid

from ..config import Config, FilesData, Vgg11Model, Vgg19CamModel
from ..data import Dataset, list_files, load_dataset
from ..errors import InputError
from ..evaluation import metrics
from ..evaluation.faithfulness import deletion, insertion
from ..files import replacing, write_array, write_json, write_rows
from ..training import experiment
from ..training.experiment import Progress, Training, number, silent
from ..training.history import seconds_per_epoch

STEPS = 25  # of the deletion and insertion curves


class Contestant(NamedTuple):
    """A model and its method, by the names of their files and as tables call them.

    Attributes:
        slug: of the model.
        label: of the model.
        method: slug of the method.
        method_label: of the method.
        config: what the model is trained by.
    """

    slug: str
    label: str
    method: str
    method_label: str
    config: Config


class Chosen(NamedTuple):
    """The images that maps are drawn of.

    Attributes:
        images: (N, H, W, C), uint8.
        masks: (N, H, W), bool, or None.
        labels: N labels, None where an image shows both classes.
        names: N texts.
    """

    images: np.ndarray
    masks: np.ndarray | None
    labels: list[int | None]
    names: list[str]


def compare(config: Config, folder: str | Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Train what is not trained yet, measure everything, and write it down.

    A comparison that was cut off goes on where it was, inside a model too; what is finished stays as it is.

    Args:
        config: of the PatchNet; its section `comparison` says what is trained besides, and how.
        folder: of the comparison; made if need be.
        progress: told after each batch.

    Returns:
        What is in comparison.json: "models" with their figures, "methods" with "localization" (a
        `results.Mean` for each measure, or None without masks) and "faithfulness" (areas and mean curves,
        or None without an image of class 1), "images" with the figures of each, "config" and "versions".

    Raises:
        InputError: before anything is trained: the images are too small for one of the models, a model's
            arguments do not fit together, or the folder holds something else.
        FloatingPointError: a loss became NaN or infinite.
        OSError: something cannot be written.

    Example:
        >>> found = compare(load_config("configs/demo.yaml"), "runs/demo-comparison")
        >>> [method["label"] for method in found["methods"]]
        ['PatchNet 17', 'CAM', 'Grad-CAM']
    """
    folder = Path(folder)
    if config.model.kind != "patchnet":
        raise InputError(
            "model.kind: expected patchnet; baselines are compared with it anyway. "
            f"Received: {config.model.kind!r}"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    there = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
    if there and ("config.yaml" not in there or there & {"checkpoint.npz", "model.keras"}):
        raise InputError(f"{folder}: not empty, and not a comparison; choose another --out")
    data = load_dataset(config, progress)
    config = experiment.with_classes(config, data)
    contestants = contestants_of(config)
    ended = {}  # by slug
    for each in contestants:
        done = ended[each.slug] = experiment.ended(each.config, folder / each.slug, data)
        if done and len(done.rows) > each.config.training.epochs:
            raise InputError(
                f"{folder / each.slug}: has {len(done.rows)} epochs already; choose another --out. "
                f"Received: training.epochs={each.config.training.epochs}"
            )
        try:
            experiment.build(each.config, data, measured=False)
        except InputError as error:
            raise InputError(f"{each.label}: {error}") from None

    chosen = choose(config, data)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.yaml") as part:
        part.write_text(config.to_yaml(), encoding="utf-8")
    (folder / "maps").mkdir(exist_ok=True)
    keep(folder / "maps", chosen)
    trained = [ended[each.slug] or train(folder, each, data, progress) for each in contestants]
    measured = [
        measure(folder, each, ending, data, chosen, progress)
        for each, ending in zip(contestants, trained, strict=True)
    ]
    found = {
        "name": config.name,
        "class_names": list(data.class_names),
        "masks": data.masked.name if data.masked else None,
        "models": [figures["model"] for figures in measured],
        "methods": [figures["method"] for figures in measured],
        "images": [
            {
                "name": chosen.names[k],
                "label": chosen.labels[k],
                "probability": {
                    c.slug: m["probability"][k] for c, m in zip(contestants, measured, strict=True)
                },
                "localization": {
                    c.method: {name: number(values[k]) for name, values in m["per_image"].items()}
                    for c, m in zip(contestants, measured, strict=True)
                }
                if chosen.masks is not None
                else None,
            }
            for k in range(len(chosen.images))
        ],
        "config": config.model_dump(mode="json"),
        "versions": experiment.versions(),
    }
    write_json(folder / "comparison.json", found)
    write_rows(folder / "comparison.csv", table(found))
    return found


def contestants_of(config: Config) -> list[Contestant]:
    """Return the PatchNets, the smallest patches first, then CAM and Grad-CAM."""
    contestants = []
    for p in sorted(config.comparison.patch_sizes or [config.model.patch_size]):
        slug, label = f"patchnet{p}", f"PatchNet {p}"
        changed = {
            "name": f"{config.name}-{slug}",
            "model": config.model.model_copy(update={"patch_size": p}),
        }
        contestants.append(Contestant(slug, label, slug, label, config.model_copy(update=changed)))

    baselines = config.comparison.baselines
    seen = {"width": baselines.width, "crop": config.model.crop, "preprocessing": config.model.preprocessing}
    own = baselines.model_dump(exclude={"width"}, exclude_none=True) | {"snapshot_every": None}
    training = config.training.model_copy(update=own)
    for slug, label, method, method_label, model in (
        ("cam", "VGG-19, CAM", "cam", "CAM", Vgg19CamModel(kind="vgg19_cam", **seen)),
        ("vgg11", "VGG-11", "grad_cam", "Grad-CAM", Vgg11Model(kind="vgg11", **seen)),
    ):
        changed = {"name": f"{config.name}-{slug}", "model": model, "training": training}
        contestants.append(Contestant(slug, label, method, method_label, config.model_copy(update=changed)))
    return contestants


def choose(config: Config, data: Dataset) -> Chosen:
    """Return the images with masks, or else `comparison.images` validation images, half of each class."""
    files = list_files(config.data).entries if isinstance(config.data, FilesData) else []
    files = [entry for entry in files if entry.split == "val"]  # in the order of `data.val`
    if masked := data.masked:
        labels = [None] * len(masked.images) if masked.labels is None else masked.labels.tolist()
        names = unlike([entry.path for entry in files if entry.mask])
        names = names or [f"{masked.name} {k}" for k in range(1, len(masked.images) + 1)]
        return Chosen(masked.images, masked.masks, labels, names)
    wanted, indices = config.comparison.images, []
    for label, count in ((0, wanted // 2), (1, wanted - wanted // 2)):
        of_class = np.flatnonzero(data.val.labels == label)
        places = np.linspace(0, len(of_class) - 1, min(count, len(of_class)))  # neighbours are often alike
        indices += of_class[places.round().astype(int)].tolist()
    labels = data.val.labels[indices].tolist()
    names = unlike([entry.path for entry in files])
    names = names or [f"{data.class_names[label]} {k}" for k, label in enumerate(data.val.labels, 1)]
    return Chosen(data.val.images[indices], None, labels, [names[k] for k in indices])


def unlike(paths: Sequence[Path]) -> list[str]:
    """Name files: by their stem, or folder and stem where another file has the same."""
    times = Counter(path.stem for path in paths)
    return [path.stem if times[path.stem] == 1 else f"{path.parent.name}/{path.stem}" for path in paths]


def keep(maps: Path, chosen: Chosen) -> None:
    """Write images and masks; maps of other images that are there are taken away."""
    path = maps / "images.npy"
    there = kept(path)
    if there is None or not np.array_equal(there, chosen.images):
        forget(maps, "*")
    write_array(path, chosen.images)
    if chosen.masks is None:
        (maps / "masks.npy").unlink(missing_ok=True)
    else:
        write_array(maps / "masks.npy", chosen.masks)


def forget(maps: Path, method: str) -> None:
    """Take away what was drawn and measured with a method; "*" is any."""
    for path in [*maps.glob(f"{method}.npy"), *maps.glob(f"{method}_curves.npz")]:
        path.unlink()


def kept(path: Path) -> Any:
    """Return the array of an .npy file, the arrays of an .npz file by name; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else dict(found)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        return None


def train(folder: Path, contestant: Contestant, data: Dataset, progress: Progress) -> Training:
    """Train a model to its end; maps of an earlier end are taken away before."""
    forget(folder / "maps", contestant.method)

    def told(task: str, done: float, total: int, note: str = "") -> None:
        progress(f"{contestant.label}: {task}", done, total, note)

    run = folder / contestant.slug
    return experiment.train(contestant.config, run, resume=True, progress=told, data=data)


def measure(
    folder: Path, contestant: Contestant, ending: Training, data: Dataset, chosen: Chosen, progress: Progress
) -> dict[str, Any]:
    """Return the figures of a model and of its method, "model" and "method", and of each image.

    Those are "probability", a list, and "per_image", what `metrics.per_image` returns.
    """
    slug, label, method, method_label, _ = contestant

    def step(number: int) -> Progress:
        def told(task: str, done: float, total: int, note: str = "") -> None:
            progress(f"{label}: measuring", number + done / total, 4, task)

        return told

    config, model = experiment.open_run(folder / slug)
    batch_size = config.training.batch_size
    figures = {
        split: experiment.classification(model, examples, batch_size, split, step(k)) if examples else None
        for k, (split, examples) in enumerate({"validation": data.val, "test": data.test}.items())
    }
    probability = model.predict(chosen.images, batch_size=batch_size, verbose=0)[:, 0].tolist()

    path = folder / "maps" / f"{method}.npy"
    maps = kept(path)
    if maps is None:
        maps = experiment.draw_maps(config, model, chosen.images, step(2))
        write_array(path, maps)
    per_image = {} if chosen.masks is None else metrics.per_image(maps, chosen.masks)
    return {
        "model": {
            "slug": slug,
            "label": label,
            "kind": config.model.kind,
            "parameters": model.count_params(),
            "epochs": len(ending.rows),
            "best_epoch": ending.best.epoch,
            "seconds_per_epoch": seconds_per_epoch(ending.rows),
            "ended": ending.reason,
            **figures,
        },
        "method": {
            "slug": method,
            "label": method_label,
            "model": slug,
            "localization": {name: as_json(values) for name, values in per_image.items()} or None,
            "faithfulness": faithful(
                folder / "maps" / f"{method}_curves.npz", model, maps, chosen, config, step(3)
            ),
        },
        "probability": probability,
        "per_image": per_image,
    }


def faithful(
    path: Path, model: keras.Model, maps: np.ndarray, chosen: Chosen, config: Config, progress: Progress
) -> dict[str, Any] | None:
    """Return areas and mean curves of deletion and insertion, which a model and its own maps have.

    They are over the first `comparison.images` images of class 1, or of both classes at once, the same for
    all methods. `path` keeps "share" (25 steps), "deletion" and "insertion" (images, 26).
    """
    ones = [k for k, label in enumerate(chosen.labels) if label != 0][: config.comparison.images]
    if not ones:
        return None
    curves = kept(path)
    if curves is None or len(curves["deletion"]) != len(ones):
        found = {"deletion": [], "insertion": []}
        for done, k in enumerate(ones):
            progress("deletion and insertion", done, len(ones), chosen.names[k])
            for name, curve in (("deletion", deletion), ("insertion", insertion)):
                found[name].append(curve(model, chosen.images[k : k + 1], maps[k : k + 1], steps=STEPS))
        progress("deletion and insertion", len(ones), len(ones))
        curves = {"share": found["deletion"][0].shares}
        curves |= {name: np.concatenate([c.probabilities for c in of]) for name, of in found.items()}
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **curves)
    areas = {name: trapezoid(curves[name], curves["share"]) for name in ("deletion", "insertion")}
    means = {name: curves[name].mean(axis=0).tolist() for name in areas}
    return {name: as_json(values) for name, values in areas.items()} | {
        "curves": {"share": curves["share"].tolist()} | means
    }


def as_json(values: np.ndarray) -> dict[str, Any]:
    """Average a figure over images, NaN replaced by None."""
    return {key: number(value) for key, value in metrics.summarize(values)._asdict().items()}


def table(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of comparison.csv, one for each method; None where a figure is undefined."""
    rows = []
    for model, method in zip(found["models"], found["methods"], strict=True):
        row = {"method": method["label"], "model": model["label"]}
        row |= {key: model[key] for key in ("parameters", "epochs", "best_epoch", "seconds_per_epoch")}
        for split in ("validation", "test"):
            figures = model[split] or {}
            row[f"{split}_images"] = figures.get("images")
            for name in ("loss", "accuracy", "auroc"):
                row[f"{split}_{name}"] = figures.get(name)
                low_high = figures["intervals"][name] if figures else (None, None)
                row[f"{split}_{name}_low"], row[f"{split}_{name}_high"] = low_high
        measures = {f"map_{name}": (method["localization"] or {}).get(name, {}) for name in metrics.MEASURES}
        for name in ("deletion", "insertion"):
            measures[name] = (method["faithfulness"] or {}).get(name, {})
        for name, mean in measures.items():
            row[name] = mean.get("mean")
            row |= {f"{name}_{key}": mean.get(key) for key in ("low", "high", "images")}
        rows.append(row)
    return rows
