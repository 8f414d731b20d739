"""An exported SavedModel as a Python function. This one needs TensorFlow, and imports it when it is made."""

import json
import os
from pathlib import Path

import numpy as np

from . import manifest
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
        manifest.check(path)
        described = path / "assets.extra" / "metadata.json"
        if not described.is_file():
            raise ValueError(f"{path}: not a SavedModel made by `patchnet export`")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        try:
            self._loaded = tf.saved_model.load(str(path))
            self._both = self._loaded.signatures["serving_default"]
            self._alone = self._loaded.signatures["probability"]
        except Exception as error:  # a damaged file raises whatever its parsers stumble over
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path}: TensorFlow cannot load it ({reason})") from None
        self._tensor = tf.constant
        self.provider = f"TensorFlow {tf.__version__}"
        metadata = json.loads(described.read_text(encoding="utf-8"))
        self._describe(metadata, self._both.structured_input_signature[1]["image"].shape)

    def _run(self, batch: np.ndarray, *, heatmap: bool) -> list[np.ndarray]:
        answer = (self._both if heatmap else self._alone)(image=self._tensor(batch))
        return [answer[name].numpy() for name in ("probability", "heatmap")[: 1 + heatmap]]
