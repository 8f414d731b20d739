"""Keras callbacks: the paper's stopping rule, and heatmaps drawn while training runs."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..contract import Pixels
from ..images import pictures
from ..images.pixels import displayed
from ..model.checks import check_positive
from ..model.heatmaps import heatmap_model

ACCURACIES = ("accuracy", "acc", "binary_accuracy")


class Convergence(keras.callbacks.EarlyStopping):
    """The paper's stopping rule: validation loss no longer improves, or training accuracy is 100 %.

    Training stops after the epoch in which `val_loss` has not fallen below its lowest value for
    `patience` epochs in a row, or in which the accuracy that `fit` logs is 1. Either way, and also when
    the epochs run out, the model gets the weights of the lowest `val_loss` back.

    Without validation data only the accuracy stops training, and the last weights stay; a warning says so.
    With a `validation_freq` above 1, `patience` counts the validated epochs.

    Args:
        patience: epochs without an improvement, at least 1; the paper's is 1000.
        accuracy: False leaves the rule about the accuracy out. Then `val_loss` is needed.
        verbose: 1 prints one line at the end, 0 none.

    Attributes:
        reason: what stopped training, or None.
        best_weights: the weights of the lowest `val_loss`, as `model.get_weights()` returns them, or None.

    Raises:
        ValueError: `patience` is not a positive whole number; in `fit`, neither `val_loss` nor an
            accuracy ("accuracy", "acc" or "binary_accuracy") is logged.

    Example:
        >>> model.fit(images, labels, validation_data=held_out, epochs=10_000, callbacks=[Convergence()])

    A training that was cut off continues with what `get_state` returned after its last epoch:

        >>> convergence.set_state(state, best_weights)
        >>> model.fit(images, labels, initial_epoch=57, callbacks=[convergence], ...)
    """

    def __init__(self, patience: int = 1000, *, accuracy: bool = True, verbose: int = 1) -> None:
        patience = check_positive("patience", patience)
        super().__init__("val_loss", patience=patience, mode="min", restore_best_weights=True)
        self.accuracy = accuracy
        self.verbose = verbose
        self._resumed = False
        self._begin()

    def get_state(self) -> dict[str, Any]:
        """Return what a training needs to continue, ready for JSON, except `best_weights`.

        Returns:
            "best_val_loss" (None before the first), "best_epoch" (from 0), "wait" (epochs since) and
            "reason".
        """
        best = float(self.best) if math.isfinite(self.best) else None
        return {
            "best_val_loss": best,
            "best_epoch": int(self.best_epoch),
            "wait": int(self.wait),
            "reason": self.reason,
        }

    def set_state(self, state: dict[str, Any], best_weights: Sequence[np.ndarray] | None = None) -> None:
        """Let the next `fit` continue from `state`; where it has a "reason", training had already ended.

        Args:
            state: what `get_state` returned.
            best_weights: what `best_weights` was. Without them only a better epoch can be restored.

        Raises:
            ValueError: the state has other keys.
        """
        if set(state) != set(self.get_state()):
            raise ValueError(
                f"`state` must have the keys {', '.join(self.get_state())}. Received: state={state!r}"
            )
        self._begin()
        best = state["best_val_loss"]
        self.best = math.inf if best is None else best
        self.best_epoch, self.wait, self.reason = state["best_epoch"], state["wait"], state["reason"]
        self.best_weights = best_weights
        self._resumed = True

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Forget an earlier `fit`, unless `set_state` was called."""
        if self._resumed:
            self._resumed, self.reason = False, None
        else:
            self._begin()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Apply both rules."""
        logs = logs or {}
        accuracy = next((logs[name] for name in ACCURACIES if self.accuracy and name in logs), None)
        if "val_loss" not in logs:
            self._without_val_loss(accuracy, logs)
        best = self.best_weights, self.best_epoch
        super().on_epoch_end(epoch, logs)
        if self.wait:  # Keras takes the first weights that it sees for the best, even when they are not.
            self.best_weights, self.best_epoch = best
        self._epochs = epoch + 1
        if self.wait >= self.patience:
            self.model.stop_training = True
            self.reason = f"validation loss has not improved for {self.patience} epochs"
        if accuracy is not None and accuracy >= 1:
            self.model.stop_training = True
            self.reason = "training accuracy is 100 %"

    def on_train_end(self, logs: dict | None = None) -> None:
        """Restore the best weights and say why training ended."""
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        if self.verbose:
            end = f"Converged after epoch {self._epochs}: {self.reason}." if self.reason else "Not converged."
            best = f" Restored the weights of epoch {self.best_epoch + 1}, val_loss {self.best:.4g}."
            print(end + (best if self.best_weights is not None else ""))

    def get_monitor_value(self, logs: dict | None) -> float | None:
        """Return `val_loss`, or None; Keras would warn after every epoch."""
        return (logs or {}).get("val_loss")

    def _begin(self) -> None:
        # Infinity, not None: a first loss of NaN must not become the one to beat.
        self.best, self.best_epoch, self.best_weights = math.inf, 0, None
        self.wait = self.stopped_epoch = 0
        self.reason: str | None = None
        self._epochs, self._warned = 0, False

    def _without_val_loss(self, accuracy: float | None, logs: dict) -> None:
        if accuracy is None:
            raise ValueError(
                "`Convergence` needs `validation_data` in `fit`, or an accuracy among the metrics of "
                f"`compile` and accuracy=True. Received: logs with {', '.join(logs) or 'nothing'}"
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                "`Convergence` found no `val_loss`: only a training accuracy of 100 % stops training, and "
                "the last weights stay. Pass `validation_data` to `fit` for the paper's rule.",
                stacklevel=2,
            )


class HeatmapSnapshots(keras.callbacks.Callback):
    """Heatmaps of a few images while a PatchNet trains, as PNG strips and as TensorBoard images.

    On other backends than TensorFlow there are the PNG strips alone.

    At the start of training, after every `every` epochs and after the last one a strip of
    image | heatmap | overlay, with the probability of class 1, goes to `directory/epoch_0010.png`
    (after 10 epochs) and to TensorBoard; of several classes or labels it has the maps of four for each image,
    see `pictures.class_strip`. It shows the weights after that epoch, also where another
    callback restores better ones at the end. Training itself is not changed by it.

    Args:
        images: (N, H, W, C) in 0..255, or a list of N images (H, W, C) whose sizes may differ where
            the model allows it; C is 1 or 3.
        directory: where the pictures go; made when training starts.
        every: epochs between pictures.
        labels: N true classes, or of labels (N, L) of 0 and 1, to write beside the probabilities.
        class_names: names of the classes, class 0 first; empty means their numbers.
        log_dir: where the TensorBoard images go; None means `directory/tensorboard`.
        patchnet: the PatchNet to draw with, where `fit` trains only a part of it; None means what is trained.
        pixels: what the numbers in `images` are; None means 0..255 in grey or RGB.

    Raises:
        ValueError: an image or another argument is not as above; in `fit`, the model is not a PatchNet.

    Example:
        >>> model.fit(images, labels, epochs=100, callbacks=[HeatmapSnapshots(images[:8], "heatmaps")])
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        directory: str | Path,
        every: int = 10,
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        class_names: Sequence[str] = (),
        log_dir: str | Path | None = None,
        patchnet: keras.Model | None = None,
        pixels: Pixels | None = None,
    ) -> None:
        super().__init__()
        if len(images) == 0:
            raise ValueError("`HeatmapSnapshots` needs at least one image. Received: images=[]")
        self.images = [np.asarray(image) for image in images]
        self.shown = [displayed(image, pixels) if pixels else image for image in self.images]
        for image in self.shown:
            pictures.check_image(image)
        self.directory = Path(directory)
        self.every = check_positive("every", every)
        self.labels = labels
        self.class_names = class_names
        self.log_dir = self.directory / "tensorboard" if log_dir is None else Path(log_dir)
        self.patchnet = patchnet

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Build the heatmap's model and open TensorBoard's file."""
        self._patchnet = self.patchnet or self.model
        self._maps = heatmap_model(self._patchnet)
        self._drawn: int | None = None  # the epochs after which the last picture was drawn
        self._epochs = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        self._writer = None
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Draw before the first epoch, which is not epoch 0 where training was resumed."""
        if self._drawn is None:
            self._draw(epoch)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Draw after every `every` epochs, and after the last one."""
        self._epochs = epoch + 1
        last = self._epochs == self.params.get("epochs") or self.model.stop_training
        if last or self._epochs % self.every == 0:
            self._draw(self._epochs)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Draw after the last epoch when a later callback made it the last, and close the file."""
        if self._drawn is not None and self._drawn < self._epochs:
            self._draw(self._epochs)
        if self._writer:
            self._writer.close()

    def _draw(self, epochs: int) -> None:
        maps = [self._maps.predict(image[None], verbose=0)[0] for image in self.images]
        probabilities = [self._patchnet.predict(image[None], verbose=0)[0] for image in self.images]
        strip = draw_strip(self._patchnet, self.shown, maps, probabilities, self.labels, self.class_names)
        pictures.save_png(strip, self.directory / f"epoch_{epochs:04d}.png")
        if self._writer:
            import tensorflow as tf

            with self._writer.as_default():
                tf.summary.image("heatmaps", strip[None], step=epochs)
            self._writer.flush()
        self._drawn = epochs


def draw_strip(
    model: keras.Model,
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    probabilities: Sequence[np.ndarray],
    labels: Sequence[int] | np.ndarray | None,
    class_names: Sequence[str],
) -> np.ndarray:
    """Draw the strip of a PatchNet's maps: one for each image, of more than two classes several."""
    if model.binary:
        names = class_names or ("0", "1")
        return pictures.strip(images, maps, probabilities, labels, class_names=names)
    thresholds = [0.5] * model.classes if model.multilabel else None
    return pictures.class_strip(
        images, maps, probabilities, labels, class_names=class_names, thresholds=thresholds
    )
