"""How G makes the probability of an image out of the decisions of its patches, and of nothing else.

mean    the paper's: the average decision. Evidence that covers a share b < 1/2 of the patches, the rest being
        in both classes, cannot bring it above 1/2.
lse     log-mean-exp of the logits, (1/r) log mean exp(r z): a smooth maximum, for evidence that covers
        little of an image. With r near 0 it is the mean of the logits, with a large r their maximum.
topk    the average of the highest decisions, a stated share of all patches, for the same evidence. It says
        of the other patches only that they are lower.

Of several labels each is pooled by itself. Of three or more exclusive classes, "lse" and "topk" take class 0
to be that of images without the evidence, as they do of two: "lse" pools each class's logit against class 0
and takes their softmax, "topk" averages the decisions of the patches that speak least for class 0. So the
probabilities sum to 1, and of two classes they are those of the one logit. No rule that treats all classes
alike would be: exchange two classes, and log-mean-exp of the negative logits is another number.

docs/convergence.md works out what either makes the decisions converge to.
"""

import math
from typing import Any

import keras
from keras import ops

from .checks import PACKAGE, check_number
from .layers import limited_softmax

LEAST, MOST = 0.01, 100.0  # r: beyond, it is the mean or the maximum for all that float32 can tell


@keras.saving.register_keras_serializable(package=PACKAGE)
class MeanPooling(keras.layers.Layer):
    """The mean decision, in float32 under every dtype policy: an average must not lose what Q has kept.

    Call arguments:
        decisions: Q (B, P, K) in [0, 1].

    Returns:
        (B, K).

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
        """(B, P, K) to (B, K)."""
        return (input_shape[0], input_shape[2])


@keras.saving.register_keras_serializable(package=PACKAGE)
class LogMeanExp(keras.layers.Layer):
    """The sigmoid of (1/r) log mean exp(r z), z being the logits of the decisions; in float32.

    Pinheiro and Collobert, "From image-level to pixel-level labeling with convolutional networks" (2015),
    pool scores so. Here it is the logits of the decisions, which the map shows.

    Args:
        sharpness: r, from 0.01 to 100.
        exclusive: the decisions are those of three or more exclusive classes, and the logits those against
            class 0; False, each decision has its own logit.

    Call arguments:
        decisions: Q (B, P, K) in [0, 1]; nearer than 1e-6 to an end they count as 1e-6 away from it, as
            `Decision` keeps them. Exclusive ones sum to 1.

    Returns:
        (B, K) in (0, 1), of exclusive classes of sum 1.

    Raises:
        ValueError: `sharpness` is no such number.

    Example:
        >>> float(LogMeanExp(4.0)(numpy.array([[[0.1], [0.9]]]))[0, 0])  # the mean is 0.5
        0.883
    """

    def __init__(self, sharpness: float = 4.0, exclusive: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.sharpness = float(check_number("sharpness", sharpness, LEAST))
        if self.sharpness > MOST:
            raise ValueError(f"`sharpness` must be at most {MOST:g}. Received: sharpness={sharpness!r}")
        self.exclusive = bool(exclusive)

    def call(self, decisions: Any) -> Any:
        """Pool."""
        if self.exclusive:
            logs = ops.log(ops.maximum(decisions, 1e-12))  # many classes may share the rest of 1
            logits = logs - logs[..., :1]  # (B, P, K), of class 0 zero
        else:
            decisions = ops.clip(decisions, 1e-6, 1 - 1e-6)
            logits = ops.log(decisions) - ops.log(1 - decisions)  # (B, P, K)
        # Less than the largest, no exponential overflows.
        largest = ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
        mean = ops.mean(ops.exp(self.sharpness * (logits - largest)), axis=1)
        pooled = largest[:, 0] + ops.log(mean) / self.sharpness
        return limited_softmax(pooled) if self.exclusive else ops.sigmoid(pooled)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, P, K) to (B, K)."""
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "sharpness": self.sharpness, "exclusive": self.exclusive}


@keras.saving.register_keras_serializable(package=PACKAGE)
class TopMean(keras.layers.Layer):
    """The mean of the highest decisions: of ceil(share * P) among P patches; in float32.

    Args:
        share: of the patches, above 0 and at most 1, where it is the mean of all.
        exclusive: the decisions are those of three or more exclusive classes: the mean is over the patches
            that are lowest in class 0; False, over the highest of each decision.

    Call arguments:
        decisions: Q (B, P, K) in [0, 1].

    Returns:
        (B, K).

    Raises:
        ValueError: `share` is no such number.

    Example:
        >>> float(TopMean(0.5)(numpy.array([[[0.2], [0.9], [0.1], [0.7]]]))[0, 0])
        0.8
    """

    def __init__(self, share: float = 0.1, exclusive: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.share = float(check_number("share", share, 0))
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1. Received: share={share!r}")
        self.exclusive = bool(exclusive)

    def call(self, decisions: Any) -> Any:
        """Average the highest of (B, P, K)."""
        count = ops.shape(decisions)[1]
        share = self.share * (1 - 1e-6)  # so that 0.1 of 70 patches is 7 in float32 and in Python
        if isinstance(count, int):
            highest = math.ceil(share * count)
        else:
            highest = ops.cast(ops.ceil(share * ops.cast(count, "float32")), "int32")
        if self.exclusive:
            _, patches = ops.top_k(-decisions[..., 0], highest)  # (B, k)
            return ops.mean(ops.take_along_axis(decisions, patches[..., None], axis=1), axis=1)
        values, _ = ops.top_k(ops.swapaxes(decisions, 1, 2), highest)  # (B, K, k)
        return ops.mean(values, axis=2)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, P, K) to (B, K)."""
        return (input_shape[0], input_shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "share": self.share, "exclusive": self.exclusive}


def make_pooling(pooling: str, sharpness: float, share: float, exclusive: bool = False) -> keras.layers.Layer:
    """Return the layer of a name; `sharpness` is for "lse", `share` for "topk", `exclusive` for both.

    Raises:
        ValueError: there is no such pooling, or its argument is out of its range.
    """
    makers = {
        "mean": lambda: MeanPooling(name="probability"),
        "lse": lambda: LogMeanExp(sharpness, exclusive, name="probability"),
        "topk": lambda: TopMean(share, exclusive, name="probability"),
    }
    if pooling not in makers:
        raise ValueError(f"`pooling` must be one of {', '.join(makers)}. Received: pooling={pooling!r}")
    return makers[pooling]()
