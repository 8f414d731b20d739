import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchnet_tf.data import Examples
from patchnet_tf.data.batches import AHEAD, Batches, balance, enlarge, read_ahead
from patchnet_tf.errors import InputError


def test_batches_are_a_new_order_of_the_images_each_epoch(rng):
    images = np.arange(10, dtype="uint8").reshape(10, 1, 1, 1)
    examples = Examples(images, np.arange(10) % 2)

    def epoch(seed, number):
        batches = Batches(examples, 4, seed)
        batches.epoch = number
        got = [batches[k] for k in range(len(batches))]
        assert [len(x) for x, _ in got] == [4, 4, 2]
        order = np.concatenate([x.ravel() for x, _ in got])
        np.testing.assert_array_equal(np.concatenate([y.ravel() for _, y in got]), order % 2)
        return order.tolist()

    orders = [epoch(0, 0), epoch(0, 1), epoch(1, 0)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert epoch(0, 1) == orders[1]
    assert epoch(None, 0) == epoch(None, 1) == list(range(10))


def test_flips(rng):
    images = rng.integers(0, 256, (200, 5, 6, 3), "uint8")
    before = images.copy()
    batches = Batches(Examples(images, np.arange(200)), 200, seed=0, flips=True)
    got, labels = batches[0]
    kinds = []
    for image, label in zip(got, labels[:, 0], strict=True):
        source = before[int(label)]
        mirrored = [source, source[::-1], source[:, ::-1], source[::-1, ::-1]]
        kinds.append([np.array_equal(image, m) for m in mirrored].index(True))
    assert all(30 < kinds.count(k) < 70 for k in range(4))  # 50 expected
    np.testing.assert_array_equal(images, before)


def test_flips_of_a_seed_stay_as_they_are(rng):
    """Documented figures depend on them: order and flips come first in the random stream."""
    images = rng.integers(0, 256, (7, 3, 4, 1), "uint8")
    batches = Batches(Examples(images, np.arange(7) % 2), 7, seed=3, flips=True)
    batches.epoch = 5
    stream = np.random.default_rng((3, 5))
    order = np.arange(7)
    stream.shuffle(order)
    down, right = stream.random((2, 7)) < 0.5
    for image, n in zip(batches[0][0], order, strict=True):
        expected = np.flip(images[n], [axis for axis, turned in enumerate((down[n], right[n])) if turned])
        np.testing.assert_array_equal(image, expected)


def test_rotations(rng):
    images = rng.integers(0, 256, (200, 5, 6, 3), "uint8")
    got, labels = Batches(Examples(images, np.arange(200)), 200, seed=0, rotations=True)[0]
    turned = 0
    for image, label in zip(got, labels[:, 0], strict=True):
        source = images[int(label)]
        assert np.array_equal(image, source) != np.array_equal(image, np.rot90(source, 2))
        turned += np.array_equal(image, np.rot90(source, 2))
    assert 70 < turned < 130  # 100 expected


def bilinear(image, rows, columns):
    """Values of (H, W, C) between its pixels, in float64."""
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    top, left = np.minimum(top, image.shape[0] - 2), np.minimum(left, image.shape[1] - 2)
    down, right = (rows - top)[:, None, None], (columns - left)[None, :, None]
    upper, lower = image[top].astype(float), image[top + 1].astype(float)
    rows_between = (1 - down) * upper + down * lower
    return (1 - right) * rows_between[:, left] + right * rows_between[:, left + 1]


@settings(deadline=None, max_examples=30)
@given(
    h=st.integers(2, 40),
    w=st.integers(2, 40),
    c=st.sampled_from([1, 3]),
    factor=st.floats(1, 3, exclude_min=True),
)
def test_enlarge_is_bilinear_about_the_centre(h, w, c, factor):
    # Steps of at most 16 levels: OpenCV rounds places to 1/32 pixel, so values are off by half a level more.
    steps = np.random.default_rng(0).integers(-8, 9, (h, w, c))
    image = (128 + steps).astype("uint8")
    centre = (h - 1) / 2, (w - 1) / 2
    rows, columns = (m + (np.arange(n) - m) / factor for n, m in zip((h, w), centre, strict=True))
    got = enlarge(image, factor)
    assert (got.dtype, got.shape) == (np.uint8, image.shape)
    np.testing.assert_allclose(got, bilinear(image, rows, columns), atol=1.1)


def test_zoom_factors_are_spread_between_1_and_the_largest():
    """A ramp of 2 levels per pixel becomes one of 2 / factor."""
    ramp = np.broadcast_to(2 * np.arange(101, dtype="uint8")[None, :, None], (5, 101, 1))
    images = np.stack([ramp] * 200)
    got, _ = Batches(Examples(images, np.zeros(200)), 200, seed=0, zoom=1.2)[0]
    assert (got.dtype, got.shape) == (np.uint8, images.shape)
    np.testing.assert_array_equal(got[:, :, 50], 100)  # the centre stays
    factors = 200 / (got[:, 2, 100, 0].astype(float) - got[:, 2, 0, 0])
    assert factors.min() == pytest.approx(1, abs=0.01)
    assert factors.max() == pytest.approx(1.2, abs=0.01)
    assert factors.mean() == pytest.approx(1.1, abs=0.02)


def test_no_zoom_leaves_the_pixels(rng):
    images = rng.integers(0, 256, (4, 5, 6, 3), "uint8")
    got, labels = Batches(Examples(images, np.arange(4)), 4, seed=0, zoom=1)[0]
    np.testing.assert_array_equal(got, images[labels[:, 0].astype(int)])


@pytest.mark.parametrize("label", [0, 1])
def test_balanced(label):
    """13 images of one class, 3 of the other, whose pixels tell the image."""
    images = np.arange(16, dtype="uint8").reshape(16, 1, 1, 1)
    labels = np.where(np.arange(16) < 13, label, 1 - label)
    batches = Batches(Examples(images, labels), 4, seed=0, balanced=True)
    seen = []
    for epoch in range(60):
        batches.epoch = epoch
        assert len(batches) == 2
        got = [batches[k] for k in range(2)]
        assert [len(x) for x, _ in got] == [4, 2]
        numbers = np.concatenate([x.ravel() for x, _ in got])
        np.testing.assert_array_equal(np.concatenate([y.ravel() for _, y in got]), labels[numbers])
        assert {13, 14, 15} < set(numbers)
        assert len(set(numbers)) == 6
        seen.append(tuple(numbers))
    assert len(set(seen)) > 50  # a new choice and order each time
    counts = np.bincount(np.concatenate(seen), minlength=16)[:13]
    assert counts.min() >= 4  # 60 * 3 / 13 = 14 expected
    batches.epoch = 7
    assert tuple(np.concatenate([batches[k][0].ravel() for k in range(2)])) == seen[7]


def test_balanced_needs_both_classes():
    with pytest.raises(InputError, match=r"balanced: expected images of both.*Received: 2 of class 0, 0 of"):
        Batches(Examples(np.full((2, 4, 4, 1), 9), np.zeros(2)), 4, seed=0, balanced=True)


def test_targets():
    images = np.zeros((4, 1, 1, 1), "uint8")
    numbers = Examples(images, np.array([2, 0, 1, 2], "uint8"))
    one_hot = [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    labels = Examples(images, np.array([[1, 1], [0, 0], [0, 1], [1, 0]], "uint8"))
    for examples, outputs, expected in (
        (Examples(images, np.array([0, 1, 1, 0], "uint8")), 1, [[0], [1], [1], [0]]),
        (numbers, 3, one_hot),
        (labels, 2, labels.labels),
    ):
        targets = examples.targets(outputs)
        assert targets.dtype == np.float32
        np.testing.assert_array_equal(targets, expected)
        np.testing.assert_array_equal(Batches(examples, 4, outputs=outputs)[0][1], expected)
    many = Examples(np.zeros((1, 1, 1, 1), "uint8"), np.array([999], "uint16")).targets(1000)
    assert (many.shape, many.argmax(), many.sum()) == ((1, 1000), 999, 1)


def test_some_of_each():
    images = np.arange(7, dtype="uint8").reshape(7, 1, 1, 1)
    few = Examples(images, np.array([2, 0, 2, 0, 1, 2, 0], "uint8")).some_of_each()
    assert few.images.ravel().tolist() == [1, 3, 4, 0, 2]
    assert few.labels.tolist() == [0, 0, 1, 2, 2]
    labels = np.array([[0, 0], [1, 1], [1, 0], [1, 1], [0, 1], [0, 1], [0, 1]], "uint8")
    few = Examples(images, labels).some_of_each()
    assert few.images.ravel().tolist() == [1, 2, 3]
    np.testing.assert_array_equal(few.labels, labels[1:4])


def test_balanced_of_several_classes():
    """As many of each as of the smallest, a new choice each time."""
    labels = np.repeat([0, 1, 2], [9, 3, 5])
    images = np.arange(17, dtype="uint8").reshape(17, 1, 1, 1)
    batches = Batches(Examples(images, labels), 17, seed=0, balanced=True, outputs=3)
    seen = set()
    for epoch in range(20):
        batches.epoch = epoch
        numbers, targets = batches[0][0].ravel(), batches[0][1]
        np.testing.assert_array_equal(targets.argmax(axis=1), labels[numbers])
        assert targets.sum(axis=0).tolist() == [3, 3, 3]
        assert {9, 10, 11} < set(numbers.tolist())
        seen.add(tuple(sorted(numbers)))
    assert len(seen) > 15


def test_balanced_needs_every_class_and_one_for_each_image():
    images = np.full((3, 4, 4, 1), 9, "uint8")
    with pytest.raises(InputError, match=r"expected images of all 3 classes. Received: 0 of class 1$"):
        Batches(Examples(images, np.array([0, 2, 2])), 4, seed=0, balanced=True, outputs=3)
    with pytest.raises(InputError, match=r"balanced: expected false.*several labels.*Received: true"):
        Batches(Examples(images, np.ones((3, 2), "uint8")), 4, seed=0, balanced=True, outputs=2)


def test_balance():
    order = np.array([5, 3, 0, 4, 1, 2])
    np.testing.assert_array_equal(balance(order, np.array([1, 1, 0, 1, 1, 0])), [5, 3, 0, 2])


def test_everything_random_follows_from_seed_and_epoch(rng):
    examples = Examples(rng.integers(0, 256, (9, 8, 10, 3), "uint8"), np.arange(9) < 3)
    options = {"flips": True, "rotations": True, "zoom": 1.2, "balanced": True}
    whole = Batches(examples, 2, seed=4, **options)
    for epoch in range(3):
        whole.epoch = epoch
        before = [whole[k] for k in range(len(whole))]
    resumed = Batches(examples, 2, seed=4, **options)
    resumed.epoch = 2
    for k in reversed(range(len(resumed))):  # in any order
        for a, b in zip(before[k], resumed[k], strict=True):
            np.testing.assert_array_equal(a, b)


def test_augmentation_is_fast(rng):
    """Far below the half second of a training step, also on a busy machine."""
    images = rng.integers(0, 256, (8, 192, 256, 3), "uint8")
    batches = Batches(
        Examples(images, np.arange(8) % 2), 4, seed=0, flips=True, rotations=True, zoom=1.2, balanced=True
    )
    took = []
    for k in range(6):
        began = time.perf_counter()
        batches[k % 2]
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


def test_reading_ahead_keeps_the_order_and_holds_a_few(rng):
    """In every epoch the batches are the same, and no more than a few are made before they are taken."""
    images = rng.integers(0, 256, (60, 5, 6, 1), "uint8")
    made = []

    class Told(Batches):
        def __getitem__(self, index):
            made.append(index)
            return super().__getitem__(index)

    examples = Examples(images, np.arange(60) % 2)
    batches, others = Told(examples, 2, 0, flips=True), Batches(examples, 2, 0, flips=True)
    ahead = read_ahead(batches)
    assert len(ahead) == len(others) == 30
    for epoch in range(2):
        batches.epoch = others.epoch = epoch
        made.clear()
        for k, (got, labels) in enumerate(ahead):
            assert len(made) <= k + AHEAD + 2
            np.testing.assert_array_equal(got, others[k][0])
            np.testing.assert_array_equal(labels, others[k][1])
        assert made == list(range(30))
