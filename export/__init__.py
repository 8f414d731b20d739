"""Exported models: the same numbers in ONNX Runtime and TF Serving, proved when a file is written.

from patchnet_tf import export

export.to_onnx(model, "model.onnx")
export.to_saved_model(model, "served/patchnet")
export.verify(model, "model.onnx")
"""

from .comparison import Batch, Verification, VerificationError
from .formats import FORMATS
from .onnx import to_onnx
from .runtimes import RUNTIMES
from .saved_model import to_saved_model
from .verification import verify

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "Batch",
    "Verification",
    "VerificationError",
    "to_onnx",
    "to_saved_model",
    "verify",
]
