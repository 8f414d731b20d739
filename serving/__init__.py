"""Exported models at work, without TensorFlow.

from patchnet_tf.serving import Predictor

prediction = Predictor("model.onnx")(image)
"""

from .predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
