"""How well a heatmap finds what a mask marks: the paper's exact match, recall and AUROC.

Each compares one heatmap (H, W) in [0, 1] with one mask of the same size; pixels of the mask belong to
class 1. `localization` averages them over images.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from .pictures import check_heatmap, check_mask


class Measure(NamedTuple):
    """The mean of a measure; `_asdict()` of it goes into JSON.

    Attributes:
        mean: over the images where the measure is defined; NaN where it is defined for none.
        images: the number of those images.
        skipped: the number of the others.
    """

    mean: float
    images: int
    skipped: int


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
    return float(roc_auc_score(mask.ravel(), q.ravel())) if mask.any() and not mask.all() else float("nan")


def localization(heatmaps: Sequence[Any], masks: Sequence[Any]) -> dict[str, Measure]:
    """Average the three measures over images, each over those for which it is defined.

    Args:
        heatmaps: N heatmaps (H, W) in [0, 1]; sizes may differ.
        masks: their N masks.

    Returns:
        A `Measure` for each of "exact_match", "recall" and "auroc".

    Raises:
        ValueError: there are not as many masks as heatmaps, or one of them is not as `exact_match`
            needs it.

    Example:
        >>> localization([[[0.2, 0.9]], [[0.2, 0.9]]], [[[0, 1]], [[0, 0]]])["recall"]
        Measure(mean=1.0, images=1, skipped=1)
    """
    if len(heatmaps) != len(masks):
        raise ValueError(
            f"Each heatmap needs a mask. Received: {len(heatmaps)} heatmaps and {len(masks)} masks"
        )
    result = {}
    for measure in (exact_match, recall, auroc):
        values = np.array([measure(q, mask) for q, mask in zip(heatmaps, masks, strict=True)])
        defined = values[~np.isnan(values)]
        mean = float(defined.mean()) if defined.size else float("nan")
        result[measure.__name__] = Measure(mean, defined.size, values.size - defined.size)
    return result


def check_pair(heatmap: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the heatmap as float64 (H, W) and the mask as bool (H, W), or raise ValueError."""
    q = check_heatmap(heatmap)
    return q, check_mask(mask, q.shape)
