"""A PatchNet as a SavedModel in TF Serving's layout: NAME/1, NAME/2, ..., the highest number being served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from ..contract import IMAGE, IMAGE_BYTES, LARGEST, OUTPUTS, SERVING_DEFAULT, SIGNATURES, Contract, Pixels
from ..errors import InputError
from ..files import write_json
from ..model.patchnet import PatchNet
from ..serving import Predictor
from ..serving.saved_model import METADATA, SavedModelPredictor
from ..serving.versions import numbered
from .comparison import Verification
from .signature import Signature, image_spec, outputs_of, signature
from .stages import Format, export_model

WARM_UP = "assets.extra/tf_serving_warmup_requests"


def to_saved_model(
    model: PatchNet,
    directory: str | Path,
    *,
    class_names: Sequence[str] = (),
    thresholds: Sequence[float] | None = None,
    metadata: Mapping[str, str] | None = None,
    images: Any = None,
) -> Verification:
    """Write a PatchNet as the next version of a SavedModel, after proving that it computes what Keras does.

    Its signatures are "serving_default", from `image`, (batch, height, width, channels) of the dtype of the
    model's pixels, to `probability`, float32 (batch,), and `heatmap`, float32 (batch, height, width), of K
    classes, unless they are two exclusive ones, (batch, K) and (batch, height, width, K); "probability" and
    "heatmap", one of the two; and "image_bytes", both from `image_bytes`, (batch,) whole files of one size:
    PNG or JPEG for grey or RGB pixels of uint8, and PNG of 16 bits for those of uint16. Models of other
    pixels have no "image_bytes". Numbers that the model does not take are refused with a message.

    Beside saved_model.pb are MANIFEST.json (sha256), verification.json (the differences), test_vectors.json
    (images and Keras's answers), and in assets.extra a warm-up request for each signature and metadata.json.
    The version appears in its place at once, so that a server never loads half of it.

    Args:
        model: what `PatchNet` or `load_model` returned.
        directory: NAME, the folder of the versions; made if need be.
        class_names: of the classes; none means class 0, class 1, ...
        thresholds: as in `patchnet_tf.contract.Contract`; None means 0.5 each.
        metadata: more keys and texts for the file to carry.
        images: (N, H, W, C), as the model takes them, to compare on beside generated ones; a few are used.

    Returns:
        The differences from Keras; its `path` is the folder of the version.

    Raises:
        InputError: an argument is not as above.
        VerificationError: the file would compute something else than Keras. Nothing is written then.
        OSError: it cannot be written.

    Example:
        >>> to_saved_model(model, "served/patchnet").path
        PosixPath('served/patchnet/1')
    """
    return export_model(
        model,
        directory,
        SavedModel(),
        class_names=class_names,
        thresholds=thresholds,
        metadata=metadata,
        images=images,
    )


@dataclass(frozen=True)
class SavedModel(Format):
    """A version of a SavedModel."""

    name: ClassVar[str] = "saved_model"
    title: ClassVar[str] = "SavedModel"

    def check(self, model: PatchNet, path: Path) -> Path:
        """Return the folder of the next version in the folder `path`."""
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: not a folder")
        if (path / "saved_model.pb").exists():
            raise InputError(f"{path}: a version already; name the folder of the versions")
        return path / str(max((number for number, _ in numbered(path)), default=0) + 1)

    def write(self, model: PatchNet, path: Path, contract: Contract, described: Mapping[str, str]) -> None:
        """Write the signatures, their warm-up requests and the metadata."""
        endpoints = make_endpoints(model, contract)
        archive = keras.export.ExportArchive()
        archive.track(model)
        for name, (answer, spec) in endpoints.items():
            archive.add_endpoint(name, tf.function(answer, input_signature=[spec], autograph=False))
        archive.write_out(str(path), verbose=False)

        middle = np.array((sum(contract.pixels.range) + 1) / 2).astype(contract.pixels.dtype)
        values = {IMAGE: np.full((1, *contract.smallest, contract.pixels.channels), middle)}
        if IMAGE_BYTES in endpoints:
            values[IMAGE_BYTES] = [tf.io.encode_png(values[IMAGE][0]).numpy()]
        (path / METADATA).parent.mkdir()
        write_json(path / METADATA, dict(described))
        with tf.io.TFRecordWriter(str(path / WARM_UP)) as writer:
            for name, (_, spec) in endpoints.items():
                writer.write(warm_up(name, spec.name, values[spec.name]).SerializeToString())

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether it is a folder."""
        return path.is_dir()

    @staticmethod
    def open(path: Path) -> Predictor:
        """Open a version, or the newest one of a folder of versions."""
        if not (path / "saved_model.pb").is_file():
            if not (versions := numbered(path)):
                raise ValueError(f"{path}: neither a SavedModel nor a folder of its versions 1, 2, ...")
            path = versions[0][1]
        return SavedModelPredictor(path)

    @staticmethod
    def records(path: Path) -> tuple[Path, Path]:
        """Return saved_model.pb and test_vectors.json."""
        return path / "saved_model.pb", path / "test_vectors.json"


def make_endpoints(model: PatchNet, contract: Contract) -> dict[str, tuple[Signature, tf.TensorSpec]]:
    """Return what each signature computes, and from what."""
    pixels, spec = contract.pixels, image_spec(model)

    def returned(outputs: tuple[str, ...]) -> tuple[str, ...]:
        return outputs_of(model) if outputs == OUTPUTS else outputs

    endpoints = {
        name: (checked(signature(model, outputs=returned(outputs)), contract), spec)
        for name, outputs in SIGNATURES.items()
        if name != IMAGE_BYTES
    }

    if pixels.channels not in (1, 3) or pixels.dtype not in DECODERS or pixels.select:
        return endpoints
    decode = DECODERS[pixels.dtype]

    def answer_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        answer, _ = endpoints[SERVING_DEFAULT]
        decoded = tf.TensorSpec((None, None, pixels.channels), pixels.dtype)
        return answer(
            tf.map_fn(lambda file: decode(file, pixels.channels), image_bytes, fn_output_signature=decoded)
        )

    endpoints[IMAGE_BYTES] = answer_bytes, tf.TensorSpec((None,), tf.string, name=IMAGE_BYTES)
    return endpoints


def decode_8(file: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode a JPEG or PNG file to (H, W, channels), uint8."""
    # Reads PNG too. The faster method that is the default here is off by a few levels.
    return tf.io.decode_jpeg(file, channels, dct_method="INTEGER_ACCURATE")


def decode_16(file: tf.Tensor, channels: int) -> tf.Tensor:
    """Decode a PNG file of 16 bits and as many channels to (H, W, channels), uint16."""
    # TensorFlow would stretch 8 bits to 16, and make grey of colour. The bytes say depth and kind of colour.
    kind = {1: b"\x10\x00", 3: b"\x10\x02"}[channels]
    padded = tf.strings.join([file, 26 * " "])  # however short it is
    right = tf.equal(tf.strings.substr(padded, 24, 2), kind)
    name = {1: "grey", 3: "RGB"}[channels]
    with tf.control_dependencies(
        [tf.debugging.assert_equal(right, True, f"This model takes PNG files of 16 bits, {name}")]
    ):
        return tf.io.decode_png(tf.identity(file), channels, dtype=tf.uint16)


DECODERS = {"uint8": decode_8, "uint16": decode_16}  # by the dtype of pixels


def checked(answer: Signature, contract: Contract) -> Signature:
    """Let a signature say what is wrong with images that it cannot take: the caller sees the message."""
    height, width = contract.smallest
    channels = contract.pixels.channels

    def check_and_answer(image: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(image)
        conditions = [
            tf.debugging.assert_positive(shape[0], "This model takes at least one image"),
            tf.debugging.assert_equal(
                shape[3], channels, f"This model takes images of {channels} channel(s)"
            ),
            tf.debugging.assert_greater_equal(
                shape[1:3],
                [height, width],
                f"This model takes images of at least {height} x {width} pixels (height x width)",
            ),
        ]
        conditions += checks_of_numbers(image, contract.pixels)
        with tf.control_dependencies(conditions):
            return answer(tf.ensure_shape(tf.identity(image), (None, None, None, channels)))

    return check_and_answer


def checks_of_numbers(image: tf.Tensor, pixels: Pixels) -> list[tf.Operation]:
    """Return what refuses numbers that a model does not take; nothing where its dtype has no others."""
    checks, (low, high) = [], pixels.range
    if pixels.dtype == "float32":
        checks.append(tf.debugging.assert_all_finite(image, "This model takes finite pixels"))
    elif (low, high) == (0, LARGEST[pixels.dtype]):
        return checks
    if not pixels.clip and not pixels.per_image:
        message = f"This model takes pixels in {low}..{high}"
        numbers = tf.cast(image, tf.float32)
        checks.append(tf.debugging.assert_greater_equal(tf.reduce_min(numbers), float(low), message))
        checks.append(tf.debugging.assert_less_equal(tf.reduce_max(numbers), float(high), message))
    return checks


def warm_up(signature_name: str, input_name: str, value: Any) -> prediction_log_pb2.PredictionLog:
    """Return a request in the form in which TF Serving reads those that it sends itself at the start."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "patchnet"  # TF Serving puts its own name of the model here
    request.model_spec.signature_name = signature_name
    request.inputs[input_name].CopyFrom(tf.make_tensor_proto(value))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request),
    )
