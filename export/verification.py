"""Exported files, verified again: whether one is whole, and computes what its model does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..contract import IDENTITY, Contract
from ..errors import InputError
from ..model.patchnet import PatchNet
from .comparison import TOLERANCE, Verification, VerificationError, compare
from .formats import open_exported
from .metadata import contract_of, describe

# Of the metadata, what two models differ in when they have different architectures.
ARCHITECTURE = ("patch_size", "stride", "crop", "border", "subnet", "pooling", "preprocessing")


def verify(
    model: PatchNet, path: str | Path, *, class_names: Sequence[str] = (), images: Any = None
) -> Verification:
    """Run an exported file and compare it with the model that it was made from.

    Args:
        model: the PatchNet.
        path: an ONNX file; or a SavedModel, its version folder or the folder of its versions, of which the
            newest is taken.
        class_names: of the model's classes, to compare with the file's; none means not to.
        images: (N, H, W, C), as the model takes them, to compare on beside generated ones; a few are used, of
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
    try:
        predict = open_exported(path)
    except ValueError as error:
        raise InputError(str(error)) from None
    channels = predict.contract.pixels.channels
    if channels != model.input_shape[-1]:
        raise InputError(
            f"{path}: made from another model, whose images have {channels} channel(s). "
            f"Received: a model for {model.input_shape[-1]}"
        )
    if predict.contract.pixels != model.pixels:
        raise VerificationError(
            f"{path}: made from another model, of pixels {predict.contract.pixels.model_dump_json()}. "
            f"Received: a model of {model.pixels.model_dump_json()}"
        )
    classes = predict.contract.classes
    if (len(classes.names), classes.exclusive) != (model.classes, not model.multilabel):
        raise VerificationError(
            f"{path}: made from another model, of {len(classes.names)} {kind(classes.exclusive)}. "
            f"Received: a model of {model.classes} {kind(not model.multilabel)}"
        )
    if predict.contract.familiar != (model.familiarity is not None):
        raise VerificationError(
            f"{path}: made from another model, with familiar={predict.contract.familiar}. "
            f"Received: a model with familiarity={model.familiarity is not None}"
        )
    if class_names and tuple(class_names) != classes.names:
        raise VerificationError(
            f"{path}: made from another model, of the classes {', '.join(classes.names)}. "
            f"Received: a model of {', '.join(class_names)}"
        )
    check_same_model(predict.path, predict.metadata, model)
    return compare(model, predict, predict.path, predict.metadata["precision"], images)


def kind(exclusive: bool) -> str:
    """Return what classes are called in messages."""
    return "classes" if exclusive else "labels"


def check_same_model(path: Path, described: dict[str, str], model: PatchNet) -> None:
    """Raise VerificationError where a file says of itself something else than holds for the model."""
    missing = {"precision", *ARCHITECTURE} - described.keys()
    if missing or described["precision"] not in TOLERANCE:
        raise InputError(f"{path}: what it says of itself, such as precision, is missing or damaged")
    names = Contract.from_metadata(described, str(path)).classes.names
    expected = describe(model, described["precision"], contract_of(model, names), {})
    for key in ARCHITECTURE:
        if described[key] != expected[key]:
            raise VerificationError(
                f"{path}: made from another model; its {key} is {described[key]}, the model's {expected[key]}"
            )
    if described[IDENTITY] != expected[IDENTITY]:
        raise VerificationError(
            f"{path}: made from another model; its weights differ. "
            f"Received: identity {expected[IDENTITY]}, of the file {described[IDENTITY][:64]}"
        )
