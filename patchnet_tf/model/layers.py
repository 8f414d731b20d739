"""The layers that S is made of, and S on each patch.

Shapes: B images, P patches per image, N patches of all images, h x w positions, F filters.
"""

from typing import Any

import keras
from keras import ops

from .checks import PACKAGE


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchDistributed(keras.layers.TimeDistributed):
    """One layer on every patch: `TimeDistributed` with the patch axis folded into the batch.

    Keras's own class unrolls the layer once for each patch when their number is known, and returns
    wrong numbers when it is not (Keras 3.14 and 3.15). Folding is exact, holds one copy of the layer
    in the graph, and takes any number of patches.

    Args:
        layer: S, or any layer or model that takes (N, p, p, C).

    Call arguments:
        inputs: (B, P, ...), P known or not.

    Returns:
        (B, P, ...): the layer's outputs.

    Example:
        >>> PatchDistributed(keras.layers.Flatten())(keras.ops.zeros((2, 5, 3, 3, 1))).shape
        TensorShape([2, 5, 9])
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Apply the layer to (B, P, ...). Patches are never masked: `mask` must be None."""
        if mask is not None:
            raise ValueError(f"`PatchDistributed` takes no mask. Received: mask={mask}")
        count = ops.shape(inputs)[1]
        folded = ops.reshape(inputs, (-1, *inputs.shape[2:]))  # (B * P, ...)
        outputs = self.layer(folded, training=training)
        return ops.reshape(outputs, (-1, count, *outputs.shape[1:]))


@keras.saving.register_keras_serializable(package=PACKAGE)
class FilterReadout(keras.layers.Layer):
    """For each filter map its own linear model: one weight per position, and a bias (section 2).

    The weights are `kernel` (h, w, F), LeCun normal over the h * w positions, and `bias` (F,), zero.

    Call arguments:
        maps: (N, h, w, F), floating point; h and w must be known.

    Returns:
        (N, F): sum over positions of map times kernel, plus bias.

    Example:
        >>> FilterReadout()(keras.ops.ones((4, 17, 17, 64))).shape
        TensorShape([4, 64])
    """

    def build(self, input_shape: tuple) -> None:
        """Create the kernel (h, w, F) and the bias (F,)."""
        _, height, width, filters = input_shape
        # Keras takes the fan-in of a rank-3 kernel to be its first two axes: the h * w positions.
        self.kernel = self.add_weight(
            name="kernel", shape=(height, width, filters), initializer="lecun_normal"
        )
        self.bias = self.add_weight(name="bias", shape=(filters,), initializer="zeros")

    def call(self, maps: Any) -> Any:
        """Read (N, h, w, F) out into (N, F)."""
        return ops.sum(maps * self.kernel, axis=(1, 2)) + self.bias

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(N, h, w, F) to (N, F)."""
        return (input_shape[0], input_shape[3])


@keras.saving.register_keras_serializable(package=PACKAGE)
class Decision(keras.layers.Layer):
    """Q: the sigmoid of S's linear unit, always in float32, that keeps its gradient when it saturates.

    The unit's output is limited to -13..13 on the way forward, and the limit is invisible to the
    gradient. So Q stays within 2.3e-6 of 0 and 1, where float32 can still tell 1 - Q from 0, and the
    gradient of binary cross-entropy on an average of many Q does not vanish when all of them are wrong
    and sure: it tends to 1 / P for each patch, as it does in exact arithmetic.

    Call arguments:
        logits: any shape, any float dtype.

    Returns:
        The same shape, float32, in (0, 1).

    Example:
        >>> float(Decision()(keras.ops.zeros(())))
        0.5
    """

    LIMIT = 13.0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, logits: Any) -> Any:
        """Limit, then sigmoid."""
        limited = ops.clip(logits, -self.LIMIT, self.LIMIT)
        pass_through = logits - ops.stop_gradient(logits)  # zero, with a gradient of one
        return ops.sigmoid(ops.stop_gradient(limited) + pass_through)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)


def limited_softmax(logits: Any) -> Any:
    """Softmax over the last axis of logits, at most 13 below the largest; the gradient sees no limit."""
    least = ops.max(logits, axis=-1, keepdims=True) - Decision.LIMIT
    pass_through = logits - ops.stop_gradient(logits)  # zero, with a gradient of one
    return ops.softmax(ops.stop_gradient(ops.maximum(logits, least)) + pass_through, axis=-1)


@keras.saving.register_keras_serializable(package=PACKAGE)
class ExclusiveDecision(keras.layers.Layer):
    """Q of three or more classes: the softmax of S's linear units, as `Decision` is the sigmoid of one.

    Always in float32; each logit counts as at most 13 below the largest, and the limit is invisible to the
    gradient. Of two classes it is `Decision` of the difference of the two logits: 2.3e-6 is the least Q. Of K
    classes the least is 2.3e-6 / (K - 1), where all others share the rest.

    Call arguments:
        logits: (..., K), any float dtype.

    Returns:
        (..., K), float32, in (0, 1), of sum 1.

    Example:
        >>> ExclusiveDecision()(keras.ops.zeros((1, 4)))  # [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, logits: Any) -> Any:
        """Limit, then softmax."""
        return limited_softmax(logits)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)


def make_decision(units: int, multilabel: bool) -> keras.layers.Layer:
    """Return the layer from the logits of one unit, or of one for each class, to Q."""
    return (Decision if units == 1 or multilabel else ExclusiveDecision)(name="decision")
