"""Models of other pixels than uint8: what is scaled to 0..1 by hand, decided patch by patch, and kept."""

import keras
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf import baselines
from patchnet_tf.contract import Pixels
from patchnet_tf.model.familiar import fit_familiarity
from patchnet_tf.model.heatmaps import Drawing
from patchnet_tf.model.preprocessing import ZeroToOne

from . import reference
from .conftest import shake
from .test_familiar import local

PIXELS = {
    "uint16": {"dtype": "uint16", "range": [0, 4095], "clip": True, "channels": 1},
    "negative": {"dtype": "float32", "range": [-1024.0, 3071.5], "channels": 5},
    "per_image": {"dtype": "uint16", "per_image": True, "channels": 3},
}


def images_of(pixels, rng, *shape):
    """Values over the whole range, its ends among them, and beyond it where the model clips."""
    low, high = Pixels(**pixels).range
    more = (high - low) / 20 if pixels.get("clip") else 0
    images = rng.uniform(low - more, high + more, (*shape, pixels["channels"]))
    images.flat[:2] = low, high
    dtype = pixels["dtype"]
    return (images if dtype == "float32" else np.maximum(np.rint(images), 0)).astype(dtype)


def make(pixels, rng):
    """A model with random weights, of patches of 6 pixels."""
    options = {"filters": 2, "depth": 2, "padding": "valid", "pixels": pixels}
    return shake(pn.PatchNet((None, None, pixels["channels"]), 6, **options), rng)


def to_255(images, pixels):
    """What a uint8 model would be given, in float64."""
    x = images.astype("float64")
    low, high = pixels.get("range", (0, 65535))
    if pixels.get("per_image"):
        low, high = x.min((1, 2, 3), keepdims=True), x.max((1, 2, 3), keepdims=True)
    return 255 * np.clip((x - low) / (high - low), 0, 1)


@pytest.mark.parametrize("name", PIXELS)
def test_G_and_its_heatmap_by_hand(name, rng):
    pixels = PIXELS[name]
    images = images_of(pixels, rng, 2, 9, 13)
    model = make(pixels, rng)
    weights, as_uint8 = model.get_weights(), to_255(images, pixels)
    expected = [reference.probability(weights, image, 6, 6, padding="valid") for image in as_uint8]
    np.testing.assert_allclose(model.predict(images, verbose=0)[:, 0], expected, atol=1e-5)
    maps = np.array([reference.decisions(weights, image, 6, 1, padding="valid") for image in as_uint8])
    for method in ("exact", "patchwise"):
        drawn = pn.heatmap_model(model, method=method).predict(images, verbose=0)
        np.testing.assert_allclose(drawn, maps, atol=1e-5)
    np.testing.assert_allclose(Drawing(pn.heatmap_model(model))(images[1]), maps[1], atol=1e-5)


@pytest.mark.parametrize("name", PIXELS)
def test_models_come_back_from_their_file(name, tmp_path, rng):
    pixels = PIXELS[name]
    images = images_of(pixels, rng, 2, 9, 13)
    model = make(pixels, rng)
    model.save(tmp_path / "model.keras")
    again = pn.load_model(tmp_path / "model.keras")
    assert again.pixels == model.pixels == Pixels(**pixels)
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))


def test_models_of_earlier_versions_are_those_of_uint8(rng):
    """They say nothing of pixels, and the layer nothing of a range."""
    model = pn.PatchNet((None, None, 1), 6, filters=3, depth=2)
    config = model.get_config()
    assert config.pop("pixels") is None
    older = pn.PatchNet.from_config(config)
    assert older.pixels == model.pixels == Pixels(channels=1)
    assert older.before_patches[0].get_config().keys() == {"name", "trainable", "dtype"}
    images = rng.integers(0, 256, (1, 5, 5, 1), "uint8")
    np.testing.assert_array_equal(older.before_patches[0](images), images.astype("float32") / np.float32(255))


def test_a_narrow_range_of_uint8_is_clipped():
    images = np.array([0, 16, 125, 126, 235, 255], "uint8").reshape(1, 1, 6, 1)
    expected = [0, 0, 109 / 219, 110 / 219, 1, 1]
    np.testing.assert_allclose(ZeroToOne((16, 235), clip=True)(images)[0, 0, :, 0], expected, atol=1e-6)


