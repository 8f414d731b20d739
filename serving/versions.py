"""Which version of a model is served: the highest that loads, exchanged while requests are answered."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import one_line
from ..images.pixels import spread_over
from .predictor import Predictor

log = logging.getLogger("patchnet.serve")
Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Version:
    """A loaded model.

    Attributes:
        number: of the version; 1 for a single file.
        path: where it was loaded from.
        stamp: of its files when it was loaded.
        predict: what answers.
        batches: whether a batch was seen to give the same bits as its images one by one.
    """

    number: int
    path: Path
    stamp: Stamp
    predict: Predictor
    batches: bool


@dataclass
class Versions:
    """The versions in a folder, of which one is served.

    Args:
        path: an ONNX file, a folder with a SavedModel or one ONNX file, or a folder of such folders that have
            numbers as names, the highest of which is served: NAME/1, NAME/2, ...
        device: of ONNX files: "cpu" or "cuda".
        threads: of ONNX files: for one call on the processor; 0 means one per core.

    Attributes:
        current: what is served; None until `refresh` has loaded something.

    Example:
        >>> versions = Versions(Path("served/cells"))
        >>> versions.refresh()
        >>> versions.current.number
        2
    """

    path: Path
    device: str = "cpu"
    threads: int = 0
    current: Version | None = None
    _damaged: set[Stamp] = field(default_factory=set)
    _complaints: set[str] = field(default_factory=set)

    def refresh(self) -> None:
        """Load the highest version that can be loaded, if it is another than the current one.

        What cannot be loaded, because it is damaged or still being copied, is said once in the log, passed
        over, and tried again when its files have changed. Requests that have begun keep the version with
        which they began. A version whose files are replaced is another one.

        Raises:
            ValueError: nothing is served yet, and nothing can be loaded; the message is of the highest one.
        """
        complaints = []
        for number, path in find_versions(self.path):
            stamp = stamp_of(path)
            if self.current and stamp == self.current.stamp:
                return
            if stamp in self._damaged:
                continue
            try:
                loaded = self.load(number, path, stamp)
            except Exception as error:  # files that others wrote can be wrong in any way
                complaints.append(one_line(error))
                if not isinstance(error, OSError):  # which may pass by itself
                    self._damaged.add(stamp)
                if complaints[-1] not in self._complaints:
                    self._complaints.add(complaints[-1])
                    log.error("version not loaded", extra={"version": number, "reason": complaints[-1]})
                continue
            self.current = loaded
            log.info(
                "version loaded",
                extra={
                    "version": number,
                    "path": str(path),
                    "runtime": loaded.predict.provider,
                    "batches": loaded.batches,
                },
            )
            return
        if self.current is None:
            raise ValueError(complaints[0] if complaints else f"{self.path}: no exported model")

    def load(self, number: int, path: Path, stamp: Stamp) -> Version:
        """Load one version and run it once, which is its warm-up too."""
        if path.is_dir() and not (path / "saved_model.pb").is_file():
            files = sorted(path.glob("*.onnx"))
            if len(files) != 1:
                raise ValueError(f"{path}: expected saved_model.pb or one ONNX file. Received: {len(files)}")
            predict = Predictor(files[0], device=self.device, threads=self.threads)
        elif path.is_dir():
            from .saved_model import SavedModelPredictor  # needs TensorFlow

            predict = SavedModelPredictor(path)
        else:
            predict = Predictor(path, device=self.device, threads=self.threads)
        if (batch := predict.input_shape[0]) not in (None, 1):
            raise ValueError(f"{path}: exported for batches of {batch}; export it without --batch")
        if alone := predict.contract.only:
            raise ValueError(f"{path}: exported with the {alone} alone; export it without --outputs")
        answer = predict(random_images(predict, np.random.default_rng(0), 1)[0])
        if not (np.isfinite(answer.probability).all() and np.isfinite(answer.heatmap).all()):
            raise ValueError(
                f"{path}: expected finite answers; are the model's weights finite? "
                f"Received: probability={answer.probability}"
            )
        return Version(number, path, stamp, predict, batch is None and batches_are_exact(predict))


def stamp_of(path: Path) -> Stamp:
    """Return the names, places, sizes and times of a version's files, which change when they are replaced."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files if file.exists()]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def find_versions(path: Path) -> list[tuple[int, Path]]:
    """Return the versions at `path`, the highest first, whole or not."""
    if path.is_file() or (path / "saved_model.pb").is_file() or list(path.glob("*.onnx")):
        return [(int(path.name) if path.name.isdecimal() else 1, path)]
    return numbered(path)


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """Return the folders 1, 2, ... of versions in `folder`, which need not exist, the highest first."""
    versions = [(int(path.name), path) for path in folder.glob("*") if path.name.isdecimal()]
    return sorted((version for version in versions if version[1].is_dir()), reverse=True)


def batches_are_exact(predict: Predictor, seed: int = 0) -> bool:
    """Run random images together and one by one, and return whether every bit is the same.

    It need not be: runtimes choose another order of summation for another size of a batch. Models with
    `ShadesOfGray`, whose light is a sum over the image, differ in the last bits with ONNX Runtime 1.26.
    """
    rng = np.random.default_rng(seed)
    for more in (0, 3, 7):  # odd numbers of pixels lay the images at odd places in the memory
        images = random_images(predict, rng, 3, more)
        together, alone = predict(images), [predict(image) for image in images]
        q = np.array([one.probability for one in alone], "float32")
        if not (
            np.array_equal(together.probability, q)
            and np.array_equal(together.heatmap, [one.heatmap for one in alone])
            and np.array_equal(predict.probability(images), q)
            and (
                together.familiar is None
                or np.array_equal(together.familiar, [one.familiar for one in alone])
            )
        ):
            return False
    return True


def random_images(predict: Predictor, rng: np.random.Generator, count: int, more: int = 0) -> np.ndarray:
    """Return images of the model's kind of pixels, a little larger than the smallest it takes."""
    _, height, width, channels = predict.input_shape
    size = height or predict.smallest[0] + more, width or predict.smallest[1] + more + 1
    return spread_over(rng.random((count, *size, channels)), predict.contract.pixels)
