"""OpenCV's module dnn."""

from pathlib import Path

import numpy as np

from ...contract import IMAGE
from .base import Runtime


class OpenCV(Runtime):
    """OpenCV."""

    name = "opencv"
    install = "pip install opencv-python-headless"

    def __init__(self, path: Path) -> None:
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self.net = cv2.dnn.readNetFromONNX(str(path))
        self.version = f"OpenCV {cv2.__version__}"

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch."""
        self.net.setInput(images, IMAGE)
        names = self.net.getUnconnectedOutLayersNames()
        return dict(zip(names, self.net.forward(names), strict=True))
