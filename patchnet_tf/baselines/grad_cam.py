"""Gradient-weighted class activation maps."""

from typing import Any

import keras
import numpy as np
from keras import ops

from .class_maps import ClassMaps, uncropped
from .layers import find, recorded, without_end

CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)


class GradCAM(ClassMaps):
    """Gradient-weighted class activation maps; see `grad_cam`."""

    def __init__(
        self,
        model: keras.Model,
        layer: str | None = None,
        batch_size: int = 8,
        class_index: int | None = None,
    ) -> None:
        super().__init__(model, batch_size, class_index)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "Grad-CAM takes its gradients from TensorFlow. "
                f"Received: the Keras backend {keras.backend.backend()} (KERAS_BACKEND)"
            )
        self.layer = find(model, CONVOLUTIONS, "a convolution", layer)

    def raw(self, images: Any) -> Any:
        """Weigh the layer's maps with their mean gradients."""
        import tensorflow as tf

        with (
            tf.GradientTape() as tape,
            recorded(self.layer) as calls,
            without_end(self.model),
            self.crops() as cropped,
        ):
            tape.watch(images)  # what is trainable or frozen makes no difference
            score = self.model(images, training=False)[:, self.column]  # (B,)
        features = calls[-1][1] if calls else images  # (B, h, w, K)
        gradients = tape.gradient(score, features) if len(features.shape) == 4 else None
        if gradients is None:
            raise ValueError(
                "Grad-CAM needs a layer that turns images into maps, (batch, height, width, filters). "
                f"Received: layer={self.layer.name!r} with {tuple(features.shape)}"
            )
        weights = ops.mean(gradients, (1, 2))  # (B, K)
        return uncropped(ops.relu(ops.einsum("bhwk,bk->bhw", features, weights)), cropped)


def grad_cam(
    model: keras.Model,
    images: Any,
    *,
    layer: str | None = None,
    class_index: int | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Gradient-weighted class activation maps (Selvaraju et al. 2017, arXiv 1610.02391).

    The maps of a layer, weighed with the mean gradients of the class's score, and what is positive of it.
    The score is the last layer's before its sigmoid or softmax, where it ends with one.

    Args:
        model: a functional Keras classifier.
        images: (N, H, W, C), as the model takes them.
        layer: name of the layer, in nested models too; None means the last convolution.
        class_index: as for `cam`.
        batch_size: images at a time.

    Returns:
        (N, H, W), float32 in [0, 1], as `cam`; 0.5 everywhere where nothing is positive.

    Raises:
        ValueError: the model, the images, the layer or the class are not as above, or the model returned NaN.
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:
        >>> grad_cam(vgg11((32, 48, 3)), numpy.zeros((2, 32, 48, 3))).shape
        (2, 32, 48)
    """
    return GradCAM(model, layer, batch_size, class_index)(images)
