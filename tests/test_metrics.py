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


@pytest.fixture
def three(rng):
    """Probabilities of 60 images of three classes, with ties, and their classes."""
    labels = rng.integers(0, 3, 60)
    q = np.round(rng.dirichlet(np.ones(3), 60) + 0.4 * np.eye(3)[labels], 1)
    return q / q.sum(1, keepdims=True), labels


@pytest.fixture
def four_labels(rng):
    truth = rng.integers(0, 2, (60, 4))
    return np.round(np.clip(rng.random((60, 4)) + 0.2 * truth, 0, 1), 1), truth


def test_measures_of_classes_are_scikit_learns(three):
    q, labels = three
    whole, by_class = metrics.classification_of_classes(q, labels)
    truth, predicted = np.eye(3)[labels], q.argmax(1)
    expected = {
        "loss": -np.log(np.clip(q[np.arange(60), labels], 1e-7, 1 - 1e-7)).mean(),
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "auroc": sklearn.metrics.roc_auc_score(labels, q, multi_class="ovr", average="macro"),
        "average_precision": sklearn.metrics.average_precision_score(truth, q, average="macro"),
    }
    assert {name: mean.mean for name, mean in whole.items()} == pytest.approx(expected, abs=1e-6)
    for k, of_class in enumerate(by_class):
        expected = {
            "recall": sklearn.metrics.recall_score(labels, predicted, labels=[k], average=None)[0],
            "precision": sklearn.metrics.precision_score(labels, predicted, labels=[k], average=None)[0],
            "auroc": sklearn.metrics.roc_auc_score(truth[:, k], q[:, k]),
            "average_precision": sklearn.metrics.average_precision_score(truth[:, k], q[:, k]),
        }
        assert {name: mean.mean for name, mean in of_class.items()} == pytest.approx(expected)
    for mean in [*whole.values(), *(mean for of_class in by_class for mean in of_class.values())]:
        assert mean.low <= mean.mean <= mean.high
    np.testing.assert_array_equal(
        metrics.confusion_matrix(q, labels),
        sklearn.metrics.confusion_matrix(labels, predicted, labels=range(3)),
    )


def test_measures_of_labels_are_scikit_learns(four_labels):
    q, truth = four_labels
    limits = [0.5, 0.25, 0.75, 0.5]
    whole, by_class = metrics.classification_of_classes(q, truth, limits)
    predicted = q > limits
    clipped = np.clip(q, 1e-7, 1 - 1e-7)
    losses = [sklearn.metrics.log_loss(truth[:, k], clipped[:, k]) for k in range(4)]
    balanced = [sklearn.metrics.balanced_accuracy_score(truth[:, k], predicted[:, k]) for k in range(4)]
    assert {name: mean.mean for name, mean in whole.items()} == pytest.approx(
        {
            "loss": np.mean(losses),
            "accuracy": np.mean(predicted == truth),
            "balanced_accuracy": np.mean(balanced),
            "auroc": sklearn.metrics.roc_auc_score(truth, q),
            "average_precision": sklearn.metrics.average_precision_score(truth, q),
        }
    )
    assert by_class[1]["precision"].mean == pytest.approx(
        sklearn.metrics.precision_score(truth[:, 1], predicted[:, 1])
    )
    assert by_class[2]["recall"].mean == pytest.approx(
        sklearn.metrics.recall_score(truth[:, 2], predicted[:, 2])
    )


def test_ranking_of_weighted_images_is_scikit_learns(rng):
    scores, truth = rng.integers(0, 5, 30) / 4, rng.random(30) < 0.4
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    areas, precisions = metrics.ranking(scores, truth, weights)
    for w, area, precision in zip(weights, areas, precisions, strict=True):
        assert area == pytest.approx(sklearn.metrics.roc_auc_score(truth, scores, sample_weight=w))
        assert precision == pytest.approx(
            sklearn.metrics.average_precision_score(truth, scores, sample_weight=w)
        )


def test_intervals_of_one_class_against_the_other_are_those_of_two_classes(rng):
    q, labels = rng.random(80), np.arange(80) % 2
    two = metrics.classification(q, labels)
    whole, by_class = metrics.classification_of_classes(np.stack([1 - q, q], 1), labels)
    for name in ("loss", "accuracy"):
        assert whole[name] == pytest.approx(two[name])
    assert by_class[1]["auroc"].mean == pytest.approx(two["auroc"].mean)
    assert by_class[1]["auroc"][1:3] == pytest.approx(two["auroc"][1:3], abs=0.02)  # other resamples


def test_a_class_without_images_is_undefined_and_left_out_of_means():
    q = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7]])
    whole, by_class = metrics.classification_of_classes(q, [0, 1, 1, 0])
    assert np.isnan(by_class[2]["auroc"].mean)
    assert np.isnan(by_class[2]["recall"].mean)
    assert by_class[2]["recall"][3:] == (0, 4)
    assert by_class[2]["precision"].mean == 0
    assert whole["balanced_accuracy"].mean == 0.5
    assert whole["auroc"].mean == pytest.approx((0.75 + 0.75) / 2)
    whole, _ = metrics.classification_of_classes([[0.2, 0.9], [0.6, 0.1]], [[0, 0], [0, 0]])
    assert np.isnan(whole["auroc"].mean)
    assert whole["accuracy"].mean == 0.5


