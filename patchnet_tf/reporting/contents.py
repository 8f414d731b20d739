"""What a page shows, read from the folder of a run or of a comparison."""

from dataclasses import dataclass
from pathlib import Path

from ..config import load_config
from ..errors import InputError
from ..evaluation import results
from ..training.history import Row, read_history, seconds_per_epoch
from .gallery import Group, Picture, read_groups, read_pictures


@dataclass(frozen=True)
class Contents:
    """Everything on a page.

    Attributes:
        name: of the folder.
        results: every figure; those of a run are a comparison of one network.
        histories: the epochs of each network, by its slug.
        compared: whether several networks were compared.
        groups: images beside their maps.
        pictures: from a run's heatmaps/.
        left_out: how many more of them there are.
    """

    name: str
    results: results.Comparison
    histories: dict[str, list[Row]]
    compared: bool
    groups: list[Group]
    pictures: list[Picture]
    left_out: int


def read_contents(folder: Path) -> Contents:
    """Read the folder of a run or of a comparison.

    Raises:
        InputError: the folder is neither, or one of its files is missing or damaged.
    """
    if (folder / "comparison.json").is_file():
        return read_comparison(folder)
    if (folder / "history.csv").is_file():
        return read_run(folder)
    raise InputError(
        f"{folder}: neither a run nor a finished comparison (no history.csv, no comparison.json)"
    )


def read_comparison(folder: Path) -> Contents:
    """Read what `patchnet compare` left."""
    compared = results.Comparison.read(folder / "comparison.json")
    histories = {model.slug: read_history(folder / model.slug / "history.csv") for model in compared.models}
    groups = read_groups(folder / "maps", compared)
    name = folder.resolve().name
    return Contents(name, compared, histories, compared=True, groups=groups, pictures=[], left_out=0)


def read_run(folder: Path) -> Contents:
    """Read what `patchnet train` and, perhaps, `evaluate` left."""
    config = load_config(folder / "config.yaml")
    history = read_history(folder / "history.csv")
    path = folder / "metrics.json"
    measured = results.Run.read(path) if path.is_file() else None
    best = min(history, key=lambda row: row.val_loss, default=None)
    model = results.Model(
        slug="run",
        label=config.name,
        kind=config.model.kind,
        epochs=len(history),
        best_epoch=best.epoch if best else None,
        seconds_per_epoch=seconds_per_epoch(history) if history else None,
        validation=measured.validation if measured else None,
        test=measured.test if measured else None,
        **({name: getattr(measured, name) for name in results.ByClass.model_fields} if measured else {}),
    )
    method = results.Method(
        slug="run",
        label=config.name,
        model="run",
        min_max_normalized=config.model.min_max_normalized,
        localization=measured.localization if measured else None,
        localization_per_class=measured.localization_per_class if measured else None,
    )
    as_comparison = results.Comparison(
        date=measured.date if measured else None,
        versions=measured.versions if measured else {},
        name=config.name,
        class_names=(model.classes or config.data.classes) or ("class 0", "class 1"),
        multilabel=model.multilabel,
        masks=measured.masks if measured else None,
        models=[model],
        methods=[method],
        config=config.model_dump(mode="json"),
    )
    pictures, left_out = read_pictures(folder / "heatmaps", as_comparison.masks)
    return Contents(
        folder.resolve().name,
        as_comparison,
        {"run": history},
        compared=False,
        groups=[],
        pictures=pictures,
        left_out=left_out,
    )
