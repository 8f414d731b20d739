"""Train the model of a configuration in a run folder, to its end or from where it was cut off."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from ..config import Config
from ..data import Dataset, load_dataset
from ..data.batches import Batches, read_ahead
from ..data.store import Stored
from ..errors import InputError
from ..files import replacing
from ..model.familiar import fit_familiarity
from ..model.losses import loss_of
from ..progress import Progress, silent
from .build import build
from .callbacks import Convergence, HeatmapSnapshots
from .distribution import ProcessGroup, join_group
from .features import FeatureBatches
from .history import Row
from .kinds import kind_of
from .recorder import Recorder, digest, read_checkpoint
from .run import CHECKPOINT, CONFIG, HEATMAPS, MODEL, TENSORBOARD, begun, claim, with_classes, write_identity


@dataclass(frozen=True)
class Training:
    """How a training ended: every epoch, the one whose weights were kept, and what stopped it."""

    rows: list[Row]
    best: Row
    reason: str


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    data: Dataset | None = None,
) -> Training:
    """Train the model of a configuration.

    With one seed, machine and configuration the history is the same each time, also when the run was cut
    off, at any moment, and resumed: the order of the images follows from the seed and the epoch, and the
    checkpoint holds the optimizer. Of several processes that train together (see `distribution`), each calls
    this with the same configuration; the main one writes.

    Args:
        config: what to train on and how.
        folder: the run folder; made if need be.
        resume: continue the run that is there, where there is one. Its configuration may differ only in what
            does not belong to its identity, such as `training.epochs`; see `Config.identity`. A run that
            failed in its first epoch is none yet: any other may replace it.
        progress: told after each batch.
        data: what `load_dataset` returned for the configuration, where that is done already.

    Raises:
        InputError: the data or the model's arguments cannot be used, or the folder holds something else.
        FloatingPointError: the loss became NaN or infinite.
        OSError: something cannot be written.

    Example:
        >>> train(load_config("configs/demo.yaml"), "runs/demo").best.val_accuracy
        1.0
    """
    folder = Path(folder)
    settings = config.training
    keras.utils.set_random_seed(settings.seed)
    group = join_group(settings.distribution)
    if settings.snapshot_every:
        check_snapshots(config, group)
    data = data or load_dataset(config, progress)
    config = with_classes(config, data)

    with contextlib.ExitStack() as until_the_end:

        def begin() -> bytes:
            resumed = until_the_end.enter_context(begun(folder, config, resume))
            return (folder / CHECKPOINT).read_bytes() if resumed else b""

        return train_on(group.on_main(begin), config, folder, data, group, progress)


def train_on(
    checkpoint: bytes, config: Config, folder: Path, data: Dataset, group: ProcessGroup, progress: Progress
) -> Training:
    """Train from a checkpoint, or from the beginning where it is empty, and write the model."""
    settings = config.training
    with group.scope:
        model = build(config, data)
        # Of a frozen network, the features are computed once, and the rest is trained on them.
        network, fitted = frozen_network(config, model, group) or (None, model)
        learned = loss_of(len(data.classes.names), not data.classes.exclusive)
        fitted.compile(make_optimizer(config), learned["loss"], weighted_metrics=learned["metrics"])
        convergence = Convergence(settings.patience, accuracy=settings.stop_when_accurate, verbose=0)
        kind = FeatureBatches if network else Batches
        batches = kind(
            data.train,
            settings.batch_size,
            settings.seed,
            flips=settings.flips,
            rotations=settings.rotations,
            zoom=settings.zoom or 1,
            balanced=settings.balanced,
            outputs=data.classes.outputs,
            pixels=data.pixels,
        )
        held_back = kind(data.val, settings.batch_size, outputs=data.classes.outputs, pixels=data.pixels)
        training, validation = group.shard(batches), group.shard(held_back)
        if isinstance(data.train.images, Stored) and group.devices == 1 and not network:
            training, validation = read_ahead(batches), read_ahead(held_back)

        if group.is_main:
            with replacing(folder / CONFIG) as part:
                part.write_text(config.to_yaml(), encoding="utf-8")
        recorder = Recorder(folder, digest(data.train), batches, convergence, progress, writes=group.is_main)
        reason = recorder.restore(fitted, checkpoint) if checkpoint else None
        if not reason and len(recorder.rows) < settings.epochs:
            if group.is_main:
                (folder / MODEL).unlink(missing_ok=True)  # of fewer epochs
            if network:
                memory = settings.feature_memory
                batches.compute(network, folder, memory, recorder.progress, "features of training images")
                held_back.compute(network, folder, memory, recorder.progress, "features of validation images")
            callbacks = [convergence, recorder, *snapshots(config, data, folder, model)]
            if keras.backend.backend() == "tensorflow":  # which TensorBoard needs
                callbacks.append(keras.callbacks.TensorBoard(folder / TENSORBOARD, write_graph=False))
            fitted.fit(
                training,
                validation_data=validation,
                initial_epoch=len(recorder.rows),
                epochs=settings.epochs,
                shuffle=False,
                verbose=0,
                callbacks=callbacks,
            )
        else:
            fitted.set_weights(convergence.best_weights)
    # Outside the scope: Keras makes a variable on the way, for which all processes would have to meet.
    if group.is_main:
        if getattr(model, "familiarity", None):
            fit_familiarity(model, data.train.images, data.val.images)
        write_identity(folder, config, model)
        with replacing(folder / MODEL) as part:
            model.save(part)
    return ending(recorder.rows, convergence.get_state())


def frozen_network(
    config: Config, model: keras.Model, group: ProcessGroup
) -> tuple[keras.Model, keras.Model] | None:
    """Return the frozen network of a model and the rest, or None where features cannot be kept."""
    # A zoom makes other pixels in every epoch, and each device computes its own.
    if config.training.zoom or group.devices > 1:
        return None
    return kind_of(config).split(model)


def make_optimizer(config: Config) -> keras.optimizers.Optimizer:
    """Return Adam with the learning rate of the model, or AdamW where weights decay."""
    rate = config.model.learning_rate or config.training.learning_rate
    if config.training.weight_decay:
        return keras.optimizers.AdamW(rate, weight_decay=config.training.weight_decay)
    return keras.optimizers.Adam(rate)


def check_snapshots(config: Config, group: ProcessGroup) -> None:
    """Raise InputError where maps cannot be drawn in training."""
    every = config.training.snapshot_every
    if not kind_of(config).snapshots:
        raise InputError(
            "training.snapshot_every: expected null, as only a PatchNet's heatmaps are drawn in training. "
            f"Received: {every} with model.kind {config.model.kind}"
        )
    if group.devices > 1:
        raise InputError(
            "training.snapshot_every: expected null where training.distribution has several devices. "
            f"Received: {every}, {group.devices} devices"
        )


def ended(config: Config, folder: str | Path, data: Dataset) -> Training | None:
    """Return how the training in a folder ended, or None where it has not.

    Raises:
        InputError: the folder holds something else than a run of this configuration.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT
    if not claim(folder, with_classes(config, data), resume=True) or not (folder / MODEL).is_file():
        return None
    rows, state = read_checkpoint(path, path, digest(data.train))
    return ending(rows, state) if state["reason"] or len(rows) >= config.training.epochs else None


def ending(rows: list[Row], state: dict[str, Any]) -> Training:
    """Return how a training ended, given its epochs and the state of `Convergence`."""
    done = "the only epoch is done" if len(rows) == 1 else f"all {len(rows)} epochs are done"
    return Training(rows, rows[state["best_epoch"]], state["reason"] or done)


def snapshots(config: Config, data: Dataset, folder: Path, model: keras.Model) -> list[HeatmapSnapshots]:
    """Return the callback that draws the first two validation images of each class, if it is wanted."""
    if not (every := config.training.snapshot_every):
        return []
    images, labels = data.val.some_of_each()
    return [
        HeatmapSnapshots(
            images,
            folder / HEATMAPS,
            every,
            labels=labels,
            class_names=data.class_names,
            log_dir=folder / TENSORBOARD,
            patchnet=model,
            pixels=data.pixels,
        )
    ]
