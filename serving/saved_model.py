"""An exported SavedModel as a Python function. This one needs TensorFlow, and imports it when it is made."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..contract import FAMILIAR, IMAGE, IMAGE_BYTES, PROBABILITY, SERVING_DEFAULT, SIGNATURES
from ..errors import extra, one_line
from ..files import parse_json
from . import digest, manifest
from .digest import METADATA
from .predictor import Predictor


class SavedModelPredictor(Predictor):
    """Runs a version that `patchnet export --format saved_model` wrote, as `Predictor` runs an ONNX file.

    Args:
        path: the folder of the version, such as served/cells/1, with files as MANIFEST.json lists them.

    Raises:
        ValueError: it is not such a folder, or was altered or truncated.

    Example:
        >>> SavedModelPredictor("served/cells/1").probability(image)
        0.031
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not (path / "saved_model.pb").is_file():
            raise ValueError(f"{path}: not a SavedModel (there is no saved_model.pb in it)")
        manifest.check(path)
        digest.check(path)
        metadata = read_metadata(path)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        with extra("train"):
            import tensorflow as tf

        try:
            self._loaded = tf.saved_model.load(str(path))  # its signatures do not keep the variables alive
        except Exception as error:  # a damaged file raises whatever its parsers stumble over
            raise ValueError(f"{path}: TensorFlow cannot load it ({one_line(error)})") from None
        signatures = self._loaded.signatures
        outputs = {name: set(answer.structured_outputs) for name, answer in signatures.items()}
        outputs = {name: names - {FAMILIAR} for name, names in outputs.items()}
        expected = {name: set(names) for name, names in SIGNATURES.items()}
        if outputs not in (expected, {k: v for k, v in expected.items() if k != IMAGE_BYTES}):
            raise ValueError(f"{path}: a SavedModel, but not one made by `patchnet export`")
        self._both, self._alone = signatures[SERVING_DEFAULT], signatures[PROBABILITY]
        self._tensor = tf.constant
        self.provider = f"TensorFlow {tf.__version__}"
        self.runtime = f"{self.provider} SavedModel"
        self._describe(path, metadata, self._both.structured_input_signature[1][IMAGE].shape)

    def _run(self, batch: np.ndarray, heatmap: bool, options: Any = None) -> list[np.ndarray]:
        answer = (self._both if heatmap else self._alone)(**{IMAGE: self._tensor(batch)})
        return [answer[name].numpy() for name in self.wanted(heatmap)]


def read_metadata(folder: Path) -> dict[str, str]:
    """Return what a SavedModel says of itself."""
    try:
        metadata = parse_json((folder / METADATA).read_bytes())
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"{folder}: a SavedModel, but not one made by `patchnet export`") from None
    return metadata
