"""The networks that the paper compares PatchNet with: VGG-11, and VGG-19 made ready for CAM.

Both are those of Simonyan and Zisserman (arXiv 1409.1556), configurations A and E, with one linear unit
instead of a thousand, or one for each class: 3 x 3 convolutions with ReLU in five blocks of 64, 128, 256, 512
and 512 filters. They start from scratch, He normal, and take the pixels that PatchNet takes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from ..contract import Pixels
from ..model.checks import check_classes, check_crop, check_image_shape, check_pixels
from ..model.preprocessing import ZeroToOne, standardize

FILTERS = (64, 128, 256, 512, 512)
# Side of what the convolutions see: pooling halves it to one pixel.
SMALLEST_VGG19_CAM = 8
SMALLEST_VGG11 = 32


def vgg19_cam(
    input_shape: Sequence[int | None],
    *,
    width: float = 1.0,
    crop: tuple[int, int] | None = None,
    pixels: Pixels | Mapping[str, Any] | None = None,
    preprocessing: Iterable[keras.layers.Layer] = (),
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    classes: int = 2,
    multilabel: bool = False,
    name: str = "vgg19_cam",
) -> keras.Model:
    """VGG-19 with only its first three pooling layers, global average pooling and one linear unit.

    Blocks 4 and 5 stay at 1/8 of the image's resolution, so that `cam` has more than a few pixels
    (Zhou et al. 2016 remove layers for the same reason).

    Args:
        input_shape: (H, W, C), 8 x 8 pixels or more; H and W may be None.
        width: share of the published network's channels, above 0 and at most 1: a smaller one for less
            data.
        crop: (height, width) of the central region that the network sees, 8 x 8 pixels or more; None means
            all of the image.
        pixels: what pixels the images have, as for `PatchNet`; None means uint8, 0..255.
        preprocessing: layers that take and return (B, H, W, C) images in 0..1, applied in this order.
        mean: mean of 0..1 pixels, one number or one for each channel.
        std: their standard deviation, likewise.
        classes: how many there are, from 2 to 1000.
        multilabel: False, an image has just one of the classes; True, they are labels, of which it has any.
        name: the model's name.

    Returns:
        A functional Keras model, (B, H, W, C) to the probability of class 1 (B, 1), float32; of three or
        more classes (softmax), and of labels (sigmoids), to the probability of each (B, classes).
        `load_model` reads it from a `.keras` file.

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> vgg19_cam((224, 224, 3)).get_layer("block5_conv4").output.shape
        (None, 28, 28, 512)
    """
    image, x = front(input_shape, SMALLEST_VGG19_CAM, pixels, preprocessing, mean, std, crop)
    x = blocks(x, convolutions=(2, 2, 4, 4, 4), pooled=3, width=width)
    x = keras.layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(image, decision(x, classes, multilabel), name=name)


def vgg11(
    input_shape: Sequence[int | None],
    *,
    width: float = 1.0,
    crop: tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
    pixels: Pixels | Mapping[str, Any] | None = None,
    preprocessing: Iterable[keras.layers.Layer] = (),
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.25,
    classes: int = 2,
    multilabel: bool = False,
    name: str = "vgg11",
) -> keras.Model:
    """VGG-11 with its linear layers of 4096 units and their dropout of one half.

    Args:
        input_shape: (H, W, C); H and W may be None where there is a `crop` or `resize`.
        resize: (height, width) that images, or their crops, are resized to inside the model, bilinearly and
            smoothed where they shrink; (224, 224) in the paper. So images of any size do, and a map is as
            large as its image. None leaves them as they are.
        width, crop, pixels, preprocessing, mean, std, classes, multilabel, name: as for `vgg19_cam`. What the
            first convolution sees is 32 x 32 pixels or more.

    Returns:
        A functional Keras model, (B, H, W, C) to probabilities, as `vgg19_cam`.

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> vgg11((224, 224, 3)).count_params()
        128770433
    """
    if resize is None and crop is None and None in tuple(input_shape)[:2]:
        raise ValueError(
            f"VGG-11's linear layers need a height and a width. Received: input_shape={input_shape}"
        )
    image, x = front(input_shape, SMALLEST_VGG11, pixels, preprocessing, mean, std, crop, resize)
    x = blocks(x, convolutions=(1, 1, 2, 2, 2), pooled=5, width=width)
    x = keras.layers.Flatten(name="flat")(x)
    units = share_of(4096, width)
    for k in (6, 7):
        x = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=f"linear{k}")(x)
        x = keras.layers.Dropout(0.5, name=f"dropout{k}")(x)
    return keras.Model(image, decision(x, classes, multilabel), name=name)


def front(
    input_shape: Sequence[int | None],
    smallest: int,
    pixels: Pixels | Mapping[str, Any] | None,
    preprocessing: Iterable[keras.layers.Layer],
    mean: float | Sequence[float],
    std: float | Sequence[float],
    crop: tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the images and their pixels as the convolutions get them, standardized; see `region`."""
    image, x = region(input_shape, smallest, pixels, preprocessing, crop, resize)
    return image, standardize(mean, std, x.shape[-1])(x)