@pytest.mark.parametrize(
    ("probabilities", "labels"),
    [
        (np.full((3, 3), 0.3), [0, 1, 3]),
        (np.full((3, 3), 0.3), [0, 1]),
        (np.full((3, 3), 0.3), np.full((3, 3), 2)),
        (np.full((3, 3), np.nan), [0, 1, 2]),
        (np.full((3, 3), 1.5), [0, 1, 2]),
        (np.zeros((0, 3)), []),
    ],
)
def test_what_is_no_classification_of_classes_is_refused(probabilities, labels):
    for measure in (metrics.classification_of_classes, metrics.calibration, metrics.confusion_matrix):
        with pytest.raises(ValueError, match="Received: "):
            measure(probabilities, labels)


def test_a_threshold_for_each_label_is_needed(four_labels):
    for limits in ([0.5], [0.5, 0.5, 0.5, 1.5]):
        with pytest.raises(ValueError, match="threshold in"):
            metrics.classification_of_classes(*four_labels, limits)


def test_calibration_by_hand():
    q = [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.05, 0.05, 0.9]]
    calibrated = metrics.calibration(q, [0, 0, 0, 2], bins=5)
    # Of the predicted class: 0.5 right in (0.4, 0.6] with 0.6 right; 0.7 wrong; 0.9 right.
    assert calibrated.counts == [0, 0, 2, 1, 1]
    np.testing.assert_allclose(calibrated.probability, [np.nan, np.nan, 0.55, 0.7, 0.9])
    np.testing.assert_allclose(calibrated.share, [np.nan, np.nan, 1, 0, 1])
    assert calibrated.error == pytest.approx((2 * 0.45 + 0.7 + 0.1) / 4)

    two = metrics.calibration([0.0, 0.25, 0.75, 1.0], [0, 1, 1, 1], bins=2)  # of class 1
    assert (two.counts, two.probability, two.share) == ([2, 2], [0.125, 0.875], [0.5, 1.0])
    labels = metrics.calibration([[0.0, 0.25], [0.75, 1.0]], [[0, 1], [1, 1]], bins=2)
    assert labels == two


def test_the_temperature_undoes_a_temperature(rng):
    q = rng.dirichlet(np.ones(4), 4000)
    labels = (q.cumsum(1) < rng.random((4000, 1))).sum(1)
    assert metrics.temperature(q, labels) == pytest.approx(1, abs=0.05)
    sure = metrics.tempered(q, 1 / 3, exclusive=True)
    np.testing.assert_allclose(sure, q**3 / (q**3).sum(1, keepdims=True), atol=1e-6)
    assert metrics.temperature(sure, labels) == pytest.approx(3, rel=0.05)
    q, truth = rng.random((4000, 2)), rng.random((4000, 2))
    truth = truth < q
    assert metrics.temperature(metrics.tempered(q, 2, exclusive=False), truth) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("rule", metrics.RULES)
def test_thresholds_are_the_best_there_are(four_labels, rule):
    q, truth = four_labels
    for k, threshold in enumerate(metrics.choose_thresholds(q, truth, rule=rule)):

        def good(t, q=q[:, k], truth=truth[:, k]):
            if rule == "f1":
                return sklearn.metrics.f1_score(truth, q > t)
            return sklearn.metrics.recall_score(truth, q > t) + sklearn.metrics.recall_score(
                1 - truth, q <= t
            )

        tried = {t: good(t) for t in np.linspace(0, 1, 41)}
        assert good(threshold) == pytest.approx(max(tried.values()))
        nearest = min(abs(t - 0.5) for t, value in tried.items() if value >= max(tried.values()) - 1e-9)
        assert abs(threshold - 0.5) <= nearest + 0.05  # candidates lie in the middle between tenths


def test_thresholds_by_hand():
    assert metrics.choose_thresholds([0.125, 0.25, 0.375, 0.75], [0, 0, 1, 1]) == (0.3125,)
    assert metrics.choose_thresholds([0.25, 0.75], [1, 0], rule="f1") == (0.0,)
    # 0.25 finds both with one false alarm, 0.75 one without: as good, and as near to 0.5.
    assert metrics.choose_thresholds([0.125, 0.375, 0.625, 0.875], [0, 1, 0, 1]) == (0.25,)
    # What nobody or everybody has says nothing.
    assert metrics.choose_thresholds([[0.1, 0.2], [0.3, 0.4]], [[0, 1], [0, 1]]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="Received: rule='best'"):
        metrics.choose_thresholds([0.1, 0.2], [0, 1], rule="best")
    with pytest.raises(ValueError, match="most probable"):
        metrics.choose_thresholds(np.full((2, 3), 0.3), [0, 1])


def test_localization_of_each_class(rng):
    maps, masks = rng.random((5, 4, 4)), rng.random((5, 4, 4)) < 0.5
    by_class = metrics.localization_by_class(maps, masks, [0, 2, 2, 0, 2], classes=3)
    assert by_class[0] == metrics.localization(maps[[0, 3]], masks[[0, 3]])
    assert by_class[2] == metrics.localization(maps[[1, 2, 4]], masks[[1, 2, 4]])
    assert by_class[1]["auroc"].images == 0
    for labels in ([0, 1, 2], [0, 1, 2, 3, 0]):
        with pytest.raises(ValueError, match="below 3"):
            metrics.localization_by_class(maps, masks, labels, classes=3)
