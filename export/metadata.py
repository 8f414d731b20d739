"""What an exported file says about itself, so that its user needs no other document."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
from pydantic import ValidationError

from ..config import Config, FilesData
from ..contract import (
    CONTENT,
    FAMILIAR,
    HEATMAP,
    HEATMAP_WANTED,
    IDENTITY,
    IMAGE,
    KEY,
    PROBABILITY,
    VERSION,
    Contract,
    Pixels,
    make_classes,
)
from ..errors import InputError
from ..files import sha256
from ..model.identity import identity
from ..model.local import LocalNetwork
from ..model.patchnet import PatchNet
from ..model.subnet import PatchSubnet
from ..serving.digest import UNSET
from .signature import check_patchnet

DESCRIPTION = (
    "PatchNet (arXiv 1705.08078): the probability of {classes} is pooled from the decisions of one network "
    "about the patches of the image, and the heatmap is that network's decision at every pixel."
)
DOCS = {
    IMAGE: "{dtype} pixels, (batch, height, width, channels), {low} to {high}{beyond}; {channels}.",
    HEATMAP_WANTED: "bool, true unless given: where it is false the heatmap is empty and costs nothing.",
    FAMILIAR: "bool, (batch, height, width): whether the patch centred at each pixel is like those of "
    "training; where it is not, what the heatmap says is arbitrary.",
}
BINARY_DOCS = {
    PROBABILITY: "float32, (batch,): the probability of class 1.",
    HEATMAP: "float32, (batch, height, width): the decision of the patch centred at each pixel, "
    "1 for class 1, 0 for class 0, 0.5 undecided. Never rescaled, so maps of different images compare.",
}
SEVERAL_DOCS = {
    PROBABILITY: "float32, (batch, classes): the probability of each class{sum}.",
    HEATMAP: "float32, (batch, height, width, classes): the decision of the patch centred at each pixel "
    "about each class, from 0 to 1{sum}. Never rescaled, so maps of different images compare.",
}


def docs(contract: Contract) -> tuple[str, dict[str, str]]:
    """Return what an exported file says, in words, of itself and of its inputs and outputs by their names."""
    documented = DOCS | {IMAGE: image_doc(contract.pixels)}
    if contract.classes.binary:
        return DESCRIPTION.format(classes="class 1"), documented | BINARY_DOCS
    total = (
        "; they sum to 1" if contract.classes.exclusive else ", a label that an image may have beside others"
    )
    several = {name: text.format(sum=total) for name, text in SEVERAL_DOCS.items()}
    return DESCRIPTION.format(classes="each class"), documented | several


def image_doc(pixels: Pixels) -> str:
    """Return what pixels are, in words."""
    low, high = pixels.range
    beyond = ", clipped to that" if pixels.clip else ""
    if pixels.per_image:
        beyond = "; each image is scaled from its own least and largest value"
    channels = "RGB where there are three channels"
    if pixels.select:
        channels = f"the channels {', '.join(map(str, pixels.select))} of a file"
    return DOCS[IMAGE].format(dtype=pixels.dtype, low=low, high=high, beyond=beyond, channels=channels)


def contract_of(
    model: PatchNet, class_names: Sequence[str] = (), thresholds: Sequence[float] | None = None
) -> Contract:
    """Return what a model takes and answers.

    Args:
        model: the PatchNet.
        class_names: of its classes; none means class 0, class 1, ...
        thresholds: as in `Contract`; None means 0.5 each.

    Raises:
        InputError: there are not as many different class names as the model has classes, or other thresholds
            than these have.
        ValueError: the model is not a PatchNet.
    """
    check_patchnet(model)
    if class_names == ():
        class_names = [f"class {k}" for k in range(model.classes)]
    classes = make_classes(class_names, exclusive=not model.multilabel)
    if len(classes.names) != model.classes:
        raise InputError(f"The model has {model.classes} classes. Received: class_names={class_names!r}")
    fields = {
        "classes": classes,
        "pixels": model.pixels,
        "smallest": model.smallest_image,
        "familiar": model.familiarity is not None,
    }
    try:
        return Contract(**fields) if thresholds is None else Contract(**fields, thresholds=tuple(thresholds))
    except ValidationError:
        raise InputError(
            f"`thresholds` must be {classes.threshold_count} numbers from 0 to 1 for these classes. "
            f"Received: thresholds={thresholds!r}"
        ) from None


def describe(model: PatchNet, precision: str, contract: Contract, extra: Mapping[str, str]) -> dict[str, str]:
    """Return what to write into an exported file; values that are not text are JSON.

    The contract is for programs; the rest says to people and to other runtimes how the model was made. The
    keys that ONNX defines for images say sRGB, as cameras and files have it, because whatever the model does
    about gamma or colour is inside it; of other pixels than uint8, for which it has no word, they are left
    out.

    Raises:
        InputError: `extra` is not text or has a key of ours.
    """
    described = {
        VERSION: package_version(),
        KEY: contract.to_json(),
        IDENTITY: identity(model, contract.classes),
        CONTENT: UNSET,
        "precision": precision,
        "class_names": json.dumps(contract.classes.names),
        "patch_size": str(model.patch_size),
        "stride": str(model.stride),
        "crop": json.dumps(model.crop),
        "smallest_image": json.dumps(contract.smallest),
        "border": model.border,
        "subnet": json.dumps(summary(model.subnet)),
        "pooling": json.dumps(summary(model.pooling)),
        "preprocessing": json.dumps([summary(layer) for layer in model.before_patches]),
    }
    if contract.pixels.dtype == "uint8" and contract.pixels.range == (0, 255):
        described |= {
            "Image.BitmapPixelFormat": {1: "Gray8", 3: "Rgb8"}.get(contract.pixels.channels, "Unknown"),
            "Image.ColorSpaceGamma": "SRGB",
            "Image.NominalPixelRange": "NominalRange_0_255",
        }
    for key, value in extra.items():
        if key in described or not isinstance(key, str) or not isinstance(value, str):
            raise InputError(f"`metadata` must be other keys, with text. Received: {key!r}: {value!r}")
    return described | dict(extra)


def describe_run(folder: Path, config: Config) -> dict[str, str]:
    """Return what an exported file says of the run that it is from, in the folder `folder`."""
    size = config.data.size if isinstance(config.data, FilesData) else None
    return {
        "run": folder.resolve().name,
        "training_size": json.dumps(size),
        "training_config_sha256": sha256(folder / "config.yaml"),
    }


def summary(layer: keras.layers.Layer) -> dict[str, Any]:
    """Return a layer's class and the arguments that say what it does; networks inside it by their name."""
    if isinstance(layer, keras.Model) and not isinstance(layer, PatchSubnet | LocalNetwork):
        return {"layer": type(layer).__name__, "name": layer.name}
    config = {k: v for k, v in layer.get_config().items() if k not in ("name", "trainable", "dtype")}
    config |= {key: value["config"]["name"] for key, value in config.items() if is_network(value)}
    return {"layer": type(layer).__name__, **keras.saving.serialize_keras_object(config)}


def is_network(value: Any) -> bool:
    """Whether a value of a configuration is a whole network, which would fill pages."""
    return isinstance(value, dict) and "layers" in (value.get("config") or {})


def package_version() -> str:
    """Return the version of this package, or "not installed" in a bare checkout."""
    try:
        return version("patchnet-tf")
    except PackageNotFoundError:
        return "not installed"
