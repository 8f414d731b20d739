import json
import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchnet_tf import metrics

MEASURES = [metrics.exact_match, metrics.recall, metrics.auroc]

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


def test_equal_values_count_half():
    assert metrics.auroc([[0.3, 0.3, 0.7]], [[0, 1, 1]]) == pytest.approx(0.75)
    assert metrics.auroc(np.full((4, 5), 0.8), np.eye(4, 5)) == 0.5


def test_a_perfect_and_an_inverted_map():
    mask = np.eye(5)
    assert [measure(mask, mask) for measure in MEASURES] == [1, 1, 1]
    assert [measure(1 - mask, mask) for measure in MEASURES] == [0, 0, 0]


@given(PAIRS)
def test_measures_are_scikit_learns(pair):
    heatmap, mask = pair
    true, rounded = mask.ravel(), heatmap.ravel() >= 0.5
    assert metrics.exact_match(*pair) == pytest.approx(sklearn.metrics.accuracy_score(true, rounded))
    if mask.any():
        assert metrics.recall(*pair) == pytest.approx(sklearn.metrics.recall_score(true, rounded))
    if mask.any() and not mask.all():
        better = heatmap[mask][:, None] - heatmap[~mask][None, :]  # by its definition, pair by pair
        expected = np.mean((better > 0) + 0.5 * (better == 0))
        assert metrics.auroc(*pair) == pytest.approx(expected)


def test_empty_and_full_masks(rng):
    heatmap = rng.random((4, 4))
    assert math.isnan(metrics.recall(heatmap, np.zeros((4, 4))))
    assert math.isnan(metrics.auroc(heatmap, np.zeros((4, 4))))
    assert math.isnan(metrics.auroc(heatmap, np.ones((4, 4))))
    assert metrics.recall(heatmap, np.ones((4, 4))) == np.mean(heatmap >= 0.5)
    assert metrics.exact_match(heatmap, np.zeros((4, 4))) == np.mean(heatmap < 0.5)


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
    assert list(got) == ["exact_match", "recall", "auroc"]
    exact = np.mean([metrics.exact_match(q, mask) for q, mask in zip(heatmaps, masks, strict=True)])
    recall = np.mean([metrics.recall(heatmaps[i], masks[i]) for i in (0, 2)])
    assert got["exact_match"] == (pytest.approx(exact), 3, 0)
    assert got["recall"] == (pytest.approx(recall), 2, 1)
    assert got["auroc"] == (1, 1, 2)
    as_json = json.dumps({name: measure._asdict() for name, measure in got.items()})
    assert json.loads(as_json)["auroc"] == {"mean": 1, "images": 1, "skipped": 2}


def test_localization_defined_nowhere():
    got = metrics.localization(np.zeros((2, 3, 3)), np.zeros((2, 3, 3)))
    assert math.isnan(got["auroc"].mean)
    assert got["auroc"][1:] == (0, 2)
    assert got["exact_match"] == (1, 2, 0)
    assert math.isnan(metrics.localization([], [])["exact_match"].mean)


def test_localization_needs_a_mask_for_each_map():
    with pytest.raises(ValueError, match="Received: 2 heatmaps and 1 masks"):
        metrics.localization(np.zeros((2, 3, 3)), np.zeros((1, 3, 3)))
