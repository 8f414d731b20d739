"""The proof that an exported file computes what Keras does: both on the same images, and the differences."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..contract import FAMILIAR, HEATMAP, IMAGE, OUTPUTS, PROBABILITY
from ..errors import PatchNetError
from ..images.pixels import check_images, spread_over
from ..model.patchnet import PatchNet
from ..serving import Predictor
from .signature import signature

TOLERANCE = {"float32": 1e-4, "float16": 5e-3}
AT_LIMIT = 0.01  # share of the pixels whose distance may be so near the limit that rounding decides
VECTOR_PIXELS = 2**17  # numbers of test vectors' images or heatmaps: each is several bytes of JSON
GIVEN = 2  # of the images that a user gives, so many are compared


class VerificationError(PatchNetError, ArithmeticError):
    """An exported file computes something else than Keras."""


@dataclass(frozen=True)
class Batch:
    """One comparison: what was fed, what Keras made of it, and the largest differences from that."""

    source: str
    images: np.ndarray = field(repr=False)  # (B, H, W, C)
    expected: dict[str, np.ndarray] = field(repr=False)  # by output: (B,), (B, H, W), or with K last
    differences: dict[str, float]  # likewise


@dataclass(frozen=True)
class Verification:
    """All comparisons of a file.

    path: of the file, or of the folder of the SavedModel's version.
    runtime: what ran it.
    tolerance: the largest difference that is allowed.
    batches: the comparisons.
    probability, heatmap: the largest differences; 0 where the file has no such output.
    """

    path: Path
    runtime: str
    tolerance: float
    batches: list[Batch]

    @property
    def probability(self) -> float:
        """Return the largest difference of a probability."""
        return max(batch.differences.get(PROBABILITY, 0.0) for batch in self.batches)

    @property
    def heatmap(self) -> float:
        """Return the largest difference of a heatmap's pixel."""
        return max(batch.differences.get(HEATMAP, 0.0) for batch in self.batches)

    @property
    def largest(self) -> dict[str, float]:
        """Return the largest difference of each output that the file has."""
        largest = {PROBABILITY: self.probability, HEATMAP: self.heatmap}
        return {name: value for name, value in largest.items() if name in self.batches[0].differences}

    def record(self) -> dict[str, Any]:
        """Return what verification.json says."""
        return {
            "runtime": self.runtime,
            "compared_with": f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
            "tolerance": self.tolerance,
            "largest_difference": self.largest,
            "batches": [
                {
                    "images": batch.source,
                    "shape": list(batch.images.shape),
                    **batch.differences,
                }
                for batch in self.batches
            ],
        }

    def test_vectors(self) -> list[dict]:
        """Return generated images and Keras's answers as nested lists, for JSON: the first batch, and others
        as long as all images, or all heatmaps, have no more numbers than `VECTOR_PIXELS`."""
        generated = [batch for batch in self.batches if batch.source == "generated"]
        sizes = np.cumsum(
            [max(x.size for x in (batch.images, *batch.expected.values())) for batch in generated]
        )
        return [
            {
                IMAGE: batch.images.tolist(),
                **{
                    name: np.round(values.astype(float), 7).tolist()
                    for name, values in batch.expected.items()
                },
            }
            for k, batch in enumerate(generated)
            if k == 0 or sizes[k] <= VECTOR_PIXELS
        ]


def trials(model: PatchNet, images: Any, shape: tuple) -> list[tuple[str, np.ndarray]]:
    """Return batches to compare on, and where they are from.

    Args:
        model: the PatchNet.
        images: (N, H, W, C), or None.
        shape: (B, H, W, C) of what can be fed, None where it is free.
    """
    batch, *size, channels = shape
    rng = np.random.default_rng(0)
    least = model.smallest_image
    chosen = []
    for count, more in ((1, (0, 0)), (2, (3, 8))):
        h, w = (fixed or side + extra for fixed, side, extra in zip(size, least, more, strict=True))
        noise = rng.random((batch or count, h, w, channels))
        # Less and less noise from left to right, and a shade from top to bottom, so that patches differ.
        shares = (noise * np.linspace(1, 0, w)[:, None] + np.linspace(0, 1, h)[:, None, None]) / 2
        chosen.append(("generated", spread_over(shares, model.pixels)))
    if images is not None:
        images = check_images(images, pixels=model.pixels, smallest=least)
        if any(fixed and side < fixed for fixed, side in zip(size, images.shape[1:3], strict=True)):
            warnings.warn(
                f"images: smaller than those that the file takes, {size[0]} x {size[1]}; comparing on "
                "generated ones alone",
                stacklevel=2,
            )
            return chosen
        spread = np.linspace(0, len(images) - 1, batch or min(GIVEN, len(images))).astype(int)
        h, w = (fixed or side for fixed, side in zip(size, images.shape[1:3], strict=True))
        top, left = (images.shape[1] - h) // 2, (images.shape[2] - w) // 2
        chosen.append(("given", images[spread, top : top + h, left : left + w].astype(model.pixels.dtype)))
    return chosen


def compare(
    model: PatchNet, predict: Predictor, path: Path, precision: str, images: Any = None
) -> Verification:
    """Compare an exported file, which will be or is at `path`, with its model; arguments as of `verify`.

    Raises:
        InputError: `images` are not images that the model takes.
        VerificationError: a difference exceeds the tolerance.
    """
    tolerance, returned = TOLERANCE[precision], tuple(predict.contract.outputs)
    reference = signature(model, outputs=returned)
    compared = []
    for source, batch in trials(model, images, predict.input_shape):
        outputs = reference(tf.constant(batch))
        expected = {name: outputs[name].numpy() for name in OUTPUTS if name in returned}
        predicted = predict.outputs(batch)
        differences = {name: largest_difference(predicted[name], expected[name]) for name in expected}
        compared.append(Batch(source, batch, expected, differences))
        if not max(differences.values()) <= tolerance:
            differ = " and by ".join(f"{value:.2g} in a {name}" for name, value in differences.items())
            raise VerificationError(
                f"{predict.runtime} and Keras differ by {differ}, more than {tolerance:g}, on {source} "
                f"images of shape {batch.shape}"
            )
        if FAMILIAR in returned:
            differ = np.mean(predicted[FAMILIAR] != outputs[FAMILIAR].numpy())
            if differ > AT_LIMIT:
                raise VerificationError(
                    f"{predict.runtime} and Keras differ in {differ:.2%} of the pixels in what is like "
                    f"training, more than {AT_LIMIT:.0%}, on {source} images of shape {batch.shape}"
                )
    return Verification(path, predict.runtime, tolerance, compared)


def largest_difference(answer: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference, infinity where shapes differ or a value is not finite."""
    if answer.shape != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(answer.astype("float64") - expected).max())
