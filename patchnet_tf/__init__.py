"""PatchNet (arXiv 1705.08078) for Keras: a classifier whose explanation is its own decisions.

The public names are imported on first use, so that `import patchnet_tf` loads no TensorFlow:

    import patchnet_tf as pn

    model = pn.PatchNet((128, 128, 3), patch_size=17)
    maps = pn.heatmap_model(model)
"""

import importlib
import os
from pathlib import Path
from typing import Any

# TensorFlow leaves oneDNN's convolutions off on some processors, where they are about twice as fast.
# It reads this variable when it is first imported; a value that the user has set stays.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# In a checkout that is not installed, packages that setup.py maps into this one stand beside it.
_CHECKOUT = Path(__file__).parent.parent
if (_CHECKOUT / "setup.py").is_file() and (_CHECKOUT / "configs" / "__init__.py").is_file():
    __path__.append(str(_CHECKOUT))

_WHERE = {
    "PatchNet": "patchnet",
    "PatchSubnet": "patchnet",
    "load_model": "patchnet",
    "heatmap_model": "heatmaps",
}
_MODULES = {
    "baselines",
    "callbacks",
    "data",
    "export",
    "faithfulness",
    "heatmaps",
    "layers",
    "metrics",
    "serving",
}

__all__ = [*sorted(_WHERE), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
