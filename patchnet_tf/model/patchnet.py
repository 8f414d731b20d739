"""PatchNet: the global model G, as in the paper's section 2 (arXiv 1705.08078).

image -> 0..1 -> preprocessing -> border -> patches -> standardize -> S on each -> decisions Q -> pooling
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from ..contract import Pixels
from .checks import PACKAGE, check_classes, check_image_shape, check_pixels
from .dense import MEMORY
from .familiar import FamiliarMap, make_familiarity
from .layers import PatchDistributed
from .patches import ExtractPatches, PadBorder, PadSame
from .pooling import make_pooling
from .preprocessing import ZeroToOne, standardize
from .subnet import PatchSubnet, every_patch


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchNet(keras.Model):
    """G: the decisions of S about the patches of an image, pooled.

    It is a functional Keras model: train it with "binary_crossentropy", of three or more classes with
    "categorical_crossentropy" on one-hot targets, of labels with "binary_crossentropy" on zeros and ones
    (N, classes); `patchnet_tf.model.losses` has both, and the accuracy.

    Args:
        input_shape: (H, W, C); H and W may be None.
        patch_size: p of the paper's S, in pixels. A `subnet` has one.
        subnet: another S: what `local_network` returned, or any Keras model from patches (N, p, p, C) in
            standardized pixels to decisions (N, 1), or (N, classes), in (0, 1). None makes the paper's,
            `PatchSubnet`. Grey images enter an S for three channels as three equal ones.
        stride: distance of neighbouring patches in pixels; None means that of S's own grid where it has one,
            or else `patch_size`. With padding="valid", and with a local network, a stride below `patch_size`
            costs little: all patches share their work.
        crop: (height, width) of the central region to take patches from, as the paper does for
            zero-padded nuclei; the heatmap still covers the whole image. None means all of it.
        filters: maps of each convolution of the paper's S.
        depth: number of its convolutions.
        padding: of its convolutions, "same" (the paper's) or "valid".
        pooling: "mean" (the paper's); "topk" or "lse", for evidence that covers little of an image; see
            `patchnet_tf.model.pooling`.
        classes: how many there are, from 2 to 1000; None means as many as S says, or else 2.
        multilabel: False, an image has just one of the classes; True, they are labels, of which it has any;
            None means what S says, or else False.
        sharpness: r of "lse", from 0.01 to 100.
        share: of the patches that "topk" averages, above 0 and at most 1.
        border: what patches see beyond the image: "zero" (the paper's black) or "reflect", its mirror image.
        familiarity: whether to keep what training's patches are like, so that a map can mark those that are
            unlike them; for a local network only. `patchnet_tf.fit_familiarity` measures it.
        pixels: what pixels the images have, a `patchnet_tf.contract.Pixels` or its fields, such as
            {"dtype": "uint16", "range": [0, 4095]}; `channels` may be left out. `range` becomes 0..1,
            so a border of zeros is its low end. None means uint8, 0..255.
        preprocessing: layers that take and return (B, H, W, C) images in 0..1, applied in this order.
        mean: mean of 0..1 pixels, one number or one for each channel; None means what S says that it wants,
            0.5 of the paper's.
        std: their standard deviation, likewise, 0.25 of the paper's. Patches are standardized after
            zero-padding, so that padding is black.
        dtype: of the paper's S, a policy or its name; None means Keras's global one.
        name: the model's name.

    Call arguments:
        images: (B, H, W, C), as `pixels` says: in 0..255 unless given. Any dtype does that holds the values.

    Returns:
        The probability of class 1 (B, 1), float32; of three or more classes the probabilities (B, classes) of
        each, and of labels that of each.

    Attributes:
        subnet: S.
        classes, multilabel: as above, with the values that None stands for.
        patch_size, stride, crop, border, mean, std: as above, with the values that None stands for.
        pixels: a `patchnet_tf.contract.Pixels`, with the model's channels.
        preprocessing: the layers, a tuple.
        pooling: the layer that makes the probability out of the decisions.
        familiarity: the layer that keeps what training's patches are like, or None.

    Raises:
        ValueError: `input_shape` is smaller than a patch or the crop, or an argument is out of its range, or
            `subnet` does not decide about square patches of such images
            (see `PatchSubnet` for those of S). The model raises it for images with another number of
            channels. It does not look at the pixels: NaN stay unnoticed, and where H and W are None, an
            image smaller than a patch is padded with black (`patchnet_tf.data.check_images` finds both).

    Example:
        >>> model = PatchNet((128, 128, 3), patch_size=17)
        >>> model.compile("adam", "binary_crossentropy", metrics=["accuracy"])

        >>> S = local_network("efficientnet_lite0", patch_size=35)
        >>> model = PatchNet((None, None, 3), subnet=S, border="reflect", pooling="topk")

        >>> PatchNet((128, 128, 3), patch_size=17, classes=5).output_shape
        (None, 5)
    """

    def __init__(
        self,
        input_shape: Sequence[int | None],
        patch_size: int | None = None,
        *,
        subnet: keras.Model | None = None,
        stride: int | None = None,
        crop: tuple[int, int] | None = None,
        filters: int = 64,
        depth: int = 7,
        padding: str = "same",
        classes: int | None = None,
        multilabel: bool | None = None,
        pooling: str = "mean",
        sharpness: float = 4.0,
        share: float = 0.1,
        border: str = "zero",
        familiarity: bool = False,
        pixels: Pixels | Mapping[str, Any] | None = None,
        preprocessing: Iterable[keras.layers.Layer] = (),
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        dtype: Any = None,
        name: str = "patchnet",
        **kwargs: Any,
    ) -> None:
        own = subnet is None
        if subnet is None:
            shape = check_image_shape(input_shape, patch_size, crop)
            classes, multilabel = 2 if classes is None else classes, bool(multilabel)
            subnet = PatchSubnet(
                patch_size,
                shape[2],
                filters=filters,
                depth=depth,
                padding=padding,
                classes=classes,
                multilabel=multilabel,
                dtype=dtype,
            )
        else:
            shape = check_image_shape(input_shape, check_subnet(subnet, patch_size), crop)
            classes, multilabel = check_decisions(subnet, classes, multilabel)
            if shape[2] not in (1, subnet.input_shape[3]):
                raise ValueError(
                    f"`subnet` takes images of {subnet.input_shape[3]} channels, or grey ones (data.channels "
                    f"chooses; the paper's S takes any). Received: {shape[2]} channels, "
                    f"input_shape={input_shape}"
                )
        taken = check_pixels(pixels, shape[2])
        parts = Parts(
            subnet,
            stride,
            crop,
            pixels=taken,
            border=border,
            pooling=make_pooling(pooling, sharpness, share, exclusive=classes > 2 and not multilabel),
            preprocessing=preprocessing,
            mean=mean,
            std=std,
        )
        image = keras.Input(shape, name="image")
        super().__init__(image, parts.pooling(parts.decisions(image)), name=name, **kwargs)
        self._own_subnet = own
        self.subnet = subnet
        self.dtype_policy = subnet.dtype_policy
        grid = parts.grid
        self.classes, self.multilabel = int(classes), bool(multilabel)
        self.patch_size, self.stride = grid.patch_size, grid.stride
        self.crop, self.border = grid.crop, grid.border
        self.pooling, self.preprocessing = parts.pooling, parts.preprocessing
        self.mean, self.std = parts.mean, parts.std
        self.familiarity = make_familiarity(subnet) if familiarity else None
        self.image_shape = shape
        self.pixels = taken
        self._arguments = {
            "pooling": pooling,
            "sharpness": sharpness,
            "share": share,
            "pixels": None if pixels is None else taken.model_dump(mode="json"),
        }
        self._parts = parts

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.image_shape[2]

    @property
    def binary(self) -> bool:
        """Whether there are two classes, of which an image has just one: then there is one probability."""
        return self.classes == 2 and not self.multilabel

    @property
    def smallest_image(self) -> tuple[int, int]:
        """The least (height, width) of an image: the crop, or else a patch."""
        return self.crop or (self.patch_size, self.patch_size)

    @property
    def before_patches(self) -> list[keras.layers.Layer]:
        """What happens to pixels before S sees them, in order: to 0..1, preprocessing, standardization."""
        return [self._parts.zero_to_one, *self.preprocessing, self._parts.standardize]

    def prepare(self, images: Any) -> Any:
        """Return images (B, H, W, C) as patches are cut from them: in 0..1, preprocessed."""
        return self._parts.prepare(images)

    def standardize(self, pixels: Any) -> Any:
        """Return pixels in 0..1, of any shape (..., C), as S takes them."""
        return self._parts.standardize(pixels)

    def covered(self, images: Any) -> Any:
        """Return the region whose patches G averages, with its border, standardized.

        (B, (rows - 1) * stride + p, (columns - 1) * stride + p, C).
        """
        return self._parts.covered(images)

    def patches(self, images: Any) -> Any:
        """Return the patches whose decisions G averages, (B, P, p, p, C) in 0..1."""
        return self._parts.extract(self.prepare(images))

    def decisions(
        self,
        images: Any,
        extract: type[ExtractPatches] = ExtractPatches,
        memory: int | None = MEMORY,
    ) -> Any:
        """Return the decisions Q that G averages, (B, P, 1) or (B, P, classes), row by row of the patches.

        Args:
            images: (B, H, W, C), of any size.
            extract: the class that cuts the patches.
            memory: where patches share all work, as of `heatmap_model`.
        """
        return self._parts.decisions(images, extract, memory)

    def padded(self, images: Any) -> Any:
        """Return what S decides about at every pixel: with half a patch of border around it, standardized.

        Args:
            images: (B, H, W, C).

        Returns:
            (B, H + p - 1, W + p - 1, C): its patch number (i, j) is centred at pixel (i, j) of the image.
        """
        pad = PadBorder(self.patch_size, self.border, dtype="float32", name="border")
        return self.standardize(pad(self.prepare(images)))

    def heatmap(self, images: Any) -> Any:
        """Return S's decision at every pixel, in [0, 1], of images (B, H, W, C).

        It is (B, H, W), or (B, H, W, classes) of three or more classes and of labels. `heatmap_model` makes a
        model of it, with more ways to draw.
        """
        return every_patch(self.subnet)(self.padded(images))

    def familiar_map(self, *, stride: int = 1, memory: int | None = None, **options: Any) -> FamiliarMap:
        """Return the layer that tells where an image is like training's, from what `padded` returns.

        Raises:
            ValueError: the model does not keep what training's patches are like.
        """
        if self.familiarity is None:
            raise ValueError(
                "Only a PatchNet with `familiarity=True` can tell what is unlike training. "
                f"Received: {self.name!r}, familiarity=False"
            )
        return FamiliarMap(self.subnet, self.familiarity, stride=stride, memory=memory, **options)

    def with_dtype(self, dtype: Any) -> "PatchNet":
        """Return a copy whose S computes in another precision, such as "mixed_float16".

        The decisions themselves, and what comes before S, stay float32. The copy has weights of its own.
        """
        if not self._own_subnet:
            raise ValueError(
                "Only the paper's S can be had in another precision. "
                f"Received: {self.subnet.name!r}, {dtype!r}"
            )
        policy = keras.saving.serialize_keras_object(keras.dtype_policies.get(dtype))
        copy = PatchNet.from_config({**self.get_config(), "dtype": policy})
        copy.set_weights(self.get_weights())
        return copy

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        if self._own_subnet:
            subnet = self.subnet.get_config()
            keys = ("patch_size", "filters", "depth", "padding", "dtype", "classes", "multilabel")
            own = {"subnet": None} | {key: subnet[key] for key in keys}
        else:
            own = {"subnet": serialize(self.subnet), "classes": self.classes, "multilabel": self.multilabel}
        return {
            "input_shape": self.image_shape,
            **own,
            "stride": self.stride,
            "crop": self.crop,
            "border": self.border,
            **self._arguments,
            "familiarity": self.familiarity is not None,
            "preprocessing": [serialize(layer) for layer in self.preprocessing],
            "mean": self.mean,
            "std": self.std,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PatchNet":
        """Make the model of a configuration."""
        revive = keras.saving.deserialize_keras_object
        revived = {key: revive(config[key]) for key in ("subnet", "dtype") if config.get(key) is not None}
        layers = [revive(layer) for layer in config["preprocessing"]]
        return cls(**{**config, **revived, "preprocessing": layers})


def check_subnet(subnet: keras.Model, patch_size: int | None) -> int:
    """Return p of a given S; raise ValueError where it does not decide about square patches."""
    takes, gives = getattr(subnet, "input_shape", None), getattr(subnet, "output_shape", None)
    if not (
        isinstance(takes, tuple)
        and len(takes) == 4
        and takes[1] == takes[2]
        and None not in takes[1:]
        and isinstance(gives, tuple)
        and len(gives) == 2
        and gives[1] is not None
    ):
        raise ValueError(
            "`subnet` must be a Keras model from patches (None, p, p, C) to decisions (None, 1), or "
            "(None, K) about K classes. "
            f"Received: {getattr(subnet, 'name', subnet)!r}, from {takes} to {gives}"
        )
    if patch_size not in (None, takes[1]):
        raise ValueError(
            f"`patch_size` is that of `subnet`, {takes[1]}; leave it out. Received: patch_size={patch_size}"
        )
    return takes[1]


def check_decisions(subnet: keras.Model, classes: int | None, multilabel: bool | None) -> tuple[int, bool]:
    """Return `classes` and `multilabel` of a given S; raise ValueError where they do not fit it.

    None means what S says: its own attributes, or else two exclusive classes.
    """
    own = getattr(subnet, "classes", classes or 2), getattr(subnet, "multilabel", bool(multilabel))
    wanted = own[0] if classes is None else classes, own[1] if multilabel is None else bool(multilabel)
    units = check_classes(*wanted)
    if wanted != own or subnet.output_shape != (None, units):
        raise ValueError(
            f"`subnet` must be one to decisions (None, {units}) about classes={wanted[0]}, "
            f"multilabel={wanted[1]}. Received: {subnet.name!r}, to {subnet.output_shape} about "
            f"classes={own[0]}, multilabel={own[1]}"
        )
    return wanted


class Parts:
    """G's layers, and how they follow each other."""

    def __init__(
        self,
        subnet: keras.Model,
        stride: int | None,
        crop: tuple[int, int] | None,
        *,
        pixels: Pixels,
        border: str,
        pooling: keras.layers.Layer,
        preprocessing: Iterable[keras.layers.Layer],
        mean: float | Sequence[float] | None,
        std: float | Sequence[float] | None,
    ) -> None:
        _, p, _, self.channels = subnet.input_shape
        wanted_mean, wanted_std = getattr(subnet, "pixels", (0.5, 0.25))
        self.mean, self.std = (wanted_mean if mean is None else mean), (wanted_std if std is None else std)
        self.pooling = pooling
        self.zero_to_one = ZeroToOne.of(pixels, dtype="float32")
        self.preprocessing = tuple(preprocessing)
        stride = getattr(subnet, "stride", None) if stride is None else stride
        self.grid = PadSame(p, stride, crop, border, dtype="float32", name="pad")
        self.standardize = standardize(self.mean, self.std, self.channels, dtype="float32")
        self.subnet = subnet
        if getattr(subnet, "shares_all", False) and self.grid.stride < p:
            # Overlapping patches share all their work: S runs once over the whole image.
            self.at_once = every_patch(subnet, stride=self.grid.stride, name="decisions")
        else:
            self.at_once = None
            self.one_by_one = PatchDistributed(subnet, name="decisions")

    def prepare(self, images: Any) -> Any:
        """Images to preprocessed 0..1, of as many channels as S takes."""
        images = self.zero_to_one(images)
        for layer in self.preprocessing:
            images = layer(images)
        if images.shape[-1] == 1 and self.channels > 1:
            images = keras.layers.Concatenate(dtype="float32", name="grey_to_colour")(
                [images] * self.channels
            )
        return images

    def covered(self, images: Any) -> Any:
        """Images to the region that the patches cover, standardized."""
        return self.standardize(self.grid(self.prepare(images)))

    def extract(self, pixels: Any, extract: type[ExtractPatches] = ExtractPatches) -> Any:
        """Cut (B, H, W, C) into (B, P, p, p, C)."""
        grid = self.grid
        return extract(grid.patch_size, grid.stride, grid.crop, grid.border, name="patches")(pixels)

    def decisions(
        self,
        images: Any,
        extract: type[ExtractPatches] = ExtractPatches,
        memory: int | None = MEMORY,
    ) -> Any:
        """(B, H, W, C) to Q (B, P, 1), or (B, P, K) about K classes."""
        if self.at_once:
            decide = self.at_once
            if memory != MEMORY:
                decide = every_patch(self.subnet, stride=decide.stride, memory=memory, name="decisions")
            x = decide(self.covered(images))  # (B, rows, columns) or (B, rows, columns, K)
            return keras.layers.Reshape((-1, self.at_once.units), name="patches")(x)
        return self.one_by_one(self.standardize(self.extract(self.prepare(images), extract)))
