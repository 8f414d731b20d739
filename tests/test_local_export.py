"""Exported PatchNets whose S is a local network: plain graphs that compute what Keras does."""

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

import patchnet_tf as pn
from patchnet_tf.export import to_onnx, to_saved_model
from patchnet_tf.serving import Predictor

SIZES = [(15, 15), (24, 17), (33, 40)]
BRANCHES = {"If", "Loop", "Scan"}  # of ONNX
LOOPS = {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase", "MapDataset"}


def network(rng):
    """A ConvNet with strides, pooling, a skip connection and batch normalization; it sees 15 x 15 pixels."""
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, 2, "same", activation="relu")(image)
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Add()([x, layers.BatchNormalization()(y)])
    x = layers.MaxPooling2D(3, 2, "same")(x)
    x = layers.Conv2D(8, 2, padding="same", activation="relu", name="last")(x)
    model = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    for weight in model.weights:
        low, high = (0.5, 2) if "variance" in weight.path else (-0.7, 0.7)
        weight.assign(rng.uniform(low, high, weight.shape))
    return model


@pytest.fixture(
    scope="module", params=[{}, {"border": "reflect", "pooling": "lse", "sharpness": 3.0}], ids=str
)
def model(request):
    keras.utils.set_random_seed(0)
    subnet = pn.local_network(network(np.random.default_rng(0)), "last", hidden=4)
    assert subnet.patch_size == 15
    return pn.PatchNet((None, None, 3), subnet=subnet, **request.param)


def check(model, run, rng):
    """What `run` makes of images of three sizes is what Keras makes of them."""
    maps = pn.heatmap_model(model)
    for size in SIZES:
        images = rng.integers(0, 256, (2, *size, 3), "uint8")
        probability, heatmap = run(images)
        np.testing.assert_allclose(probability, model.predict(images, verbose=0)[:, 0], rtol=0, atol=1e-5)
        expected = maps.predict(images, verbose=0)
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(heatmap, expected, rtol=0, atol=1e-5)


def test_onnx_file_is_plain(model, rng, tmp_path):
    path = to_onnx(model, tmp_path / "model.onnx").path
    graph = onnx.load(path).graph
    kinds = {node.op_type for node in graph.node}
    assert "Conv" in kinds
    assert not kinds & BRANCHES
    assert [info.name for info in graph.input] == ["image"]
    check(model, Predictor(path), rng)


def test_a_large_image_can_be_drawn_in_parts(model, rng, tmp_path):
    """Two parts that overlap by p - 1 = 14 columns, each without 7 at the cut, are the whole map."""
    predict = Predictor(to_onnx(model, tmp_path / "model.onnx").path)
    image = rng.integers(0, 256, (20, 60, 3), "uint8")
    left, right = predict(image[:, :37]).heatmap, predict(image[:, 23:]).heatmap
    parts = np.concatenate([left[:, :30], right[:, 7:]], axis=1)
    np.testing.assert_allclose(parts, predict(image).heatmap, rtol=0, atol=1e-5)


def test_saved_model_is_plain(model, rng, tmp_path):
    loaded = tf.saved_model.load(str(to_saved_model(model, tmp_path / "served").path))
    serve = loaded.signatures["serving_default"]
    graph = serve.graph.as_graph_def()
    functions = (node for function in graph.library.function for node in function.node_def)
    kinds = {node.op for node in (*graph.node, *functions)}
    assert "Conv2D" in kinds
    assert not kinds & LOOPS

    def run(images):
        answer = serve(image=tf.constant(images))
        return answer["probability"], answer["heatmap"]

    check(model, run, rng)
