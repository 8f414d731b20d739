"""PatchNet (arXiv 1705.08078) for Keras: a classifier whose explanation is its own decisions.

The public names are imported on first use, so that `import patchnet_tf` loads no TensorFlow:

    import patchnet_tf as pn

    model = pn.PatchNet((128, 128, 3), patch_size=17)
    maps = pn.heatmap_model(model)
"""

import importlib
import os
from typing import Any

from .errors import extra

# TensorFlow leaves oneDNN's convolutions off on some processors, where they are about twice as fast.
# It reads this variable when it is first imported; a value that the user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

_NAMES = {
    "PatchNet": "model.patchnet",
    "PatchSubnet": "model.subnet",
    "fit_familiarity": "model.familiar",
    "load_model": "model.saving",
    "heatmap_model": "model.heatmaps",
    "local_network": "model.local",
}
_MODULES = {
    "baselines": "baselines",
    "callbacks": "training.callbacks",
    "data": "data",
    "export": "export",
    "faithfulness": "evaluation.faithfulness",
    "heatmaps": "model.heatmaps",
    "preprocessing": "model.preprocessing",
    "metrics": "evaluation.metrics",
    "serving": "serving",
}

__all__ = [*sorted(_NAMES), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        with extra("train"):
            return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    if name in _MODULES:
        with extra("export" if name == "export" else "train"):
            return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
