"""What every exported file computes: raw pixels in, probability and heatmap out."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from ..contract import HEATMAP, IMAGE, OUTPUTS, PROBABILITY
from ..model.dense import MEMORY, DenseMap
from ..model.heatmaps import anatomy, heatmap_model
from ..model.layers import Decision, ExtractPatches, PatchDistributed

Signature = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def signature(
    model: keras.Model,
    patches: type[ExtractPatches] = ExtractPatches,
    outputs: Sequence[str] = OUTPUTS,
    memory: int = MEMORY,
) -> Signature:
    """Return the function that is exported, as one graph for every size of image and of batch.

    Args:
        model: what `PatchNet` or `load_model` returned. The weights are shared, not copied.
        patches: the class that cuts the patches.
        outputs: what to compute. TensorFlow computes what is in a graph, asked for or not.
        memory: of the heatmap, in MiB, as `heatmap_model` takes it.

    Returns:
        A function of `image`, uint8 (B, H, W, C), that returns "probability", float32 (B,), and "heatmap",
        float32 (B, H, W), both in [0, 1].

    Raises:
        ValueError: the model is not a PatchNet.
    """
    decisions, heatmap = free_size(model, patches), heatmap_model(model, memory=memory)

    def mean(pixels: tf.Tensor) -> tf.Tensor:
        # In double precision, so that the order of the sum, which ONNX Runtime chooses anew for every size of
        # a batch, does not show: an image gets the same probability in a batch and alone.
        q = tf.cast(decisions(pixels, training=False)[..., 0], tf.float64)  # (B, patches)
        return tf.reduce_mean(q, axis=1)

    compute = {
        PROBABILITY: mean,
        HEATMAP: lambda pixels: heatmap(pixels, training=False),
    }

    def answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(image, tf.float32)
        return {name: tf.cast(compute[name](pixels), tf.float32) for name in outputs}

    spec = tf.TensorSpec((None, None, None, model.input_shape[-1]), tf.uint8, name=IMAGE)
    return tf.function(answer, input_signature=[spec], autograph=False)


def free_size(model: keras.Model, patches: type[ExtractPatches]) -> keras.Model:
    """Return G before its mean, (B, patches, 1), for images of any size, though `model` may be for one."""
    anatomy(model)  # a PatchNet is a chain of layers
    image = x = keras.Input((None, None, model.input_shape[-1]), name=IMAGE)
    for layer in model.layers[1:-1]:
        x = (patches.from_config(layer.get_config()) if type(layer) is ExtractPatches else layer)(x)
    return keras.Model(image, x, name=model.name)


def half_precision(model: keras.Model) -> keras.Model:
    """Return a copy of a PatchNet whose S computes in float16, except the sigmoid; the rest is float32."""
    _, _, subnet = anatomy(model)

    def halved(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if not isinstance(layer, Decision):
            config["dtype"] = "mixed_float16"
        return type(layer).from_config(config)

    half = keras.models.clone_model(subnet, clone_function=halved)
    half.set_weights(subnet.get_weights())
    x = model.inputs[0]
    for layer in model.layers[1:]:
        if isinstance(layer, PatchDistributed):
            layer = PatchDistributed(half, name=layer.name)
        elif isinstance(layer, DenseMap):
            layer = DenseMap(half, stride=layer.stride, memory=layer.memory, dtype="mixed_float16")
        x = layer(x)
    return keras.Model(model.inputs[0], x, name=model.name)


def smallest_image(model: keras.Model) -> tuple[int, int]:
    """Return the least height and width that the model takes: its crop, or else a patch.

    Raises:
        ValueError: the model is not a PatchNet.
    """
    anatomy(model)
    [cut] = [layer for layer in model.layers if isinstance(layer, ExtractPatches)]
    return cut.crop or (cut.patch_size, cut.patch_size)
