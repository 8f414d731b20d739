"""Runtimes that exported files are tried in, by their names.

Each is a file of its own with a class, and a line here.
"""

from .base import Runtime, Trial, try_vectors
from .javascript import Node, Web
from .onnx_runtime import OnnxRuntime
from .opencv import OpenCV
from .openvino import OpenVINO

RUNTIMES: dict[str, type[Runtime]] = {kind.name: kind for kind in (OnnxRuntime, OpenVINO, OpenCV, Node, Web)}

__all__ = ["RUNTIMES", "Runtime", "Trial", "try_vectors"]
