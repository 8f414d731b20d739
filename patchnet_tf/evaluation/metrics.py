"""How well a network classifies, and how well a heatmap finds what a mask marks, with intervals over images.

Each measure compares one heatmap (H, W) in [0, 1] with one mask of the same size; pixels of the mask belong
to class 1, as white does. Exact match, recall and AUROC are the paper's (section 4); the others are what the
literature on explanations uses. A measure is NaN, and its image is skipped, where it says nothing about the
heatmap: without a pixel in the mask there is nothing to find, and where the mask is everything most measures
give 1 to every heatmap. docs/metrics.md says which measure answers which question.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special, stats
from sklearn.metrics import average_precision_score, roc_auc_score

from ..images.pictures import check_heatmap, check_mask
from .results import Calibration, Mean

RESAMPLES = 9999  # of an interval
CLASS_RESAMPLES = 999  # of those of several classes, which are computed for each class
BINS = 15  # of a reliability curve
TEMPERATURES = (0.05, 20.0)  # between which the best one is looked for
RULES = ("youden", "f1")  # by which a threshold is chosen


def exact_match(heatmap: Any, mask: Any) -> float:
    """Share of pixels where the heatmap, rounded (0.5 becomes 1), equals the mask.

    Args:
        heatmap: (H, W) in [0, 1].
        mask: (H, W) or (H, W, 1): bool, 0/1 or 0/255, any dtype.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: the heatmap or the mask is not as above, or their sizes differ.

    Example:
        >>> exact_match([[0.2, 0.9]], [[0, 0]])
        0.5
    """
    q, mask = check_pair(heatmap, mask)
    return float(np.mean((q >= 0.5) == mask))


def recall(heatmap: Any, mask: Any) -> float:
    """Share of the mask's pixels that the heatmap, rounded (0.5 becomes 1), finds.

    Args and errors are those of `exact_match`.

    Returns:
        A number in [0, 1], or NaN for an empty mask.

    Example:
        >>> recall([[0.2, 0.9]], [[1, 1]])
        0.5
    """
    q, mask = check_pair(heatmap, mask)
    return float(np.mean(q[mask] >= 0.5)) if mask.any() else float("nan")


def auroc(heatmap: Any, mask: Any) -> float:
    """Area under the ROC curve of the heatmap's pixels.

    The chance that a pixel of the mask has a higher value than one outside; equal values count half.
    Args and errors are those of `exact_match`.

    Returns:
        A number in [0, 1], or NaN for an empty or a full mask.

    Example:
        >>> auroc([[0.1, 0.2, 0.9]], [[0, 1, 1]])
        1.0
    """
    q, mask = check_pair(heatmap, mask)
    return float(roc_auc_score(mask.ravel(), q.ravel())) if two_sided(mask) else float("nan")


def average_precision(heatmap: Any, mask: Any) -> float:
    """Area under the precision-recall curve of the heatmap's pixels, as a sum of steps (scikit-learn's).

    Chance level is not 0.5 but the mask's share of the image. Args and errors are those of `exact_match`.

    Returns:
        A number in (0, 1], or NaN for an empty or a full mask.

    Example:
        >>> average_precision([[0.9, 0.2, 0.1]], [[0, 1, 1]])  # half of the mask at precision 1/2, all at 2/3
        0.5833333333333333
    """
    q, mask = check_pair(heatmap, mask)
    return float(average_precision_score(mask.ravel(), q.ravel())) if two_sided(mask) else float("nan")


def iou(heatmap: Any, mask: Any) -> float:
    """Intersection over union of the mask and the heatmap, rounded (0.5 becomes 1).

    Args and errors are those of `exact_match`.

    Returns:
        A number in [0, 1], or NaN for an empty mask.

    Example:
        >>> iou([[0.2, 0.9, 0.8]], [[1, 1, 0]])
        0.3333333333333333
    """
    q, mask = check_pair(heatmap, mask)
    white = q >= 0.5
    return float((white & mask).sum() / (white | mask).sum()) if mask.any() else float("nan")


def best_iou(heatmap: Any, mask: Any) -> float:
    """Intersection over union at the threshold that suits this image best.

    The threshold is chosen with the mask, so the figure is an upper bound, for maps whose values have no
    absolute meaning. A constant heatmap gets the mask's share of the image. Args and errors are those of
    `exact_match`.

    Returns:
        A number in (0, 1], or NaN for an empty or a full mask.

    Example:
        >>> best_iou([[0.1, 0.3, 0.4]], [[0, 1, 1]])
        1.0
    """
    q, mask = check_pair(heatmap, mask)
    if not two_sided(mask):
        return float("nan")
    order = np.argsort(-q, axis=None)
    q, inside = q.ravel()[order], mask.ravel()[order]
    hits, taken = np.cumsum(inside), np.arange(1, q.size + 1)
    last = np.append(q[1:] < q[:-1], True)  # of the pixels with equal values: a threshold takes them all
    return float((hits / (taken + hits[-1] - hits))[last].max())


def pointing_game(heatmap: Any, mask: Any) -> float:
    """Whether the heatmap's highest pixel is in the mask (Zhang et al. 2018, without their tolerance).

    Where several pixels share the highest value, it is their share inside the mask: the chance of a hit when
    one of them is drawn. So a constant heatmap gets the mask's share of the image. Args and errors are those
    of `exact_match`.

    Returns:
        A number in [0, 1], mostly 0 or 1, or NaN for an empty or a full mask.

    Example:
        >>> pointing_game([[0.9, 0.9, 0.1]], [[0, 1, 1]])
        0.5
    """
    q, mask = check_pair(heatmap, mask)
    return float(mask[q == q.max()].mean()) if two_sided(mask) else float("nan")


def mass_inside(heatmap: Any, mask: Any) -> float:
    """Share of the heatmap's sum that is in the mask (the energy-based pointing game, Wang et al. 2020).

    It takes 0 for "nothing here". Where 0.5 means undecided, as in PatchNet's maps, it stays near the mask's
    share of the image, so it does not compare such maps with rescaled ones. Args and errors are those of
    `exact_match`.

    Returns:
        A number in [0, 1], or NaN for an empty or a full mask and for a heatmap of zeros.

    Example:
        >>> mass_inside([[0.75, 0.25, 0.0]], [[1, 0, 0]])
        0.75
    """
    q, mask = check_pair(heatmap, mask)
    return float(q[mask].sum() / q.sum()) if two_sided(mask) and q.any() else float("nan")


# In the order of tables: name, function, and how people call it.
MEASURES: dict[str, Callable[[Any, Any], float]] = {
    measure.__name__: measure
    for measure in (
        auroc,
        exact_match,
        recall,
        average_precision,
        iou,
        best_iou,
        pointing_game,
        mass_inside,
    )
}
TITLES = {
    "auroc": "AUROC",
    "exact_match": "exact match",
    "recall": "recall",
    "average_precision": "average precision",
    "iou": "IoU at 0.5",
    "best_iou": "IoU, best threshold",
    "pointing_game": "pointing game",
    "mass_inside": "mass inside",
}
# Of classifiers with several classes or labels; the first three as above.
CLASS_TITLES = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "recall": "recall",
    "precision": "precision",
}


def per_image(heatmaps: Sequence[Any], masks: Sequence[Any]) -> dict[str, np.ndarray]:
    """Compute every measure for every image.

    Args:
        heatmaps: N heatmaps (H, W) in [0, 1]; sizes may differ.
        masks: their N masks.

    Returns:
        For each name of `MEASURES` an array (N,), float64, NaN where the measure is not defined. With the
        arrays a and b of two methods, `summarize(a - b)` says whether one is better on the same images.

    Raises:
        ValueError: there are not as many masks as heatmaps, or one of them is not as `exact_match`
            needs it.

    Example:
        >>> per_image([[[0.2, 0.9]], [[0.2, 0.9]]], [[[0, 1]], [[0, 0]]])["recall"]
        array([ 1., nan])
    """
    if any(len(given) and np.ndim(given[0]) < 2 for given in (heatmaps, masks)):
        raise ValueError(
            "Expected several heatmaps and masks, (N, height, width); for one, [heatmap], [mask]"
        )
    if len(heatmaps) != len(masks):
        raise ValueError(
            f"Each heatmap needs a mask. Received: {len(heatmaps)} heatmaps and {len(masks)} masks"
        )
    rows = [[measure(*pair) for measure in MEASURES.values()] for pair in zip(heatmaps, masks, strict=True)]
    columns = np.array(rows, "float64").reshape(-1, len(MEASURES)).T
    return dict(zip(MEASURES, columns, strict=True))


def localization(heatmaps: Sequence[Any], masks: Sequence[Any]) -> dict[str, Mean]:
    """Average every measure over images, each over those for which it is defined.

    Args and errors are those of `per_image`.

    Returns:
        A `Mean` for each name of `MEASURES`.

    Example:
        >>> localization([[[0.2, 0.9]], [[0.2, 0.9]]], [[[0, 1]], [[0, 0]]])["recall"]
        Mean(mean=1.0, low=nan, high=nan, images=1, skipped=1)
    """
    return {name: summarize(values) for name, values in per_image(heatmaps, masks).items()}


def localization_by_class(
    heatmaps: Sequence[Any], masks: Sequence[Any], labels: Any, classes: int
) -> list[dict[str, Mean]]:
    """Average every measure for each class by itself, over the maps of that class.

    Args:
        heatmaps: M heatmaps (H, W) in [0, 1], each of one class.
        masks: their M masks.
        labels: (M,), the class whose map and mask each of them is, in 0..classes - 1.
        classes: how many there are.

    Returns:
        What `localization` returns, for each class; a class without a mask has no images. Over all classes,
        it is `localization(heatmaps, masks)`.

    Raises:
        ValueError: as `per_image`, or a label is missing or no class.

    Example:
        >>> by_class = localization_by_class(maps, masks, labels=[0, 2, 2], classes=3)
        >>> by_class[2]["auroc"].images
        2
    """
    labels = np.asarray(labels)
    if labels.shape != (len(masks),) or not np.isin(labels, range(classes)).all():
        raise ValueError(
            f"Each mask needs the number of its class, below {classes}. "
            f"Received: {len(masks)} masks, labels {labels.shape} with values {np.unique(labels)[:10]}"
        )
    measured = per_image(heatmaps, masks)
    return [
        {name: summarize(values[labels == k]) for name, values in measured.items()} for k in range(classes)
    ]


def summarize(values: Any) -> Mean:
    """Average one figure over images, with its 95 % bootstrap interval over them.

    Percentile bootstrap of the mean (Efron and Tibshirani 1993, chapter 13), always of the same 9999
    resamples. It says how much the mean would vary with other images of the same kind, not with another
    training; with fewer than about ten images it is too narrow.

    Args:
        values: (N,), NaN where the figure is not defined.

    Returns:
        The mean over the others. The interval is NaN below two images.

    Example:
        >>> summarize([0.0, 1.0, 1.0, 1.0, float("nan")])
        Mean(mean=0.75, low=0.25, high=1.0, images=4, skipped=1)
    """
    values = np.asarray(values, "float64").ravel()
    defined = values[~np.isnan(values)]
    mean = float(defined.mean()) if defined.size else float("nan")
    low, high = interval(np.mean, defined) if defined.size > 1 else (float("nan"),) * 2
    return Mean(mean, low, high, defined.size, values.size - defined.size)


def classification(probabilities: Any, labels: Any) -> dict[str, Mean]:
    """Measure a classifier: cross-entropy, accuracy and area under the ROC curve, with their intervals.

    Args:
        probabilities: (N,) or (N, 1), of class 1.
        labels: (N,), 0 or 1.

    Returns:
        "loss", of probabilities kept 1e-7 away from 0 and 1 as Keras does; "accuracy", where class 1 is a
        probability above 0.5; "auroc", NaN where the labels are all the same. The interval of the AUROC
        resamples each class by itself.

    Raises:
        ValueError: there are not as many labels as probabilities, or they are not as above.

    Example:
        >>> classification([0.2, 0.6, 0.9], [0, 0, 1])["auroc"].mean
        1.0
    """
    q, labels = np.asarray(probabilities, "float64"), np.asarray(labels)
    q = q[:, 0] if q.ndim == 2 and q.shape[1] == 1 else q
    if q.ndim != 1 or not q.size or labels.shape != q.shape or not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "Each probability needs its label, 0 or 1. "
            f"Received: probabilities {q.shape}, labels {labels.shape} with values {np.unique(labels)[:10]}"
        )
    if not np.all((q >= 0) & (q <= 1)):
        raise ValueError(f"Probabilities are in [0, 1] without NaN. Received: from {q.min()} to {q.max()}")
    right = np.clip(np.where(labels == 1, q, 1 - q), 1e-7, 1 - 1e-7)
    zero, one = q[labels == 0], q[labels == 1]
    area = rank_auroc(one, zero) if zero.size and one.size else float("nan")
    ends = interval(rank_auroc, one, zero) if min(zero.size, one.size) > 1 else (float("nan"),) * 2
    return {
        "loss": summarize(-np.log(right)),
        "accuracy": summarize((q > 0.5) == labels),
        "auroc": Mean(float(area), *ends, *((q.size, 0) if zero.size and one.size else (0, q.size))),
    }


def classification_of_classes(
    probabilities: Any, labels: Any, thresholds: Sequence[float] | None = None
) -> tuple[dict[str, Mean], list[dict[str, Mean]]]:
    """Measure a classifier of several classes, or of labels, as a whole and class by class.

    Figures of one class set it against all others. Balanced accuracy, AUROC and average precision of the
    whole are plain means over the classes (macro averages), of those for which they are defined. Their
    intervals come from 999 resamples, of each class by itself; labels are resampled as whole images.

    Args:
        probabilities: (N, K) in [0, 1].
        labels: (N,), the number of each image's class; or (N, K) of 0 and 1, where an image may have several
            labels.
        thresholds: K numbers, above which an image is given a label; None means 0.5. Classes have none: the
            most probable one is predicted, the first of those with equal probabilities.

    Returns:
        Of the whole: "loss", the cross-entropy as Keras computes it (of labels their mean), "accuracy" (of
        labels the share of all decisions), "balanced_accuracy" (the mean recall; of a label the mean of its
        recall and of the recall of its absence), "auroc", "average_precision". Of each class: "recall",
        "precision", "auroc" and "average_precision". A figure is NaN where it is undefined, such as the
        recall of a class without images.

    Raises:
        ValueError: the arguments are not as above.

    Example:
        >>> q = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]]
        >>> whole, by_class = classification_of_classes(q, [0, 1, 2])
        >>> whole["balanced_accuracy"].mean, by_class[1]["precision"].mean
        (0.6666666666666666, 0.5)
    """
    q, truth = check_classes(probabilities, labels)
    n, classes = q.shape
    multilabel = np.ndim(labels) == 2
    predicted = decided(q, thresholds) if multilabel else np.eye(classes, dtype=bool)[q.argmax(1)]
    right = predicted == truth
    if multilabel:
        losses = -np.log(np.clip(np.where(truth, q, 1 - q), 1e-7, 1 - 1e-7)).mean(1)
        correct = right.mean(1)
    else:
        normalized = q / np.maximum(q.sum(1, keepdims=True), 1e-7)
        losses = -np.log(np.clip(normalized[truth], 1e-7, 1 - 1e-7))
        correct = predicted[truth]

    def areas(weights: np.ndarray) -> np.ndarray:
        """Return (R, 3, K): the share that is right, the AUROC and the average precision of each class."""
        recall = divided(weights @ (truth & right), weights @ truth)  # (R, K)
        if multilabel:
            recall = (recall + divided(weights @ (~truth & right), weights @ ~truth)) / 2
        ranked = [ranking(q[:, k], truth[:, k], weights) for k in range(classes)]
        return np.stack([recall, *(np.stack(area, 1) for area in zip(*ranked, strict=True))], 1)

    point = areas(np.ones((1, n)))[0]  # (3, K)
    # Some label may be missing in a resample of whole images: its figures are undefined there.
    drawn = resampled(areas, np.zeros(n, int) if multilabel else truth.argmax(1))  # (R, 3, K)

    def mean(value: float, values: np.ndarray, few: bool) -> Mean:
        ends = percentiles(values) if not few else (float("nan"),) * 2
        return Mean(float(value), *ends, *((0, n) if np.isnan(value) else (n, 0)))

    counts = truth.sum(0)
    whole = {"loss": summarize(losses), "accuracy": summarize(correct)}
    for j, name in enumerate(("balanced_accuracy", "auroc", "average_precision")):
        whole[name] = mean(mean_defined(point[j]), mean_defined(drawn[:, j]), n < 2)
    by_class = [
        {
            "recall": summarize(np.where(truth[:, k], predicted[:, k], np.nan)),
            "precision": summarize(np.where(predicted[:, k], truth[:, k], np.nan)),
            "auroc": mean(point[1, k], drawn[:, 1, k], min(counts[k], n - counts[k]) < 2),
            "average_precision": mean(point[2, k], drawn[:, 2, k], min(counts[k], n - counts[k]) < 2),
        }
        for k in range(classes)
    ]
    return whole, by_class


def confusion_matrix(probabilities: Any, labels: Any) -> np.ndarray:
    """Count which class was predicted for the images of each class.

    Args:
        probabilities: (N, K) in [0, 1]; the most probable class is predicted, the first of equals.
        labels: (N,), the number of each image's class.

    Returns:
        (K, K), int64: a row for each true class, a column for each predicted one.

    Raises:
        ValueError: the arguments are not as above.

    Example:
        >>> confusion_matrix([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]], [0, 1, 2])
        array([[1, 0, 0],
               [0, 1, 0],
               [0, 1, 0]])
    """
    q, truth = check_classes(probabilities, labels)
    if np.ndim(labels) == 2:
        raise ValueError(f"A confusion matrix is of exclusive classes. Received: labels {np.shape(labels)}")
    counts = np.zeros((q.shape[1],) * 2, "int64")
    np.add.at(counts, (truth.argmax(1), q.argmax(1)), 1)
    return counts


def calibration(probabilities: Any, labels: Any, *, bins: int = BINS) -> Calibration:
    """Compare the probabilities that a network gives with how often it is right.

    Of K classes, it is about the probability of the predicted class and whether it is the true one; of two,
    about the probability of class 1; of labels, about all their probabilities together. The expected
    calibration error (Naeini et al. 2015) is the mean over images of the distance between the two, in bins of
    equal width. The temperature T minimizes the cross-entropy of softmax(log(P) / T), of two classes and of
    labels that of sigmoid(logit(P) / T): above 1 the network is too sure. It is not applied; `tempered` does.

    Args:
        probabilities: (N,) or (N, 1), of class 1; or (N, K).
        labels: (N,), or of labels (N, K) of 0 and 1.
        bins: how many; the first has its lower end, and each its upper end.

    Raises:
        ValueError: the arguments are not as above.

    Example:
        >>> calibration([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0], bins=2).error
        0.15000000000000002
    """
    q, truth = check_classes(probabilities, labels)
    if q.shape[1] > 1 and np.ndim(labels) < 2:
        values, right = q.max(1), truth[np.arange(len(q)), q.argmax(1)]
    else:
        values, right = q.ravel(), truth.ravel()
    place = np.clip(np.ceil(values * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    probability = divided(np.bincount(place, values, bins), counts)
    share = divided(np.bincount(place, right, bins), counts)
    distance = np.where(counts, np.abs(probability - share), 0)
    return Calibration(
        error=float((counts * distance).sum() / counts.sum()),
        temperature=temperature(probabilities, labels),
        counts=counts.tolist(),
        probability=probability.tolist(),
        share=share.tolist(),
    )


def temperature(probabilities: Any, labels: Any) -> float:
    """Return the temperature that calibrates probabilities best; fit it on validation images.

    It minimizes the cross-entropy of `tempered` probabilities, between 0.05 and 20. Args and errors are
    those of `calibration`.

    Example:
        >>> round(temperature([0.99, 0.99, 0.99, 0.99], [1, 1, 1, 0]), 2)  # logit(0.99) / T = logit(0.75)
        4.18
    """
    q, truth = check_classes(probabilities, labels)
    exclusive = q.shape[1] > 1 and np.ndim(labels) < 2

    def loss(log_temperature: float) -> float:
        p = tempered(q, float(np.exp(log_temperature)), exclusive=exclusive)
        right = p[truth] if exclusive else np.where(truth, p, 1 - p)
        return float(-np.log(np.clip(right, 1e-12, 1)).mean())

    best = optimize.minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(best.x))


def tempered(probabilities: Any, temperature: float, *, exclusive: bool) -> np.ndarray:
    """Apply a temperature to probabilities, through their logarithms.

    Args:
        probabilities: (..., K) in [0, 1] of exclusive classes; otherwise any shape.
        temperature: above 0; 1 changes nothing but their sum, which becomes 1 where they are exclusive.
        exclusive: whether the last axis holds classes of which an image has one.

    Returns:
        The same shape, float64, in [0, 1].

    Example:
        >>> tempered([0.2, 0.8], 0.5, exclusive=True)
        array([0.05882353, 0.94117647])
    """
    q = np.clip(np.asarray(probabilities, "float64"), 1e-7, 1 - 1e-7)
    if exclusive:
        return special.softmax(np.log(q) / temperature, axis=-1)
    return special.expit(special.logit(q) / temperature)


def choose_thresholds(probabilities: Any, labels: Any, *, rule: str = "youden") -> tuple[float, ...]:
    """Choose for each label the probability above which an image gets it; choose on validation images.

    Candidates lie in the middle between neighbouring probabilities, at 0 and at the highest probability. Of
    those that are equally good it is the nearest to 0.5, and the lower one of two as near.

    Args:
        probabilities: (N, L) in [0, 1]; or (N,) or (N, 1), of class 1.
        labels: (N, L) of 0 and 1; or (N,).
        rule: "youden" maximizes sensitivity + specificity - 1 (Youden 1950), "f1" the harmonic mean of
            precision and recall.

    Returns:
        L numbers in [0, 1]; 0.5 for a label that all images have, or none.

    Raises:
        ValueError: the arguments are not as above, or the rule is none of these.

    Example:
        >>> choose_thresholds([0.125, 0.25, 0.375, 0.75], [0, 0, 1, 1])
        (0.3125,)
    """
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}. Received: rule={rule!r}")
    q, truth = check_classes(probabilities, labels)
    if q.shape[1] > 1 and np.ndim(labels) < 2:
        raise ValueError("Exclusive classes have no thresholds: the most probable one is predicted")
    return tuple(best_threshold(q[:, k], truth[:, k], rule) for k in range(q.shape[1]))


def best_threshold(q: np.ndarray, truth: np.ndarray, rule: str) -> float:
    """Return the best threshold of one label, whose probabilities (N,) and truth (N,) are given."""
    if not two_sided(truth):
        return 0.5
    values = np.unique(q)
    candidates = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, values[-1:]])
    # How many images, and how many with the label, are above each candidate.
    above = len(q) - np.searchsorted(np.sort(q), candidates, "right")
    hits = truth.sum() - np.searchsorted(np.sort(q[truth]), candidates, "right")
    positives, negatives = truth.sum(), (~truth).sum()
    if rule == "youden":
        # Sensitivity - (1 - specificity), times both counts: whole numbers, whose ties are exact.
        good = hits * negatives - (above - hits) * positives
    else:
        good = 2 * hits / (above + positives)
    best = candidates[good >= good.max() - 1e-12]
    return float(min(best, key=lambda t: (abs(t - 0.5), t)))


def check_classes(probabilities: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (N, K) as float64 and the truth as bool (N, K), or raise ValueError.

    Probabilities of class 1 alone, (N,) or (N, 1), have K = 1, and the truth is whether it is class 1.
    """
    q, labels = np.asarray(probabilities, "float64"), np.asarray(labels)
    q = q[:, None] if q.ndim == 1 else q
    one_each = labels.ndim == 1
    highest = max(2, q.shape[1]) if one_each and q.ndim == 2 else 2
    fits = q.ndim == 2 and q.size and labels.shape in ((len(q),), q.shape)
    if not fits or not np.isin(labels, range(highest)).all():
        raise ValueError(
            "Each row of probabilities (N, K) needs its class (N,), or 0 and 1 for each label (N, K). "
            f"Received: probabilities {q.shape}, labels {labels.shape} with values {np.unique(labels)[:10]}"
        )
    if not np.all((q >= 0) & (q <= 1 + 1e-6)):
        raise ValueError(f"Probabilities are in [0, 1] without NaN. Received: from {q.min()} to {q.max()}")
    if not one_each or q.shape[1] == 1:
        return np.minimum(q, 1), labels.reshape(q.shape) == 1
    return np.minimum(q, 1), labels[:, None] == np.arange(q.shape[1])


