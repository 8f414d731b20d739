"""Images that look the same although their pixels are not: compressed, resized, mirrored or turned copies.

Each image is brought to SIDE x SIDE grey pixels, zero mean and unit norm, so that the product of two is
their correlation, whatever their brightness and contrast. Of the second image, all eight mirrorings and
quarter turns are tried.
"""

import cv2
import numpy as np

SIDE = 16
# The correlation from which two images look the same. Turned copies in JPEG of quality 40, or resized to half
# or one and a half, always reach it, and most that lack 1 % at each side. Different cells, leaves and
# steel stay below; not so what has one shape and fills the image, such as fundi.
ALIKE = 0.99
FLAT = 1.0  # grey levels: what deviates less is too smooth to tell
MOST = 20_000  # images: each is compared with each
ROOM = 2**24  # correlations in memory at once, 64 MiB


def small_vector(grey: np.ndarray) -> np.ndarray | None:
    """Return an image (H, W) as (SIDE * SIDE,) float32 of zero mean and unit norm; None of a flat one."""
    small = cv2.resize(grey.astype("float32"), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < FLAT:
        return None
    small -= small.mean()
    return (small / np.linalg.norm(small)).ravel()


def turned(vectors: np.ndarray) -> np.ndarray:
    """Return the eight mirrorings and quarter turns of (n, SIDE * SIDE) vectors, (8, n, SIDE * SIDE)."""
    squares = vectors.reshape(-1, SIDE, SIDE)
    ways = [np.rot90(which, k, (1, 2)) for which in (squares, squares[:, ::-1]) for k in range(4)]
    return np.stack([way.reshape(vectors.shape) for way in ways])


def nearest(vectors: np.ndarray, groups: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, ...]:
    """Find for each image the most alike one in an earlier split, and the most alike one in its own.

    Args:
        vectors: (N, SIDE * SIDE), float32, as `small_vector` makes them.
        groups: (N,), numbers; images of one number are not compared, as it is known that they are the same.
        splits: (N,), numbers of the splits.

    Returns:
        Four arrays (N,): the number of the image in an earlier split and the correlation with it, and the
        same of its own split. Where there is none to compare with, the correlation is -1.

    Example:
        >>> a = small_vector(numpy.arange(256).reshape(16, 16))
        >>> nearest(numpy.stack([a, -a]), numpy.array([0, 1]), numpy.array([0, 1]))[0][1]  # turned by 180
        0
    """
    count = len(vectors)
    step = max(1, ROOM // (8 * max(1, count)))
    found = [np.zeros(count, int), np.full(count, -1.0), np.zeros(count, int), np.full(count, -1.0)]
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        # (8 b, SIDE * SIDE) @ (SIDE * SIDE, N), and of the eight ways the best: (b, N)
        products = turned(vectors[rows]).reshape(-1, vectors.shape[1]) @ vectors.T
        best = products.reshape(8, -1, count).max(axis=0)
        best[groups[rows, None] == groups] = -1
        for k, compared in enumerate((splits < splits[rows, None], splits == splits[rows, None])):
            of_those = np.where(compared, best, -1)
            found[2 * k][rows] = of_those.argmax(axis=1)
            found[2 * k + 1][rows] = of_those.max(axis=1)
    return tuple(found)
