"""A pretrained network in full: what a PatchNet around the same network, made local, is fairly compared with.

It is padded as it was trained, sees all of an image, and one linear unit, or one for each class, stands
in place of its own classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from ..contract import Pixels
from ..errors import InputError
from ..model.checks import check_number
from ..model.named import open_network
from ..model.preprocessing import standardize
from ..model.unpadded import PerChannel, normalization, per_channel
from .vgg import decision, region

# Side of what the network sees. Five strides of 2 make one unit of 32; some of Keras's networks need more.
SMALLEST = 32
LARGER = {"inceptionv3": 75, "inceptionresnetv2": 75, "xception": 71}


def pretrained_full(
    input_shape: Sequence[int | None],
    *,
    network: str = "efficientnet_lite0",
    weights: str | Path | None = "imagenet",
    dropout: float = 0.0,
    fine_tune: bool = False,
    crop: tuple[int, int] | None = None,
    pixels: Pixels | Mapping[str, Any] | None = None,
    preprocessing: Iterable[keras.layers.Layer] = (),
    classes: int = 2,
    multilabel: bool = False,
    name: str = "pretrained",
) -> keras.Model:
    """A pretrained ConvNet to its last maps, global average pooling and linear units, as CAM needs it.

    Args:
        input_shape: (H, W, C), C is 1 or 3; grey images become three equal channels. H and W may be None.
        network: "efficientnet_lite0", or one of `keras.applications`.
        weights: "imagenet", the path of a file, or None (random); see `local_network`.
        dropout: share of the averaged features that training leaves out.
        fine_tune: whether training changes the network too, not the units alone. Batch normalization stays
            as it is, in inference mode.
        crop, pixels, preprocessing, classes, multilabel, name: as for `vgg19_cam`.

    Returns:
        A functional Keras model, (B, H, W, C) to probabilities, as `vgg19_cam`. `load_model` reads it
        from a `.keras` file.

    Raises:
        InputError: there is no such network, or its weights are missing, damaged or do not fit.
        ValueError: an argument is not as above.

    Example:
        >>> model = pretrained_full((224, 224, 3))
        >>> cam(model, photographs).shape, grad_cam(model, photographs).shape
        ((2, 224, 224), (2, 224, 224))
    """
    if check_number("dropout", dropout, 0) >= 1:
        raise ValueError(f"`dropout` must be below 1. Received: dropout={dropout}")
    if tuple(input_shape)[-1] not in (1, 3):
        raise ValueError(
            f"A pretrained network takes 1 or 3 channels. Received: input_shape={tuple(input_shape)}"
        )
    model, wanted, _ = open_network(network, weights)
    body = inference_mode(to_last_maps(model))
    body.trainable = fine_tune
    image, x = region(input_shape, smallest_of(network), pixels, preprocessing, crop)
    if x.shape[-1] == 1:
        x = keras.layers.Concatenate(name="grey_to_colour")([x] * 3)
    x = body(standardize(*wanted, 3)(x))  # (B, h, w, K)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(image, decision(x, classes, multilabel), name=name)


def smallest_of(network: str) -> int:
    """Return the least side, in pixels, of what a network can see."""
    return LARGER.get(network.replace("_", "").replace("-", "").lower(), SMALLEST)


def split_pretrained(model: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """Split a network in full into what never changes in training and what learns, with the same weights.

    Returns:
        The model from images (B, H, W, C) to averaged features (B, K), and the model from those to
        the probabilities (B, 1) or (B, classes); None where the network is trained too.

    Example:
        >>> network, rest = split_pretrained(pretrained_full((None, None, 3)))
        >>> rest(network(images))  # equals model(images)
    """
    average = model.get_layer("average")
    network = keras.Model(model.input, average.output, name="network")
    if network.trainable_weights:
        return None
    features = x = keras.Input(average.output.shape[1:], name="features")
    for layer in model.layers[model.layers.index(average) + 1 :]:
        x = layer(x)
    return network, keras.Model(features, x, name="rest")


def to_last_maps(network: keras.Model) -> keras.Model:
    """Return a network without its head: (B, H, W, 3) to the last maps (B, h, w, K)."""
    if len(network.output.shape) == 4:
        return network
    last = network.layers[-1]
    if isinstance(last, keras.Model):  # behind a change of channels
        x = network.input
        for layer in network.layers[1:-1]:
            x = layer(x)
        return keras.Model(network.input, to_last_maps(last)(x), name=network.name)
    for kind in (keras.layers.GlobalAveragePooling2D, keras.layers.Flatten):
        if ends := [layer for layer in network.layers if isinstance(layer, kind)]:
            return keras.Model(network.input, ends[-1].input, name=network.name)
    raise InputError(f"A network in full ends with maps and a head. Received: {network.name!r} without maps")


def inference_mode(network: keras.Model) -> keras.Model:
    """Return a copy for images of any size, with its weights and with constant batch normalization."""
    copies = []

    def copy(layer: Any) -> Any:  # which may be an operation too, such as a sum
        if isinstance(layer, keras.layers.BatchNormalization):
            return per_channel(layer.name, *normalization(layer))
        copied = type(layer).from_config(layer.get_config())
        copies.append((layer, copied))
        return copied

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        return layer(*inputs) if isinstance(layer, PerChannel) else layer(*inputs, **options)

    image = keras.Input((None, None, 3), name="pixels")
    body = keras.models.clone_model(network, image, clone_function=copy, call_function=call, recursive=True)
    for layer, copied in copies:
        if getattr(layer, "weights", None):
            copied.set_weights(layer.get_weights())
    return body
