"""What is unlike training: how far a patch's features are from those of training's patches.

A network decides about any patch, also about one that is unlike all that it has learned from; what it says
of that is arbitrary. The distance is Mahalanobis's, of the features as the head sees them: in standard
deviations of training's patches, correlations taken into account. Patches beyond a limit are unfamiliar.

features (F,) -> minus the mean -> whitened -> length -> at most the limit?
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from .checks import PACKAGE
from .phases import PhaseMap

IMAGES = 8  # of which features are computed at once
MOST = 100_000  # patches to measure; more change nothing and take memory


@keras.saving.register_keras_serializable(package=PACKAGE)
class Familiarity(keras.layers.Layer):
    """The distance of features from training's. Until `fit_familiarity` has measured those, all is familiar.

    Call arguments:
        features: (..., F), as `LocalNetwork.normalized` returns them.

    Returns:
        (...) distances, float32, at least 0.

    Attributes:
        mean: (F,) of training's features.
        whitening: (F, F), which makes their covariance the identity.
        limit: (), the largest distance of a familiar patch; infinity at first.

    Example:
        >>> Familiarity()(keras.ops.ones((1, 4)))  # nothing measured yet: mean 0, deviation 1
        array([2.], dtype=float32)
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"name": "familiarity", "dtype": "float32", "trainable": False, **kwargs})

    def build(self, input_shape: tuple) -> None:
        """Make the weights for features (..., F)."""
        width = input_shape[-1]
        add = self.add_weight
        self.mean = add(name="mean", shape=(width,), initializer="zeros", trainable=False)
        self.whitening = add(name="whitening", shape=(width, width), initializer="identity", trainable=False)
        endless = keras.initializers.Constant(np.inf)
        self.limit = add(name="limit", shape=(), initializer=endless, trainable=False)

    def call(self, features: Any) -> Any:
        """(..., F) to (...)."""
        white = ops.matmul(features - self.mean, self.whitening)
        return ops.sqrt(ops.sum(ops.square(white), axis=-1))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(..., F) to (...)."""
        return tuple(input_shape[:-1])


@keras.saving.register_keras_serializable(package=PACKAGE)
class FamiliarMap(PhaseMap):
    """Whether each `stride`-th patch of an image is like those of training, exactly as patch by patch.

    Args:
        layer: a local network, as for `PhaseMap`.
        familiarity: what training's patches are like; the weights are shared.
        stride, memory: as for `PhaseMap`.

    Call arguments:
        images: (B, H, W, C), padded and standardized.

    Returns:
        (B, (H - p) // stride + 1, (W - p) // stride + 1), bool: False where a patch is unlike training.
    """

    def __init__(self, layer: keras.Model, familiarity: Familiarity, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.familiarity = familiarity
        self.units = 1  # a number for each patch, whatever S decides about

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Measure every patch of (B, H, W, C)."""
        return super().call(images, training) <= self.familiarity.limit

    def finish(self, features: Any, training: bool | None = None) -> Any:
        """Measure features (..., F)."""
        return self.familiarity(self.layer.normalized(features))

    def compute_output_spec(self, images: Any, training: bool | None = None) -> keras.KerasTensor:
        """(B, H, W, C) to (B, rows, columns), bool."""
        return keras.KerasTensor(self.compute_output_shape(images.shape), "bool")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "familiarity": keras.saving.serialize_keras_object(self.familiarity),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "FamiliarMap":
        """Make the layer of a configuration."""
        revived = {
            key: keras.saving.deserialize_keras_object(config[key]) for key in ("layer", "familiarity")
        }
        return cls(**{**config, **revived})


def make_familiarity(subnet: keras.Model) -> Familiarity:
    """Return the layer for the features of S; raise ValueError where that is no local network."""
    if not hasattr(subnet, "normalized"):
        raise ValueError(
            "`familiarity` needs an S that `local_network` returned, whose features have a meaning before "
            f"training. Received: familiarity=True, {subnet.name!r}, {type(subnet).__name__}"
        )
    familiarity = Familiarity()
    familiarity.build((None, subnet.body.output_shape[-1]))
    return familiarity


def fit_familiarity(
    model: keras.Model, images: np.ndarray, held_out: np.ndarray | None = None, *, share: float = 0.01
) -> None:
    """Measure what training's patches are like, and set the limit beyond which a patch is unlike them.

    Patches are those of the network's own grid in the region that G looks at, at most 100,000 of them, as
    many of each image, the same ones every time. Their covariance is shrunk as Ledoit and Wolf do, so that it
    can be inverted.

    Args:
        model: a PatchNet with `familiarity=True`; its `familiarity` is set.
        images: (N, H, W, C), those of training.
        held_out: (M, H, W, C) likewise, others from which the limit is taken; None takes `images`, whose
            patches are nearer than they should be.
        share: of those patches that are beyond the limit, false alarms; above 0 and below 1.

    Raises:
        ValueError: the model keeps no familiarity, or an argument is not as above.

    Example:
        >>> fit_familiarity(model, dataset.train.images, dataset.val.images)
        >>> familiar = heatmap_model(model, kind="familiar").predict(images)  # (B, H, W), bool
    """
    from sklearn.covariance import LedoitWolf  # slow to import, and needed only here

    if getattr(model, "familiarity", None) is None:
        raise ValueError(
            "Only a PatchNet with `familiarity=True` keeps what training is like. "
            f"Received: {getattr(model, 'name', model)!r}"
        )
    if not 0 < share < 1:
        raise ValueError(f"`share` must be above 0 and below 1. Received: share={share!r}")
    layer = model.familiarity
    features = np.concatenate(list(sampled(model, images)))  # (n, F)
    fitted = LedoitWolf().fit(features.astype("float64"))
    variances, axes = np.linalg.eigh(fitted.covariance_)
    variances = np.maximum(variances, 1e-6)  # of features around 1; flat images would have none
    layer.mean.assign(fitted.location_)
    layer.whitening.assign(axes / np.sqrt(variances))  # (F, F), a column for each axis
    others = [features] if held_out is None else sampled(model, held_out)
    distances = [ops.convert_to_numpy(layer(x)) for x in others]
    layer.limit.assign(np.quantile(np.concatenate(distances), 1 - share))


def sampled(model: keras.Model, images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield features (n, F) of patches of a few images each, as many of one image as of another."""
    image = keras.Input(model.image_shape)
    S = model.subnet
    network = keras.Model(image, S.normalized(S.body(model.covered(image))))  # to (B, h, w, F)
    most = max(1, MOST // len(images))
    rng = np.random.default_rng(0)
    for start in range(0, len(images), IMAGES):
        x = network.predict_on_batch(images[start : start + IMAGES])
        x = x.reshape(len(x), -1, x.shape[-1])  # (b, h * w, F)
        for patches in x:
            yield patches if len(patches) <= most else rng.choice(patches, most, replace=False)
