"""Which model it is: one digest, the same in Keras, in a run and in an exported file."""

import hashlib
from collections.abc import Iterator

import keras
import numpy as np

from ..contract import Classes


def identity(model: keras.Model, classes: Classes) -> str:
    """Return the SHA-256 of a model's weights and of what its contract says, in hexadecimal digits.

    Weights count in their order, with dtype and shape, and to the bit; of the contract the classes and the
    pixels. What else it says follows from the architecture, but for thresholds, which are chosen later.

    Example:
        >>> identity(model, make_classes(["brick", "gravel"]))[:8]
        '5be3cf71'
    """
    sha256 = hashlib.sha256(classes.model_dump_json().encode())
    if pixels := getattr(model, "pixels", None):
        sha256.update(pixels.model_dump_json(exclude_defaults=True).encode())
    for _, values in weights(model):
        sha256.update(f"{values.dtype} {values.shape}".encode())
        sha256.update(values.tobytes())
    return sha256.hexdigest()


def unfinite(model: keras.Model) -> str | None:
    """Return the path of the first weight that has a value that is NaN or infinite, or None."""
    return next((path for path, values in weights(model) if not np.isfinite(values).all()), None)


def weights(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """Give the path and the values of each weight."""
    for weight in model.weights:
        yield weight.path, np.asarray(weight)
