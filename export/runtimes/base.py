"""A runtime, and what comes out where it runs a file's test vectors."""

import abc
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ...contract import IMAGE, Contract
from ...errors import InputError, one_line

THREE = [0, 1, 0]  # of a batch of two: a batch of another size


class Runtime(abc.ABC):
    """An exported file, open in some runtime.

    Args:
        path: of the file.

    Attributes:
        name: on the command line.
        suffix: of the files that it runs.
        install: what brings it.
        version: its name and version.

    Raises:
        ImportError: it is not installed.
        Exception: it refuses the file; each runtime has its own.
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ".onnx"
    install: ClassVar[str]
    version: str

    @abc.abstractmethod
    def __init__(self, path: Path) -> None: ...

    @abc.abstractmethod
    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs by their names, of images (B, H, W, C)."""


@dataclass(frozen=True)
class Trial:
    """What a runtime made of one batch.

    shape: of the images.
    differences: the largest from Keras's answers, by output; infinity where shapes differ or a value is not
        finite; empty where the runtime refused.
    said: the first line of the runtime's refusal.
    """

    shape: tuple[int, ...]
    differences: Mapping[str, float]
    said: str = ""

    def right(self, tolerance: float) -> bool:
        """Return whether it answered what Keras does, within a tolerance."""
        return bool(self.differences) and max(self.differences.values()) <= tolerance


def try_vectors(
    kind: type[Runtime], path: Path, vectors: Path, contract: Contract
) -> tuple[str, list[Trial]]:
    """Run the test vectors of an exported file, and a batch of three of them where any batch will do.

    Args:
        kind: of the runtime.
        path: of the exported file.
        vectors: of its test vectors.
        contract: of the file.

    Returns:
        The runtime's name and version, and a trial of each batch.

    Raises:
        InputError: the runtime is not installed, runs no such files, or there are no test vectors.

    Example:
        >>> try_vectors(OpenVINO, Path("cells.onnx"), Path("cells.test_vectors.json"), contract)
        ('OpenVINO 2026.4.1', [Trial(shape=(1, 17, 17, 3), ...), ...])
    """
    if path.suffix != kind.suffix:
        raise InputError(f"--runtime {kind.name}: runs {kind.suffix} files. Received: {path}")
    try:
        batches = json.loads(vectors.read_text(encoding="utf-8"))
        images = [np.array(batch[IMAGE], contract.pixels.dtype) for batch in batches]
        expected = [
            {name: np.array(batch[name]) for name in contract.outputs if name in batch} for batch in batches
        ]
    except FileNotFoundError:
        raise InputError(f"{vectors}: there are no test vectors of {path.name}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{vectors}: not the test vectors of an export") from None
    sizes = {len(batch) for batch in images}
    if sizes == {1, 2}:  # the file takes any batch
        images.append(images[-1][THREE])
        expected.append({name: values[THREE] for name, values in expected[-1].items()})
    try:
        run = kind(path)
    except ImportError:
        raise InputError(f"--runtime {kind.name}: not installed; {kind.install} brings it") from None
    except Exception as error:
        return kind.name, [Trial(batch.shape, {}, one_line(error)) for batch in images]
    return run.version, [trial(run, batch, wanted) for batch, wanted in zip(images, expected, strict=True)]


def trial(run: Runtime, images: np.ndarray, expected: Mapping[str, np.ndarray]) -> Trial:
    """Run one batch."""
    try:
        answers = run(images)
    except Exception as error:
        return Trial(images.shape, {}, one_line(error))
    return Trial(images.shape, {name: difference(answers.get(name), expected[name]) for name in expected})


def difference(answer: np.ndarray | None, expected: np.ndarray) -> float:
    """Return the largest absolute difference."""
    if answer is None or np.shape(answer) != expected.shape or not np.isfinite(answer).all():
        return float("inf")
    return float(np.abs(np.asarray(answer, "float64") - expected).max())
