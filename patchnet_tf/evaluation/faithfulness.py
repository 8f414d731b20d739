"""Does a map say what the model uses? Deletion and insertion curves, which need no masks.

From RISE (Petsiuk et al. 2018, arXiv 1806.07421): take an image's pixels away, those first that the map calls
most important for a class, of two for class 1, and watch the probability of that class; or put them back onto
an empty image. A map that names the pixels the model uses makes the first curve fall and the second rise at
once.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from scipy.integrate import trapezoid

from ..contract import Pixels
from ..images.pictures import check_heatmap
from ..model.checks import check_positive

BASELINES = ("black", "mean")


class Curves(NamedTuple):
    """What became of the probability of the class.

    Attributes:
        shares: (steps + 1,), of the pixels that were taken away or put back, from 0 to 1.
        probabilities: (N, steps + 1), of the class, at each of them.
        areas: (N,), below the curves (trapezoidal rule), in [0, 1]: for deletion the lower the better, for
            insertion the higher. `metrics.summarize(areas)` averages them.
    """

    shares: np.ndarray
    probabilities: np.ndarray
    areas: np.ndarray


def deletion(
    model: Callable[[np.ndarray], Any],
    images: Any,
    maps: Any,
    *,
    class_index: int | Sequence[int] | None = None,
    steps: int = 50,
    baseline: str = "black",
    batch_size: int = 16,
    seed: int = 0,
    pixels: Pixels | None = None,
) -> Curves:
    """Take pixels away, the map's highest first.

    Use images that the model takes for the class: of another there is no probability to take away. What takes
    the pixels' place is an image that the model has not seen in training either, and the areas depend on
    it: compare maps of the same model, with the same `baseline`.

    Args:
        model: a Keras model, or any function, (B, H, W, C) to the probability of class 1, (B,) or (B, 1), or
            to one for each class or label, (B, K).
        images: (N, H, W, C), as the model takes them.
        maps: (N, H, W) in [0, 1], 1 for the class. Pixels with equal values come in random order.
        class_index: number of the class, from 0, or of the label, where there is a probability for each; a
            sequence of N, one for each image, where they differ. None, of one probability, means class 1.
        steps: the pixels go in so many equal portions; 0 and all make `steps` + 1 points of the curve.
        baseline: what takes their place: "black", or "mean", the mean colour of the image.
        batch_size: images at a time.
        seed: of the order of equal pixels.
        pixels: what the numbers in the images are, which says what is black: the lower end of the range, or
            the least number of an image that is its own range. None means 0.

    Returns:
        The curves, one for each image.

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> maps = baselines.grad_cam(model, images)
        >>> metrics.summarize(deletion(model, images, maps).areas).mean
        0.21
    """
    images, order, empty = prepared(images, maps, baseline, seed, pixels)
    return curves(model, images, empty, order, class_index, steps, batch_size)


def insertion(
    model: Callable[[np.ndarray], Any],
    images: Any,
    maps: Any,
    *,
    class_index: int | Sequence[int] | None = None,
    steps: int = 50,
    baseline: str = "black",
    batch_size: int = 16,
    seed: int = 0,
    pixels: Pixels | None = None,
) -> Curves:
    """Put pixels onto an empty image, the map's highest first; arguments and results as for `deletion`.

    The empty image is `baseline` everywhere; RISE starts from a blurred image instead.
    """
    images, order, empty = prepared(images, maps, baseline, seed, pixels)
    return curves(model, empty, images, order, class_index, steps, batch_size)


def prepared(
    images: Any, maps: Any, baseline: str, seed: int, pixels: Pixels | None = None
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return the images as float32, the pixels of each by importance, (H * W,), and the empty images."""
    images = np.asarray(images, "float32")
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"Images have the shape (batch, height, width, channels). Received: shape={images.shape}"
        )
    if baseline not in BASELINES:
        raise ValueError(f"`baseline` must be one of {', '.join(BASELINES)}. Received: {baseline=}")
    maps = [check_heatmap(heatmap) for heatmap in maps]
    if {heatmap.shape for heatmap in maps} != {images.shape[1:3]} or len(maps) != len(images):
        raise ValueError(
            "Each image needs a map of its size. "
            f"Received: images {images.shape}, {len(maps)} maps {sorted({heatmap.shape for heatmap in maps})}"
        )
    rng = np.random.default_rng(seed)
    # The last key sorts first; equal values are sorted by a random number.
    order = [np.lexsort((rng.random(heatmap.size), -heatmap.ravel())) for heatmap in maps]
    if baseline == "mean":
        colour = images.mean((1, 2), keepdims=True)
    elif pixels and pixels.per_image:
        colour = images.min((1, 2, 3), keepdims=True)
    else:
        colour = np.float32(pixels.range[0] if pixels else 0)
    return images, order, np.broadcast_to(colour, images.shape)


def curves(
    model: Callable[[np.ndarray], Any],
    first: np.ndarray,
    last: np.ndarray,
    order: list[np.ndarray],
    class_index: int | Sequence[int] | None,
    steps: int,
    batch_size: int,
) -> Curves:
    """Turn the first images into the last, pixel by pixel in this order, and ask the model on the way."""
    steps, batch_size = check_positive("steps", steps), check_positive("batch_size", batch_size)
    predict = model.predict_on_batch if isinstance(model, keras.Model) else model
    count = order[0].size
    columns = [class_index] * len(order) if np.ndim(class_index) == 0 else [int(k) for k in class_index]
    if len(columns) != len(order):
        raise ValueError(
            "`class_index` must be one class, or one for each image. "
            f"Received: {len(columns)} classes, {len(order)} images"
        )
    done = np.rint(np.linspace(0, count, steps + 1)).astype(int)  # pixels at each point

    probabilities = []
    for before, after, pixels, column in zip(first, last, order, columns, strict=True):
        rank = np.empty(count, int)
        rank[pixels] = np.arange(count)
        rank = rank.reshape(*before.shape[:2], 1)  # (H, W, 1)
        values = []
        for k in range(0, steps + 1, batch_size):
            changed = rank < done[k : k + batch_size, None, None, None]  # (B, H, W, 1)
            values.extend(chosen(predict(np.where(changed, after, before)), column, len(changed)))
        probabilities.append(values)
    q = np.array(probabilities, "float64")
    if not ((q >= 0) & (q <= 1)).all():
        raise ValueError(
            "The model must return probabilities, in [0, 1]; of logits it needs the sigmoid. "
            f"Received: {q.min():.6g} to {q.max():.6g}"
        )
    shares = done / count
    return Curves(shares, q, trapezoid(q, shares, axis=1))


def chosen(probabilities: Any, column: int | None, count: int) -> np.ndarray:
    """Return (count,) of one class, of what a model returned for so many images: (count,) or (count, K)."""
    q = np.asarray(probabilities, "float64")
    q = q[:, None] if q.ndim == 1 else q
    if q.ndim != 2 or len(q) != count or not q.shape[1]:
        raise ValueError(
            "The model must return one probability for each image, (batch,) or (batch, 1), or one for each "
            f"class, (batch, classes). Received: {q.shape} for {count} images"
        )
    if column is None and q.shape[1] == 1:
        return q[:, 0]
    if column is None or q.shape[1] == 1 or not 0 <= column < q.shape[1]:
        raise ValueError(
            "`class_index` must be None for one probability for each image, or else the number of the class. "
            f"Received: class_index={column!r} for {q.shape[1]} probabilities for each image"
        )
    return q[:, column]
