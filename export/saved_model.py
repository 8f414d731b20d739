"""A PatchNet as a SavedModel in TF Serving's layout: NAME/1, NAME/2, ..., the highest number being served."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from ..errors import InputError
from ..files import place, staging, write_json
from ..serving import manifest
from ..serving.versions import numbered
from .metadata import describe
from .signature import Signature, signature, smallest_image
from .verification import TOLERANCE, Run, Verification, compare, trials

BOTH = ("probability", "heatmap")
METADATA = "assets.extra/metadata.json"


def to_saved_model(
    model: keras.Model,
    directory: str | Path,
    *,
    class_names: Sequence[str] = ("class 0", "class 1"),
    metadata: Mapping[str, str] | None = None,
    images: Any = None,
) -> Verification:
    """Write a PatchNet as the next version of a SavedModel, after proving that it computes what Keras does.

    Its signatures are "serving_default", from `image`, uint8 (batch, height, width, channels), to
    `probability`, float32 (batch,), and `heatmap`, float32 (batch, height, width); "probability" and
    "heatmap", one of the two; and "image_bytes", both from `image_bytes`, (batch,) whole PNG or JPEG files of
    one size. Beside saved_model.pb are MANIFEST.json (sha256), verification.json (the differences),
    test_vectors.json (images and Keras's answers), and in assets.extra a warm-up request for each signature
    and metadata.json. The version appears in its place at once, so that a server never loads half of it.

    Args:
        model: what `PatchNet` or `load_model` returned.
        directory: NAME, the folder of the versions; made if need be.
        class_names: of class 0 and class 1.
        metadata: more keys and texts for the file to carry.
        images: (N, H, W, C) in 0..255 to compare on, beside generated ones; a few of them are used.

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
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: not a folder")
    if (directory / "saved_model.pb").exists():
        raise InputError(f"{directory}: a version already; name the folder of the versions")
    described = describe(model, "float32", class_names, metadata or {})
    target = directory / str(max((number for number, _ in numbered(directory)), default=0) + 1)
    with staging(target) as folder:
        staged = folder / target.name
        write(model, staged)
        write_json(staged / METADATA, described)
        run, runtime, shape, _ = run_saved_model(staged)
        tolerance = TOLERANCE[described["precision"]]
        batches = trials(model, images, shape)
        verification = compare(target, signature(model), run, runtime, tolerance, batches)
        write_json(staged / "test_vectors.json", verification.test_vectors())
        write_json(staged / "verification.json", {"saved_model.pb": verification.record()})
        write_json(staged / manifest.NAME, manifest.manifest(staged))
        place(staged, target)
    return verification


def write(model: keras.Model, folder: Path) -> None:
    """Write the SavedModel and its warm-up requests."""
    channels = model.input_shape[-1]
    height, width = smallest_image(model)
    outputs = {"serving_default": BOTH, "probability": BOTH[:1], "heatmap": BOTH[1:]}
    answers = {
        name: checked(signature(model, outputs=names), height, width, channels)
        for name, names in outputs.items()
    }

    def decode(file: tf.Tensor) -> tf.Tensor:
        # Reads PNG too. The faster method that is the default here is off by a few levels.
        return tf.io.decode_jpeg(file, channels, dct_method="INTEGER_ACCURATE")

    def answer_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = tf.TensorSpec((None, None, channels), tf.uint8)
        return answers["serving_default"](tf.map_fn(decode, image_bytes, fn_output_signature=spec))

    pixels = [tf.TensorSpec((None, None, None, channels), tf.uint8, name="image")]
    encoded = [tf.TensorSpec((None,), tf.string, name="image_bytes")]
    endpoints = {name: (answer, pixels) for name, answer in answers.items()}
    endpoints["image_bytes"] = answer_bytes, encoded
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, specs) in endpoints.items():
        archive.add_endpoint(name, tf.function(function, input_signature=specs, autograph=False))
    archive.write_out(str(folder), verbose=False)

    image = np.full((1, height, width, channels), 128, "uint8")
    file = tf.io.encode_png(image[0]).numpy()
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for name, (_, [spec]) in endpoints.items():
            value = [file] if name == "image_bytes" else image
            writer.write(warm_up(folder, name, spec.name, value).SerializeToString())


def checked(answer: Signature, height: int, width: int, channels: int) -> Signature:
    """Let a signature say what is wrong with images that it cannot take: the caller sees the message."""

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
        with tf.control_dependencies(conditions):
            return answer(tf.ensure_shape(tf.identity(image), (None, None, None, channels)))

    return check_and_answer


def warm_up(folder: Path, endpoint: str, name: str, value: Any) -> prediction_log_pb2.PredictionLog:
    """Return a request in the form in which TF Serving reads those that it sends itself at the start."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "patchnet"  # TF Serving puts its own name of the model here
    request.model_spec.signature_name = endpoint
    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(request=request),
    )


def run_saved_model(folder: Path) -> tuple[Run, str, tuple, dict[str, str]]:
    """Return how to run a SavedModel, what runs it, the shape of its input (None: any) and its metadata."""
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(f"{folder}: not a SavedModel (there is no saved_model.pb in it)")
    manifest.check(folder)
    try:
        described = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"{folder}: a SavedModel, but not one made by `patchnet export`") from None
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:  # a damaged file raises whatever its parsers stumble over
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder}: TensorFlow cannot load it ({reason})") from None
    answer = loaded.signatures.get("serving_default")
    specs = answer.structured_input_signature[1] if answer else {}
    if specs.keys() != {"image"} or answer.structured_outputs.keys() != set(BOTH):
        raise ValueError(f"{folder}: a SavedModel, but not one made by `patchnet export`")

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = answer(image=tf.constant(images))
        return outputs["probability"].numpy(), outputs["heatmap"].numpy()

    # The signature holds a reference to its functions only, not to the variables that they read.
    run.loaded = loaded
    return run, f"TensorFlow {tf.__version__} SavedModel", tuple(specs["image"].shape), described
