"""S: the network that decides about one patch and sees nothing else (section 2 of the paper).

A subnet is any Keras model from patches (N, p, p, C) to decisions Q (N, 1), or (N, K) about K
classes. One that can do better than
patch by patch has a method `every_patch`: it returns the layer that decides about all patches of an image.
"""

from typing import Any

import keras

from .checks import PACKAGE, check_classes, check_positive
from .dense import MEMORY, DenseMap
from .layers import FilterReadout, make_decision
from .patchwise import PatchwiseMap

METHODS = ("exact", "patchwise")


def every_patch(subnet: keras.Model, method: str = "exact", **options: Any) -> keras.layers.Layer:
    """Return the layer that decides about every patch of an image, the best way that S knows.

    Args:
        subnet: S.
        method: "exact", all work that patches share done once, where S can; or "patchwise".
        options: of the layer: `stride`, `filters`, `classes`, `name`, and `memory` of "exact", in MiB.
    """
    if method == "exact" and hasattr(subnet, "every_patch"):
        return subnet.every_patch(**options)
    options.pop("memory", None)
    return PatchwiseMap(subnet, dtype=subnet.dtype_policy, **options)


@keras.saving.register_keras_serializable(package=PACKAGE)
class PatchSubnet(keras.Model):
    """The paper's S: one patch in, one decision out.

    `depth` 3 x 3 convolutions with ReLU; for each of the `filters` maps its own linear model over all
    positions, then tanh; one linear unit; sigmoid. Convolutions start He normal. Three or more classes have a
    linear unit each and softmax, labels a linear unit each and sigmoids.

    `get_weights()` is, in this order: kernel and bias of each convolution; the readout's kernel
    (rows, columns, filters) and bias (filters,); the linear unit's kernel (filters, 1) and bias (1,), or
    (filters, K) and (K,).

    Args:
        patch_size: p, in pixels, odd or even.
        channels: C of the image.
        filters: maps of every convolution.
        depth: number of convolutions.
        padding: "same", one pixel of zeros around each convolution, as in the paper; or "valid", none:
            then p must be at least 2 * depth + 1.
        classes: how many there are, from 2 to 1000.
        multilabel: False, an image has just one of the classes; True, they are labels, of which it has any.
        dtype: of the layers, a policy or its name; None means Keras's global one.
        name: the model's name.

    Call arguments:
        patches: (N, p, p, C), standardized pixels.

    Returns:
        Q, float32 in (0, 1): (N, 1) about two exclusive classes, that of class 1; (N, classes) about more, of
        sum 1, and about labels.

    Attributes:
        classes, multilabel: as above.
        convolutions: the convolutions, first to last.
        readout: the linear models of the filter maps.
        unit: the linear unit, or one for each class, whose output is the logit of Q.

    Raises:
        ValueError: an argument is not a positive whole number, `padding` is neither of the two,
            the patch is too small for "valid", or there are too few or too many classes.

    Example:
        >>> PatchSubnet(17).output_shape
        (None, 1)
    """

    def __init__(
        self,
        patch_size: int,
        channels: int = 3,
        *,
        filters: int = 64,
        depth: int = 7,
        padding: str = "same",
        classes: int = 2,
        multilabel: bool = False,
        dtype: Any = None,
        name: str = "subnet",
        **kwargs: Any,
    ) -> None:
        p = check_positive("patch_size", patch_size)
        depth = check_positive("depth", depth)
        filters, channels = check_positive("filters", filters), check_positive("channels", channels)
        if padding not in ("same", "valid"):
            raise ValueError(f'`padding` must be "same" or "valid". Received: padding={padding!r}')
        if padding == "valid" and p < 2 * depth + 1:
            raise ValueError(
                f'With padding="valid" and depth={depth} the smallest patch is {2 * depth + 1} pixels '
                f"(2 * depth + 1). Received: patch_size={p}"
            )
        units = check_classes(classes, multilabel)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        patch = x = keras.Input((p, p, channels), name="patch")
        convolutions = [
            keras.layers.Conv2D(
                filters,
                3,
                padding=padding,
                activation="relu",
                kernel_initializer="he_normal",
                dtype=policy,
                name=f"conv{k}",
            )
            for k in range(1, depth + 1)
        ]
        for convolution in convolutions:
            x = convolution(x)
        readout = FilterReadout(dtype=policy, name="readout")
        tanh = keras.layers.Activation("tanh", dtype=policy, name="tanh")
        unit = keras.layers.Dense(units, dtype=policy, name="unit")
        decision = make_decision(units, multilabel)
        super().__init__(patch, decision(unit(tanh(readout(x)))), name=name, **kwargs)
        self.dtype_policy = policy
        self.patch_size, self.channels = p, channels
        self.filters, self.depth, self.padding = filters, depth, padding
        self.classes, self.multilabel = int(classes), bool(multilabel)
        self.convolutions, self.readout, self.tanh = convolutions, readout, tanh
        self.unit, self.decision = unit, decision

    def every_patch(self, *, memory: int | None = MEMORY, **options: Any) -> keras.layers.Layer:
        """Return the layer that decides about every patch of an image; see `DenseMap`."""
        return DenseMap(self, memory=memory, dtype=self.dtype_policy, **options)

    @property
    def shares_all(self) -> bool:
        """Whether neighbouring patches share all their work: S without padding is fully convolutional."""
        return self.padding == "valid"

    def filter_outputs(self, patches: Any) -> Any:
        """Return the tanh outputs (N, F) of the filters' linear models, of patches (N, p, p, C)."""
        for convolution in self.convolutions:
            patches = convolution(patches)
        return self.tanh(self.readout(patches))

    def finish(self, readouts: Any, *, filters: bool = False) -> Any:
        """Finish S after its linear models: (..., F) to decisions (..., units), or to tanh (..., F)."""
        outputs = self.tanh(readouts)
        return outputs if filters else self.decision(self.unit(outputs))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "patch_size": self.patch_size,
            "channels": self.channels,
            "filters": self.filters,
            "depth": self.depth,
            "padding": self.padding,
            "classes": self.classes,
            "multilabel": self.multilabel,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "PatchSubnet":
        """Make the subnet of a configuration."""
        return cls(**{**config, "dtype": keras.saving.deserialize_keras_object(config["dtype"])})
