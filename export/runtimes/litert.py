"""LiteRT, formerly TensorFlow Lite."""

from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...contract import IMAGE
from .base import Runtime


class LiteRT(Runtime):
    """LiteRT on the processor."""

    name = "litert"
    suffix = ".tflite"
    install = "pip install ai-edge-litert"

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.run = Interpreter(model_path=str(path)).get_signature_runner()
        self.version = f"LiteRT {version('ai-edge-litert')}"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch."""
        return self.run(**{IMAGE: images})
