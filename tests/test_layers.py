import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from patchnet_tf.model.layers import Decision, FilterReadout, PatchDistributed
from patchnet_tf.model.patches import ExtractPatches, PadBorder, gather_patches
from patchnet_tf.model.preprocessing import GammaCorrection, ShadesOfGray

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


def test_gamma_by_hand():
    x = np.array([0, 0.25, 0.5, 1], "float32").reshape(1, 2, 2, 1)
    np.testing.assert_allclose(np.ravel(GammaCorrection(2)(x)), [0, 0.5, 0.70710678, 1], rtol=1e-6)
    # ln 0.5 / 2.2 = -0.3150669; exp(-0.3150669) = 0.7297400
    assert float(GammaCorrection()(x)[0, 1, 0, 0]) == pytest.approx(0.72974, abs=1e-6)
    np.testing.assert_allclose(GammaCorrection(1 / 2.2)(GammaCorrection(2.2)(x)), x, atol=1e-6)
    for layer in (GammaCorrection(), ShadesOfGray()):
        with pytest.raises(ValueError, match="ndim=4"):
            layer(np.zeros((8, 8, 3)))


def test_shades_of_gray_by_hand():
    """Light (2, 4, 4) / 6 is taken out of its own colour: 0.6 / sqrt(3) in every channel."""
    x = np.full((1, 3, 5, 3), (0.2, 0.4, 0.4), "float32")
    np.testing.assert_allclose(ShadesOfGray()(x), 0.6 / np.sqrt(3), rtol=1e-6)
    # Grey world, norm 1: two pixels with the means 0.3, 0.4 and 0, whose length is 0.5.
    x = np.array([[0.1, 0.4, 0], [0.5, 0.4, 0]], "float32").reshape(1, 1, 2, 3)
    gain = 0.5 / (np.sqrt(3) * np.array([0.3, 0.4]))  # 0.962, 0.722
    expected = [[0.1 * gain[0], 0.4 * gain[1], 0], [0.5 * gain[0], 0.4 * gain[1], 0]]
    np.testing.assert_allclose(ShadesOfGray(1)(x)[0, 0], expected, rtol=1e-6)
    # Norm 2: blue has sqrt((0.8^2 + 0.6^2) / 2) = 0.7071, red and green 0.1: gain of red 4.148, clipped.
    x = np.array([[0.1, 0.1, 0.8], [0.1, 0.1, 0.6]], "float32").reshape(1, 1, 2, 3)
    gain = np.sqrt(0.01 + 0.01 + 0.5) / (np.sqrt(3) * np.array([0.1, 0.1, np.sqrt(0.5)]))
    np.testing.assert_allclose(ShadesOfGray(2)(x)[0, 0], x[0, 0] * gain, rtol=1e-6)
    x[0, 0, 0, 0] = 0.14142136  # red has 0.12247 then: 0.14142 * 0.7246 / (1.732 * 0.12247) = 0.483
    assert float(ShadesOfGray(2)(x)[0, 0, 0, 0]) == pytest.approx(0.48305, abs=1e-5)


def shades_of_gray(x, norm):
    """One image (H, W, C) in plain numpy and float64."""
    light = (x.astype("float64") ** norm).mean(axis=(0, 1)) ** (1 / norm)
    light = light / np.sqrt((light**2).sum())
    return np.clip(x / (np.sqrt(x.shape[-1]) * light), 0, 1)


