"""Pretrained networks by name: EfficientNet-Lite0 of this package, and those of `keras.applications`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from ..errors import InputError, one_line
from .lite import BLOCK_ENDS, EfficientNetLite0, load_lite_weights
from .unpadded import Reorder

# Of images that networks were trained on, where it changes how their branches meet.
SIZES = {"Xception": 299, "NASNetMobile": 224, "NASNetLarge": 331}


class Pixels(NamedTuple):
    """How a network wants its pixels: (x - mean) / std of pixels x in 0..1, a number for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_network(name: str, weights: str | Path | None) -> tuple[keras.Model, Pixels, tuple[str, ...] | None]:
    """Return a network by name: the model, the pixels it wants, and the layers that end its blocks, if known.

    Args:
        name: "efficientnet_lite0" or one of `keras.applications`; "_" and the case of letters do not count.
        weights: "imagenet", the path of a file, or None.

    Raises:
        InputError: there is no such network, or no such weights, or they do not fit.
    """
    key = name.replace("_", "").replace("-", "").lower()
    if key == "efficientnetlite0":
        model = EfficientNetLite0()
        if weights is not None:
            load_lite_weights(model, None if weights == "imagenet" else weights)
        return model, Pixels((127 / 255,) * 3, (128 / 255,) * 3), BLOCK_ENDS
    makers = {
        maker.lower(): getattr(keras.applications, maker)
        for maker in dir(keras.applications)
        if inspect.isfunction(getattr(keras.applications, maker))
    }
    if key not in makers:
        raise InputError(
            f'A network is "efficientnet_lite0" or one of keras.applications ({", ".join(makers)}). '
            f"Received: {name!r}"
        )
    return *_application(makers[key], name, weights), None


def _application(maker: Callable, name: str, weights: str | Path | None) -> tuple[keras.Model, Pixels]:
    """Return a network of `keras.applications`, and the pixels it wants."""
    if weights not in (None, "imagenet") and not Path(weights).is_file():
        raise InputError(f"There is no file of weights for {name}. Received: weights={str(weights)!r}")
    model = _load(maker, name, weights)
    matrix, offset = _preprocessing(maker)
    if (np.diag(matrix) == 0).any():  # blue comes first
        image = keras.Input(model.input_shape[1:], name="image")
        model = keras.Model(image, model(Reorder([2, 1, 0], name="channels")(image)), name=model.name)
        matrix, offset = matrix[::-1], offset[::-1]
    gain = np.diag(matrix)
    return model, Pixels(tuple((-offset / gain).tolist()), tuple((1 / gain).tolist()))


def _load(maker: Callable, name: str, weights: str | Path | None) -> keras.Model:
    """Make a network of `keras.applications` with its weights: Keras's own loading."""
    # A file may hold the head too, which Keras wants to know beforehand.
    for include_top in (False, True):
        try:
            options = {"include_top": include_top, "weights": weights and str(weights)}
            if (size := SIZES.get(maker.__name__)) is not None:
                options["input_shape"] = (size, size, 3)
            return maker(**options)
        except Exception as error:
            # Whatever is wrong with a file or a connection: h5py, Keras and urllib raise many kinds.
            failure = error
            if weights == "imagenet":
                break
    raise InputError(
        f"The weights of {name} could not be loaded ({one_line(failure)}). Received: weights={str(weights)!r}"
    )


def _preprocessing(maker: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Return what a network's own `preprocess_input` does to pixels in 0..1: (3, 3) and (3,), y = Ax + b."""
    preprocess = inspect.getmodule(maker).preprocess_input
    offset = preprocess(np.zeros((1, 1, 3)))[0, 0]
    columns = [preprocess(255.0 * row[None, None])[0, 0] - offset for row in np.eye(3)]
    return np.stack(columns, axis=1), offset
