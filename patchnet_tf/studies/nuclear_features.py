"""Logistic regression on features of nuclei, as in appendix F of the paper.

What a person would measure before training a network: the nucleus's shape, and its texture as local binary
patterns (Ojala et al. 2002) and parameter-free threshold adjacency statistics (PFTAS, Coelho et al. 2010). An
image shows one nucleus on black: every pixel above 0 belongs to it.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from skimage.feature import local_binary_pattern
from skimage.measure import regionprops
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..data import Examples
from ..errors import extra

with extra("nuclei"):
    import mahotas.features

POINTS, RADIUS = 8, 4  # of the local binary patterns, radius in pixels
# The 36 patterns of 8 bits that are the smallest of their rotations.
PATTERNS = sorted(
    {min((code >> k | code << POINTS - k) % 2**POINTS for k in range(POINTS)) for code in range(2**POINTS)}
)
STATISTICS = 54  # of PFTAS: 9 numbers of neighbours, for each of three ranges and for their opposites

NAMES = (
    "area",
    "eccentricity",
    "roundness",
    *(f"lbp_{pattern:08b}" for pattern in PATTERNS),
    *(f"pftas_{k}" for k in range(STATISTICS)),
)


class Regression(NamedTuple):
    """A fitted logistic regression.

    Attributes:
        pipeline: scales the features, then decides: `pipeline.predict_proba(table(images))[:, 1]` is the
            probability of class 1.
        train_accuracy: share of the training images that it decides rightly.
        val_accuracy: of the validation images.
    """

    pipeline: Pipeline
    train_accuracy: float
    val_accuracy: float


def logistic_regression(train: Examples, val: Examples) -> Regression:
    """Fit standardized features of the training images, and count right decisions.

    Args:
        train: images (N, H, W, C), uint8, and labels (N,).
        val: those that the regression does not see.

    Raises:
        ValueError: an image is black, or the training labels are all the same.

    Example:
        >>> logistic_regression(data.train, data.val).val_accuracy
        0.93
    """
    # L2-regularized with C = 1, scikit-learn's default: there may be more features than images.
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    known, unknown = table(train.images), table(val.images)
    pipeline.fit(known, train.labels)
    return Regression(pipeline, pipeline.score(known, train.labels), pipeline.score(unknown, val.labels))


def table(images: Any) -> np.ndarray:
    """Compute the features of images (N, H, W, C), uint8, as (N, 93), float64, columns as in `NAMES`.

    Raises:
        ValueError: an image is not as `features` needs it; the message counts from 0.
    """
    rows = []
    for k, image in enumerate(images):
        try:
            rows.append(features(image))
        except ValueError as error:
            raise ValueError(f"Image {k}: {error}") from None
    return np.array(rows)


def features(image: Any) -> np.ndarray:
    """Compute the features of one nucleus.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3), uint8, black around the nucleus.

    Returns:
        (93,), float64, as in `NAMES`:

        - area, in pixels;
        - eccentricity of the ellipse with the same second moments: 0 for a circle, near 1 for a line;
        - roundness, 4 pi area / perimeter², by Crofton's estimate of the perimeter: 1 for a circle, 1.01 for
          a disc of pixels, more where there are only a few;
        - the share of each local binary pattern among the nucleus's pixels: which of 8 points at radius 4
          are at least as bright, patterns that are rotations of each other counted as one;
        - PFTAS: among the pixels outside a range of brightness, and among those inside, the shares that have
          0 to 8 neighbours on the other side; the three ranges come from the mean and the deviation of the
          pixels above Otsu's threshold.

    Raises:
        ValueError: the image is black, or not as above.

    Example:
        >>> features(disc)[1]  # eccentricity
        0.0
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            "An image of a nucleus is uint8, (height, width) or with 1 or 3 channels. "
            f"Received: {image.dtype}, shape={image.shape}"
        )
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
    if not image.any():
        raise ValueError("There must be a nucleus, pixels above 0. Received: a black image")
    (shape,) = regionprops((image > 0).astype("uint8"))
    # Not mahotas's patterns: up to 1.4.19 its neighbours are a pixel off, because its `shift` is.
    codes = local_binary_pattern(image, POINTS, RADIUS, method="ror")[image > 0].astype(int)
    return np.array(
        [
            shape.area,
            shape.eccentricity,
            4 * np.pi * shape.area / shape.perimeter_crofton**2,
            *np.bincount(codes, minlength=2**POINTS)[PATTERNS] / codes.size,
            *mahotas.features.pftas(image),
        ]
    )