@settings(deadline=None, max_examples=30)
@given(
    norm=st.floats(1, 20),
    gamma=st.floats(0.2, 5),
    seed=st.integers(0, 99),
    c=st.sampled_from([1, 3]),
    dark=st.floats(0.01, 1),
)
def test_preprocessing_is_numpys_and_stays_in_0_to_1(norm, gamma, seed, c, dark):
    """In a batch each image has its own light."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (3, 5, 6, c)) * dark * rng.uniform(0.1, 1, (3, 1, 1, c))
    x = (np.ceil(levels) / 255).astype("float32")
    got = np.asarray(ShadesOfGray(norm)(x))
    assert got.min() >= 0
    assert got.max() <= 1
    np.testing.assert_allclose(got, [shades_of_gray(image, norm) for image in x], atol=2e-6)
    if c == 1:
        np.testing.assert_allclose(got, x, atol=2e-6)
    got = np.asarray(GammaCorrection(gamma)(x))
    assert got.min() >= 0
    assert got.max() <= 1
    np.testing.assert_allclose(got, x.astype("float64") ** (1 / gamma), atol=2e-6)


def test_shades_of_gray_of_black_and_of_one_colour(rng):
    black = np.zeros((1, 4, 5, 3), "float32")
    np.testing.assert_array_equal(ShadesOfGray()(black), black)
    x = rng.random((1, 4, 5, 3), "float32")
    x[..., 1] = 0
    got = np.asarray(ShadesOfGray()(x))
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got[..., 1], 0)
    assert got[..., 0].max() > 0.5


def test_black_pixels_do_not_change_the_light(rng):
    x = rng.random((1, 4, 5, 3), "float32")
    padded = np.pad(x, [(0, 0), (7, 9), (3, 0), (0, 0)])
    np.testing.assert_allclose(ShadesOfGray()(padded)[:, 7:11, 3:], ShadesOfGray()(x), atol=1e-6)


def test_preprocessing_in_half_precision(rng):
    """Sixth powers of dark pixels are 0 in float16; the light is that of float32."""
    x = (rng.random((1, 20, 20, 3)) * (0.04, 0.08, 0.02)).astype("float16")
    for layer in (ShadesOfGray, GammaCorrection):
        half = layer(dtype="mixed_float16")(x)
        assert keras.backend.standardize_dtype(half.dtype) == "float16"
        np.testing.assert_allclose(half, layer()(x.astype("float32")), atol=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: GammaCorrection(0),
        lambda: GammaCorrection(float("inf")),
        lambda: GammaCorrection("2.2"),
        lambda: ShadesOfGray(0.9),
        lambda: ShadesOfGray(float("nan")),
        lambda: ShadesOfGray(True),
    ],
)
def test_bad_preprocessing(bad):
    with pytest.raises(ValueError, match=r"`(gamma|norm)` must be a finite number of at least .* Received: "):
        bad()


@pytest.mark.parametrize("layer", [GammaCorrection(2.2), ShadesOfGray(6)])
def test_preprocessing_keeps_the_shape(layer):
    assert layer.compute_output_shape((None, None, 7, 3)) == (None, None, 7, 3)
    assert layer(keras.Input((None, 7, 3))).shape == (None, None, 7, 3)


@pytest.mark.parametrize(
    "layer",
    [
        GammaCorrection(1.8),
        ShadesOfGray(4),
        ExtractPatches(5, 3, (7, 9)),
        FilterReadout(),
        Decision(),
        PatchDistributed(keras.layers.Flatten()),
    ],
)
def test_config_is_the_constructors_arguments(layer):
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


@settings(deadline=None, max_examples=30)
@given(h=sizes, w=sizes, c=st.integers(1, 3), p=st.integers(1, 12), stride=st.integers(1, 14))
def test_reflected_patches_are_numpys(h, w, c, p, stride):
    h, w = max(h, p), max(w, p)
    images = np.random.default_rng(0).random((2, h, w, c), "float32")
    expected = np.array([reference.same_patches(image, p, stride, "reflect") for image in images])
    patches = ExtractPatches(p, stride, border="reflect")(images)
    np.testing.assert_array_equal(patches, expected.reshape(2, -1, p, p, c))
    gathered = gather_patches(keras.ops.convert_to_tensor(images), p, stride, "reflect")
    np.testing.assert_array_equal(gathered, expected.reshape(*gathered.shape))


@pytest.mark.parametrize(("border", "mode"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("p", [1, 4, 7])
def test_border_is_numpys(border, mode, p, rng):
    images = rng.random((2, 9, 8, 3), "float32")
    before, after = (p - 1) // 2, p // 2
    expected = np.pad(images, [(0, 0), (before, after), (before, after), (0, 0)], mode=mode)
    layer = PadBorder(p, border)
    np.testing.assert_array_equal(layer(images), expected)
    assert layer.compute_output_shape((2, None, 8, 3)) == (2, None, 8 + p - 1, 3)
    with pytest.raises(ValueError, match=r"border.*Received"):
        PadBorder(p, "mirror")
