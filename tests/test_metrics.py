import json
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchnet_tf.evaluation import metrics

MEASURES = list(metrics.MEASURES.values())

# Few different values, so that ties and the threshold itself come up.
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: st.tuples(
        hnp.arrays("float32", shape, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
        hnp.arrays("bool", shape),
    )
)


def test_known_answers():
    heatmap = [[0.9, 0.5, 0.2], [0.1, 0.6, 0.4]]
    mask = [[1, 1, 1], [0, 0, 0]]
    assert metrics.exact_match(heatmap, mask) == pytest.approx(4 / 6)  # 0.2 and 0.6 are wrong
    assert metrics.recall(heatmap, mask) == pytest.approx(2 / 3)
    # Pairs won: 0.9 beats three, 0.5 beats two, 0.2 beats one, of nine.
    assert metrics.auroc(heatmap, mask) == pytest.approx(6 / 9)
    # From the top: 0.9 in, 0.6 out, 0.5 in, 0.4 out, 0.2 in, 0.1 out.
    assert metrics.average_precision(heatmap, mask) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert metrics.iou(heatmap, mask) == pytest.approx(2 / 4)
    assert metrics.best_iou(heatmap, mask) == pytest.approx(3 / 5)  # 1/3, 1/4, 2/4, 2/5, 3/5, 3/6
    assert metrics.pointing_game(heatmap, mask) == 1
    assert metrics.mass_inside(heatmap, mask) == pytest.approx(1.6 / 2.7)


def test_equal_values_count_half():
    assert metrics.auroc([[0.3, 0.3, 0.7]], [[0, 1, 1]]) == pytest.approx(0.75)
    assert metrics.best_iou([[0.3, 0.3, 0.7]], [[0, 1, 0]]) == pytest.approx(
        1 / 3
    )  # not the 1/2 of 0.3 alone
    assert metrics.pointing_game([[0.7, 0.7, 0.7, 0.1]], [[0, 1, 0, 1]]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("level", [0.2, 0.5, 1])
def test_a_constant_map_gets_what_chance_gets(level):
    heatmap, mask = np.full((4, 5), level), np.eye(4, 5)  # 4 of 20 pixels
    chance = ("average_precision", "best_iou", "pointing_game", "mass_inside")
    assert {name: metrics.MEASURES[name](heatmap, mask) for name in chance} == pytest.approx(
        dict.fromkeys(chance, 0.2)
    )
    assert metrics.auroc(heatmap, mask) == 0.5
    found = level >= 0.5
    assert metrics.iou(heatmap, mask) == pytest.approx(0.2 * found)


def test_a_map_of_zeros_has_no_mass():
    mask = np.eye(4, 5)
    assert math.isnan(metrics.mass_inside(np.zeros((4, 5)), mask))
    assert metrics.pointing_game(np.zeros((4, 5)), mask) == pytest.approx(0.2)


def test_a_perfect_and_an_inverted_map():
    mask = np.eye(5)
    assert {measure(mask, mask) for measure in MEASURES} == {1}
    worst = {name: measure(1 - mask, mask) for name, measure in metrics.MEASURES.items()}
    # No pixel of the mask is found before all others: precision and best IoU are the mask's share.
    assert worst.pop("average_precision") == worst.pop("best_iou") == pytest.approx(0.2)
    assert set(worst.values()) == {0}


@given(PAIRS)
def test_measures_are_scikit_learns(pair):
    heatmap, mask = pair
    true, rounded = mask.ravel(), heatmap.ravel() >= 0.5
    assert metrics.exact_match(*pair) == pytest.approx(sklearn.metrics.accuracy_score(true, rounded))
    if mask.any():
        assert metrics.recall(*pair) == pytest.approx(sklearn.metrics.recall_score(true, rounded))
        assert metrics.iou(*pair) == pytest.approx(sklearn.metrics.jaccard_score(true, rounded))
    if mask.any() and not mask.all():
        assert metrics.average_precision(*pair) == pytest.approx(
            sklearn.metrics.average_precision_score(true, heatmap.ravel())
        )
        thresholds = [sklearn.metrics.jaccard_score(true, heatmap.ravel() >= t) for t in np.unique(heatmap)]
        assert metrics.best_iou(*pair) == pytest.approx(max(thresholds))
        highest = np.argwhere(heatmap == heatmap.max())
        assert metrics.pointing_game(*pair) == pytest.approx(np.mean([mask[i, j] for i, j in highest]))
        if heatmap.any():
            assert metrics.mass_inside(*pair) == pytest.approx(np.average(mask, weights=heatmap))
        better = heatmap[mask][:, None] - heatmap[~mask][None, :]  # by its definition, pair by pair
        expected = np.mean((better > 0) + 0.5 * (better == 0))
        assert metrics.auroc(*pair) == pytest.approx(expected)


def test_empty_and_full_masks(rng):
    heatmap = rng.random((4, 4))
    for mask, share in (
        (np.zeros((4, 4)), np.mean(heatmap < 0.5)),
        (np.ones((4, 4)), np.mean(heatmap >= 0.5)),
    ):
        got = {name: measure(heatmap, mask) for name, measure in metrics.MEASURES.items()}
        assert got.pop("exact_match") == share
        if mask.all():  # some of it can be missed
            assert got.pop("recall") == got.pop("iou") == share
        assert all(map(math.isnan, got.values())), got


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("heatmap_dtype", ["float16", "float32", "float64"])
def test_dtypes_and_a_last_axis(measure, dtype, white, heatmap_dtype, rng):
    heatmap = rng.integers(0, 9, (6, 7)) / 8  # exact in every dtype
    mask = rng.random((6, 7)) > 0.6
    got = measure(heatmap.astype(heatmap_dtype), (mask * white).astype(dtype)[..., None])
    assert got == measure(heatmap, mask)
    assert isinstance(got, float)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("values", [(0, 2), (0, 1, 255), (-1, 0), (0, 0.5), (0, np.nan), (7, 7)])
def test_masks_hold_two_values(measure, values):
    with pytest.raises(ValueError, match="Received: values"):
        measure(np.zeros((1, len(values))), np.array([values]))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_mask_of_another_size_is_refused(measure):
    with pytest.raises(ValueError, match=r"Received: mask \(4, 5\), heatmap \(5, 4\)"):
        measure(np.zeros((5, 4)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="Received"):
        measure(np.zeros((4, 4)), np.zeros((4, 4, 3)))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.1])