def region(
    input_shape: Sequence[int | None],
    smallest: int,
    pixels: Pixels | Mapping[str, Any] | None,
    preprocessing: Iterable[keras.layers.Layer],
    crop: tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Return the images, and in 0..1 what a network sees of them; `smallest` is its least side."""
    shape = check_image_shape(input_shape, 1, None)
    crop, resize = (size if size is None else check_crop(size) for size in (crop, resize))
    if crop and any(size is not None and size < c for size, c in zip(shape[:2], crop, strict=True)):
        raise ValueError(f"`crop` must not be larger than the images, {shape[:2]}. Received: crop={crop}")
    height, width = resize or crop or shape[:2]
    if any(size is not None and size < smallest for size in (height, width)):
        raise ValueError(
            f"The network must see at least {smallest} x {smallest} pixels, which pooling halves to one. "
            f"Received: {height} x {width}"
        )
    image = x = keras.Input(shape, name="image")
    taken = check_pixels(pixels, shape[2])
    # Half precision, which Keras's global policy may ask for, holds what 8 bits have, and not 16.
    x = ZeroToOne.of(taken, dtype=None if taken.dtype == "uint8" else "float32")(x)
    for layer in preprocessing:
        x = layer(x)
    if crop:
        x = keras.layers.CenterCrop(*crop, data_format="channels_last", name="crop")(x)
    if resize:
        x = keras.layers.Resizing(*resize, antialias=True, data_format="channels_last", name="resize")(x)
    return image, x


def blocks(x: keras.KerasTensor, convolutions: Sequence[int], pooled: int, width: float) -> keras.KerasTensor:
    """Apply the five blocks of so many convolutions each, the first `pooled` of them with their pooling."""
    for b, (filters, count) in enumerate(zip(FILTERS, convolutions, strict=True), start=1):
        for k in range(1, count + 1):
            x = keras.layers.Conv2D(
                share_of(filters, width),
                3,
                padding="same",
                activation="relu",
                kernel_initializer="he_normal",
                name=f"block{b}_conv{k}",
            )(x)
        if b <= pooled:
            x = keras.layers.MaxPooling2D(2, name=f"block{b}_pool")(x)
    return x


def decision(x: keras.KerasTensor, classes: int, multilabel: bool) -> keras.KerasTensor:
    """One linear unit and sigmoid, or one unit for each class, in float32 also in mixed precision."""
    units = check_classes(classes, multilabel)
    end = "softmax" if units > 1 and not multilabel else "sigmoid"
    return keras.layers.Dense(units, activation=end, dtype="float32", name="probability")(x)


def share_of(count: int, width: float) -> int:
    """Return so much of a number of channels, at least 1."""
    if not 0 < width <= 1:
        raise ValueError(f"`width` must be above 0 and at most 1. Received: width={width!r}")
    return max(1, round(count * width))
