import io

import cv2
import numpy as np
import pytest
from PIL import Image

from patchnet_tf.data import alike
from patchnet_tf.data.alike import ALIKE, SIDE, nearest, small_vector, turned


def picture(rng, size=(60, 80)):
    """Smooth blotches, grey levels as float64."""
    small = rng.random((7, 9)).astype("float32")
    return 255.0 * cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)


def jpeg(grey):
    file = io.BytesIO()
    Image.fromarray(grey.round().astype("uint8")).save(file, "jpeg", quality=40)
    return np.asarray(Image.open(file)).astype(float)


WAYS = [lambda x, k=k, flip=flip: np.rot90(x[:, ::-1] if flip else x, k) for k in range(4) for flip in (0, 1)]


def test_a_vector_is_normalized(rng):
    vector = small_vector(picture(rng))
    assert (vector.dtype, vector.shape) == (np.float32, (SIDE * SIDE,))
    assert vector.mean() == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_flat_images_are_left_out(rng):
    assert small_vector(np.full((30, 40), 77.0)) is None
    assert small_vector(100 + rng.random((64, 64))) is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "changed",
    [
        lambda x: x,
        jpeg,
        lambda x: cv2.resize(x, (40, 30), interpolation=cv2.INTER_AREA),
        lambda x: 20 + 0.7 * x,  # darker, with less contrast
    ],
)
def test_copies_are_found(rng, way, changed):
    image, other = picture(rng), picture(rng)
    vectors = np.stack([small_vector(x) for x in (other, image, changed(way(image)))])
    found, between, _, _ = nearest(vectors, np.arange(3), np.array([0, 0, 1]))
    assert found[2] == 1
    assert between[2] >= ALIKE


def test_different_images_are_not(rng):
    vectors = np.stack([small_vector(picture(rng)) for _ in range(60)])
    _, between, _, within = nearest(vectors, np.arange(60), np.arange(60) % 3)
    assert max(between.max(), within.max()) < 0.9


def test_turned_are_eight_ways(rng):
    vectors = rng.random((3, SIDE * SIDE)).astype("float32")
    for n in range(3):
        expected = {way(vectors[n].reshape(SIDE, SIDE)).tobytes() for way in WAYS}
        assert {v.tobytes() for v in turned(vectors)[:, n]} == expected
        assert len(expected) == 8


def test_nearest_against_every_pair(rng, monkeypatch):
    """Also where only two rows fit into memory at once."""
    vectors = np.stack([small_vector(rng.random((16, 16)) * 255) for _ in range(11)])
    vectors[7] = vectors[2]
    groups, splits = np.array([0, 1, 2, 3, 4, 5, 6, 2, 8, 9, 10]), np.array([0] * 5 + [1] * 4 + [2] * 2)
    whole = nearest(vectors, groups, splits)
    monkeypatch.setattr(alike, "ROOM", 2 * 8 * 11)
    for first, second in zip(whole, nearest(vectors, groups, splits), strict=True):
        np.testing.assert_allclose(first, second, atol=1e-6)
    for n in range(11):
        for k, of_those in enumerate((splits < splits[n], splits == splits[n])):
            pairs = {
                m: max(
                    float((way(vectors[n].reshape(16, 16)) * vectors[m].reshape(16, 16)).sum())
                    for way in WAYS
                )
                for m in np.flatnonzero(of_those & (groups != groups[n]))
            }
            assert whole[2 * k + 1][n] == pytest.approx(max(pairs.values(), default=-1), abs=1e-5)
            if pairs:
                assert whole[2 * k][n] == max(pairs, key=pairs.get)
