import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchnet_tf.evaluation import faithfulness

BOTH = [faithfulness.deletion, faithfulness.insertion]


def mean_of(region):
    """Return a model whose probability is the mean pixel of a region: what it uses is known."""
    return lambda images: images[:, region, :].mean((1, 2)) / 255


@pytest.fixture
def region():
    """A fifth of a 6 x 10 image, in two pieces."""
    region = np.zeros((6, 10), bool)
    region[1:3, 2:6] = region[5, 6:10] = True
    assert region.sum() == 12
    return region


@pytest.mark.parametrize("batch_size", [1, 7, 16, 100])
def test_the_best_and_the_worst_map(region, batch_size):
    """Of white images, the region is the first 12 of 60 pixels to go, or the last."""
    images, best = np.full((1, 6, 10, 3), 255), region.astype(float)
    model, options = mean_of(region), {"steps": 60, "batch_size": batch_size}
    for heatmap, removed, restored in ((best, 0.1, 0.9), (1 - best, 0.9, 0.1)):
        deleted = faithfulness.deletion(model, images, heatmap[None], **options)
        inserted = faithfulness.insertion(model, images, heatmap[None], **options)
        assert deleted.areas == pytest.approx([removed])
        assert inserted.areas == pytest.approx([restored])
        np.testing.assert_allclose(deleted.probabilities, 1 - inserted.probabilities, atol=1e-6)
    np.testing.assert_allclose(deleted.shares, np.arange(61) / 60)
    # The best map's curve is a straight line down to 0, and stays there.
    curve = faithfulness.deletion(model, images, best[None], **options).probabilities[0]
    np.testing.assert_allclose(curve, np.maximum(1 - np.arange(61) / 12, 0), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 30, 59, 1000])
@pytest.mark.parametrize("baseline", faithfulness.BASELINES)
def test_against_the_definition(steps, baseline, rng):
    """Pixel by pixel in plain Python, on images that differ."""
    images, maps = rng.integers(0, 256, (3, 5, 6, 2)), rng.permuted(np.arange(30)).reshape(5, 6) / 30
    maps = np.stack([maps, 1 - maps, maps.T.reshape(5, 6)])
    weights = rng.random((5, 6, 2))

    def model(batch):
        return (batch * weights).sum((1, 2, 3)) / 255 / weights.sum()

    for curve_of in BOTH:
        got = curve_of(model, images, maps, steps=steps, baseline=baseline)
        for image, heatmap, curve, area in zip(images, maps, got.probabilities, got.areas, strict=True):
            places = sorted(np.ndindex(5, 6), key=lambda place, heatmap=heatmap: -heatmap[place])
            empty = np.zeros(2) if baseline == "black" else image.mean((0, 1))
            expected = []
            for share in got.shares:
                now = image.astype(float)
                touched = places[: round(share * 30)]
                for place in touched if curve_of is faithfulness.deletion else set(places) - set(touched):
                    now[place] = empty
                expected.append(model(now[None])[0])
            np.testing.assert_allclose(curve, expected, rtol=1e-5)
            assert area == pytest.approx(np.sum(np.diff(got.shares) * (curve[1:] + curve[:-1]) / 2))
        assert got.shares[0] == 0
        assert got.shares[-1] == 1
        assert np.abs(np.diff(got.shares) - 1 / steps).max() <= 1 / 30
        assert got.probabilities.shape == (3, steps + 1)


def test_the_ends_of_the_curves(region, rng):
    images, maps = rng.integers(0, 256, (2, 6, 10, 1)), rng.random((2, 6, 10))
    whole = mean_of(region)(images)
    for baseline, empty in (("black", 0), ("mean", images.mean((1, 2, 3)) / 255)):
        deleted, inserted = (
            curve(mean_of(region), images, maps, baseline=baseline).probabilities for curve in BOTH
        )
        np.testing.assert_allclose(deleted[:, 0], whole, rtol=1e-5)
        np.testing.assert_allclose(inserted[:, -1], whole, rtol=1e-5)
        np.testing.assert_allclose(deleted[:, -1], np.broadcast_to(empty, 2), rtol=1e-5)
        np.testing.assert_allclose(inserted[:, 0], np.broadcast_to(empty, 2), rtol=1e-5)


