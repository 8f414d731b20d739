import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from patchnet_tf.layers import Decision, ExtractPatches, FilterReadout, PatchDistributed, gather_patches

from . import reference

sizes = st.integers(1, 30)


@settings(deadline=None, max_examples=30)
@given(h=sizes, w=sizes, c=st.integers(1, 3), p=st.integers(1, 12), stride=st.integers(1, 14))
def test_patches_are_numpys(h, w, c, p, stride):
    images = np.random.default_rng(0).random((2, h, w, c), "float32")
    expected = np.array([reference.same_patches(image, p, stride) for image in images])
    got = ExtractPatches(p, stride)(images)
    np.testing.assert_array_equal(got, expected.reshape(2, -1, p, p, c))
    gathered = gather_patches(keras.ops.convert_to_tensor(images), p, stride)
    np.testing.assert_array_equal(gathered, expected.reshape(*gathered.shape))


@pytest.mark.parametrize(("shape", "patches"), [((128, 128, 3), 64), ((None, 128, 3), None)])
def test_patches_shape(shape, patches):
    x = keras.Input(shape)
    assert ExtractPatches(17)(x).shape == (None, patches, 17, 17, 3)


def test_crop_is_central(rng):
    images = rng.random((1, 9, 10, 1), "float32")
    expected = ExtractPatches(3)(images[:, 2:6, 2:8])
    np.testing.assert_array_equal(ExtractPatches(3, crop=(4, 6))(images), expected)
    dynamic = tf.function(ExtractPatches(3, crop=(4, 6)), input_signature=[tf.TensorSpec((None,) * 3 + (1,))])
    np.testing.assert_array_equal(dynamic(images), expected)


@pytest.mark.parametrize("crop", [(10, 4), 5, (0, 3)])
def test_bad_crop(crop):
    with pytest.raises(ValueError, match=r"crop.*Received"):
        ExtractPatches(3, crop=crop)(np.zeros((1, 9, 9, 1), "float32"))


@pytest.mark.parametrize("bad", [{"patch_size": 0}, {"patch_size": 2.5}, {"patch_size": 3, "stride": -1}])
def test_bad_patches(bad):
    with pytest.raises(ValueError, match="Received"):
        ExtractPatches(**bad)


@pytest.mark.parametrize("count", [5, None])
def test_distributed_is_the_layer_on_each_patch(count, rng):
    layer = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    x = keras.Input((count, 3, 3, 1))
    model = keras.Model(x, PatchDistributed(layer)(x))
    patches = rng.random((2, 5, 3, 3, 1), "float32")
    expected = np.stack([layer(patches[:, i]) for i in range(5)], axis=1)
    np.testing.assert_allclose(model.predict(patches, verbose=0), expected, atol=1e-6)


def test_distributed_has_one_copy_of_the_layer():
    def nodes(count):
        layer = PatchDistributed(keras.Sequential([keras.Input((3, 3, 1)), keras.layers.Conv2D(2, 3)]))
        f = tf.function(layer).get_concrete_function(tf.TensorSpec((None, count, 3, 3, 1)))
        return len(f.graph.as_graph_def().node)

    assert nodes(4) == nodes(400)


def test_readout_is_a_dot_product_per_filter(rng):
    maps = rng.normal(size=(2, 4, 5, 3)).astype("float32")
    readout = FilterReadout()
    out = readout(maps)
    kernel, bias = readout.get_weights()
    assert kernel.shape == (4, 5, 3)
    np.testing.assert_allclose(out, np.einsum("nhwf,hwf->nf", maps, kernel) + bias, atol=1e-5)
    assert np.std(FilterReadout()(np.ones((1, 17, 17, 64), "float32"))) == pytest.approx(1, abs=0.3)


def test_decision_is_the_sigmoid():
    z = np.linspace(-10, 10, 41, dtype="float32")
    np.testing.assert_allclose(Decision()(z), 1 / (1 + np.exp(-z.astype("float64"))), atol=1e-6)


@pytest.mark.parametrize("logit", [-1e4, -40.0, -14.0, 14.0, 40.0, 1e4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_average_of_saturated_decisions_keeps_its_gradient(logit, dtype):
    """In exact arithmetic, all patches equally wrong: |d loss / d logit| = 1 / P for each of P patches."""
    z = tf.fill((1, 64), tf.constant(logit, dtype))
    with tf.GradientTape() as tape:
        tape.watch(z)
        q = tf.reduce_mean(Decision()(z), axis=1)
        loss = keras.losses.binary_crossentropy([float(logit < 0)], q)
    gradient = tape.gradient(loss, z).numpy()
    np.testing.assert_allclose(gradient * np.sign(logit), 1 / 64, rtol=0.15)


@pytest.mark.parametrize(
    "layer",
    [ExtractPatches(5, 3, (7, 9)), FilterReadout(), Decision(), PatchDistributed(keras.layers.Flatten())],
)
def test_config_is_the_constructors_arguments(layer):
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