def test_what_is_no_heatmap_is_refused(measure, bad):
    with pytest.raises(ValueError, match="Received"):
        measure([[0.5, bad]], [[0, 1]])


def test_localization_averages_where_a_measure_is_defined(rng):
    heatmaps = [rng.random(size) for size in ((4, 4), (5, 3), (6, 6))]
    masks = [heatmaps[0] > 0.3, np.zeros((5, 3)), np.ones((6, 6))]
    got = metrics.localization(heatmaps, masks)
    assert set(got) == set(metrics.MEASURES) == set(metrics.TITLES)
    exact = np.mean([metrics.exact_match(q, mask) for q, mask in zip(heatmaps, masks, strict=True)])
    recall = np.mean([metrics.recall(heatmaps[i], masks[i]) for i in (0, 2)])
    assert (got["exact_match"].mean, got["exact_match"].images) == (pytest.approx(exact), 3)
    assert (got["recall"].mean, *got["recall"][3:]) == (pytest.approx(recall), 2, 1)
    assert {name for name, m in got.items() if m[3:] == (1, 2)} == set(got) - {"exact_match", "recall", "iou"}
    assert got["auroc"].mean == 1
    assert math.isnan(got["auroc"].low)  # one image has no interval
    values = metrics.per_image(heatmaps, masks)["recall"]
    np.testing.assert_array_equal(np.isnan(values), [False, True, False])


def test_localization_defined_nowhere():
    got = metrics.localization(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))
    assert math.isnan(got["auroc"].mean)
    assert got["auroc"][3:] == (0, 2)
    assert got["exact_match"] == (1, 1, 1, 2, 0)
    assert math.isnan(metrics.localization([], [])["exact_match"].mean)


