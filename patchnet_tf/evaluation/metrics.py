"""How well a heatmap finds what a mask marks, averaged over images with an interval.

Each measure compares one heatmap (H, W) in [0, 1] with one mask of the same size; pixels of the mask belong
to class 1, as white does. Exact match, recall and AUROC are the paper's (section 4); the others are what the
literature on explanations uses. A measure is NaN, and its image is skipped, where it says nothing about the
heatmap: without a pixel in the mask there is nothing to find, and where the mask is everything most measures
give 1 to every heatmap. docs/metrics.md says which measure answers which question.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from ..images.pictures import check_heatmap, check_mask
from .results import Mean

RESAMPLES = 9999  # of an interval


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
    pairs = list(zip(heatmaps, masks, strict=True))
    return {name: np.array([measure(*pair) for pair in pairs]) for name, measure in MEASURES.items()}


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
