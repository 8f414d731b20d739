"""What each layer of a ConvNet is without padding, and which layers cannot be local.

`without_padding` knows the layers of ConvNets by their exact class: a subclass may look anywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from .checks import PACKAGE
from .geometry import Pair, same_padding
from .graph import Call

STAY: Pair = (1, 1)


class NotLocalError(Exception):
    """The layer looks further than a patch, or nobody knows how far; the message says why."""


@dataclass(frozen=True)
class Step:
    """A layer as part of a local network.

    Attributes:
        make: returns the layer that takes its place, with its weights; None where nothing is left to do.
        window, stride, padding: see `Field.through`.
    """

    make: Callable[[], Any] | None
    window: Pair = STAY
    stride: Pair = STAY
    padding: Pair = (0, 0)


@keras.saving.register_keras_serializable(package=PACKAGE)
class PerChannel(layers.Layer):
    """x * scale + offset, a constant of each for every channel: batch normalization in inference mode.

    The weights `scale` (C,) and `offset` (C,) are never trained.

    Call arguments:
        x: (..., C), any float dtype.

    Returns:
        The same shape, in the layer's compute dtype.

    Example:
        >>> float(PerChannel()(keras.ops.ones((1, 1)))[0, 0])
        1.0
    """

    def build(self, input_shape: tuple) -> None:
        """Create scale and offset, (C,) each."""
        shape = (input_shape[-1],)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones", trainable=False)
        self.offset = self.add_weight(name="offset", shape=shape, initializer="zeros", trainable=False)

    def call(self, x: Any) -> Any:
        """Scale and shift."""
        return x * self.scale + self.offset

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Keep the shape."""
        return tuple(input_shape)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Reorder(layers.Layer):
    """Channels in another order: [2, 1, 0] makes BGR of RGB.

    Args:
        order: the channel of the input that each channel of the output is.

    Example:
        >>> Reorder([2, 1, 0])(keras.ops.array([[1, 2, 3]])).numpy().tolist()
        [[3, 2, 1]]
    """

    def __init__(self, order: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.order = list(order)

    def call(self, x: Any) -> Any:
        """Reorder the last axis."""
        return ops.take(x, self.order, axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """As many channels as the order has."""
        return (*input_shape[:-1], len(self.order))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "order": self.order}


def without_padding(call: Call) -> Step:
    """Return what a call of a padded network is in a local one.

    Raises:
        NotLocalError: it looks further than a window, or is not known.
    """
    operation = call.operation
    if getattr(operation, "data_format", None) == "channels_first":
        raise NotLocalError("it wants channels first")
    if (rule := RULES.get(type(operation))) is not None:
        return rule(operation, call)
    kind = type(operation).__name__
    if type(operation).__module__.startswith("keras.src."):
        if kind in ELEMENTWISE and not isinstance(operation, layers.Layer):
            return _elementwise(operation, call)
        if kind == "StochasticDepth":  # of keras.applications, as is the next
            return Step(None)
        if kind == "LayerScale":
            return Step(lambda: per_channel(operation.name, operation.gamma, 0.0))
    raise NotLocalError(REASONS.get(kind, f"it is a {kind}, which is not known to be local"))


def fold(layer: Any, scale: np.ndarray, offset: np.ndarray) -> None:
    """Make a convolution or dense layer with a bias, linear, also scale and shift its channels."""
    kernel = layer.pointwise_kernel if isinstance(layer, layers.SeparableConv2D) else layer.kernel
    gain = scale
    if isinstance(layer, layers.DepthwiseConv2D):
        gain = scale.reshape(kernel.shape[-2:])  # (channels, multiplier)
    kernel.assign(np.asarray(kernel) * gain)
    layer.bias.assign(np.asarray(layer.bias) * scale + offset)


def can_fold(operation: Any) -> bool:
    """Whether what scales and shifts a layer's outputs can become part of it."""
    return type(operation) in FOLDABLE and operation.activation is keras.activations.linear


def normalization(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (scale, offset), (C,) each, of a batch normalization in inference mode."""
    mean, variance = (np.asarray(w, "float64") for w in (layer.moving_mean, layer.moving_variance))
    scale = (np.asarray(layer.gamma) if layer.scale else 1.0) / np.sqrt(variance + layer.epsilon)
    return scale, (np.asarray(layer.beta) if layer.center else 0.0) - mean * scale


def per_channel(name: str, scale: Any, offset: Any) -> PerChannel:
    """Return the layer that multiplies by `scale` and adds `offset`, (C,) both or one of them a number."""
    scale, offset = np.broadcast_arrays(np.asarray(scale), np.asarray(offset))
    layer = PerChannel(name=name)
    layer.build((None, scale.size))
    layer.set_weights([scale.ravel(), offset.ravel()])
    return layer


def copy(layer: Any, call: Call, **changes: Any) -> Any:
    """Return a copy of a layer, with its weights, and with other arguments where `changes` says so."""
    config = {**layer.get_config(), **changes}
    new = type(layer).from_config(config)
    if not layer.weights:
        return new
    channels = call.shapes[0][-1]
    new.build((None,) * (len(call.shapes[0]) - 1) + (channels,))
    weights = layer.get_weights()
    if config.get("use_bias") and not layer.use_bias:
        weights.append(np.zeros(new.bias.shape))  # the bias comes last
    new.set_weights(weights)
    return new


def _convolution(layer: Any, call: Call) -> Step:
    check_activation(layer)
    return Step(lambda: _unpadded_convolution(layer, call), **_windows(layer, layer.kernel_size, call))


def _unpadded_convolution(layer: Any, call: Call) -> Any:
    """Copy a convolution; one with a group for each channel becomes the depthwise one that it is."""
    channels = call.shapes[0][-1]
    if getattr(layer, "groups", 1) == 1 or layer.groups != channels:
        return copy(layer, call, padding="valid", use_bias=True)
    new = layers.DepthwiseConv2D(
        layer.kernel_size,
        layer.strides,
        "valid",
        depth_multiplier=layer.filters // channels,
        dilation_rate=layer.dilation_rate,
        activation=layer.activation,
        name=layer.name,
        dtype=layer.dtype_policy,
    )
    new.build((None, None, None, channels))
    kernel = np.asarray(layer.kernel)  # (rows, columns, 1, filters)
    bias = np.asarray(layer.bias) if layer.use_bias else np.zeros(layer.filters)
    new.set_weights([kernel.reshape(new.kernel.shape), bias])
    return new


def _pooling(layer: Any, call: Call) -> Step:
    return Step(lambda: copy(layer, call, padding="valid"), **_windows(layer, layer.pool_size, call))


def _windows(layer: Any, size: Pair, call: Call) -> dict[str, Pair]:
    """Window, stride and padding of a convolution or pooling."""
    dilation = getattr(layer, "dilation_rate", STAY)
    dilation = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    window = tuple((k - 1) * d + 1 for k, d in zip(size, dilation, strict=True))
    stride = tuple(layer.strides)
    if stride[0] != stride[1]:
        raise NotLocalError(f"its strides differ, {stride}")
    if layer.padding == "valid":
        return {"window": window, "stride": stride}
    sides = zip(call.shapes[0][1:3], window, stride, strict=True)
    return {"window": window, "stride": stride, "padding": tuple(same_padding(*side) for side in sides)}


def _zero_padding(layer: Any, call: Call) -> Step:
    return Step(None, padding=tuple(before for before, _ in layer.padding))


def _cropping(layer: Any, call: Call) -> Step:
    return Step(None, padding=tuple(-before for before, _ in layer.cropping))


def _nothing(layer: Any, call: Call) -> Step:
    return Step(None)


def _pointwise(layer: Any, call: Call) -> Step:
    check_activation(layer)
    return Step(lambda: copy(layer, call))


def _over_channels(layer: Any, call: Call) -> Step:
    """A layer with an axis or several, which must be the channels alone."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if any(axis not in (-1, 3) for axis in axes):
        raise NotLocalError("it combines positions or images, not channels alone")
    return Step(lambda: copy(layer, call))


def _prelu(layer: Any, call: Call) -> Step:
    if set(layer.shared_axes or ()) != {1, 2}:
        raise NotLocalError("it has weights of its own for each position (PReLU needs shared_axes=[1, 2])")
    return Step(lambda: copy(layer, call))


def _batch_normalization(layer: Any, call: Call) -> Step:
    _over_channels(layer, call)
    return Step(lambda: per_channel(layer.name, *normalization(layer)))


def _normalization(layer: Any, call: Call) -> Step:
    if layer.axis:
        _over_channels(layer, call)
    channels = call.shapes[0][-1]

    def make() -> PerChannel:
        mean, variance = (np.broadcast_to(np.ravel(v), channels) for v in (layer.mean, layer.variance))
        std = np.maximum(np.sqrt(variance), keras.config.epsilon())
        scale, offset = (std, mean) if layer.invert else (1 / std, -mean / std)
        return per_channel(layer.name, scale, offset)

    return Step(make)


def _elementwise(operation: Any, call: Call) -> Step:
    """An operation on each element, with numbers or other maps."""
    constants = [x for x in keras.tree.flatten(call.arguments) if hasattr(x, "shape")]
    if constants:
        raise NotLocalError("a constant array is among its arguments; use a layer or plain numbers")
    if any(len(shape) != 4 for shape in call.shapes):
        raise NotLocalError(f"its inputs are not all maps, but of the shapes {list(call.shapes)}")
    return Step(lambda: type(operation).from_config(operation.get_config()))


def check_activation(layer: Any) -> None:
    """Refuse an activation that is not one of Keras's own."""
    activation = getattr(layer, "activation", None)
    module = getattr(activation, "__module__", "")
    if activation is not None and not module.startswith("keras.src.activations"):
        raise NotLocalError("its activation is a function that cannot be looked into")


FOLDABLE = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
RULES = {
    **dict.fromkeys(FOLDABLE, _convolution),
    **dict.fromkeys((layers.MaxPooling2D, layers.AveragePooling2D), _pooling),
    layers.ZeroPadding2D: _zero_padding,
    layers.Cropping2D: _cropping,
    **dict.fromkeys(
        (
            layers.Dropout,
            layers.SpatialDropout2D,
            layers.GaussianDropout,
            layers.GaussianNoise,
            layers.ActivityRegularization,
            layers.Identity,
        ),
        _nothing,
    ),
    **dict.fromkeys(
        (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dense, layers.Rescaling),
        _pointwise,
    ),
    **dict.fromkeys(
        (
            layers.Concatenate,
            layers.LayerNormalization,
            layers.RMSNormalization,
            layers.UnitNormalization,
            layers.Softmax,
        ),
        _over_channels,
    ),
    **dict.fromkeys(
        (
            layers.Add,
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
        ),
        _pointwise,
    ),
    layers.PReLU: _prelu,
    layers.BatchNormalization: _batch_normalization,
    layers.Normalization: _normalization,
    PerChannel: _pointwise,
    Reorder: _pointwise,
}

# Operations of `keras.ops` and of Python's operators.
_BINARY = ("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum")
_UNARY = ("Negative", "Absolute", "Square", "Sqrt", "Exp", "Power", "Clip")
_ACTIVATIONS = (
    "Tanh",
    "Sigmoid",
    "HardSigmoid",
    "Relu",
    "Relu6",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Silu",
    "HardSilu",
)
ELEMENTWISE = frozenset((*_BINARY, *_UNARY, *_ACTIVATIONS, "Gelu", "Softplus", "Softsign", "LogSigmoid"))

_GLOBAL = "it pools over the whole image"
_ATTENTION = "attention looks at all positions"
_RESIZE = "it resizes the map, so that units no longer see windows at one distance"
_REARRANGE = "it rearranges positions"
REASONS = {
    **dict.fromkeys(("GlobalAveragePooling2D", "GlobalMaxPooling2D"), _GLOBAL),
    **dict.fromkeys(("Flatten", "Reshape", "Permute", "RepeatVector"), _REARRANGE),
    **dict.fromkeys(("Attention", "AdditiveAttention", "MultiHeadAttention"), _ATTENTION),
    **dict.fromkeys(("UpSampling2D", "Resizing", "Conv2DTranspose"), _RESIZE),
    "GroupNormalization": "it normalizes over positions",
    "Lambda": "it is a function that cannot be looked into",
}
