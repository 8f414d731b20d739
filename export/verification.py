"""The proof that an exported file computes what Keras does: run it in its own runtime, and compare."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

from ..data import check_images
from ..errors import InputError
from ..serving import Predictor
from ..serving.versions import numbered
from .metadata import describe
from .signature import Signature, signature, smallest_image

TOLERANCE = {"float32": 1e-4, "float16": 5e-3}
VECTOR_PIXELS = 2**17  # numbers of test vectors' images: each is several bytes of JSON
GIVEN = 2  # of the images that a user gives, so many are compared

Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # images to probability and heatmap


class VerificationError(ArithmeticError):
    """An exported file computes something else than Keras."""


@dataclass(frozen=True)
class Batch:
    """One comparison: what was fed, what Keras made of it, and the largest differences from that."""

    source: str
    images: np.ndarray = field(repr=False)  # uint8 (B, H, W, C)
    expected: tuple[np.ndarray, np.ndarray] = field(repr=False)  # (B,), (B, H, W)
    differences: tuple[float, float]


@dataclass(frozen=True)
class Verification:
    """All comparisons of a file.

    path: of the file, or of the folder of the SavedModel's version.
    runtime: what ran it.
    tolerance: the largest difference that is allowed.
    batches: the comparisons.
    probability, heatmap: the largest differences.
    """

    path: Path
    runtime: str
    tolerance: float
    batches: list[Batch]

    @property
    def probability(self) -> float:
        """Return the largest difference of a probability."""
        return max(batch.differences[0] for batch in self.batches)

    @property
    def heatmap(self) -> float:
        """Return the largest difference of a heatmap's pixel."""
        return max(batch.differences[1] for batch in self.batches)

    def record(self) -> dict[str, Any]:
        """Return what verification.json says."""
        return {
            "runtime": self.runtime,
            "compared_with": f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
            "tolerance": self.tolerance,
            "largest_difference": {"probability": self.probability, "heatmap": self.heatmap},
            "batches": [
                {
                    "images": batch.source,
                    "shape": list(batch.images.shape),
                    "probability": batch.differences[0],
                    "heatmap": batch.differences[1],
                }
                for batch in self.batches
            ],
        }

    def test_vectors(self) -> list[dict]:
        """Return generated images and Keras's answers as nested lists, for JSON: the first batch, and others
        as long as all have no more than `VECTOR_PIXELS`."""
        generated = [batch for batch in self.batches if batch.source == "generated"]
        pixels = np.cumsum([batch.images.size for batch in generated])
        return [
            {
                "image": batch.images.tolist(),
                "probability": np.round(batch.expected[0].astype(float), 7).tolist(),
                "heatmap": np.round(batch.expected[1].astype(float), 7).tolist(),
            }
            for k, batch in enumerate(generated)
            if k == 0 or pixels[k] <= VECTOR_PIXELS
        ]


def verify(model: keras.Model, path: str | Path, *, images: Any = None) -> Verification:
    """Run an exported file and compare it with the model that it was made from.

    Args:
        model: the PatchNet.
        path: an ONNX file; or a SavedModel, its version folder or the folder of its versions, of which the
            newest is taken.
        images: (N, H, W, C) in 0..255 to compare on, beside generated ones; a few of them are used, and of
            larger ones than the file takes their middle.

    Returns:
        The differences, none above the tolerance: 1e-4, or 5e-3 for float16.

    Raises:
        FileNotFoundError: there is no such file.
        InputError: it was not exported by this package, was altered or truncated, or does not take the
            model's images; or `images` are not as above.
        VerificationError: it was made from another model, or a difference exceeds the tolerance.

    Example:
        >>> verify(model, "model.onnx").heatmap
        2.4e-07
    """
    from . import saved_model  # which needs this module

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no exported file {path}")
    try:
        if path.is_dir():
            path = newest_version(path)
            run, runtime, shape, described = saved_model.run_saved_model(path)
        else:
            run, runtime, shape, described = run_onnx(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    if shape[3] != model.input_shape[-1]:
        raise InputError(
            f"{path}: made from another model, whose images have {shape[3]} channel(s). "
            f"Received: a model for {model.input_shape[-1]}"
        )
    check_same_model(path, described, model)
    tolerance = TOLERANCE[described["precision"]]
    return compare(path, signature(model), run, runtime, tolerance, trials(model, images, shape))


def check_same_model(path: Path, described: dict[str, str], model: keras.Model) -> None:
    """Raise VerificationError where a file says of itself something else than holds for the model."""
    expected = describe(model, described["precision"], ("0", "1"), {})
    for key in ("patch_size", "stride", "crop", "filters", "depth", "preprocessing"):
        if described[key] != expected[key]:
            raise VerificationError(
                f"{path}: made from another model; its {key} is {described[key]}, the model's {expected[key]}"
            )


def newest_version(path: Path) -> Path:
    """Return the SavedModel `path`, or the one of the highest number in it."""
    if (path / "saved_model.pb").is_file():
        return path
    if not (versions := numbered(path)):
        raise ValueError(f"{path}: neither a SavedModel nor a folder of its versions 1, 2, ...")
    return versions[0][1]


def run_onnx(path: Path) -> tuple[Run, str, tuple, dict[str, str]]:
    """Return how to run an ONNX file, what runs it, the shape of its input (None: any) and its metadata."""
    predictor = Predictor(path)
    runtime = f"ONNX Runtime {onnxruntime.__version__}, {predictor.provider}"
    return predictor, runtime, predictor.input_shape, predictor.metadata


def trials(model: keras.Model, images: Any, shape: tuple) -> list[tuple[str, np.ndarray]]:
    """Return batches to compare on, and where they are from.

    Args:
        model: the PatchNet.
        images: (N, H, W, C), or None.
        shape: (B, H, W, C) of what can be fed, None where it is free.
    """
    batch, *size, channels = shape
    rng = np.random.default_rng(0)
    least = smallest_image(model)
    chosen = []
    for count, more in ((1, (0, 0)), (2, (3, 8))):
        h, w = (fixed or side + extra for fixed, side, extra in zip(size, least, more, strict=True))
        noise = rng.random((batch or count, h, w, channels))
        # Less and less noise from left to right, and a shade from top to bottom, so that patches differ.
        picture = 255 * (noise * np.linspace(1, 0, w)[:, None] + np.linspace(0, 1, h)[:, None, None]) / 2
        chosen.append(("generated", picture.astype("uint8")))
    if images is not None:
        images = check_images(images, channels=channels, smallest=least)
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
        chosen.append(("given", images[spread, top : top + h, left : left + w].astype("uint8")))
    return chosen


def compare(
    path: Path,
    reference: Signature,
    run: Run,
    runtime: str,
    tolerance: float,
    batches: list[tuple[str, np.ndarray]],
) -> Verification:
    """Compare `run` with `reference` on batches of images; raise VerificationError where they differ."""
    compared = []
    for source, images in batches:
        outputs = reference(tf.constant(images))
        expected = outputs["probability"].numpy(), outputs["heatmap"].numpy()
        got = run(images)
        differences = tuple(largest_difference(a, b) for a, b in zip(got, expected, strict=True))
        compared.append(Batch(source, images, expected, differences))
        if not max(differences) <= tolerance:
            raise VerificationError(
                f"{runtime} and Keras differ by {differences[0]:.2g} in a probability and by "
                f"{differences[1]:.2g} in a heatmap, more than {tolerance:g}, on {source} images of shape "
                f"{images.shape}"
            )
    return Verification(path, runtime, tolerance, compared)


def largest_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference, infinity where shapes differ or a value is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got.astype("float64") - expected).max())
