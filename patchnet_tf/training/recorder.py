"""The checkpoint of a run: written after each epoch, and read to go on or to see how training ended."""

import hashlib
import io
import itertools
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..data import Examples
from ..data.batches import Batches
from ..data.store import chunks
from ..errors import InputError
from ..files import replacing
from ..progress import Progress, silent
from .callbacks import Convergence
from .history import Row, write_history
from .run import CHECKPOINT, HISTORY


class Recorder(keras.callbacks.Callback):
    """Writes history.csv and checkpoint.npz after each epoch; stands after `convergence` in the list.

    The checkpoint is one file, so what is in it belongs together at whatever moment the run is killed: the
    weights, the optimizer's variables, the best weights, the history, the state of `convergence`, and the
    `digest` of the training images, because a run goes on with the images that it began with.
    Without `writes` it only counts the epochs: of the processes that train together, the main one writes.
    """

    def __init__(
        self,
        folder: Path,
        digest: str,
        batches: Batches,
        convergence: Convergence,
        progress: Progress,
        *,
        writes: bool = True,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.digest = digest
        self.batches = batches
        self.convergence = convergence
        self.progress = progress if writes else silent
        self.writes = writes
        self.rows: list[Row] = []

    def restore(self, model: keras.Model, checkpoint: bytes) -> str | None:
        """Go back to where a checkpoint was written, and return why that training had ended, or None."""
        path = self.folder / CHECKPOINT
        model.optimizer.build(model.trainable_variables)
        variables = self.variables(model)
        self.rows, state = read_checkpoint(path, io.BytesIO(checkpoint), self.digest)
        try:
            with np.load(io.BytesIO(checkpoint), allow_pickle=False) as saved:
                for k, variable in enumerate(variables):
                    variable.assign(saved[f"variable_{k}"])
                best = [saved[f"best_{k}"] for k in range(len(model.weights))]
            self.convergence.set_state(state, best)
            reason = state["reason"]
        except Exception:  # a damaged archive raises whatever zip, NumPy or JSON stumble over
            raise InputError(f"{path}: not the checkpoint of this run, or damaged") from None
        if self.writes:
            write_history(self.folder / HISTORY, self.rows)
        return reason

    def variables(self, model: keras.Model) -> list[keras.Variable]:
        """Return all that training changes in a model: the weights, the optimizer, the seeds of dropout."""
        return [*model.weights, *model.optimizer.variables, *model.non_trainable_variables]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Choose the order of the epoch's batches."""
        self.batches.epoch = epoch
        self.began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Tell how far training is, in epochs."""
        if batch + 1 < len(self.batches):
            done = len(self.rows) + (batch + 1) / len(self.batches)
            self.progress("training", done, self.params["epochs"], self.note())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write the epoch down."""
        figures = [float(logs[name]) for name in Row._fields[2:]]
        if not np.isfinite(figures).all():
            raise FloatingPointError(
                f"the loss is no longer finite in epoch {epoch + 1}; try a smaller training.learning_rate"
            )
        self.rows.append(Row(epoch + 1, time.monotonic() - self.began, *figures))
        if not self.writes:
            return
        variables = enumerate(self.variables(self.model))
        arrays = {f"variable_{k}": keras.ops.convert_to_numpy(v) for k, v in variables}
        arrays |= {f"best_{k}": w for k, w in enumerate(self.convergence.best_weights)}
        state = json.dumps(self.convergence.get_state())
        with replacing(self.folder / CHECKPOINT) as part, part.open("wb") as file:
            np.savez(file, **arrays, history=np.array(self.rows), convergence=state, images=self.digest)
        write_history(self.folder / HISTORY, self.rows)
        self.progress("training", len(self.rows), self.params["epochs"], self.note())

    def note(self) -> str:
        """Return the last finished epoch in a few words."""
        if not self.rows:
            return ""
        row = self.rows[-1]
        return (
            f"loss {row.loss:.3f}  accuracy {row.accuracy:.3f}  "
            f"val_loss {row.val_loss:.3f}  val_accuracy {row.val_accuracy:.3f}"
        )


def read_checkpoint(path: Path, file: Path | io.BytesIO, digest: str) -> tuple[list[Row], dict[str, Any]]:
    """Return the epochs of a run and the state of its `Convergence`; of a file without reading its weights.

    `path` is what errors call it, `digest` that of the images to train on.

    Raises:
        InputError: the checkpoint is damaged, or of a training on other images.
    """
    try:
        with np.load(file, allow_pickle=False) as saved:
            rows = [Row(int(row[0]), *map(float, row[1:])) for row in saved["history"]]
            state, trained_on = json.loads(str(saved["convergence"])), str(saved["images"])
        best, reason = state["best_epoch"], state["reason"]
        if type(best) is not int or best not in range(len(rows)) or not isinstance(reason, str | None):
            raise ValueError
    except Exception:  # a damaged archive raises whatever zip, NumPy or JSON stumble over
        raise InputError(f"{path}: not the checkpoint of this run, or damaged") from None
    if trained_on != digest:
        raise InputError(
            f"{path.parent}: the run there was trained on other images, or other labels; choose another --out"
        )
    return rows, state


def digest(examples: Examples) -> str:
    """Return the SHA-256 of images and labels."""
    sha256 = hashlib.sha256(repr(examples.images.shape).encode())
    for array in itertools.chain(chunks(examples.images), [examples.labels]):
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
