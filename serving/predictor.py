"""An exported ONNX file as a Python function, with ONNX Runtime: no TensorFlow, no Keras."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from ..contract import HEATMAP_WANTED, IMAGE, OUTPUTS, Contract
from ..errors import InputError, UnfitError, one_line
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
        path: of the file.
        contract: what it takes and answers, a `patchnet_tf.contract.Contract`.
        class_names: of class 0 and class 1.
        smallest: the least (height, width) of an image.
        input_shape: (batch, height, width, channels) of what it takes, None where it takes any.
        metadata: all that the file says of itself, text by text.
        provider: ONNX Runtime's name of what really runs, such as "CPUExecutionProvider".
        runtime: the same with the version of ONNX Runtime.

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
        self._can_switch = any(tensor.name == HEATMAP_WANTED for tensor in self._session.get_inputs())
        self.provider = self._session.get_providers()[0]
        if self.provider != PROVIDERS[device][0] and not allow_fallback:
            raise RuntimeError(
                'CUDA cannot be had here; device="cpu", or `allow_fallback=True`, runs on the processor. '
                f"Received: device={device!r}, running on {self.provider}"
            )
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, {self.provider}"
        metadata = self._session.get_modelmeta().custom_metadata_map
        self._describe(path, metadata, self._session.get_inputs()[0].shape)

    def _describe(self, path: Path, metadata: Mapping[str, str], shape: Sequence) -> None:
        """Set what the file says of itself; in `shape`, free dimensions are no numbers."""
        self.path, self.metadata = path, dict(metadata)
        self.contract = Contract.from_metadata(metadata, str(path))
        self.input_shape = tuple(d if isinstance(d, int) else None for d in shape)
        if self.input_shape[3] != self.contract.pixels.channels:
            raise InputError(
                f"{path}: its contract is that of another model. Received: a contract for "
                f"{self.contract.pixels.channels} channel(s), an input of {self.input_shape[3]}"
            )

    @property
    def class_names(self) -> tuple[str, str]:
        """The names of class 0 and class 1."""
        return self.contract.classes.names

    @property
    def smallest(self) -> tuple[int, int]:
        """The least (height, width) of an image."""
        return self.contract.smallest

    def __call__(self, image: np.ndarray, *, run_options: onnxruntime.RunOptions | None = None) -> Prediction:
        """Return probability and heatmap.

        Args:
            image: uint8 pixels, (H, W, C), or (B, H, W, C) for a batch.
            run_options: ONNX Runtime's; `run_options.terminate = True` in another thread ends the call soon,
                with an error.

        Returns:
            `Prediction`: a float and (H, W), or for a batch (B,) and (B, H, W).

        Raises:
            InputError: the pixels are not as above, or fewer than the model needs. It is a ValueError.
        """
        probability, heatmap = self._run(self.check(image), True, run_options)
        return (
            Prediction(probability, heatmap)
            if image.ndim == 4
            else Prediction(float(probability[0]), heatmap[0])
        )

    def probability(self, image: np.ndarray, *, run_options: onnxruntime.RunOptions | None = None) -> Any:
        """Return the probability alone, at a small part of the heatmap's cost; arguments as of a call."""
        [probability] = self._run(self.check(image), False, run_options)
        return probability if image.ndim == 4 else float(probability[0])

    def _run(self, batch: np.ndarray, heatmap: bool, options: Any = None) -> list[np.ndarray]:
        """Return [probability, heatmap], or [probability] alone, of a batch (B, H, W, C)."""
        feeds = {IMAGE: batch}
        if not heatmap and self._can_switch:
            feeds[HEATMAP_WANTED] = np.array(False)
        return self._session.run(OUTPUTS[: 1 + heatmap], feeds, options)

    def check(self, image: np.ndarray, what: str = "image") -> np.ndarray:
        """Return an image as a batch (B, H, W, C), or raise InputError, which calls it `what`."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (3, 4):
            raise InputError(
                f"{what}: expected a numpy array of uint8, (height, width, channels) or (batch, height, "
                f"width, channels). Received: {getattr(image, 'dtype', type(image).__name__)}, "
                f"shape={getattr(image, 'shape', None)}"
            )
        batch = image if image.ndim == 4 else image[None]
        check_images(batch, channels=self.contract.pixels.channels, smallest=self.smallest, what=what)
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
    # Threads hand each other small shares of the work and sleep when there is none: where other programs run
    # too, a thread that is held up holds up the others less, and none burns time that they need.
    options.add_session_config_entry("session.dynamic_block_base", "16")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has an exception class for each way to fail
        raise ValueError(f"{path}: ONNX Runtime cannot load it ({one_line(error)})") from None