def test_an_empty_mask_is_no_hit(rng):
    """Adding images without anything to find changes no mean."""
    heatmaps, masks = rng.random((5, 6, 6)), rng.random((5, 6, 6)) > 0.7
    got = metrics.localization(heatmaps, masks)
    more = metrics.localization([*heatmaps, *heatmaps], [*masks, *np.zeros((5, 6, 6))])
    for name in set(metrics.MEASURES) - {"exact_match"}:
        assert more[name] == (*got[name][:4], 5)


def test_localization_needs_a_mask_for_each_map():
    with pytest.raises(ValueError, match=r"\(N, height, width\); for one, \[heatmap\], \[mask\]"):
        metrics.localization(np.zeros((3, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="Received: 2 heatmaps and 1 masks"):
        metrics.localization(np.zeros((2, 3, 3)), np.zeros((1, 3, 3)))


def test_interval_of_known_distribution():
    """Of resampled zeros and ones the mean is binomial, whose quantiles are known."""
    for ones, images in ((30, 40), (2, 6)):
        got = metrics.summarize([1] * ones + [0] * (images - ones))
        for end, level in ((got.low, 0.025), (got.high, 0.975)):
            expected = scipy.stats.binom.ppf(level, images, ones / images) / images
            assert end == pytest.approx(expected, abs=1.01 / images * (images > 6))
        assert got[3:] == (images, 0)


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    covered = [m.low <= 0.5 <= m.high for m in map(metrics.summarize, rng.random((200, 40)))]
    assert 0.89 <= np.mean(covered) <= 0.99


@given(hnp.arrays("float64", st.integers(2, 20), elements=st.floats(0, 1)))
def test_intervals_are_ordered_and_repeat(values):
    got = metrics.summarize(values)
    assert got == metrics.summarize(values)
    assert values.min() - 1e-9 <= got.low <= got.mean + 1e-9
    assert got.mean - 1e-9 <= got.high <= values.max() + 1e-9
    assert metrics.summarize([*values, np.nan]) == (*got[:4], 1)


def test_measures_go_into_json():
    got = metrics.summarize([1, 0, 1])
    assert json.loads(json.dumps(got._asdict()))["images"] == 3


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(
            hnp.arrays("float32", n, elements=st.sampled_from([0, 0.25, 0.5, 0.75, 1])),
            hnp.arrays("uint8", n, elements=st.sampled_from([0, 1])),
        )
    )
)
def test_classification_is_scikit_learns(pair):
    q, labels = pair
    got = metrics.classification(q[:, None], labels)
    assert got["accuracy"].mean == pytest.approx(sklearn.metrics.accuracy_score(labels, q > 0.5))
    clipped = np.clip(q.astype("float64"), 1e-7, 1 - 1e-7)
    assert got["loss"].mean == pytest.approx(sklearn.metrics.log_loss(labels, clipped, labels=[0, 1]))
    if 0 < labels.sum() < labels.size:
        assert got["auroc"].mean == pytest.approx(sklearn.metrics.roc_auc_score(labels, q))
        assert got["auroc"][3:] == (labels.size, 0)
    else:
        assert math.isnan(got["auroc"].mean)
        assert got["auroc"][3:] == (0, labels.size)


def test_interval_of_the_classifications_auroc(rng):
    """Against resamples drawn here, class by class, and measured by scikit-learn."""
    labels = np.arange(60) % 3 == 0
    q = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    got = metrics.classification(q, labels)["auroc"]
    areas = []
    for _ in range(500):
        drawn = np.concatenate([rng.choice(np.flatnonzero(labels == k), (labels == k).sum()) for k in (0, 1)])
        areas.append(sklearn.metrics.roc_auc_score(labels[drawn], q[drawn]))
    np.testing.assert_allclose((got.low, got.high), np.quantile(areas, (0.025, 0.975)), atol=0.02)


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [([0.5], [0, 1]), ([0.5, 0.5], [0, 2]), ([0.5, 1.5], [0, 1]), ([0.5, np.nan], [0, 1]), ([], [])],
)
def test_what_is_no_classification_is_refused(probabilities, labels):
    with pytest.raises(ValueError, match="Received"):
        metrics.classification(probabilities, labels)
