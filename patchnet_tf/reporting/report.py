"""report.html: what a run or a comparison found, on one page that needs nothing but a browser.

The page has the sections that it finds data for: a run folder has figures, a training curve and the pictures
in heatmaps/; what `patchnet compare` leaves also has several models, their maps side by side, and a table of
all images. It is read from

    config.yaml, history.csv, metrics.json, heatmaps/*.png      of a run, or
    comparison.json             every figure of a comparison, see `Results`
    MODEL/history.csv           the training of each model
    maps/images.npy             (N, H, W, C), uint8
    maps/masks.npy              (N, H, W), bool; absent where there are no masks
    maps/METHOD.npy             (N, H, W), float32 in [0, 1]

All is inside the one file, whose content security policy forbids it to load anything or to run any script
but its own. Names of classes and images are escaped wherever they stand.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import cv2
import jinja2
import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..config import load_config
from ..errors import InputError, one_line
from ..evaluation.metrics import TITLES
from ..files import parse_json, replacing
from ..images import pictures
from ..images.reading import decode
from ..training.history import Row, read_history, seconds_per_epoch
from . import plots

# Bounds of the page: with five methods it has a few MB.
EXTREMES = 4  # images in the grid that are the worst by AUROC, and as many of the best
BETWEEN = 8  # of the others
SIDE = 192  # pixels of the longer side of a picture in the grid; larger ones are reduced
ROWS = 1000  # of the table of images
PICTURES = 8  # from a run's heatmaps/
WIDTH = 1000  # pixels of such a picture

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
PAPER = ("auroc", "exact_match", "recall")  # columns of the table of images

Number = Annotated[float, Field(allow_inf_nan=False)]
Figure = Number | None  # None where it is undefined
Slug = Annotated[str, Field(pattern=r"^\w[\w-]*$")]  # part of a file's name


class Part(BaseModel):
    """What all parts of comparison.json have in common; keys that the page does not show may stand beside."""

    model_config = ConfigDict(frozen=True)


class Mean(Part):
    """A `patchnet_tf.evaluation.results.Mean`."""

    mean: Figure
    low: Figure = None
    high: Figure = None
    images: int
    skipped: int = 0


class Classification(Part):
    """Figures of a classifier on one split; `intervals` has the two ends of each."""

    images: int
    loss: Figure
    accuracy: Figure
    auroc: Figure
    intervals: dict[str, tuple[Figure, Figure]] = {}


class Model(Part):
    """A trained network."""

    slug: Slug
    label: str
    kind: str
    parameters: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    seconds_per_epoch: Figure = None
    ended: str | None = None
    validation: Classification | None = None
    test: Classification | None = None


class Curves(Part):
    """The mean probability of class 1 over the share of pixels that are deleted or inserted."""

    share: list[Number]
    deletion: list[Number]
    insertion: list[Number]

    @model_validator(mode="after")
    def equally_long(self) -> "Curves":
        """Refuse curves without a value for each share."""
        if not len(self.share) == len(self.deletion) == len(self.insertion):
            raise ValueError("curves differ in length")
        return self


class Faithfulness(Part):
    """Areas under the deletion and the insertion curve."""

    deletion: Mean
    insertion: Mean
    curves: Curves | None = None


class Method(Part):
    """A way to draw maps of a model."""

    slug: Slug
    label: str
    model: Slug
    localization: dict[str, Mean] | None = None
    faithfulness: Faithfulness | None = None


class Image(Part):
    """An image that maps were drawn of: its probability by model, its measures by method."""

    name: str
    label: Literal[0, 1] | None = None
    probability: dict[str, Figure] = {}
    localization: dict[str, dict[str, Figure]] | None = None


class Results(Part):
    """What comparison.json holds; `images` are in the order of maps/*.npy."""

    name: str
    class_names: tuple[str, str]
    masks: str | None = None
    models: list[Model]
    methods: list[Method] = []
    images: list[Image] = []
    config: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Case(NamedTuple):
    """A row of the grid: an image and its pictures as data URIs, the mask's "" where there is none."""

    image: Image
    picture: str
    mask: str
    maps: dict[str, str]  # by method


class Group(NamedTuple):
    """Rows of the grid that have a heading in common."""

    heading: str
    cases: list[Case]


def write_report(folder: str | Path) -> Path:
    """Write report.html into the folder of a run or of a comparison.

    Args:
        folder: what `patchnet train` (better also `evaluate`) or `patchnet compare` left.

    Returns:
        The path of the page; one that was there is replaced.

    Raises:
        InputError: the folder is neither, or one of its files is missing or damaged.
        OSError: the page cannot be written.

    Example:
        >>> write_report("runs/demo")
        PosixPath('runs/demo/report.html')
    """
    folder = Path(folder)
    if (folder / "comparison.json").is_file():
        results = read_results(folder / "comparison.json")
        histories = {
            model.slug: read_history(folder / model.slug / "history.csv") for model in results.models
        }
        page = render(results, histories, groups=read_groups(folder / "maps", results), comparison=True)
    elif (folder / "history.csv").is_file():
        history = read_history(folder / "history.csv")
        results = run_results(folder, history)
        drawn, left_out = read_pictures(folder, results.masks)
        page = render(results, {"run": history}, drawn=drawn, left_out=left_out)
    else:
        raise InputError(
            f"{folder}: neither a run nor a finished comparison (no history.csv, no comparison.json)"
        )
    with replacing(folder / "report.html") as part:
        part.write_text(page, encoding="utf-8")
    return folder / "report.html"


def render(
    results: Results,
    histories: dict[str, list[Row]],
    *,
    comparison: bool = False,
    groups: Sequence[Group] = (),
    drawn: Sequence[tuple[str, str]] = (),
    left_out: int = 0,
) -> str:
    """Return the page.

    Args:
        results: every figure.
        histories: the epochs of each model, by slug.
        comparison: whether it is one, and not a run.
        groups: the grid of images and maps.
        drawn: name and data URI of pictures from a run's heatmaps/.
        left_out: how many more there are.
    """
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    curves = {
        method.label: method.faithfulness.curves
        for method in results.methods
        if method.faithfulness and method.faithfulness.curves
    }
    found: dict[str, list[Mean]] = {}
    for method in results.methods:
        for name, mean in (method.localization or {}).items():
            found.setdefault(name, []).append(mean)
    return templates.get_template("report.html").render(
        results=results,
        comparison=comparison,
        charts=[
            (model, plots.training(histories[model.slug], model.best_epoch))
            for model in results.models
            if histories[model.slug]
        ],
        faithfulness=[
            (
                f"{kind.capitalize()} curves",
                plots.shares(
                    {label: (of.share, getattr(of, kind)) for label, of in curves.items()},
                    xlabel=f"share of the pixels {done}",
                    ylabel="probability of class 1",
                ),
            )
            for kind, done in (("deletion", "taken away"), ("insertion", "put back"))
            if curves
        ],
        measures=[*(n for n in TITLES if n in found), *(n for n in found if n not in TITLES)],
        averages=lambda name: sorted({(m.images, m.skipped) for m in found[name]}),
        patchnets=[model.slug for model in results.models if model.kind == "patchnet"],
        has_masks=any(case.mask for group in groups for case in group.cases),
        auroc_of=auroc_of,
        groups=groups,
        drawn=drawn,
        left_out=left_out,
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


def counts(models: Sequence[Model], split: str) -> str:
    """Return how many images of a split models were measured on, which is one number as a rule."""
    return " or ".join(map(str, sorted({getattr(model, split).images for model in models})))


def read_results(path: Path) -> Results:
    """Read and check comparison.json."""
    return checked(Results, read_json(path), path)


def run_results(folder: Path, history: Sequence[Row]) -> Results:
    """Return the figures of a run as those of a comparison of one model."""
    config = load_config(folder / "config.yaml")
    settings = config.model_dump(mode="json")
    path = folder / "metrics.json"
    measured = read_json(path) if path.is_file() else {}
    localization = measured.pop("localization", {}) if isinstance(measured, dict) else None
    if not isinstance(localization, dict):
        raise InputError(f"{path}: expected what `patchnet evaluate` writes")
    masks = localization.pop("masks", None)
    versions = measured.pop("versions", {})
    best = min(history, key=lambda row: row.val_loss, default=None)
    model = {
        **measured,
        "slug": "run",
        "label": config.name,
        "kind": settings["model"].get("kind", "patchnet"),
        "epochs": len(history),
        "best_epoch": best and best.epoch,
        "seconds_per_epoch": seconds_per_epoch(history) if history else None,
    }
    results = {
        "name": config.name,
        "class_names": config.data.classes or ("class 0", "class 1"),
        "masks": masks,
        "models": [model],
        "methods": [
            {"slug": "run", "label": config.name, "model": "run", "localization": localization or None}
        ],
        "config": settings,
        "versions": versions,
    }
    return checked(Results, results, path)


def checked(schema: type[Results], content: Any, path: Path) -> Results:
    """Return what was read in the form of a schema, or say in one line where it has another."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "content"
        raise InputError(f"{path}: {where}: {first['msg']}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_groups(folder: Path, results: Results) -> list[Group]:
    """Draw the grid's images and maps: the worst and the best by the first method's AUROC, and others."""
    n = len(results.images)
    if not n:
        return []
    size = read_array(folder / "images.npy", (n,)).shape[1:3]
    images = read_array(folder / "images.npy", (n, *size))
    masks = read_array(folder / "masks.npy", (n, *size)) if (folder / "masks.npy").is_file() else None
    maps = {m.slug: read_array(folder / f"{m.slug}.npy", (n, *size)) for m in results.methods}

    def case(k: int) -> Case:
        return Case(
            results.images[k],
            data_uri(reduced(pictures.rgb(pictures.check_image(images[k])), SIDE)),
            "" if masks is None else data_uri(reduced(np.where(masks[k], 255, 0).astype("uint8"), SIDE)),
            {
                slug: data_uri(pictures.grey(reduced(pictures.check_heatmap(of[k]), SIDE)))
                for slug, of in maps.items()
            },
        )

    try:
        return [Group(heading, [case(k) for k in chosen]) for heading, chosen in choice(results) if chosen]
    except ValueError as error:
        raise InputError(f"{folder}: {one_line(error)}") from None


def choice(results: Results) -> list[tuple[str, list[int]]]:
    """Return the headings of the grid and the indices of the images below each."""
    everything = range(len(results.images))
    areas = {k: auroc_of(results.images[k], results.methods[0].slug) for k in everything if results.methods}
    ranked = sorted((k for k in everything if areas.get(k) is not None), key=lambda k: areas[k])
    k = min(EXTREMES, len(ranked) // 2)
    worst, best = ranked[:k], ranked[::-1][:k]
    others = [k for k in everything if k not in worst + best]
    spread = sorted({round(k) for k in np.linspace(0, len(others) - 1, BETWEEN)} if others else ())
    return [
        ("Lowest AUROC", worst),
        ("Highest AUROC", best),
        ("Others" if ranked else "Images", [others[k] for k in spread]),
    ]


def auroc_of(image: Image, method: str) -> float | None:
    """Return the AUROC of a method's map of an image, None where it is undefined."""
    return (image.localization or {}).get(method, {}).get("auroc")


def read_pictures(folder: Path, masks: str | None) -> tuple[list[tuple[str, str]], int]:
    """Return (name, data URI) of pictures in heatmaps/, and how many there are besides.

    They are the strip of masked images, the last snapshot of training, and overlays, in this order; the
    heatmaps without a legend, and other people's pictures, are not among them.
    """
    paths = sorted(folder.glob("heatmaps/[!.]*.png"))
    drawn = [path for path in paths if path.stem == masks]
    drawn += [path for path in paths if re.fullmatch(r"epoch_\d+", path.stem)][-1:]
    drawn += [path for path in paths if path.stem.endswith("_overlay")]
    shown = [(path.stem, decode(path.read_bytes(), 3, what=str(path))) for path in drawn[:PICTURES]]
    return [(name, data_uri(reduced(picture, WIDTH))) for name, picture in shown], len(drawn) - len(shown)


def read_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Open an array whose shape begins as given; its values are read when they are used."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not an array, or damaged ({one_line(error)})") from None
    if array.shape[: len(shape)] != shape:
        raise InputError(f"{path}: expected the shape {shape}, as of the others. Received: {array.shape}")
    return array


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """Reduce a picture, (h, w) or (h, w, C), until its longer side has at most `side` pixels."""
    share = side / max(picture.shape[:2])
    if share >= 1:
        return np.asarray(picture)
    height, width = (max(1, round(share * pixels)) for pixels in picture.shape[:2])
    return cv2.resize(np.asarray(picture), (width, height), interpolation=cv2.INTER_AREA)


def data_uri(picture: np.ndarray) -> str:
    """Return a picture as the address of itself."""
    return "data:image/png;base64," + base64.b64encode(pictures.to_png(picture)).decode()
