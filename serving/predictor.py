"""An exported ONNX file as a Python function, with ONNX Runtime: no TensorFlow, no Keras."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from ..errors import InputError, UnfitError
from ..images.pixels import check_images
from . import manifest

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
FATAL = 4  # ONNX Runtime's log level; what goes wrong is raised


class Prediction(NamedTuple):
    """What the model says of one image, or of a batch.

    probability: of class 1; a float, or float32 (B,).
    heatmap: float32 (H, W) or (B, H, W) in [0, 1]; 1 speaks for class 1, 0 for class 0.
    """

    probability: Any
    heatmap: np.ndarray


class Predictor:
    """Runs a file made by `patchnet export --format onnx`. Threads may share one.

    Args:
        path: the ONNX file. Where a MANIFEST.json lies beside it, its sha256 must be the one listed there.
        device: "cpu" or "cuda".
        allow_fallback: let "cuda" run on the processor where CUDA cannot be had.
        threads: for one call on the processor; 0 means one per core.

    Attributes:
        provider: ONNX Runtime's name of what really runs, such as "CPUExecutionProvider".
        class_names: of class 0 and class 1.
        input_shape: (batch, height, width, channels) of what it takes, None where it takes any.
        smallest: the least (height, width) of an image.
        metadata: all that the file says of itself, text by text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, or was altered or truncated; `device` is neither of the two;
            `threads` is no whole number or negative.
        RuntimeError: "cuda" was asked for and cannot be had.

    Example:
        >>> predict = Predictor("model.onnx")
        >>> probability, heatmap = predict(numpy.zeros((128, 128, 3), "uint8"))
        >>> heatmap.shape
        (128, 128)
    """

    def __init__(
        self, path: str | Path, *, device: str = "cpu", allow_fallback: bool = False, threads: int = 0
    ) -> None:
        if not isinstance(device, str) or device not in PROVIDERS:
            raise ValueError(f'`device` must be "cpu" or "cuda". Received: device={device!r}')
        if type(threads) is not int or threads < 0:
            raise ValueError(f"`threads` must be a whole number from 0 on. Received: threads={threads!r}")
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no model file {path}")
        manifest.check(path)
        self._session = open_session(path, PROVIDERS[device], threads)
        self.provider = self._session.get_providers()[0]
        if self.provider != PROVIDERS[device][0] and not allow_fallback:
            raise RuntimeError(
                'CUDA cannot be had here; device="cpu", or `allow_fallback=True`, runs on the processor. '
                f"Received: device={device!r}, running on {self.provider}"
            )
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        if "patchnet_tf.version" not in metadata:
            raise ValueError(f"{path}: an ONNX file, but not one made by `patchnet export`")
        try:
            self._describe(metadata, self._session.get_inputs()[0].shape)
        except (KeyError, ValueError, TypeError):  # of JSON too
            raise ValueError(
                f"{path}: what it says of itself, such as class_names, is missing or damaged"
            ) from None

    def _describe(self, metadata: dict[str, str], shape: Sequence) -> None:
        """Set what the file says of itself; in `shape`, free dimensions are no numbers."""
        self.metadata = metadata
        self.class_names = tuple(json.loads(metadata["class_names"]))
        crop, p = json.loads(metadata["crop"]), int(metadata["patch_size"])
        self.smallest = tuple(crop or (p, p))
        self.input_shape = tuple(d if isinstance(d, int) else None for d in shape)

    def __call__(self, image: np.ndarray) -> Prediction:
        """Return probability and heatmap.

        Args:
            image: uint8 pixels, (H, W, C), or (B, H, W, C) for a batch.

        Returns:
            `Prediction`: a float and (H, W), or for a batch (B,) and (B, H, W).

        Raises:
            InputError: the pixels are not as above, or fewer than the model needs. It is a ValueError.
        """
        probability, heatmap = self._run(self.check(image), heatmap=True)
        return (
            Prediction(probability, heatmap)
            if image.ndim == 4
            else Prediction(float(probability[0]), heatmap[0])
        )

    def probability(self, image: np.ndarray) -> Any:
        """Return the probability alone, at a small part of the heatmap's cost; arguments as of a call."""
        [probability] = self._run(self.check(image), heatmap=False)
        return probability if image.ndim == 4 else float(probability[0])

    def _run(self, batch: np.ndarray, *, heatmap: bool) -> list[np.ndarray]:
        """Return [probability, heatmap], or [probability] alone, of a batch (B, H, W, C)."""
        feeds = {"image": batch} if heatmap else {"image": batch, "heatmap_wanted": np.array(False)}
        return self._session.run(["probability", "heatmap"][: 1 + heatmap], feeds)

    def check(self, image: np.ndarray, what: str = "image") -> np.ndarray:
        """Return an image as a batch (B, H, W, C), or raise InputError, which calls it `what`."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (3, 4):
            raise InputError(
                f"{what}: expected a numpy array of uint8, (height, width, channels) or (batch, height, "
                f"width, channels). Received: {getattr(image, 'dtype', type(image).__name__)}, "
                f"shape={getattr(image, 'shape', None)}"
            )
        batch = image if image.ndim == 4 else image[None]
        check_images(batch, channels=self.input_shape[3], smallest=self.smallest, what=what)
        for name, size, fixed in zip(
            ("image(s)", "rows", "columns"), batch.shape[:3], self.input_shape[:3], strict=True
        ):
            if size != (fixed or size):
                raise UnfitError(f"{what}: expected {fixed} {name}. Received: shape={image.shape}")
        return batch


def open_session(path: Path, providers: list[str], threads: int) -> onnxruntime.InferenceSession:
    """Load a model file into ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has an exception class for each way to fail
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({reason})") from None
