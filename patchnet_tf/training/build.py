"""The model of a configuration, standardized by the images that it is trained on."""

from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np

from ..config import Config
from ..contract import Pixels
from ..data import Dataset
from ..data.store import checked
from ..errors import InputError
from ..model.preprocessing import GammaCorrection, ShadesOfGray, ZeroToOne
from .kinds import kind_of

LEVEL = {"uint8": 1 / 255, "uint16": 1 / 65535, "float32": 1 / 65535}  # the distance of two greys in 0..1
LAYERS = {"gamma": GammaCorrection, "shades_of_gray": ShadesOfGray}  # by their kind in a configuration


def build(config: Config, data: Dataset, *, measured: bool = True) -> keras.Model:
    """Make the model of a configuration, standardized by the pixels that it is trained on.

    Args:
        config: its `model` says which.
        data: what it will be trained on.
        measured: False leaves mean and standard deviation of the pixels at their defaults, which takes no
            time: to find out whether the model can be made.

    Raises:
        InputError: an image is smaller than the model needs, or the model's arguments do not fit together.
    """
    kind = kind_of(config)
    smallest = kind.smallest_image(config.model)
    for split, examples in (("train", data.train), ("val", data.val), ("masked", data.masked)):
        if examples:
            checked(examples.images, pixels=data.pixels, smallest=smallest, what=f"{split} images")
    arguments = config.model.model_dump(exclude={"kind"})
    arguments |= {"classes": len(data.classes.names), "multilabel": not data.classes.exclusive}
    arguments["pixels"] = data.pixels
    arguments["preprocessing"] = preprocessing = [
        LAYERS[step.kind](**step.model_dump(exclude={"kind"}), name=f"preprocessing_{k}")
        for k, step in enumerate(config.model.preprocessing, 1)
    ]
    height, width, channels = data.train.images.shape[1:]
    shape = (height, width, channels) if kind.fixed_size(config.model) else (None, None, channels)
    try:
        if measured:
            pixels = model_pixels(data.train.images, preprocessing, config.model.crop, data.pixels)
            arguments["mean"], arguments["std"] = mean_and_std(pixels, LEVEL[data.pixels.dtype])
        return kind.network(shape, **arguments)
    except ValueError as error:
        raise InputError(f"model: {error}") from None


def model_pixels(
    images: np.ndarray,
    preprocessing: Sequence[keras.layers.Layer] = (),
    crop: tuple[int, int] | None = None,
    pixels: Pixels | None = None,
) -> Iterator[np.ndarray]:
    """Yield the preprocessed pixels of the crop, one image after another: (h, w, C) in 0..1, float64.

    Args:
        images: (N, H, W, C), as `pixels` says.
        preprocessing: layers that take and return (B, H, W, C) images in 0..1.
        crop: (height, width) of the central region; None means all of it.
        pixels: what the images hold; None means uint8, 0..255.
    """
    scale = ZeroToOne.of(pixels or Pixels(channels=images.shape[3]), dtype="float64")
    height, width = crop or images.shape[1:3]
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    for image in images:
        x = image[None]
        for layer in (scale, *preprocessing):
            x = keras.ops.convert_to_numpy(layer(x)).astype("float64")
        yield x[0, top : top + height, left : left + width]


def mean_and_std(
    images: Iterable[np.ndarray], level: float = LEVEL["uint8"]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation, at least `level`, per channel of images (H, W, C) in 0..1."""
    count, total, squares = 0, 0.0, 0.0
    for image in images:
        count += image[..., 0].size
        total += image.sum(axis=(0, 1))
        squares += np.square(image).sum(axis=(0, 1))
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # Images of one colour have no deviation to divide by: one grey level stands for it.
    return mean.tolist(), np.maximum(std, level).tolist()