@given(st.floats(0, 1), st.integers(0, 5))
def test_a_constant_map_is_random(level, seed):
    """Reading row by row would find the upper half at once."""
    upper = np.zeros((20, 20), bool)
    upper[:10] = True
    images = np.full((1, 20, 20, 1), 255)
    got = faithfulness.deletion(mean_of(upper), images, np.full((1, 20, 20), level), steps=20, seed=seed)
    assert got.areas == pytest.approx([0.5], abs=0.06)
    again = faithfulness.deletion(mean_of(upper), images, np.full((1, 20, 20), level), steps=20, seed=seed)
    np.testing.assert_array_equal(got.probabilities, again.probabilities)


def test_keras_models(rng):
    image = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x))
    images, maps = rng.integers(0, 256, (2, 8, 6, 3), "uint8"), rng.random((2, 8, 6))
    by_function = faithfulness.deletion(lambda batch: model(batch), images, maps, steps=6)
    got = faithfulness.deletion(model, images, maps, steps=6, batch_size=3)
    np.testing.assert_allclose(got.probabilities, by_function.probabilities, atol=1e-6)
    np.testing.assert_allclose(got.probabilities[:, 0], model.predict(images, verbose=0)[:, 0], atol=1e-6)


@pytest.mark.parametrize("curve", BOTH)
def test_of_several_classes_each_is_as_if_alone(curve, rng):
    images, maps = rng.integers(0, 256, (3, 4, 6, 1)), rng.random((3, 4, 6))
    regions = [rng.random((4, 6)) < 0.5 for _ in range(3)]

    def model(batch):
        return np.stack([mean_of(region)(batch) for region in regions], -1)

    alone = [curve(mean_of(region), images, maps, steps=5).probabilities for region in regions]
    for k in range(3):
        np.testing.assert_array_equal(curve(model, images, maps, steps=5, class_index=k)[1], alone[k])
    mixed = curve(model, images, maps, steps=5, class_index=np.array([2, 0, 1])).probabilities
    np.testing.assert_array_equal(mixed, [alone[k][n] for n, k in enumerate((2, 0, 1))])


@pytest.mark.parametrize("curve", BOTH)
def test_wrong_arguments_are_refused(curve, rng):
    images, maps = rng.integers(0, 256, (2, 4, 6, 1)), rng.random((2, 4, 6))
    model = mean_of(np.ones((4, 6), bool))
    for wrong in (
        (images[0], maps),
        (images, maps[:1]),
        (images, maps[:, :3]),
        (images, maps * 2),
        (images, []),
    ):
        with pytest.raises(ValueError, match="Received"):
            curve(model, *wrong)
    for options in ({"steps": 0}, {"batch_size": 0}, {"baseline": "blur"}):
        with pytest.raises(ValueError, match="Received"):
            curve(model, images, maps, **options)
    with pytest.raises(ValueError, match=r"one probability.*class_index=None for 2 prob"):
        curve(lambda batch: np.zeros((len(batch), 2)), images, maps, steps=2)
    with pytest.raises(ValueError, match=r"one probability.*Received: \(3, 1, 1\) for 3 images"):
        curve(lambda batch: np.zeros((len(batch), 1, 1)), images, maps, steps=2)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"class_index={wrong} for 2 probabilities"):
            curve(lambda batch: np.zeros((len(batch), 2)), images, maps, steps=2, class_index=wrong)
    with pytest.raises(ValueError, match="class_index=0 for 1 prob"):
        curve(model, images, maps, steps=2, class_index=0)
    with pytest.raises(ValueError, match="Received: 1 classes, 2 images"):
        curve(model, images, maps, steps=2, class_index=[0])
    with pytest.raises(ValueError, match=r"needs the sigmoid\. Received: -0\.5 to -0\.5"):
        curve(lambda batch: np.full(len(batch), -0.5), images, maps, steps=2)
