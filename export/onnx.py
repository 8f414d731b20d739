"""A PatchNet as one ONNX file: raw pixels in, probability and heatmap out."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

# tf2onnx copies the whole graph before each of its passes, to survive a pass that fails; without, a
# conversion takes half the time, and a pass that fails is an error. Read when tf2onnx runs.
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")

import onnx
import tensorflow as tf
import tf2onnx

from ..config import SIDE
from ..contract import HEATMAP, HEATMAP_WANTED, IMAGE, OUTPUTS, Contract
from ..errors import InputError
from ..model.checks import check_positive
from ..model.patches import ExtractPatches, gather_patches
from ..model.patchnet import PatchNet
from ..serving import Predictor
from .comparison import TOLERANCE, Verification
from .graph import embed_constants, make_optional, replace
from .metadata import docs, package_version
from .plain import make_plain
from .signature import image_spec, signature
from .stages import Format, export_model

OPSET = 18
# MiB for the features of a tile. ONNX Runtime's arena holds on to what it once took, and small tiles cost it
# next to nothing (docs/export.md), unlike TensorFlow.
MEMORY = 256


def to_onnx(
    model: PatchNet,
    path: str | Path,
    *,
    precision: str = "float32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    outputs: str = "both",
    class_names: Sequence[str] = (),
    thresholds: Sequence[float] | None = None,
    metadata: Mapping[str, str] | None = None,
    images: Any = None,
    overwrite: bool = False,
) -> Verification:
    """Write a PatchNet as an ONNX file, after proving that it computes what Keras does.

    The file takes `image`, (batch, height, width, channels) of the dtype of the model's pixels, and returns
    `probability`, float32 (batch,), and `heatmap`, float32 (batch, height, width); of K classes, unless they
    are two exclusive ones, (batch, K) and (batch, height, width, K). Preprocessing is inside, the heatmap is
    the exact one, and its memory does not grow with the image. Runtimes compute all outputs of a file; feed
    the further input `heatmap_wanted` with false where the probability is enough. Where S shares all work, a
    local network or one without padding, the file is a plain graph without that input, and its memory grows
    with the image. It is plain too, without loops and branches, for engines that take no others, where `size`
    and `batch` are given.

    Beside the file are written, each with an entry for every exported file in the folder, MANIFEST.json
    (sha256) and verification.json (the differences); and NAME.test_vectors.json (images and Keras's answers).

    Args:
        model: what `PatchNet` or `load_model` returned.
        path: the file to write; its name ends with .onnx.
        precision: "float32"; or "float16": S computes in half precision, in a file of half the size. For
            graphics processors; most others have no such arithmetic, and are slower with it.
        size: (height, width) of all images, for runtimes that want fixed shapes; None means any.
        batch: number of images in every batch, likewise.
        outputs: "both"; or "probability" or "heatmap": the file has that one alone.
        class_names: of the classes; none means class 0, class 1, ...
        thresholds: as in `patchnet_tf.contract.Contract`; None means 0.5 each.
        metadata: more keys and texts for the file to carry.
        images: (N, H, W, C), as the model takes them, to compare on beside generated ones; a few are used, of
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
    return export_model(
        model,
        path,
        Onnx(precision, size, batch, outputs, overwrite),
        class_names=class_names,
        thresholds=thresholds,
        metadata=metadata,
        images=images,
    )


@dataclass(frozen=True)
class Onnx(Format):
    """One ONNX file; the fields are arguments of `to_onnx`."""

    name: ClassVar[str] = "onnx"
    title: ClassVar[str] = "ONNX file"
    suffix: ClassVar[str] = ".onnx"
    precision: str = "float32"
    size: tuple[int, int] | None = None
    batch: int | None = None
    outputs: str = "both"
    overwrite: bool = False

    @property
    def only(self) -> str | None:
        """The one output, or None."""
        return None if self.outputs == "both" else self.outputs

    def check(self, model: PatchNet, path: Path) -> Path:
        """Return `path`, or say what speaks against it, or against the other choices."""
        if self.precision not in TOLERANCE:
            raise InputError(
                f'`precision` must be "float32" or "float16". Received: precision={self.precision!r}'
            )
        if self.outputs not in ("both", *OUTPUTS):
            raise InputError(
                f'`outputs` must be "both", "probability" or "heatmap". Received: outputs={self.outputs!r}'
            )
        if path.suffix != self.suffix:
            raise InputError(f"The name of an ONNX file ends with .onnx. Received: path={path}")
        if path.is_dir():
            raise InputError(f"{path}: a folder has that name")
        if path.exists() and not self.overwrite:
            raise InputError(f"{path}: exists already; --overwrite (overwrite=True) replaces it")
        fixed_shape(model, self.size, self.batch)
        return path

    def write(self, model: PatchNet, path: Path, contract: Contract, described: Mapping[str, str]) -> None:
        """Convert the model."""
        fixed = fixed_shape(model, self.size, self.batch)
        computed = model.with_dtype("mixed_float16") if self.precision == "float16" else model
        converted = convert(computed, fixed, list(contract.outputs))
        label(converted, fixed, contract, described)
        # For people who look at the graph, and for engines that work out no shapes themselves.
        converted = onnx.shape_inference.infer_shapes(converted, data_prop=True)
        onnx.checker.check_model(converted, full_check=True)
        onnx.save(converted, path)

    @staticmethod
    def recognizes(path: Path) -> bool:
        """Return whether it is a file, whatever its name."""
        return path.is_file()

    @staticmethod
    def open(path: Path) -> Predictor:
        """Open an ONNX file."""
        return Predictor(path)

    @staticmethod
    def records(path: Path) -> tuple[Path, Path]:
        """Return the file and NAME.test_vectors.json."""
        return path, path.with_suffix(".test_vectors.json")


def fixed_shape(model: PatchNet, size: tuple[int, int] | None, batch: int | None) -> dict[str, int]:
    """Return the sizes of those axes of the file's images that are fixed, by their names."""
    least = model.smallest_image
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
    axes = {"batch": batch, "height": height, "width": width}
    return {axis: fixed for axis, fixed in axes.items() if fixed}


class GatheredPatches(ExtractPatches):
    """The same patches, cut by gathers: tf2onnx converts TensorFlow's operator to something else."""

    def extract(self, images: tf.Tensor) -> tf.Tensor:
        """Cut (B, H, W, C) into (B, rows, columns, p * p * C)."""
        return gather_patches(images, self.patch_size, self.stride, self.border)


def convert(model: PatchNet, fixed: Mapping[str, int], names: Sequence[str]) -> onnx.ModelProto:
    """Return the ONNX model with outputs of these names, otherwise without names and metadata.

    It is a plain graph where the shape of the images is fixed as a whole, or S shares all work.
    """
    shares_all = getattr(model.subnet, "shares_all", False)
    known = len(fixed) == 3
    memory = None if shares_all else MEMORY
    outputs = signature(model, GatheredPatches, names, memory).python_function
    spec = image_spec(model)
    if known:  # what is known only in part helps nothing; `label` declares it
        shape = (fixed["batch"], fixed["height"], fixed["width"], spec.shape[-1])
        spec = tf.TensorSpec(shape, spec.dtype, name=spec.name)
    function = tf.function(outputs, autograph=False)
    converted, _ = tf2onnx.convert.from_function(function, input_signature=[spec], opset=OPSET)
    plain = known or shares_all
    if not plain and set(OUTPUTS) <= set(names):
        make_optional(converted.graph, HEATMAP, HEATMAP_WANTED)
    embed_constants(converted)
    if plain:
        make_plain(converted)
    return converted


def label(
    model: onnx.ModelProto, fixed: Mapping[str, int], contract: Contract, described: Mapping[str, str]
) -> None:
    """Name what tf2onnx left without a name: dimensions, descriptions, metadata; in place."""
    model.producer_name, model.producer_version = "patchnet-tf", package_version()
    description, said = docs(contract)
    model.doc_string = model.graph.doc_string = description
    model.graph.name = "patchnet"
    order = list(contract.outputs)  # TensorFlow sorts them by name
    replace(model.graph.output, sorted(model.graph.output, key=lambda info: order.index(info.name)))
    used = {node.domain for node in model.graph.node}
    replace(model.opset_import, [opset for opset in model.opset_import if opset.domain in used])
    tensors = {IMAGE: contract.image, **contract.outputs}
    for info in [*model.graph.input, *model.graph.output]:
        if info.name in tensors:
            dimensions = [fixed.get(axis, axis) for axis in tensors[info.name].axes]
            dtype = info.type.tensor_type.elem_type
            info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, dtype, dimensions))
        info.doc_string = said[info.name]
    image = model.graph.input[0].type
    image.denotation = "IMAGE"
    denotations = ("DATA_BATCH", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL")
    for dimension, denotation in zip(image.tensor_type.shape.dim, denotations, strict=True):
        dimension.denotation = denotation
    onnx.helper.set_model_props(model, dict(described))
