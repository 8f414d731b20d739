import keras
import numpy as np
import pytest
import tensorflow as tf

import patchnet_tf as pn

from . import reference
from .conftest import shake

SMALL = {"filters": 4, "depth": 3}


def graph_size(model, *shape):
    f = tf.function(model).get_concrete_function(tf.TensorSpec(shape))
    return len(f.graph.as_graph_def(add_shapes=False).node)


@pytest.mark.parametrize("p", [7, 11, 15, 16, 17])
@pytest.mark.parametrize("stride", ["below", "at", "above"])
def test_G_is_the_papers(p, stride, rng):
    """Image sides that p does not divide, not square; S in full."""
    stride = {"below": p - 3, "at": p, "above": p + 2}[stride]
    model = shake(pn.PatchNet((2 * p + 5, 3 * p + 1, 3), p, stride=stride), rng)
    image = rng.integers(0, 256, (2 * p + 5, 3 * p + 1, 3), "uint8")
    expected = reference.probability(model.get_weights(), image, p, stride)
    assert model.predict(image[None], verbose=0)[0, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("p", "padding"), [(7, "same"), (16, "same"), (17, "same"), (15, "valid"), (18, "valid")]
)
def test_S_is_the_papers(p, padding, rng):
    model = shake(pn.PatchSubnet(p, 2, padding=padding), rng)
    patches = rng.normal(size=(5, p, p, 2)).astype("float32")
    expected = [[reference.subnet(model.get_weights(), patch, padding)] for patch in patches]
    np.testing.assert_allclose(model.predict(patches, verbose=0), expected, atol=1e-5)


def test_weights_are_in_the_documented_order():
    shapes = [w.shape for w in pn.PatchSubnet(17, 3).get_weights()]
    convolutions = [(3, 3, 3, 64), (64,)] + [(3, 3, 64, 64), (64,)] * 6
    assert shapes == [*convolutions, (17, 17, 64), (64,), (64, 1), (1,)]
    assert pn.PatchSubnet(17, padding="valid").get_weights()[14].shape == (3, 3, 64)


def test_convolutions_start_he_normal():
    kernel = pn.PatchSubnet(17).get_weights()[2]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)


def test_mean_and_std_for_each_channel(rng):
    mean, std = [0.2, 0.5, 0.7], [0.1, 0.3, 0.2]
    model = shake(pn.PatchNet((20, 20, 3), 9, mean=mean, std=std, **SMALL), rng)
    image = rng.integers(0, 256, (20, 20, 3), "uint8")
    expected = reference.probability(model.get_weights(), image, 9, 9, mean=mean, std=std)
    assert model.predict(image[None], verbose=0)[0, 0] == pytest.approx(expected, abs=1e-5)


def test_any_image_size(rng):
    free = shake(pn.PatchNet((None, None, 1), 8, **SMALL), rng)
    fixed = pn.PatchNet((30, 19, 1), 8, **SMALL)
    fixed.set_weights(free.get_weights())
    images = rng.uniform(0, 255, (3, 30, 19, 1)).astype("float32")
    np.testing.assert_allclose(free.predict(images, verbose=0), fixed.predict(images, verbose=0), atol=1e-6)


def test_graph_does_not_grow_with_the_patches():
    small = graph_size(pn.PatchNet((17, 17, 1), 17), None, 17, 17, 1)
    large = graph_size(pn.PatchNet((170, 170, 1), 17, stride=5), None, 170, 170, 1)
    assert large == small


def test_preprocessing_comes_before_the_patches(rng):
    image = rng.uniform(0, 255, (1, 20, 20, 1)).astype("float32")
    inverted = pn.PatchNet((20, 20, 1), 6, preprocessing=[keras.layers.Rescaling(-1.0, 1.0)], **SMALL)
    plain = pn.PatchNet((20, 20, 1), 6, stride=5, **SMALL)
    exact = pn.PatchNet((20, 20, 1), 6, stride=5, preprocessing=[keras.layers.Rescaling(-1.0, 1.0)], **SMALL)
    for model in (plain, exact):
        model.set_weights(inverted.get_weights())
    # 20 is 3 * 5 + 6 - 1: one row of padding, which stays black after inversion.
    a, b = exact.predict(image, verbose=0), plain.predict(255 - image, verbose=0)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_saved_model_comes_back_to_the_bit(tmp_path, rng):
    model = shake(
        pn.PatchNet(
            (None, None, 3),
            7,
            stride=3,
            crop=(14, 15),
            preprocessing=[keras.layers.RandomFlip()],
            mean=[0.1, 0.2, 0.3],
            **SMALL,
        ),
        rng,
    )
    model.save(tmp_path / "model.keras")
    images = rng.uniform(0, 255, (2, 20, 21, 3)).astype("float32")
    loaded = pn.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_fit_recovers_from_a_sure_and_wrong_start(dtype, policy, rng):
    """All decisions saturated at the wrong class: the loss must fall, and by the right gradient."""
    policy(dtype)
    model = pn.PatchNet((20, 20, 1), 6, **SMALL)
    weights = model.get_weights()
    weights[-1][:] = 60
    model.set_weights(weights)
    model.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
    images = rng.uniform(0, 255, (4, 20, 20, 1)).astype("float32")
    model.fit(images, np.zeros(4), epochs=1, verbose=0)
    # dL/db = 1 when every decision is 1 and every label 0.
    assert model.get_weights()[-1][0] == pytest.approx(59, abs=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((16, 40, 3), 17), "at least as large as a patch"),
        (((40, 40, 3), 17, {"crop": (16, 20)}), "crop must be at least"),
        (((40, 40, 3), 17, {"crop": (41, 20)}), "must not be larger"),
        (((40, 40), 17), "height, width, channels"),
        (((40, 40, None), 17), "height, width, channels"),
        (((40, 40, 3), 0), "patch_size"),
        (((40, 40, 3), 17, {"stride": 0}), "stride"),
        (((40, 40, 3), 17, {"filters": 1.5}), "filters"),
        (((40, 40, 3), 14, {"padding": "valid"}), "smallest patch is 15"),
        (((40, 40, 3), 17, {"padding": "full"}), "padding"),
        (((40, 40, 3), 17, {"mean": [0.1, 0.2]}), "mean"),
        (((40, 40, 3), 17, {"std": 0}), "std"),
    ],
)
def test_bad_arguments(arguments, message):
    *positional, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(ValueError, match=f"(?s){message}.*Received"):
        pn.PatchNet(*positional, **options)


