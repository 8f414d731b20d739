"""PatchNet: the global model G, as in the paper's section 2 (arXiv 1705.08078).

image -> 0..1 -> preprocessing -> patches -> standardize -> S on each -> mean of the decisions
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from .layers import (
    PACKAGE,
    ExtractPatches,
    PadSame,
    PatchDistributed,
    PatchGrid,
    ZeroToOne,
    check_image_shape,
    standardize,
)
from .subnet import PatchSubnet, every_patch


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchNet(keras.Model):
    """G: the average of S's decisions over the patches of an image.

    It is a functional Keras model: train it with "binary_crossentropy".

    Args:
        input_shape: (H, W, C); H and W may be None.
        patch_size: p of S, in pixels.
        stride: distance of neighbouring patches in pixels; None means `patch_size`. With
            padding="valid" a stride below `patch_size` costs little: all patches share their work.
        crop: (height, width) of the central region to take patches from, as the paper does for
            zero-padded nuclei; the heatmap still covers the whole image. None means all of it.
        filters: maps of each of S's convolutions.
        depth: number of S's convolutions.
        padding: of S's convolutions, "same" (the paper's) or "valid".
        preprocessing: layers that take and return (B, H, W, C) images in 0..1, applied in this order.
        mean: mean of 0..1 pixels, one number or one for each channel.
        std: their standard deviation, likewise. Patches are standardized after zero-padding, so that
            padding is black.
        dtype: of S, a policy or its name; None means Keras's global one.
        name: the model's name.

    Call arguments:
        images: (B, H, W, C) in 0..255.

    Returns:
        The probability of class 1 (B, 1), float32.

    Attributes:
        subnet: S, a `PatchSubnet`.
        patch_size, stride, crop, mean, std: as above.
        preprocessing: the layers, a tuple.

    Raises:
        ValueError: `input_shape` is smaller than a patch or the crop, or an argument is out of its range
            (see `PatchSubnet` for those of S). The model raises it for images with another number of
            channels. It does not look at the pixels: NaN stay unnoticed, and where H and W are None, an
            image smaller than a patch is padded with black (`patchnet_tf.data.check_images` finds both).

    Example:
        >>> model = PatchNet((128, 128, 3), patch_size=17)
        >>> model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        patch_size: int,
        *,
        stride: int | None = None,
        crop: tuple[int, int] | None = None,
        filters: int = 64,
        depth: int = 7,
        padding: str = "same",
        preprocessing: Iterable[keras.layers.Layer] = (),
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.25,
        dtype: Any = None,
        name: str = "patchnet",
        **kwargs: Any,
    ) -> None:
        shape = check_image_shape(input_shape, patch_size, crop)
        subnet = PatchSubnet(patch_size, shape[2], filters=filters, depth=depth, padding=padding, dtype=dtype)
        parts = Parts(subnet, stride, crop, preprocessing, mean, std)
        # float32 also under a mixed-precision policy: an average must not lose what Q has kept.
        pool = keras.layers.GlobalAveragePooling1D(dtype="float32", name="probability")
        image = keras.Input(shape, name="image")
        super().__init__(image, pool(parts.decisions(image)), name=name, **kwargs)
        self.subnet = subnet
        self.dtype_policy = subnet.dtype_policy
        self.patch_size, self.stride, self.crop = subnet.patch_size, parts.grid.stride, parts.grid.crop
        self.preprocessing, self.mean, self.std = parts.preprocessing, mean, std
        self.image_shape = shape
        self._parts = parts

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.image_shape[2]

    @property
    def smallest_image(self) -> tuple[int, int]:
        """The least (height, width) of an image: the crop, or else a patch."""
        return self.crop or (self.patch_size, self.patch_size)

    @property
    def before_patches(self) -> list[keras.layers.Layer]:
        """What happens to pixels before S sees them, in order: to 0..1, preprocessing, standardization."""
        return [self._parts.zero_to_one, *self.preprocessing, self._parts.standardize]

    def prepare(self, images: Any) -> Any:
        """Return images (B, H, W, C) in 0..255 as patches are cut from them: in 0..1, preprocessed."""
        return self._parts.prepare(images)

    def standardize(self, pixels: Any) -> Any:
        """Return pixels in 0..1, of any shape (..., C), as S takes them."""
        return self._parts.standardize(pixels)

    def patches(self, images: Any) -> Any:
        """Return the patches whose decisions G averages, (B, P, p, p, C) in 0..1, of images in 0..255."""
        return self._parts.extract(self.prepare(images))

    def decisions(self, images: Any, extract: type[ExtractPatches] = ExtractPatches) -> Any:
        """Return the decisions Q that G averages, (B, P, 1), row by row of the patches.

        Args:
            images: (B, H, W, C) in 0..255, of any size.
            extract: the class that cuts the patches.
        """
        return self._parts.decisions(images, extract)

    def padded(self, images: Any) -> Any:
        """Return what S decides about at every pixel: with half a patch of black around it, standardized.

        Args:
            images: (B, H, W, C) in 0..255.

        Returns:
            (B, H + p - 1, W + p - 1, C): its patch number (i, j) is centred at pixel (i, j) of the image.
        """
        p = self.patch_size
        frame = keras.layers.ZeroPadding2D((((p - 1) // 2, p // 2),) * 2, dtype="float32", name="black_frame")
        return self.standardize(frame(self.prepare(images)))

    def heatmap(self, images: Any) -> Any:
        """Return S's decision at every pixel, (B, H, W) in [0, 1], of images (B, H, W, C) in 0..255.

        `heatmap_model` makes a model of it, with more ways to draw.
        """
        return every_patch(self.subnet)(self.padded(images))

    def with_dtype(self, dtype: Any) -> "PatchNet":
        """Return a copy whose S computes in another precision, such as "mixed_float16".

        The decisions themselves, and what comes before S, stay float32. The copy has weights of its own.
        """
        policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
        copy = PatchNet.from_config({**self.get_config(), "dtype": policy})
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "input_shape": self.image_shape,
            "patch_size": self.patch_size,
            "stride": self.stride,
            "crop": self.crop,
            "filters": self.subnet.filters,
            "depth": self.subnet.depth,
            "padding": self.subnet.padding,
            "preprocessing": [keras.saving.serialize_keras_object(layer) for layer in self.preprocessing],
            "mean": self.mean,
            "std": self.std,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PatchNet":
        """Make the model of a configuration."""
        revive = keras.saving.deserialize_keras_object
        layers = [revive(layer) for layer in config["preprocessing"]]
        return cls(**{**config, "preprocessing": layers, "dtype": revive(config["dtype"])})


class Parts:
    """G's layers, and how they follow each other."""

    def __init__(
        self,
        subnet: PatchSubnet,
        stride: int | None,
        crop: tuple[int, int] | None,
        preprocessing: Iterable[keras.layers.Layer],
        mean: float | Sequence[float],
        std: float | Sequence[float],
    ) -> None:
        p = subnet.patch_size
        self.subnet = subnet
        self.zero_to_one = ZeroToOne(dtype="float32", name="zero_to_one")
        self.preprocessing = tuple(preprocessing)
        self.grid = PatchGrid(p, stride, crop)
        self.standardize = standardize(mean, std, subnet.channels, dtype="float32")
        if subnet.shares_all and self.grid.stride < p:
            # Overlapping patches of an S without padding share all their work: one convolution stack.
            self.pad = PadSame(p, stride, crop, name="pad")
            self.at_once = every_patch(subnet, stride=self.grid.stride, name="decisions")
        else:
            self.at_once = None
            self.one_by_one = PatchDistributed(subnet, name="decisions")

    def prepare(self, images: Any) -> Any:
        """0..255 to preprocessed 0..1."""
        images = self.zero_to_one(images)
        for layer in self.preprocessing:
            images = layer(images)
        return images

    def extract(self, pixels: Any, extract: type[ExtractPatches] = ExtractPatches) -> Any:
        """Cut (B, H, W, C) into (B, P, p, p, C)."""
        grid = self.grid
        return extract(grid.patch_size, grid.stride, grid.crop, name="patches")(pixels)

    def decisions(self, images: Any, extract: type[ExtractPatches] = ExtractPatches) -> Any:
        """(B, H, W, C) in 0..255 to Q (B, P, 1)."""
        x = self.prepare(images)
        if self.at_once:
            x = self.at_once(self.standardize(self.pad(x)))  # (B, rows, columns)
            return keras.layers.Reshape((-1, 1), name="patches")(x)
        return self.one_by_one(self.standardize(self.extract(x, extract)))