def decided(q: np.ndarray, thresholds: Sequence[float] | None) -> np.ndarray:
    """Return which labels (N, L) are above their thresholds."""
    limits = np.full(q.shape[1], 0.5) if thresholds is None else np.asarray(thresholds, "float64")
    if limits.shape != (q.shape[1],) or not np.all((limits >= 0) & (limits <= 1)):
        raise ValueError(
            f"Each label needs a threshold in [0, 1]. Received: {q.shape[1]} labels, thresholds={thresholds}"
        )
    return q > limits


def ranking(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUROC (R,) and the average precision (R,) of weighted images.

    Args:
        scores: (N,).
        truth: (N,), bool.
        weights: (R, N), how often each image counts.
    """
    order = np.argsort(-scores, kind="stable")
    firsts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))  # of images with equal scores
    one = np.add.reduceat(np.where(truth, weights, 0)[:, order], firsts, axis=1)  # (R, different scores)
    zero = np.add.reduceat(np.where(truth, 0, weights)[:, order], firsts, axis=1)
    ones, zeros = one.sum(1), zero.sum(1)
    hits, misses = one.cumsum(1), zero.cumsum(1)
    area = divided((one * (zeros[:, None] - misses + zero / 2)).sum(1), ones * zeros)
    precision = (one * hits / np.maximum(hits + misses, 1)).sum(1)
    return area, np.where(zeros > 0, divided(precision, ones), np.nan)


def resampled(statistic: Callable[[np.ndarray], np.ndarray], strata: np.ndarray) -> np.ndarray:
    """Return a statistic of resamples, given (R, N) how often each image is in them.

    Each stratum (N,) is resampled by itself. The resamples are always the same.
    """
    rng, parts = np.random.default_rng(0), []
    members = [np.flatnonzero(strata == k) for k in np.unique(strata)]
    rows = max(1, 2**21 // len(strata))  # 16 MiB at a time
    for start in range(0, CLASS_RESAMPLES, rows):
        weights = np.empty((min(rows, CLASS_RESAMPLES - start), len(strata)))
        for of in members:
            weights[:, of] = rng.multinomial(len(of), np.full(len(of), 1 / len(of)), len(weights))
        parts.append(statistic(weights))
    return np.concatenate(parts)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % interval of resampled values (R,), NaN where none is defined."""
    values = values[~np.isnan(values)]
    low, high = np.percentile(values, (2.5, 97.5)) if values.size else (np.nan, np.nan)
    return float(low), float(high)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN, NaN where nothing is."""
    return divided(np.nansum(values, -1), (~np.isnan(values)).sum(-1))


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, NaN where b is 0."""
    return np.where(b == 0, np.nan, a / np.where(b == 0, 1, b))


def rank_auroc(one: np.ndarray, zero: np.ndarray, axis: int = -1) -> np.ndarray:
    """Area under the ROC curve from the ranks of the values of both classes (Mann and Whitney's U)."""
    n1, n0 = one.shape[axis], zero.shape[axis]
    ranks = stats.rankdata(np.concatenate([one, zero], axis), axis=axis)
    return (np.take(ranks, range(n1), axis).sum(axis) - n1 * (n1 + 1) / 2) / (n1 * n0)


def interval(statistic: Callable[..., Any], *samples: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % percentile bootstrap interval; each sample is resampled by itself."""
    resampled = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=max(1, 2**22 // sum(map(len, samples))),  # 32 MiB at a time
        vectorized=True,
        method="percentile",
        rng=0,
    )
    return float(resampled.confidence_interval.low), float(resampled.confidence_interval.high)


def check_pair(heatmap: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the heatmap as float64 (H, W) and the mask as bool (H, W), or raise ValueError."""
    q = check_heatmap(heatmap)
    return q, check_mask(mask, q.shape)


def two_sided(mask: np.ndarray) -> bool:
    """Return whether the mask has pixels inside and outside."""
    return bool(mask.any() and not mask.all())