def test_load_model_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file"):
        pn.load_model(tmp_path / "model.keras")
    (tmp_path / "model.h5").touch()
    with pytest.raises(ValueError, match="Received"):
        pn.load_model(tmp_path / "model.h5")


def test_import_loads_no_tensorflow():
    import subprocess
    import sys

    code = "import sys, patchnet_tf; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def any_subnet(p=6, channels=3, units=1):
    """A Keras model that this package does not know."""
    patch = x = keras.Input((p, p, channels))
    x = keras.layers.Flatten()(keras.layers.Conv2D(3, 3, activation="tanh")(x))
    return keras.Model(patch, keras.layers.Dense(units, activation="sigmoid")(x), name="any")


@pytest.mark.parametrize("border", ["zero", "reflect"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_keras_model_is_an_S(border, channels, tmp_path, rng):
    S = any_subnet()
    model = pn.PatchNet((None, None, channels), subnet=S, stride=4, border=border, mean=0.3)
    image = rng.integers(0, 256, (13, 15, channels), "uint8")
    colour = np.repeat(image, 3 // channels, axis=2) / 255
    mode = {"zero": "constant", "reflect": "reflect"}[border]
    patches = reference.same_patches(colour, 6, 4, mode)
    expected = S.predict((patches.reshape(-1, 6, 6, 3) - 0.3) / 0.25, verbose=0).mean()
    assert model.predict(image[None], verbose=0)[0, 0] == pytest.approx(expected, abs=1e-5)

    model.save(tmp_path / "model.keras")
    loaded = pn.load_model(tmp_path / "model.keras")
    assert (loaded.border, loaded.stride, loaded.patch_size) == (border, 4, 6)
    padded = np.pad(colour, [(2, 3), (2, 3), (0, 0)], mode=mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (6, 6, 3))[:, :, 0]
    expected = S.predict((windows.reshape(-1, 6, 6, 3) - 0.3) / 0.25, verbose=0).reshape(13, 15)
    heatmap = pn.heatmap_model(loaded).predict(image[None], verbose=0)[0]
    np.testing.assert_allclose(heatmap, expected, atol=1e-5)
    np.testing.assert_allclose(loaded.heatmap(image[None])[0], expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": "valid"}, {"crop": (13, 14)}])
def test_reflected_border(options, rng):
    model = shake(pn.PatchNet((17, 19, 1), 8, border="reflect", mean=0.4, **{**SMALL, **options}), rng)
    image = rng.integers(0, 256, (17, 19, 1), "uint8")
    height, width = options.get("crop", image.shape[:2])
    top, left = (17 - height) // 2, (19 - width) // 2
    cropped = image[top : top + height, left : left + width]
    patches = reference.same_patches(cropped / 255, 8, options.get("stride", 8), "reflect")
    decide = reference.subnet
    q = [
        decide(model.get_weights(), (patch - 0.4) / 0.25, options.get("padding", "same"))
        for patch in patches.reshape(-1, 8, 8, 1)
    ]
    assert model.predict(image[None], verbose=0)[0, 0] == pytest.approx(np.mean(q), abs=1e-5)


@pytest.mark.parametrize(
    ("subnet", "options", "message"),
    [
        (any_subnet(units=2), {}, "`subnet` must be"),
        ("network", {}, "`subnet` must be"),
        (any_subnet(), {"patch_size": 7}, "`patch_size` is that of `subnet`, 6"),
        (any_subnet(channels=2), {}, "takes images of 2 channels"),
        (any_subnet(), {"border": "mirror"}, "`border` must be one of zero, reflect"),
    ],
)
def test_bad_subnets(subnet, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}.*Received"):
        pn.PatchNet((20, 20, 3), subnet=subnet, **options)
