"""A PatchNet as one ONNX file: raw pixels in, probability and heatmap out."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# tf2onnx copies the whole graph before each of its passes, to survive a pass that fails; without, a
# conversion takes half the time, and a pass that fails is an error. Read when tf2onnx runs.
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")

import keras
import onnx
import tensorflow as tf
import tf2onnx

from ..config import SIDE
from ..errors import InputError
from ..files import place, staging, write_json
from ..model.layers import ExtractPatches, check_positive, crop_center, gather_patches
from ..serving import manifest
from .graph import embed_constants, make_optional, replace
from .metadata import DESCRIPTION, DOCS, describe, package_version
from .signature import half_precision, signature, smallest_image
from .verification import TOLERANCE, Verification, compare, run_onnx, trials

OPSET = 18
# MiB for the features of a tile. ONNX Runtime's arena holds on to what it once took, and small tiles cost it
# next to nothing (docs/export.md), unlike TensorFlow.
MEMORY = 256
DIMENSIONS = ("batch", "height", "width")


def to_onnx(
    model: keras.Model,
    path: str | Path,
    *,
    precision: str = "float32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    class_names: Sequence[str] = ("class 0", "class 1"),
    metadata: Mapping[str, str] | None = None,
    images: Any = None,
    overwrite: bool = False,
) -> Verification:
    """Write a PatchNet as an ONNX file, after proving that it computes what Keras does.

    The file takes `image`, uint8 (batch, height, width, channels), and returns `probability`, float32
    (batch,), and `heatmap`, float32 (batch, height, width). Preprocessing is inside, the heatmap is the
    exact one, and its memory does not grow with the image. Runtimes compute all outputs of a file; feed
    the further input `heatmap_wanted` with false where the probability is enough.

    Beside the file are written, each with an entry for every exported file in the folder, MANIFEST.json
    (sha256) and verification.json (the differences); and NAME.test_vectors.json (images and Keras's answers).

    Args:
        model: what `PatchNet` or `load_model` returned.
        path: the file to write; its name ends with .onnx.
        precision: "float32"; or "float16": S computes in half precision, in a file of half the size. For
            graphics processors; most others have no such arithmetic, and are slower with it.
        size: (height, width) of all images, for runtimes that want fixed shapes; None means any.
        batch: number of images in every batch, likewise.
        class_names: of class 0 and class 1.
        metadata: more keys and texts for the file to carry.
        images: (N, H, W, C) in 0..255 to compare on, beside generated ones; a few of them are used, and of
            larger ones than `size` their middle.
        overwrite: replace a file that is there.

    Returns:
        The differences from Keras.

    Raises:
        InputError: an argument is not as above, or the file exists.
        ValueError: the model is not a PatchNet.
        VerificationError: the file would compute something else than Keras. Nothing is written then.
        OSError: the file cannot be written.

    Example:
        >>> to_onnx(model, "model.onnx").heatmap
        2.4e-07
    """
    path = Path(path)
    if precision not in TOLERANCE:
        raise InputError(f'`precision` must be "float32" or "float16". Received: precision={precision!r}')
    if path.suffix != ".onnx":
        raise InputError(f"The name of an ONNX file ends with .onnx. Received: path={path}")
    if path.is_dir():
        raise InputError(f"{path}: a folder has that name")
    if path.exists() and not overwrite:
        raise InputError(f"{path}: exists already; --overwrite (overwrite=True) replaces it")
    shape = fixed_shape(model, size, batch)
    described = describe(model, precision, class_names, metadata or {})
    with staging(path) as folder:
        staged = folder / path.name
        onnx.save(convert(model, precision, shape, described), staged)
        run, runtime, _, _ = run_onnx(staged)
        tolerance = TOLERANCE[precision]
        verification = compare(path, signature(model), run, runtime, tolerance, trials(model, images, shape))
        vectors = path.with_suffix(".test_vectors.json")
        write_json(folder / vectors.name, verification.test_vectors(), indent=None)
        add_entries("verification.json", {path.name: verification.record()}, folder, path)
        add_entries(manifest.NAME, manifest.manifest(folder), folder, path)
        for name in (vectors.name, "verification.json", manifest.NAME, path.name):
            place(folder / name, path.with_name(name))
    return verification


def fixed_shape(model: keras.Model, size: tuple[int, int] | None, batch: int | None) -> tuple:
    """Return (B, H, W, C) of the file's input, None where it is free."""
    least = smallest_image(model)
    try:
        height, width = (None, None) if size is None else (check_positive("size", side) for side in size)
        batch = None if batch is None else check_positive("batch", batch)
    except (TypeError, ValueError):
        raise InputError(
            "`size` must be (height, width), and `batch` a number, all of at least 1. "
            f"Received: size={size!r}, batch={batch!r}"
        ) from None
    if size is not None and not (least[0] <= height <= SIDE and least[1] <= width <= SIDE):
        raise InputError(
            f"`size` must be from {least[0]} x {least[1]} (height x width), as the model needs, to "
            f"{SIDE} x {SIDE}. Received: size={height} x {width}"
        )
    return batch, height, width, model.input_shape[-1]


def add_entries(name: str, entries: dict, folder: Path, path: Path) -> None:
    """Write a JSON file to `folder`: the one beside `path`, which other exports may share, and `entries`."""
    try:
        before = json.loads(path.with_name(name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        before = {}
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{path.with_name(name)}: not written by an export; choose another folder")
    write_json(folder / name, before | entries)


class GatheredPatches(ExtractPatches):
    """The same patches, cut by gathers: tf2onnx converts TensorFlow's operator to something else."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Cut (B, H, W, C) into (B, P, p, p, C)."""
        images = crop_center(images, self.crop)
        p = self.patch_size
        patches = gather_patches(images, p, self.stride)  # (B, rows, columns, p * p * C)
        shape = tf.shape(patches)
        return tf.reshape(patches, (-1, shape[1] * shape[2], p, p, images.shape[3]))


def convert(model: keras.Model, precision: str, shape: tuple, described: dict[str, str]) -> onnx.ModelProto:
    """Return the checked ONNX model."""
    if precision == "float16":
        model = half_precision(model)
    outputs = signature(model, GatheredPatches, memory=MEMORY).python_function
    # Any shape, also where it is fixed: of a known one TensorFlow would work out where each gather reads, and
    # store that in the file, which grew with the image. `label` declares the shape.
    spec = tf.TensorSpec((None, None, None, shape[3]), tf.uint8, name="image")
    function = tf.function(outputs, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=OPSET)
    make_optional(converted.graph, "heatmap", "heatmap_wanted")
    embed_constants(converted)
    label(converted, shape, described)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def label(model: onnx.ModelProto, shape: tuple, described: dict[str, str]) -> None:
    """Name what tf2onnx left without a name: dimensions, descriptions, metadata; in place."""
    model.producer_name, model.producer_version = "patchnet-tf", package_version()
    model.doc_string = model.graph.doc_string = DESCRIPTION
    model.graph.name = "patchnet"
    # TensorFlow sorts them by name.
    outputs = sorted(model.graph.output, key=lambda info: ("probability", "heatmap").index(info.name))
    replace(model.graph.output, outputs)
    used = {node.domain for node in model.graph.node}
    replace(model.opset_import, [opset for opset in model.opset_import if opset.domain in used])
    sizes = [fixed or name for fixed, name in zip(shape, DIMENSIONS, strict=False)]
    dimensions = {"image": [*sizes, shape[3]], "probability": sizes[:1], "heatmap": sizes}
    for info in [*model.graph.input, *model.graph.output]:
        if info.name in dimensions:
            dtype = info.type.tensor_type.elem_type
            info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, dtype, dimensions[info.name]))
        info.doc_string = DOCS[info.name]
    image = model.graph.input[0].type
    image.denotation = "IMAGE"
    denotations = ("DATA_BATCH", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL")
    for dimension, denotation in zip(image.tensor_type.shape.dim, denotations, strict=True):
        dimension.denotation = denotation
    onnx.helper.set_model_props(model, described)
