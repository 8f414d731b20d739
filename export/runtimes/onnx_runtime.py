"""ONNX Runtime for Python, with the defaults that others have."""

from pathlib import Path

import numpy as np
import onnxruntime

from ...contract import IMAGE
from .base import Runtime

ERROR = 3  # log level


class OnnxRuntime(Runtime):
    """ONNX Runtime on the processor."""

    name = "onnxruntime"
    install = "pip install onnxruntime"

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERROR
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.version = f"ONNX Runtime {onnxruntime.__version__}"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {IMAGE: images}), strict=True))
