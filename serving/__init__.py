"""Exported models at work, without TensorFlow.

from patchnet_tf.serving import Predictor

prediction = Predictor("model.onnx")(image)

The public names are imported on first use.
"""

import importlib
from typing import Any

_WHERE = {"Client": "client", "Prediction": "predictor", "Predictor": "predictor"}

__all__ = ["Client", "Prediction", "Predictor"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
