import os
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import map_coordinates
from skimage.draw import disk, ellipse
from skimage.filters import threshold_otsu

from patchnet_tf.data import Examples
from patchnet_tf.studies import nuclear_features

IMAGES = Path(os.environ.get("PATCHNET_IMAGES", Path(__file__).parents[2] / "shared" / "images"))


def drawn(pixels, size=(128, 128), level=100):
    """Return a black image with these pixels at one level."""
    image = np.zeros(size, "uint8")
    image[pixels] = level
    return image


def shape_of(image):
    return dict(zip(nuclear_features.NAMES[:3], nuclear_features.features(image)[:3], strict=True))


@pytest.mark.parametrize("radius", [20, 40, 60])
@pytest.mark.parametrize("level", [1, 255])
def test_discs(radius, level):
    got = shape_of(drawn(disk((64, 64), radius), level=level))
    assert got["area"] == pytest.approx(np.pi * radius**2, rel=0.02)
    assert got["eccentricity"] == pytest.approx(0, abs=0.02)
    assert got["roundness"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("angle", [0, 0.5, np.pi / 2])
@pytest.mark.parametrize("ratio", [0.8, 0.5, 0.25])
def test_ellipses(ratio, angle):
    a, b = 80, 80 * ratio
    got = shape_of(drawn(ellipse(100, 100, a, b, rotation=angle), (200, 200)))
    assert got["area"] == pytest.approx(np.pi * a * b, rel=0.02)
    assert got["eccentricity"] == pytest.approx(np.sqrt(1 - ratio**2), abs=0.01)
    h = ((a - b) / (a + b)) ** 2
    perimeter = np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))  # Ramanujan's
    assert got["roundness"] == pytest.approx(4 * np.pi * np.pi * a * b / perimeter**2, abs=0.03)


def test_local_binary_patterns_by_hand(rng):
    """The 8 points at radius 4, at least as bright or not, read as the smallest number of all rotations."""
    image = np.zeros((40, 44), "uint8")
    image[8:32, 8:36] = rng.integers(1, 256, (24, 28))
    names = nuclear_features.NAMES[3:39]
    got = dict(zip(names, nuclear_features.features(image)[3:39], strict=True))
    counts = dict.fromkeys(names, 0)
    angles = np.arange(8) * np.pi / 4
    for i, j in zip(*np.nonzero(image), strict=True):
        place = np.round([i - 4 * np.sin(angles), j + 4 * np.cos(angles)], 9)
        around = map_coordinates(image.astype("float64"), place, order=1)
        bits = ["1" if value >= image[i, j] else "0" for value in around[::-1]]  # the first is the last bit
        counts["lbp_" + min("".join(bits[k:] + bits[:k]) for k in range(8))] += 1
    assert len(counts) == 36
    assert got == pytest.approx({name: count / (24 * 28) for name, count in counts.items()})


def test_black_around_the_nucleus_does_not_count(rng):
    """Shape and patterns are the nucleus's: a larger black frame changes neither."""
    nucleus = drawn(disk((30, 30), 20), (60, 60), level=1) * rng.integers(1, 256, (60, 60), "uint8")
    got = nuclear_features.features(nucleus)[:39]
    np.testing.assert_allclose(nuclear_features.features(np.pad(nucleus, 25))[:39], got)
    turned = nuclear_features.features(np.rot90(nucleus).copy())[:3]
    np.testing.assert_allclose(turned, got[:3], atol=1e-6)


def test_adjacency_statistics_by_hand(rng):
    image = drawn(disk((20, 22), 15), (40, 44), level=1) * rng.integers(1, 256, (40, 44), "uint8")
    got = nuclear_features.features(image)[39:]
    bright = image[image > threshold_otsu(image)]
    low, mean, high = bright.mean() - bright.std(), bright.mean(), bright.mean() + bright.std()
    ranges = [(image > low) & (image < high), image > low, image > mean]
    expected = []
    for inside in [*ranges, *(~r for r in ranges)]:
        around = sliding_window_view(np.pad(inside, 1, "symmetric"), (3, 3)).sum((2, 3))
        counts = np.bincount(around[~inside], minlength=9)  # neighbours of the pixels outside
        expected.extend(counts / counts.sum())
    np.testing.assert_allclose(got, expected)


def test_colour_is_read_as_grey(rng):
    grey = rng.integers(1, 256, (30, 30, 1), "uint8")
    expected = nuclear_features.features(grey)
    np.testing.assert_array_equal(nuclear_features.features(grey[..., 0]), expected)
    np.testing.assert_array_equal(nuclear_features.features(np.repeat(grey, 3, -1)), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3)])
def test_few_pixels_have_finite_features(size):
    image = drawn(np.s_[5 : 5 + size[0], 5 : 5 + size[1]], (20, 20))
    got = nuclear_features.features(image)
    assert got.shape == (len(nuclear_features.NAMES),) == (93,)
    assert np.isfinite(got).all()
    assert got[0] == size[0] * size[1]


def test_what_is_no_nucleus_is_refused():
    with pytest.raises(ValueError, match="Received: a black image"):
        nuclear_features.features(np.zeros((20, 20), "uint8"))
    with pytest.raises(ValueError, match=r"Image 1: .*Received: a black image"):
        nuclear_features.table(np.stack([np.ones((20, 20, 1)), np.zeros((20, 20, 1))]).astype("uint8"))
    for wrong in (np.ones((20, 20)), np.ones((20, 20, 2), "uint8"), np.ones(20, "uint8")):
        with pytest.raises(ValueError, match=r"Received: .*shape="):
            nuclear_features.features(wrong)


def nuclei(rng, count, axes):
    """Draw ellipses at random places and angles."""
    images = [
        drawn(
            ellipse(*rng.uniform(28, 36, 2), *axes * rng.uniform(0.8, 1.2), rotation=rng.uniform(0, 3)),
            (64, 64),
        )
        for _ in range(count)
    ]
    return np.stack(images)[..., None]


def test_round_and_long_nuclei_are_told_apart(rng):
    def examples(count):
        round_ones, long_ones = nuclei(rng, count, np.array([15, 15])), nuclei(rng, count, np.array([20, 11]))
        return Examples(np.concatenate([round_ones, long_ones]), np.repeat([0, 1], count))

    train, val = examples(12), examples(6)
    got = nuclear_features.logistic_regression(train, val)
    assert (got.train_accuracy, got.val_accuracy) == (1, 1)
    q = got.pipeline.predict_proba(nuclear_features.table(val.images))[:, 1]
    np.testing.assert_array_equal(q > 0.5, val.labels)
    wrong = nuclear_features.logistic_regression(train, Examples(val.images, 1 - val.labels))
    assert (wrong.train_accuracy, wrong.val_accuracy) == (1, 0)  # the one is of training, the other not


@pytest.mark.skipif(not (IMAGES / "nuclei_3t3_u2os").is_dir(), reason=f"no images in {IMAGES}")
def test_mouse_and_human_nuclei():
    """Fewer images than `patchnet_tf.data` would read, to be quick."""

    def examples(split, count):
        paths = [sorted((IMAGES / "nuclei_3t3_u2os" / split / k).glob("*.png"))[:count] for k in "01"]
        images = [np.array(Image.open(path)) for both in paths for path in both]
        return Examples(np.stack(images)[..., None], np.repeat([0, 1], count))

    got = nuclear_features.logistic_regression(examples("train", 40), examples("val", 20))
    assert got.train_accuracy >= 0.95
    assert got.val_accuracy >= 0.8
