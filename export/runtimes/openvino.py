"""OpenVINO on the processor, in single precision.

By default it computes in bfloat16 where the processor can, which is faster and differs by 1e-2.
"""

from pathlib import Path

import numpy as np

from .base import Runtime

SINGLE = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVINO(Runtime):
    """OpenVINO."""

    name = "openvino"
    install = "pip install openvino"

    def __init__(self, path: Path) -> None:
        import openvino

        self.model = openvino.Core().compile_model(str(path), "CPU", SINGLE)
        self.version = f"OpenVINO {openvino.__version__.split('-')[0]}"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch."""
        answers = self.model(images)
        return {name: answers[output] for output in self.model.outputs for name in output.names}