def test_zero_border_is_the_low_end(rng):
    """A patch half outside the image is as one inside an image with a frame of the lowest value."""
    pixels = {"dtype": "float32", "range": [-1000, 1000]}
    model = shake(pn.PatchNet((None, None, 1), 7, filters=2, depth=1, padding="valid", pixels=pixels), rng)
    images = rng.uniform(-1000, 1000, (1, 9, 9, 1)).astype("float32")
    framed = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), constant_values=-1000)
    draw = pn.heatmap_model(model)
    np.testing.assert_allclose(draw(images), draw(framed)[:, 3:-3, 3:-3], atol=1e-6)


def test_local_networks_and_familiarity(rng):
    """Five channels of 12 bits: every patch as by itself, and familiar as the same pixels in 0..255 are."""
    pixels = {"dtype": "uint16", "range": [0, 4095]}
    S = local(5)
    models = [
        pn.PatchNet((None, None, 5), subnet=S, border="reflect", familiarity=True, pixels=some)
        for some in (pixels, None)
    ]
    images = rng.integers(0, 4096, (3, 16, 20, 5), "uint16")
    for model, x in zip(models, (images, to_255(images, pixels)), strict=True):
        fit_familiarity(model, x, share=0.3)
    maps = [pn.heatmap_model(model) for model in models]
    expected = pn.heatmap_model(models[1], method="patchwise").predict(to_255(images, pixels), verbose=0)
    np.testing.assert_allclose(maps[0].predict(images, verbose=0), expected, atol=1e-5)
    familiar = pn.heatmap_model(models[0], kind="familiar").predict(images, verbose=0)
    same = familiar == pn.heatmap_model(models[1], kind="familiar").predict(to_255(images, pixels), verbose=0)
    assert 0.2 < familiar.mean() < 0.9
    assert same.mean() > 0.99  # beside those at the limit


def test_baselines(rng, tmp_path, policy):
    """Under half precision too, of which uint16 has more than the half can hold."""
    policy("mixed_float16")
    pixels = {"dtype": "uint16", "range": [0, 65535]}
    model = baselines.vgg19_cam((32, 32, 5), width=0.05, pixels=pixels)
    images = rng.integers(0, 65536, (2, 32, 32, 5), "uint16")
    seen = keras.Model(model.input, model.get_layer("zero_to_one").output)
    np.testing.assert_allclose(seen.predict(images, verbose=0), images / 65535, atol=1e-6)
    model.save(tmp_path / "model.keras")
    again = pn.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(images, verbose=0), model.predict(images, verbose=0))


@pytest.mark.parametrize("per_image", [False, True])
def test_occlusion_covers_with_what_becomes_zero(per_image, rng):
    """The mean pixel of 0..1 is the probability, so a square costs what it hides."""
    image = keras.Input((None, None, 1))
    x = ZeroToOne((-10, 30), per_image=per_image)(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(1, kernel_initializer="ones")(x))
    images = rng.uniform(-10, 30, (2, 4, 8, 1)).astype("float32")
    images[:, 0, 0], images[:, 3, 7] = -10, 30
    got = baselines.occlusion(model, images, size=4, stride=4)  # two squares, of which each is one half
    sums = (images[..., 0] + 10).reshape(2, 4, 2, 4).sum((1, 3)) / 40
    if per_image:  # the brightest pixel is hidden with the second square, and the others become brighter
        hidden = images.copy()
        hidden[:, :, 4:] = -10
        left = (hidden[:, :, :4, 0] + 10).sum((1, 2)) / (hidden.max((1, 2, 3)) + 10)
        sums[:, 1] = sums.sum(1) - left
    assert (got[:, 0, 0] == (sums[:, 0] > sums[:, 1])).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ({"dtype": "int8"}, "`pixels`: dtype: "),
        ({"dtype": "uint16", "range": [4095, 0]}, "`pixels`: "),
        ({"channels": 3}, "`pixels` must have the 2 channel"),
        ({"colour": True}, "`pixels`: colour: "),
    ],
)
def test_other_pixels_are_refused(pixels, message):
    with pytest.raises(ValueError, match=f"^{message}.* Received: ") as raised:
        pn.PatchNet((None, None, 2), 6, pixels=pixels)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("bad", [(1, 1), (2, 1), (0, float("inf")), (0,), "ab", None])
def test_bad_ranges(bad):
    with pytest.raises(ValueError, match=r"`range` must be two finite numbers, the lower first. Received: "):
        ZeroToOne(bad)
