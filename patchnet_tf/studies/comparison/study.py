"""From the configuration of a comparison to its figures."""

import datetime
from pathlib import Path

from ...config import Config
from ...data import Dataset, load_dataset
from ...errors import InputError
from ...evaluation import results
from ...evaluation.evaluate import versions
from ...files import replacing
from ...progress import Progress, silent
from ...training import train as training
from ...training.build import build
from ...training.history import read_history
from ...training.kinds import kind_of
from ...training.run import CHECKPOINT, CONFIG, HISTORY, MODEL, with_classes
from .candidates import Candidate, candidates_of
from .images import Chosen, choose, forget, keep
from .measuring import Measured, measure
from .outputs import write_outputs


def compare(config: Config, folder: str | Path, *, progress: Progress = silent) -> results.Comparison:
    """Train what is not trained yet, measure everything, and write it down.

    A comparison that was cut off goes on where it was, inside a network too; what is finished stays as it is.

    Args:
        config: of the PatchNet; its section `comparison` says what is trained besides, and how.
        folder: of the comparison; made if need be.
        progress: told after each batch.

    Returns:
        What is in comparison.json.

    Raises:
        InputError: before anything is trained: the images are too small for one of the networks, a
            network's arguments do not fit together, or the folder holds something else or damaged files.
        FloatingPointError: a loss became NaN or infinite.
        OSError: something cannot be written.

    Example:
        >>> compared = compare(load_config("configs/demo.yaml"), "runs/demo-comparison")
        >>> [method.label for method in compared.methods]
        ['PatchNet 17', 'CAM', 'Grad-CAM']
    """
    folder = Path(folder)
    if not kind_of(config).patches:
        raise InputError(
            "model.kind: expected patchnet; baselines are compared with it anyway. "
            f"Received: {config.model.kind!r}"
        )
    check_folder(folder)
    data = load_dataset(config, progress)
    config = with_classes(config, data)
    candidates = candidates_of(config)
    endings = [check(folder, each, data) for each in candidates]

    chosen = choose(config, data)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / CONFIG) as part:
        part.write_text(config.to_yaml(), encoding="utf-8")
    (folder / "maps").mkdir(exist_ok=True)
    keep(folder / "maps", chosen)
    endings = [
        ending or train(folder, each, data, progress)
        for each, ending in zip(candidates, endings, strict=True)
    ]
    measured = [
        measure(folder, each, ending, data, chosen, progress)
        for each, ending in zip(candidates, endings, strict=True)
    ]
    compared = summarize(config, data, chosen, measured)
    compared = with_date(compared, folder / "comparison.json")
    write_outputs(folder, compared, chosen)
    return compared


def check_folder(folder: Path) -> None:
    """Raise InputError unless the folder is free, or that of a comparison."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    names = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.exists() else set()
    if names and (CONFIG not in names or names & {CHECKPOINT, MODEL}):
        raise InputError(f"{folder}: not empty, and not a comparison; choose another --out")


def check(folder: Path, candidate: Candidate, data: Dataset) -> training.Training | None:
    """Return how a network's training ended, or None where it has not; raise InputError where it cannot."""
    run, epochs = folder / candidate.names.slug, candidate.config.training.epochs
    ending = training.ended(candidate.config, run, data)
    if ending:
        read_history(run / HISTORY)  # which the report reads: damage is told before the long work
        if len(ending.rows) > epochs:
            raise InputError(
                f"{run}: has {len(ending.rows)} epochs already; choose another --out. "
                f"Received: training.epochs={epochs}"
            )
    try:
        build(candidate.config, data, measured=False)
    except InputError as error:
        raise InputError(f"{candidate.names.label}: {error}") from None
    return ending


def train(folder: Path, candidate: Candidate, data: Dataset, progress: Progress) -> training.Training:
    """Train a network to its end; maps of an earlier end are taken away before."""
    names = candidate.names
    for of_method, _ in kind_of(candidate.config).methods(candidate.config.model):
        forget(folder / "maps", of_method.method)

    def show(task: str, done: float, total: int, note: str = "") -> None:
        progress(f"{names.label}: {task}", done, total, note)

    return training.train(candidate.config, folder / names.slug, resume=True, progress=show, data=data)


def summarize(config: Config, data: Dataset, chosen: Chosen, measured: list[Measured]) -> results.Comparison:
    """Return the figures of all networks, by network, by method, and by image."""
    return results.Comparison(
        date=datetime.date.today(),
        versions=versions(),
        name=config.name,
        class_names=data.class_names,
        multilabel=not data.classes.exclusive,
        masks=data.masked.name if data.masked else None,
        models=[each.model for each in measured],
        methods=[drawn.method for each in measured for drawn in each.methods],
        images=[
            results.Image(
                name=chosen.names[k],
                label=chosen.labels[k],
                probability={each.model.slug: each.probability[k] for each in measured},
                localization=None
                if chosen.masks is None
                else {
                    drawn.method.slug: {name: values[k] for name, values in drawn.per_image.items()}
                    for each in measured
                    for drawn in each.methods
                },
            )
            for k in range(len(chosen.images))
        ],
        config=config.model_dump(mode="json"),
    )


def with_date(compared: results.Comparison, path: Path) -> results.Comparison:
    """Return results with the date of those in the file, where they are the same."""
    try:
        earlier = results.Comparison.read(path)
    except InputError:  # there are none, or others
        return compared
    dated = compared.model_copy(update={"date": earlier.date})
    return dated if dated == earlier else compared
