"""Heatmaps: S's decision at every pixel, and the model that draws them.

The heatmap's pixel (i, j) is Q of the p x p patch that starts (p - 1) // 2 pixels above and left of
it, zeros outside the image (section 3 of the paper): 1, white, speaks for class 1; 0, black, for
class 0; 0.5 is undecided. Three or more classes have a map each, and sum to 1 at each pixel; labels have one
each. Values are never rescaled, so maps of different images compare.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from .checks import PACKAGE, check_positive
from .dense import MEMORY
from .patchnet import PatchNet
from .subnet import METHODS, every_patch

KINDS = ("centered", "averaged", "filters", "familiar")
STRIP_ROWS = 128


def heatmap_model(
    model: PatchNet,
    *,
    kind: str = "centered",
    method: str = "exact",
    stride: int = 1,
    classes: Sequence[int] | None = None,
    memory: int | None = MEMORY,
) -> "Heatmap":
    """Turn a PatchNet into the model that draws its heatmap. The weights are shared, not copied.

    Args:
        model: what `PatchNet` or `load_model` returned.
        kind: "centered", Q of the patch centred at the pixel; "averaged", the mean Q of all patches,
            one centred at each pixel, that cover the pixel (the paper's alternative); "filters", the
            tanh output of each of S's linear filter models at the pixel; "familiar", of a PatchNet with
            `familiarity=True`, whether the patch centred at the pixel is like those of training, bool.
        method: "exact", all work that patches share done once; or "patchwise", S run on each patch by
            itself, the plain definition: the same numbers within rounding, many times slower.
        stride: draw every `stride`-th pixel, from the first on, for a preview.
        classes: numbers of the classes to draw, where there are several, in the order wanted; None means all.
            The maps of others are never held, beyond a tile.
        memory: for the features of "exact", in MiB. Images that need more are walked in tiles; smaller
            ones take what they need. None, for a local network or an S without padding: any image at once,
            in a graph without a loop.

    Returns:
        A functional Keras model, (B, H, W, C), H and W free, to
        (B, ceil(H / stride), ceil(W / stride)) in [0, 1]; with a last axis of K classes, or of those chosen,
        where there are more than two or labels; for "filters" with a last axis of F values in [-1, 1]; for
        "familiar" without one, True or False.

    Raises:
        ValueError: an argument is not one of those above, or the model is not a PatchNet. The returned
            model raises it for images with another number of channels.

    Example:
        >>> maps = heatmap_model(PatchNet((64, 64, 1), patch_size=11))
        >>> maps.predict(numpy.zeros((1, 64, 64, 1))).shape
        (1, 64, 64)

        >>> five = PatchNet((64, 64, 1), patch_size=11, classes=5)
        >>> heatmap_model(five, classes=[3]).output_shape
        (None, None, None, 1)
    """
    return Heatmap(model, kind=kind, method=method, stride=stride, classes=classes, memory=memory)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Heatmap(keras.Model):
    """The heatmap of a PatchNet; arguments, results and errors are those of `heatmap_model`."""

    def __init__(
        self,
        model: PatchNet,
        *,
        kind: str = "centered",
        method: str = "exact",
        stride: int = 1,
        classes: Sequence[int] | None = None,
        memory: int | None = MEMORY,
        **kwargs: Any,
    ) -> None:
        for name, value, allowed in (("kind", kind, KINDS), ("method", method, METHODS)):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}. Received: {name}={value!r}")
        stride = check_positive("stride", stride)
        if not isinstance(model, PatchNet):
            raise ValueError(
                "Only a model made by `PatchNet` has a heatmap of decisions. "
                f"Received: {getattr(model, 'name', model)!r}, {type(model).__name__}"
            )
        image = keras.Input((None, None, model.channels), name="image")
        padded = model.padded(image)
        options = {"classes": classes, "memory": memory}
        if kind == "averaged":
            decide = every_patch(model.subnet, method, name="decisions", **options)
            maps = CoveringMean(model.patch_size, stride, name="heatmap")(decide(padded))
        elif kind == "familiar":
            if method != "exact" or classes is not None:
                raise ValueError(
                    'A map of kind "familiar" is "exact", and one for all classes. '
                    f"Received: method={method!r}, classes={classes!r}"
                )
            decide = model.familiar_map(stride=stride, memory=memory, name="familiar")
            maps = decide(padded)
        else:
            options |= {"filters": kind == "filters", "stride": stride}
            decide = every_patch(model.subnet, method, name="heatmap", **options)
            maps = decide(padded)
        super().__init__(image, maps, **{"name": f"{model.name}_heatmap", **kwargs})
        self.model = model
        self.kind, self.method, self.stride, self.memory = kind, method, stride, memory
        self.classes = decide.classes
        self.every_patch = decide
        self.padded = padded

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "kind": self.kind,
            "method": self.method,
            "stride": self.stride,
            "classes": self.classes,
            "memory": self.memory,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Heatmap":
        """Make the model of a configuration."""
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


class Drawing:
    """Draws one image's heatmap after another, strip by strip, and tells how far it is.

    Args:
        maps: what `heatmap_model` returned, for any kind but "averaged", and stride 1.

    Raises:
        ValueError: it is for another kind or stride.

    Example:
        >>> drawing = Drawing(heatmap_model(model))
        >>> heatmap = drawing(image, progress=print)  # (H, W) or (H, W, K), for an image (H, W, C)
    """

    def __init__(self, maps: Heatmap) -> None:
        if maps.kind == "averaged" or maps.stride != 1:
            raise ValueError(
                'Only maps of kind "centered", "filters" or "familiar" and stride 1 are drawn in strips. '
                f"Received: kind={maps.kind!r}, stride={maps.stride}"
            )
        self.frame = keras.Model(maps.input, maps.padded)
        padded = keras.Input(maps.padded.shape[1:])  # of S's channels: three, where it sees grey as colour
        self.strip = keras.Model(padded, maps.every_patch(padded))
        self.border = maps.model.patch_size - 1

    def __call__(
        self, image: np.ndarray, progress: Callable[[float], None] = lambda share: None
    ) -> np.ndarray:
        """Return what `maps.predict` returns for this image; call `progress` with the share done."""
        height, width = image.shape[:2]
        return self.part(image, (0, height), (0, width), progress)

    def part(
        self,
        image: np.ndarray,
        rows: tuple[int, int],
        columns: tuple[int, int],
        progress: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray:
        """Return the map of a part of an image, from the first to before the last of its rows and columns.

        It needs no more of the image than p pixels around the part, and what it has less than that is border.

        Example:
            >>> drawing.part(image, (64, 128), (0, 64)).shape
            (64, 64)
        """
        (first, last), (left, right) = rows, columns
        pixels = self.frame.predict(image[None], verbose=0)  # (1, H + p - 1, W + p - 1, C)
        pixels = pixels[:, :, left : right + self.border]
        strips = []
        for top in range(first, last, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, last)
            strips.append(self.strip.predict(pixels[:, top : bottom + self.border], verbose=0)[0])
            progress((bottom - first) / (last - first))
        return np.concatenate(strips)


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoveringMean(keras.layers.Layer):
    """At each pixel, the mean decision of the patches that cover it (section 3, the alternative map).

    Patches are those of the "centered" map, one for each pixel of the image; near the border fewer of
    them cover a pixel, and the mean is over those.

    Args:
        patch_size: p.
        stride: return every `stride`-th pixel.

    Call arguments:
        maps: (B, H, W) or (B, H, W, K) decisions in [0, 1].

    Returns:
        (B, ceil(H / stride), ceil(W / stride)) in [0, 1], K last where it was.
    """

    def __init__(self, patch_size: int, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size = check_positive("patch_size", patch_size)
        self.stride = check_positive("stride", stride)

    def call(self, maps: Any) -> Any:
        """Average (B, H, W) or (B, H, W, K) over p x p neighbours."""
        # The patch centred at row a covers rows a - (p - 1) // 2 to a + p // 2, so row i is covered by
        # the patches centred at i - p // 2 to i + (p - 1) // 2.
        p = self.patch_size
        pad = [[0, 0], [p // 2, (p - 1) // 2], [p // 2, (p - 1) // 2], [0, 0]]

        def box_mean(x: Any) -> Any:  # zeros outside the image count
            x = ops.average_pool(ops.pad(x, pad), (p, 1), 1, "valid")
            return ops.average_pool(x, (1, p), 1, "valid")

        each = maps if len(maps.shape) == 4 else maps[..., None]  # (B, H, W, K)
        mean = box_mean(each) / box_mean(ops.ones_like(each[..., :1]))
        mean = mean[:, :: self.stride, :: self.stride]
        return mean if len(maps.shape) == 4 else mean[..., 0]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W, ...) to (B, ceil(H / stride), ceil(W / stride), ...)."""
        sizes = [None if size is None else -(-size // self.stride) for size in input_shape[1:3]]
        return (input_shape[0], *sizes, *input_shape[3:])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "patch_size": self.patch_size, "stride": self.stride}
