"""What every exported file computes: stored pixels in, probability and heatmap out."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from ..contract import FAMILIAR, HEATMAP, IMAGE, OUTPUTS, PROBABILITY
from ..model.dense import MEMORY
from ..model.heatmaps import heatmap_model
from ..model.local import LocalNetwork
from ..model.patches import ExtractPatches
from ..model.patchnet import PatchNet

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def signature(
    model: PatchNet,
    patches: type[ExtractPatches] = ExtractPatches,
    outputs: Sequence[str] = OUTPUTS,
    memory: int | None = MEMORY,
) -> Signature:
    """Return the function that is exported, as one graph for every size of image and of batch.

    Args:
        model: what `PatchNet` or `load_model` returned. The weights are shared, not copied.
        patches: the class that cuts the patches.
        outputs: what to compute, of `outputs_of(model)`. TensorFlow computes what is in a graph, asked for or
            not.
        memory: in MiB, as `heatmap_model` takes it; that of a local network has no bound, so that it is a
            plain graph of convolutions.

    Returns:
        A function of `image`, (B, H, W, C) of the dtype of the model's pixels, that returns "probability",
        float32 (B,), and "heatmap", float32 (B, H, W), both in [0, 1]; of K classes, unless they are two
        exclusive ones, (B, K) and (B, H, W, K). "familiar" is bool (B, H, W).

    Raises:
        ValueError: the model is not a PatchNet.
    """
    check_patchnet(model)
    # Any size, though `model` may be for one.
    image = keras.Input((None, None, model.channels), name=IMAGE)
    decisions = keras.Model(image, model.decisions(image, patches, memory))
    heatmap = heatmap_model(model, memory=None if is_plain(model) else memory)

    def probability(pixels: tf.Tensor) -> tf.Tensor:
        # In double precision, so that the order of the sum, which ONNX Runtime chooses anew for every size of
        # a batch, does not show: an image gets the same probability in a batch and alone.
        q = tf.cast(decisions(pixels, training=False), tf.float64)  # (B, patches, 1 or K)
        pooled = model.pooling.call(q)
        return pooled[:, 0] if model.binary else pooled

    compute = {
        PROBABILITY: probability,
        HEATMAP: lambda pixels: heatmap(pixels, training=False),
    }

    if model.familiarity:
        familiar = heatmap_model(model, kind="familiar", memory=None)
        compute[FAMILIAR] = lambda pixels: familiar(pixels, training=False)

    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(image, tf.float32)
        dtypes = {FAMILIAR: tf.bool}
        return {name: tf.cast(compute[name](pixels), dtypes.get(name, tf.float32)) for name in outputs}

    return tf.function(answer, input_signature=[image_spec(model)], autograph=False)


def image_spec(model: PatchNet) -> tf.TensorSpec:
    """Return what is fed: images of any number and size, in the dtype in which they are stored."""
    return tf.TensorSpec((None, None, None, model.channels), model.pixels.dtype, name=IMAGE)


def outputs_of(model: PatchNet) -> tuple[str, ...]:
    """Return the names of all outputs of an exported file."""
    return (*OUTPUTS, FAMILIAR) if model.familiarity else OUTPUTS


def is_plain(model: PatchNet) -> bool:
    """Return whether it is exported as a plain graph of convolutions, without loops and branches."""
    return isinstance(model.subnet, LocalNetwork)


def check_patchnet(model: keras.Model) -> None:
    """Refuse other models: only a PatchNet has a heatmap of decisions."""
    if not isinstance(model, PatchNet):
        raise ValueError(
            "Only a model made by `PatchNet` is exported. "
            f"Received: {getattr(model, 'name', model)!r}, {type(model).__name__}"
        )
