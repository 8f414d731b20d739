"""How G makes the probability of an image out of the decisions of its patches, and of nothing else.

mean    the paper's: the average decision. Evidence that covers a share b < 1/2 of the patches, the rest being
        in both classes, cannot bring it above 1/2.
lse     log-mean-exp of the logits, (1/r) log mean exp(r z): a smooth maximum, for evidence that covers
        little of an image. With r near 0 it is the mean of the logits, with a large r their maximum.
topk    the average of the highest decisions, a stated share of all patches, for the same evidence. It says
        of the other patches only that they are lower.

docs/convergence.md works out what either makes the decisions converge to.
"""

import math
from typing import Any

import keras
from keras import ops

from .checks import PACKAGE, check_number

LEAST, MOST = 0.01, 100.0  # r: beyond, it is the mean or the maximum for all that float32 can tell


@keras.saving.register_keras_serializable(package=PACKAGE)
class MeanPooling(keras.layers.Layer):
    """The mean decision, in float32 under every dtype policy: an average must not lose what Q has kept.

    Call arguments:
        decisions: Q (B, P, 1) in [0, 1].

    Returns:
        (B, 1).

    Example:
        >>> float(MeanPooling()(numpy.array([[[0.25], [0.75]]]))[0, 0])
        0.5
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, decisions: Any) -> Any:
        """Average."""
        return ops.mean(decisions, axis=1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, P, 1) to (B, 1)."""
        return (input_shape[0], input_shape[2])


@keras.saving.register_keras_serializable(package=PACKAGE)
class LogMeanExp(keras.layers.Layer):
    """The sigmoid of (1/r) log mean exp(r z), z being the logits of the decisions; in float32.

    Pinheiro and Collobert, "From image-level to pixel-level labeling with convolutional networks" (2015),
    pool scores so. Here it is the logits of the decisions, which the map shows.

    Args:
        sharpness: r, from 0.01 to 100.

    Call arguments:
        decisions: Q (B, P, 1) in [0, 1]; nearer than 1e-6 to an end they count as 1e-6 away from it, as
            `Decision` keeps them.

    Returns:
        (B, 1) in (0, 1).

    Raises:
        ValueError: `sharpness` is no such number.

    Example:
        >>> float(LogMeanExp(4.0)(numpy.array([[[0.1], [0.9]]]))[0, 0])  # the mean is 0.5
        0.883
    """

    def __init__(self, sharpness: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.sharpness = float(check_number("sharpness", sharpness, LEAST))
        if self.sharpness > MOST:
            raise ValueError(f"`sharpness` must be at most {MOST:g}. Received: sharpness={sharpness!r}")

    def call(self, decisions: Any) -> Any:
        """Pool."""
        decisions = ops.clip(decisions, 1e-6, 1 - 1e-6)
        logits = ops.log(decisions) - ops.log(1 - decisions)  # (B, P, 1)
        # Less than the largest, no exponential overflows.
        largest = ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
        mean = ops.mean(ops.exp(self.sharpness * (logits - largest)), axis=1)
        return ops.sigmoid(largest[:, 0] + ops.log(mean) / self.sharpness)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, P, 1) to (B, 1)."""
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "sharpness": self.sharpness}


@keras.saving.register_keras_serializable(package=PACKAGE)
class TopMean(keras.layers.Layer):
    """The mean of the highest decisions: of ceil(share * P) among P patches; in float32.

    Args:
        share: of the patches, above 0 and at most 1, where it is the mean of all.

    Call arguments:
        decisions: Q (B, P, 1) in [0, 1].

    Returns:
        (B, 1).

    Raises:
        ValueError: `share` is no such number.

    Example:
        >>> float(TopMean(0.5)(numpy.array([[[0.2], [0.9], [0.1], [0.7]]]))[0, 0])
        0.8
    """

    def __init__(self, share: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.share = float(check_number("share", share, 0))
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1. Received: share={share!r}")

    def call(self, decisions: Any) -> Any:
        """Average the highest of (B, P, 1)."""
        count = ops.shape(decisions)[1]
        share = self.share * (1 - 1e-6)  # so that 0.1 of 70 patches is 7 in float32 and in Python
        if isinstance(count, int):
            highest = math.ceil(share * count)
        else:
            highest = ops.cast(ops.ceil(share * ops.cast(count, "float32")), "int32")
        values, _ = ops.top_k(decisions[..., 0], highest)  # (B, k)
        return ops.mean(values, axis=1, keepdims=True)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, P, 1) to (B, 1)."""
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "share": self.share}


def make_pooling(pooling: str, sharpness: float, share: float) -> keras.layers.Layer:
    """Return the layer of a name; `sharpness` is for "lse", `share` for "topk".

    Raises:
        ValueError: there is no such pooling, or its argument is out of its range.
    """
    makers = {
        "mean": lambda: MeanPooling(name="probability"),
        "lse": lambda: LogMeanExp(sharpness, name="probability"),
        "topk": lambda: TopMean(share, name="probability"),
    }
    if pooling not in makers:
        raise ValueError(f"`pooling` must be one of {', '.join(makers)}. Received: pooling={pooling!r}")
    return makers[pooling]()
