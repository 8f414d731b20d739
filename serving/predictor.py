"""An exported ONNX file as a Python function, with ONNX Runtime: no TensorFlow, no Keras."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from ..contract import HEATMAP, HEATMAP_WANTED, IMAGE, PROBABILITY, Contract
from ..errors import InputError, UnfitError, one_line
from ..images.pixels import check_images
from . import digest, manifest

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
FATAL = 4  # ONNX Runtime's log level; what goes wrong is raised


class Outputs(NamedTuple):
    """What is computed of one image, or of a batch."""

    probability: Any
    heatmap: np.ndarray


class Prediction(Outputs):
    """What the model says of one image, or of a batch; a pair of two.

    Two exclusive classes have one probability and one map, which are those of class 1. Other classes have one
    each: K of them.

    Attributes:
        probability: a float, or float32 (B,); of K classes float32 (K,) or (B, K).
        heatmap: float32 in [0, 1], (H, W) or (B, H, W), where 1 speaks for class 1 and 0 for class 0; of K
            classes (H, W, K) or (B, H, W, K), or with as many maps as were asked for.
        familiar: bool (H, W) or (B, H, W), where the image is like those of training; None where the model
            does not say.
    """

    familiar: np.ndarray | None = None
    _contract: Callable[[], Contract]  # of the model, set by whatever makes a prediction

    @classmethod
    def of(
        cls, probability: np.ndarray, heatmap: np.ndarray, contract: Callable[[], Contract], batch: bool
    ) -> "Prediction":
        """Return the prediction of a batch, or of the one image in it."""
        made = cls(probability, heatmap) if batch else cls(one(probability[0]), heatmap[0])
        made._contract = contract
        return made

    @property
    def names(self) -> Any:
        """What the image is called, as a tuple: one name, or any labels; of a batch a list of tuples.

        Raises:
            ServerError: it is the answer of a server that does not say what the classes are.

        Example:
            >>> predict(image).names
            ('melanoma',)
        """
        contract = self._contract()
        if np.ndim(self.probability) == len(contract.outputs[PROBABILITY].axes):
            return [contract.names_of(q) for q in self.probability]
        return contract.names_of(self.probability)


def one(probability: Any) -> Any:
    """Return the probability of one image: a float, or an array (K,)."""
    return probability if np.ndim(probability) else float(probability)


class Predictor:
    """Runs a file made by `patchnet export --format onnx`. Threads may share one.

    Args:
        path: the ONNX file. It must be as it was exported: by the digest that it carries, and, where a
            MANIFEST.json lies beside it, by the sha256 that is listed there.
        device: "cpu" or "cuda".
        allow_fallback: let "cuda" run on the processor where CUDA cannot be had.
        threads: for one call on the processor; 0 means one per core.

    Attributes:
        path: of the file.
        contract: what it takes and answers, a `patchnet_tf.contract.Contract`.
        class_names: of the classes.
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
        digest.check(path)
        self._session = open_session(path, PROVIDERS[device], threads)
        # An input with a default value is not among the session's inputs.
        optional = [tensor.name for tensor in self._session.get_overridable_initializers()]
        self._can_switch = HEATMAP_WANTED in optional
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
        digest.check_identity(path, metadata)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.contract.classes.names

    @property
    def smallest(self) -> tuple[int, int]:
        """The least (height, width) of an image."""
        return self.contract.smallest

    def __call__(
        self,
        image: np.ndarray,
        *,
        classes: Sequence[int | str] | None = None,
        run_options: onnxruntime.RunOptions | None = None,
    ) -> Prediction:
        """Return probability and heatmap.

        Args:
            image: pixels as `contract.pixels` says, such as uint8: (H, W, C), or (B, H, W, C) for a batch.
            classes: whose maps to return, by number or name, in that order; all by default. All are computed
                in any case, and the others' memory is given back.
            run_options: ONNX Runtime's; `run_options.terminate = True` in another thread ends the call soon,
                with an error.

        Returns:
            `Prediction`: a float and (H, W), or for a batch (B,) and (B, H, W); of K classes, unless they are
            two exclusive ones, (K,) and (H, W, K), or (B, K) and (B, H, W, K).

        Raises:
            InputError: the pixels are not as above, or fewer than the model needs; the model has no maps of
                such `classes`. It is a ValueError.
        """
        if self.contract.only:
            alone = self.contract.only
            raise InputError(
                f"{self.path}: exported with the {alone} alone; `.{alone}(image)` returns it. "
                "Received: a call for both"
            )
        batch, numbers = self.check(image), self.numbers(classes)
        probability, heatmap, *familiar = self._run(batch, True, run_options)
        made = Prediction.of(probability, maps_of(heatmap, numbers), lambda: self.contract, image.ndim == 4)
        if familiar:
            made.familiar = familiar[0] if image.ndim == 4 else familiar[0][0]
        return made

    def probability(self, image: np.ndarray, *, run_options: onnxruntime.RunOptions | None = None) -> Any:
        """Return the probability alone, at a small part of the heatmap's cost; arguments as of a call.

        Raises:
            InputError: as of a call, or the file has the heatmap alone.
        """
        self._has(PROBABILITY)
        [probability] = self._run(self.check(image), False, run_options)
        return probability if image.ndim == 4 else one(probability[0])

    def heatmap(
        self,
        image: np.ndarray,
        *,
        classes: Sequence[int | str] | None = None,
        run_options: onnxruntime.RunOptions | None = None,
    ) -> np.ndarray:
        """Return the heatmap alone; arguments as of a call.

        Raises:
            InputError: as of a call, or the file has the probability alone.
        """
        self._has(HEATMAP)
        batch, numbers = self.check(image), self.numbers(classes)
        heatmap = maps_of(self.outputs(batch, run_options)[HEATMAP], numbers)
        return heatmap if image.ndim == 4 else heatmap[0]

    def outputs(self, batch: np.ndarray, run_options: Any = None) -> dict[str, np.ndarray]:
        """Return all outputs that the file has, by their names, of a batch (B, H, W, C)."""
        names = self.wanted(self.contract.only != PROBABILITY)
        return dict(zip(names, self._run(batch, HEATMAP in names, run_options), strict=True))

    def _has(self, output: str) -> None:
        """Raise InputError where the file has the other output alone."""
        if output not in self.contract.outputs:
            raise InputError(
                f"{self.path}: exported with the {self.contract.only} alone. "
                f"Received: a call for the {output}"
            )

    def numbers(self, classes: Any) -> tuple[int, ...] | None:
        """Return the numbers of classes that are given by number or name; None for None, which means all.

        Raises:
            InputError: the model has no such maps, or one is named twice.
        """
        if classes is None:
            return None
        if self.contract.classes.binary:
            raise InputError("classes: this model tells two classes apart by one map; leave them out")
        names = self.class_names
        wanted = [*classes] if isinstance(classes, Sequence) and not isinstance(classes, str) else []
        found = [names.index(k) if isinstance(k, str) and k in names else k for k in wanted]
        if (
            not found
            or not all(type(k) is int and 0 <= k < len(names) for k in found)
            or len(set(found)) < len(found)
        ):
            raise InputError(
                f"classes: expected different numbers from 0 to {len(names) - 1}, or names, such as "
                f"{names[0]}. Received: {repr(classes)[:64]}"
            )
        return tuple(found)

    def _run(self, batch: np.ndarray, heatmap: bool, options: Any = None) -> list[np.ndarray]:
        """Return the outputs, or [probability] alone, of a batch (B, H, W, C)."""
        feeds = {IMAGE: batch}
        if not heatmap and self._can_switch:
            feeds[HEATMAP_WANTED] = np.array(False)
        return self._session.run(self.wanted(heatmap), feeds, options)

    def wanted(self, heatmap: bool) -> list[str]:
        """Return the names of the outputs to compute: all, or the probability alone."""
        return list(self.contract.outputs) if heatmap else [PROBABILITY]

    def check(self, image: np.ndarray, what: str = "image") -> np.ndarray:
        """Return an image as a batch (B, H, W, C), or raise InputError, which calls it `what`."""
        pixels = self.contract.pixels
        if not isinstance(image, np.ndarray) or image.dtype != pixels.dtype or image.ndim not in (3, 4):
            raise InputError(
                f"{what}: expected a numpy array of {pixels.dtype}, (height, width, channels) or (batch, "
                f"height, width, channels). Received: {getattr(image, 'dtype', type(image).__name__)}, "
                f"shape={getattr(image, 'shape', None)}"
            )
        batch = image if image.ndim == 4 else image[None]
        check_images(batch, pixels=pixels, smallest=self.smallest, what=what)
        for name, size, fixed in zip(
            ("image(s)", "rows", "columns"), batch.shape[:3], self.input_shape[:3], strict=True
        ):
            if size != (fixed or size):
                raise UnfitError(f"{what}: expected {fixed} {name}. Received: shape={image.shape}")
        return batch


def maps_of(heatmap: np.ndarray, numbers: Sequence[int] | None) -> np.ndarray:
    """Return the maps of some classes of (..., H, W, K), in an array of their own; None means all."""
    return heatmap if numbers is None else np.take(heatmap, numbers, axis=-1)


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
