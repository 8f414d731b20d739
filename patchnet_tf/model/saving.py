"""Models from `.keras` files."""

import zipfile
from pathlib import Path

import keras

from ..errors import InputError
from . import local  # noqa: F401  (registers its layers)
from .identity import unfinite
from .layers import PatchDistributed
from .patches import ExtractPatches
from .patchnet import PatchNet


def load_model(path: str | Path) -> keras.Model:
    """Load a model of this package from a `.keras` file, in Keras's safe mode, without custom_objects.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a `.keras` file, was saved by an earlier version of this package, or has weights
            that are NaN or infinite.

    Example:
        >>> model.save("patchnet.keras")
        >>> model = load_model("patchnet.keras")
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no model file {path}")
    if path.suffix != ".keras":
        raise ValueError(f"A model file ends with .keras. Received: path={path}")
    if not zipfile.is_zipfile(path):  # of which Keras would say that it is not there
        raise ValueError(
            f"A .keras file is an archive; this one is damaged or truncated. Received: path={path}"
        )
    model = keras.models.load_model(path)
    # Earlier versions saved G as a chain of layers, which cannot say what it is.
    parts = (ExtractPatches, PatchDistributed)
    if not isinstance(model, PatchNet) and any(isinstance(layer, parts) for layer in model.layers):
        raise ValueError(
            f"The model was saved by an earlier version of patchnet-tf; train it again. Received: path={path}"
        )
    if weight := unfinite(model):
        raise InputError(f"NaN or infinity in the weight {weight}. Received: path={path}")
    return model
