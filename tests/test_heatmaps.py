import keras
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.model.heatmaps import METHODS, Drawing
from patchnet_tf.model.preprocessing import GammaCorrection, ShadesOfGray

from . import reference
from .conftest import shake

SMALL = {"filters": 4, "depth": 3}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [5, 6, 9])
@pytest.mark.parametrize("kind", ["centered", "averaged", "filters"])
@pytest.mark.parametrize("stride", [1, 3])
def test_heatmap_is_the_papers(method, p, kind, stride, rng):
    model = shake(pn.PatchNet((None, None, 2), p, mean=0.3, **SMALL), rng)
    image = rng.integers(0, 256, (13, 17, 2), "uint8")
    decide = reference.filters if kind == "filters" else reference.subnet
    expected = reference.decisions(model.get_weights(), image, p, 1, mean=0.3, decide=decide)
    if kind == "averaged":
        expected = reference.cover_mean(expected, p)
    maps = pn.heatmap_model(model, kind=kind, method=method, stride=stride)
    got = maps.predict(image[None], verbose=0)
    np.testing.assert_allclose(got[0], expected[::stride, ::stride], atol=1e-5)
    assert maps.compute_output_shape((1, 13, 17, 2)) == got.shape


@pytest.mark.parametrize("method", METHODS)
def test_heatmap_covers_the_whole_image_of_a_cropped_model(method, rng):
    model = pn.PatchNet((20, 24, 1), 5, crop=(10, 10), **SMALL)
    maps = pn.heatmap_model(model, method=method)
    assert maps.predict(rng.random((3, 20, 24, 1)), verbose=0).shape == (3, 20, 24)


def test_batch_is_its_images(rng):
    maps = pn.heatmap_model(pn.PatchNet((None, None, 1), 6, **SMALL))
    images = rng.uniform(0, 255, (3, 11, 12, 1)).astype("float32")
    singly = np.concatenate([maps.predict(image[None], verbose=0) for image in images])
    np.testing.assert_allclose(maps.predict(images, verbose=0), singly, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_heatmap_model_saves_and_shares_weights(method, tmp_path, rng):
    model = pn.PatchNet((None, None, 1), 6, **SMALL)
    maps = pn.heatmap_model(model, method=method, kind="averaged", stride=2)
    shake(model, rng)
    image = rng.uniform(0, 255, (1, 11, 12, 1)).astype("float32")
    expected = pn.heatmap_model(model, method=method, kind="averaged", stride=2).predict(image, verbose=0)
    np.testing.assert_array_equal(maps.predict(image, verbose=0), expected)
    maps.save(tmp_path / "maps.keras")
    loaded = pn.load_model(tmp_path / "maps.keras")
    np.testing.assert_array_equal(loaded.predict(image, verbose=0), expected)


@pytest.mark.parametrize("kind", ["centered", "filters"])
def test_strips_do_not_show(kind, monkeypatch, rng):
    monkeypatch.setattr("patchnet_tf.model.heatmaps.STRIP_ROWS", 5)
    maps = pn.heatmap_model(shake(pn.PatchNet((None, None, 2), 6, **SMALL), rng), kind=kind)
    image = rng.integers(0, 256, (13, 9, 2), "uint8")
    shares = []
    heatmap = Drawing(maps)(image, shares.append)
    np.testing.assert_allclose(heatmap, maps.predict(image[None], verbose=0)[0], atol=1e-6)
    assert shares == [5 / 13, 10 / 13, 1]


def test_strips_of_grey_images_for_an_s_that_sees_colour(rng):
    subnet = pn.PatchSubnet(6, channels=3, **SMALL)
    maps = pn.heatmap_model(shake(pn.PatchNet((None, None, 1), subnet=subnet), rng))
    image = rng.integers(0, 256, (13, 9, 1), "uint8")
    np.testing.assert_allclose(Drawing(maps)(image), maps.predict(image[None], verbose=0)[0], atol=1e-6)


def test_the_light_is_that_of_the_whole_image(monkeypatch, rng):
    """Whether the map is drawn whole, in strips, in tiles or patch by patch; in a batch each has its own."""
    monkeypatch.setattr("patchnet_tf.model.heatmaps.STRIP_ROWS", 7)
    steps = [GammaCorrection(2.2), ShadesOfGray(6)]
    model = shake(pn.PatchNet((None, None, 3), 6, preprocessing=steps, filters=8, depth=3), rng)
    # Its light changes from the top to the bottom.
    light = np.linspace((1, 0.3, 0.5), (0.2, 1, 0.4), 24)[:, None]
    images = (rng.integers(0, 256, (2, 24, 18, 3)) * light).astype("uint8")
    images[1] = images[1] // (3, 1, 2)
    x = (images / 255) ** (1 / 2.2)
    e = (x**6).mean(axis=(1, 2), keepdims=True) ** (1 / 6)
    e /= np.sqrt((e**2).sum(axis=-1, keepdims=True))
    x = np.minimum(x / (np.sqrt(3) * e), 1)
    expected = [reference.decisions(model.get_weights(), 255 * image, 6, 1) for image in x]
    assert abs(np.diff(expected, axis=0)).max() > 0.01
    maps = pn.heatmap_model(model, memory=1)  # tiles of 13 x 13 patches
    np.testing.assert_allclose(maps.predict(images, verbose=0), expected, atol=1e-5)
    patchwise = pn.heatmap_model(model, method="patchwise")
    np.testing.assert_allclose(patchwise.predict(images, verbose=0), expected, atol=1e-5)
    for image, heatmap in zip(images, expected, strict=True):
        np.testing.assert_allclose(Drawing(maps)(image), heatmap, atol=1e-5)


@pytest.mark.parametrize("options", [{"kind": "averaged"}, {"stride": 2}])
def test_strips_of_other_maps_are_refused(options):
    maps = pn.heatmap_model(pn.PatchNet((20, 20, 1), 6, **SMALL), **options)
    with pytest.raises(ValueError, match="Received"):
        Drawing(maps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "wrong"), [(1, 3), (1, 4), (3, 1)])
def test_wrong_channels_are_refused(method, channels, wrong, rng):
    """Also those that TensorFlow would broadcast, or take for a grouped convolution."""
    model = pn.PatchNet((None, None, channels), 6, filters=12, depth=2)
    valid = pn.PatchNet((None, None, channels), 6, filters=12, depth=2, padding="valid", stride=2)
    image = rng.uniform(0, 255, (1, 20, 20, wrong)).astype("float32")
    for each in (model, valid, pn.heatmap_model(model, method=method)):
        with pytest.raises(ValueError, match=f"axis -1 of input shape to have value {channels}"):
            each.predict(image, verbose=0)


def test_bad_arguments():
    model = pn.PatchNet((20, 20, 1), 6, **SMALL)
    for bad in ({"kind": "white"}, {"method": "quick"}, {"stride": 0}):
        with pytest.raises(ValueError, match="Received"):
            pn.heatmap_model(model, **bad)
    x = keras.Input((4,))
    for other in (keras.Model(x, keras.layers.Dense(1)(x)), keras.Sequential(), "model"):
        with pytest.raises(ValueError, match=r"made by `PatchNet`.*Received"):
            pn.heatmap_model(other)
