"""Heatmaps: S's decision at every pixel, and the model that draws them.

The heatmap's pixel (i, j) is Q of the p x p patch that starts (p - 1) // 2 pixels above and left of
it, zeros outside the image (section 3 of the paper): 1, white, speaks for class 1; 0, black, for
class 0; 0.5 is undecided. Values are never rescaled, so maps of different images compare.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from .dense import MEMORY, DenseMap, SubnetMap, one_by_one
from .layers import PACKAGE, ExtractPatches, PatchDistributed, check_positive

KINDS = ("centered", "averaged", "filters")
METHODS = ("exact", "patchwise")

# Bytes of one feature map of a chunk of patches: large enough to keep every core in its matrix
# kernels, small enough to stay near the caches.
CHUNK_BYTES = 10 * 2**20

STRIP_ROWS = 128


def heatmap_model(
    model: keras.Model,
    *,
    kind: str = "centered",
    method: str = "exact",
    stride: int = 1,
    memory: int = MEMORY,
) -> keras.Model:
    """Turn a PatchNet into the model that draws its heatmap. The weights are shared, not copied.

    Args:
        model: what `PatchNet` or `load_model` returned.
        kind: "centered", Q of the patch centred at the pixel; "averaged", the mean Q of all patches,
            one centred at each pixel, that cover the pixel (the paper's alternative); "filters", the
            tanh output of each of S's linear filter models at the pixel.
        method: "exact", all work that patches share done once; or "patchwise", S run on each patch by
            itself, the plain definition: the same numbers within rounding, many times slower.
        stride: draw every `stride`-th pixel, from the first on, for a preview.
        memory: for the features of "exact", in MiB. Images that need more are walked in tiles; smaller
            ones take what they need.

    Returns:
        A functional Keras model, (B, H, W, C) in 0..255, H and W free, to
        (B, ceil(H / stride), ceil(W / stride)) in [0, 1]; for "filters" with a last axis of F values in
        [-1, 1].

    Raises:
        ValueError: an argument is not one of those above, or the model is not a PatchNet. The returned
            model raises it for images with another number of channels.

    Example:
        >>> maps = heatmap_model(PatchNet((64, 64, 1), patch_size=11))
        >>> maps.predict(numpy.zeros((1, 64, 64, 1))).shape
        (1, 64, 64)
    """
    for name, value, allowed in (("kind", kind, KINDS), ("method", method, METHODS)):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {', '.join(allowed)}. Received: {name}={value!r}")
    stride = check_positive("stride", stride)
    before, standardize, subnet = anatomy(model)
    p = subnet.input_shape[1]

    image = x = keras.Input((None, None, model.input_shape[-1]), name="image")
    for layer in before:
        x = layer(x)
    x = keras.layers.ZeroPadding2D((((p - 1) // 2, p // 2),) * 2, name="black_frame")(x)
    x = standardize(x)
    options = {
        "dtype": subnet.get_layer("conv1").dtype_policy
    }  # also where the model was saved under another
    if method == "exact":
        every_patch = functools.partial(DenseMap, subnet, memory=memory, **options)
    else:
        every_patch = functools.partial(PatchwiseMap, subnet, **options)
    if kind == "averaged":
        x = every_patch(name="decisions")(x)
        x = CoverMean(p, stride, name="heatmap")(x)
    else:
        x = every_patch(filters=kind == "filters", stride=stride, name="heatmap")(x)
    return keras.Model(image, x, name=f"{model.name}_heatmap")


class Drawing:
    """Draws one image's heatmap after another, strip by strip, and tells how far it is.

    Args:
        maps: what `heatmap_model` returned, for kind "centered" or "filters" and stride 1.

    Raises:
        ValueError: it is for another kind or stride.

    Example:
        >>> drawing = Drawing(heatmap_model(model))
        >>> heatmap = drawing(image, progress=print)  # (H, W), for an image (H, W, C) in 0..255
    """

    def __init__(self, maps: keras.Model) -> None:
        every_patch = maps.layers[-1]
        if not isinstance(every_patch, SubnetMap) or every_patch.stride != 1:
            raise ValueError(
                'Only maps of kind "centered" or "filters" and stride 1 are drawn in strips. '
                f"Received: maps={maps.name!r} that ends with {every_patch}"
            )
        self.frame = keras.Model(maps.input, every_patch.input)
        padded = keras.Input((None, None, maps.input_shape[-1]))
        self.strip = keras.Model(padded, every_patch(padded))
        self.border = every_patch.patch_size - 1

    def __call__(
        self, image: np.ndarray, progress: Callable[[float], None] = lambda share: None
    ) -> np.ndarray:
        """Return what `maps.predict` returns for this image; call `progress` with the share done."""
        pixels = self.frame.predict(image[None], verbose=0)  # (1, H + p - 1, W + p - 1, C)
        height = image.shape[0]
        strips = []
        for top in range(0, height, STRIP_ROWS):
            bottom = min(top + STRIP_ROWS, height)
            strips.append(self.strip.predict(pixels[:, top : bottom + self.border], verbose=0)[0])
            progress(bottom / height)
        return np.concatenate(strips)


def anatomy(model: keras.Model) -> tuple[list[keras.layers.Layer], keras.layers.Layer, keras.Model]:
    """Take a PatchNet apart.

    Returns:
        The layers before the patches are cut, the layer that standardizes them, and S.

    Raises:
        ValueError: the model is not a PatchNet.
    """
    layers = getattr(model, "layers", [])
    cut = [i for i, layer in enumerate(layers) if isinstance(layer, ExtractPatches)]
    match layers[cut[0] :] if cut else []:  # CoverPad is an ExtractPatches too
        case [_, standardize, PatchDistributed(layer=subnet) | DenseMap(layer=subnet), *_]:
            return layers[1 : cut[0]], standardize, subnet  # without the input layer
    raise ValueError(
        "Only a model made by `PatchNet` has a heatmap of decisions. "
        f"Received: {getattr(model, 'name', model)!r} with layers {[layer.name for layer in layers]}"
    )


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchwiseMap(SubnetMap):
    """S on every patch, one by one: the definition that `DenseMap` must equal.

    The patches are cut and decided a chunk at a time, so memory does not grow with the image.
    Arguments and results are those of `SubnetMap`.
    """

    def call(self, images: Any) -> Any:
        """Decide every patch of (B, H, W, C)."""
        p, stride = self.patch_size, self.stride
        batch, height, width = ops.shape(images)[:3]
        rows, columns = ((size - p) // stride + 1 for size in (height, width))
        count = batch * rows * columns
        chunk = max(1, CHUNK_BYTES // (p * p * self.features * 4))

        # Patch n is number n % (rows * columns) of image n // (rows * columns), row by row.
        pixels = ops.reshape(images, (-1, images.shape[3]))
        steps = np.arange(p, dtype="int32")
        within = steps[:, None] * width + steps[None, :]  # (p, p)

        def decide_chunk(number: Any) -> Any:
            n = ops.minimum(
                number * chunk + ops.arange(chunk), count - 1
            )  # the last chunk repeats the last patch
            top, left = n // columns % rows * stride, n % columns * stride
            corner = (n // (rows * columns) * height + top) * width + left
            x = ops.take(pixels, corner[:, None, None] + within, axis=0)  # (chunk, p, p, C)
            for layer in self.before_readout():
                x = layer(x)
            return self.finish(x)

        last = self.last_axes
        chunks = (count + chunk - 1) // chunk
        decided = one_by_one(decide_chunk, chunks, (chunk, *last), self.result_dtype)  # (chunks, chunk, ...)
        decided = ops.reshape(decided, (-1, *last))[:count]
        return ops.reshape(decided, (-1, rows, columns, *last))


@keras.saving.register_keras_serializable(package=PACKAGE)
class CoverMean(keras.layers.Layer):
    """At each pixel, the mean decision of the patches that cover it (section 3, the alternative map).

    Patches are those of the "centered" map, one for each pixel of the image; near the border fewer of
    them cover a pixel, and the mean is over those.

    Args:
        patch_size: p.
        stride: return every `stride`-th pixel.

    Call arguments:
        maps: (B, H, W) decisions in [0, 1].

    Returns:
        (B, ceil(H / stride), ceil(W / stride)) in [0, 1].
    """

    def __init__(self, patch_size: int, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patch_size = check_positive("patch_size", patch_size)
        self.stride = check_positive("stride", stride)

    def call(self, maps: Any) -> Any:
        """Average (B, H, W) over p x p neighbours."""
        # The patch centred at row a covers rows a - (p - 1) // 2 to a + p // 2, so row i is covered by
        # the patches centred at i - p // 2 to i + (p - 1) // 2.
        p = self.patch_size
        pad = [[0, 0], [p // 2, (p - 1) // 2], [p // 2, (p - 1) // 2], [0, 0]]

        def box_mean(x: Any) -> Any:  # zeros outside the image count
            x = ops.average_pool(ops.pad(x, pad), (p, 1), 1, "valid")
            return ops.average_pool(x, (1, p), 1, "valid")

        maps = maps[..., None]
        mean = box_mean(maps) / box_mean(ops.ones_like(maps))
        return mean[:, :: self.stride, :: self.stride, 0]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W) to (B, ceil(H / stride), ceil(W / stride))."""
        sizes = [None if size is None else -(-size // self.stride) for size in input_shape[1:3]]
        return (input_shape[0], *sizes)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "patch_size": self.patch_size, "stride": self.stride}
