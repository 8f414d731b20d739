"""TF Serving's REST protocol and the V2 (Open Inference) protocol: from requests to images, and back.

Both take pixels or whole image files. A request's parts are checked in their order, and the first that is
wrong is named with what was expected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np

from ..contract import FAMILIAR, IMAGE, IMAGE_BYTES, PROBABILITY, SERVING_DEFAULT, SIGNATURES
from ..errors import InputError, TooLargeError, UnfitError
from ..images.reading import decode
from .predictor import Prediction, Predictor
from .requests import file_from_base64, pixels_from_lists, stored, type_name

HEADER_LENGTH = "inference-header-content-length"  # of the JSON in a V2 request or answer with binary data
CLASSES = "classes"  # a parameter of requests: whose maps are wanted
DATATYPES = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32", "bool": "BOOL"}  # V2's of numpy's
INPUTS = (IMAGE, IMAGE_BYTES)
INPUT_NAMES = f'"{IMAGE}" or "{IMAGE_BYTES}"'


@dataclass(frozen=True)
class Limits:
    """What a request may be at most.

    Attributes:
        max_bytes: of the request, and of an image file in it.
        max_pixels: of an image.
        max_images: in a request.
        max_total_pixels: of all images in a request, and of all that wait. Of several classes each map
            counts: those that one image has, and those that an answer has.
    """

    max_bytes: int = 2**24
    max_pixels: int = 2**20
    max_images: int = 32
    max_total_pixels: int = 2**23

    @property
    def small(self) -> int:
        """The bytes of a request that is small beside the largest one."""
        return self.max_bytes // 256

    def max_values(self, channels: int) -> int:
        """Return the values in a request's JSON: as many as the largest image has, whose pixels are lists."""
        return (max(channels, 3) + 2) * self.max_pixels + 2**16


@dataclass
class InferRequest:
    """A request that has been read.

    Attributes:
        images: (H, W, C), of the dtype of the model's pixels, whose sizes may differ.
        outputs: which of the outputs of the model's contract are wanted.
        columns: whether the answer is one array for each output, or for TF Serving's protocol a row for each
            image.
        classes: the numbers of those whose maps are wanted; None for all.
    """

    images: list[np.ndarray]
    outputs: tuple[str, ...]
    columns: bool
    classes: tuple[int, ...] | None = None

    @property
    def maps(self) -> bool:
        """Whether more is wanted than probabilities."""
        return self.outputs != (PROBABILITY,)


def read_v1(request: Any, predict: Predictor, limits: Limits) -> InferRequest:
    """Read the JSON of TF Serving's predict API.

    It is {"instances": [image, ...]} to get "predictions", a list with an object of probability and heatmap
    for each image, or {"inputs": {"image": [image, ...]}} to get "outputs", an object with a list for each.
    An image is rows of pixels, or {"b64": a file in base64}; in an object of its own it is called "image" or
    "image_bytes". "signature_name" chooses the outputs; of one output the values alone are returned. Beside
    what TF Serving knows, {"parameters": {"classes": [...]}} chooses whose maps are returned.

    Raises:
        InputError: it is no such request, or has an image that the model cannot take.
    """
    if type(request) is not dict:
        raise InputError(f'request: expected an object with "instances". Received: {type_name(request)}')
    if unknown := request.keys() - {"instances", "inputs", "signature_name", "parameters"}:
        raise InputError(f'request: expected "instances" and "signature_name". Received: {name(unknown)}')
    if len(request.keys() & {"instances", "inputs"}) != 1:
        raise InputError('request: expected either "instances" or "inputs"')
    signature = request.get("signature_name", SERVING_DEFAULT)
    if type(signature) is not str or signature not in SIGNATURES:
        raise InputError(f"signature_name: expected one of {', '.join(SIGNATURES)}")
    parameters = request.get("parameters") or {}
    if type(parameters) is not dict or parameters.keys() - {CLASSES}:
        raise InputError(f'parameters: expected an object with "{CLASSES}" alone')
    classes = read_classes(parameters, predict)
    columns = "inputs" in request
    key = "inputs" if columns else "instances"
    items = request[key]
    if columns and type(items) is dict:
        if len(items) != 1 or not items.keys() <= set(INPUTS):
            raise InputError(f"inputs: expected either {INPUT_NAMES}. Received: {name(items)}")
        [items] = items.values()
    if type(items) is not list:
        raise InputError(f"{key}: expected a list of images. Received: {type_name(items)}")
    check_count(len(items), limits, key)
    images = bounded(
        (read_item(item, f"{key}[{k}]", predict, limits) for k, item in enumerate(items)), limits
    )
    return checked(
        InferRequest(images, predict.contract.signatures[signature], columns, classes), predict, limits
    )


def read_item(item: Any, what: str, predict: Predictor, limits: Limits) -> np.ndarray:
    """Return the image of an instance."""
    if type(item) is dict and len(item) == 1 and item.keys() <= set(INPUTS):
        [item] = item.values()
    if type(item) is dict:
        if item.keys() != {"b64"}:
            raise InputError(f'{what}: expected rows of pixels, or an object with "b64" alone')
        file = file_from_base64(item["b64"], what, limits.max_bytes)
        return read_file(file, what, predict, limits)
    return check_size(pixels_from_lists(item, what, predict.contract.pixels.dtype), what, limits)


def write_v1(request: InferRequest, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Return the answer to what `read_v1` read."""
    if request.columns:
        columns = {output: [getattr(p, output) for p in predictions] for output in request.outputs}
        return {"outputs": columns if len(columns) > 1 else columns[request.outputs[0]]}
    rows = [{output: getattr(p, output) for output in request.outputs} for p in predictions]
    return {"predictions": rows if len(request.outputs) > 1 else [row[request.outputs[0]] for row in rows]}


@dataclass
class Tensor:
    """An input of the V2 protocol; `data` are its bytes, a list of files' bytes, or what the JSON has."""

    name: Any
    datatype: Any
    shape: Any
    data: Any


def read_v2_json(request: Any, binary: bytes = b"") -> tuple[list[Tensor], tuple[str, ...]]:
    """Return the inputs and the names of the outputs of a V2 request; `binary` follows the JSON.

    Raises:
        InputError: it is no such request.
    """
    if type(request) is not dict or type(request.get("inputs")) is not list:
        raise InputError('request: expected an object with "inputs", a list')
    if len(request["inputs"]) != 1:
        raise InputError(f"inputs: expected one, named {INPUT_NAMES}")
    tensors, rest = [], binary
    for k, item in enumerate(request["inputs"]):
        if type(item) is not dict:
            raise InputError(f"inputs[{k}]: expected an object. Received: {type_name(item)}")
        parameters = item.get("parameters") or {}
        size = parameters.get("binary_data_size") if type(parameters) is dict else None
        data = item.get("data")
        if size is not None:
            if data is not None:
                raise InputError(f"inputs[{k}]: expected either data or binary_data_size. Received: both")
            if type(size) is not int or not 0 <= size <= len(rest):
                raise InputError(f"inputs[{k}]: expected binary_data_size of at most {len(rest)} bytes")
            data, rest = rest[:size], rest[size:]
        tensors.append(Tensor(item.get("name"), item.get("datatype"), item.get("shape"), data))
    if rest:
        raise InputError(f"request: {len(rest)} bytes more than the inputs have")
    outputs = request.get("outputs") or []
    if type(outputs) is not list or any(type(output) is not dict for output in outputs):
        raise InputError("outputs: expected a list of objects")
    if any(type(output.get("name")) is not str for output in outputs):
        raise InputError("outputs: expected a text as name")
    return tensors, tuple(output["name"] for output in outputs)


def read_v2(
    tensors: list[Tensor],
    outputs: Sequence[Any],
    predict: Predictor,
    limits: Limits,
    parameters: Mapping[str, Any] = MappingProxyType({}),
) -> InferRequest:
    """Read the inputs of a V2 request: one, "image" (B, H, W, C) or "image_bytes" BYTES (B,).

    The datatype of "image" is UINT8, UINT16 or FP32, as the model's pixels are.

    Of its parameters, "classes" chooses whose maps are returned.

    Raises:
        InputError: they are not so, or have an image that the model cannot take.
    """
    if len(tensors) != 1 or tensors[0].name not in INPUTS:
        raise InputError(f"inputs: expected one, named {INPUT_NAMES}")
    [tensor] = tensors
    known = tuple(predict.contract.outputs)
    if not set(outputs) <= set(known):
        names = " or ".join(f'"{output}"' for output in known)
        raise InputError(f"outputs: expected {names}")
    shape, what = tensor.shape, tensor.name
    if type(shape) is not list or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise InputError(f"{what}: expected shape, a list of whole numbers")
    dtype = np.dtype(predict.contract.pixels.dtype)
    rank, datatype, axes = 1, "BYTES", "(count)"
    if what == IMAGE:
        rank, datatype, axes = 4, DATATYPES[dtype.name], "(count, height, width, channels)"
    if tensor.datatype != datatype or len(shape) != rank:
        raise InputError(f"{what}: expected {datatype} of shape {axes}")
    check_count(shape[0], limits, what)
    if what == IMAGE_BYTES:
        files = byte_texts(tensor.data, shape[0], what, limits)
        names = (f"{what}[{k}]" for k in range(len(files)))
        pairs = zip(files, names, strict=True)
        images = bounded((read_file(*pair, predict, limits) for pair in pairs), limits)
    else:
        if 0 in shape:
            raise InputError(f"{what}: expected a (count, height, width, channels) without 0")
        if shape[1] * shape[2] > limits.max_pixels:
            too_many_pixels(what, shape[1:3], limits)
        if math.prod(shape[:3]) > limits.max_total_pixels:
            raise too_many_in_all(limits)
        numbers = byte_numbers(tensor.data, shape, what, dtype.name)
        if len(numbers) != math.prod(shape) * dtype.itemsize:
            raise InputError(
                f"{what}: expected {math.prod(shape)} numbers, as shape says. "
                f"Received: {len(numbers) / dtype.itemsize:.10g}"
            )
        images = list(np.frombuffer(numbers, dtype).reshape(shape))
    wanted = tuple(output for output in known if output in outputs or not outputs)
    classes = read_classes(parameters, predict)
    return checked(InferRequest(images, wanted, True, classes), predict, limits)


def read_classes(parameters: Mapping[str, Any], predict: Predictor) -> tuple[int, ...] | None:
    """Return the numbers of the classes whose maps are wanted: one, or a list, each by number or name."""
    wanted = parameters.get(CLASSES)
    return predict.numbers([wanted] if isinstance(wanted, str | int) else wanted)


def byte_numbers(data: Any, shape: Sequence[int], what: str, dtype: str) -> bytes:
    """Return numbers, in a flat list or nested as `shape` says, as bytes of a dtype; bytes as they are."""
    if isinstance(data, bytes):
        return data
    if type(data) is not list:
        raise InputError(f"{what}: expected data, a list. Received: {type_name(data)}")
    if data and type(data[0]) is list:
        if len(data) != shape[0]:
            raise InputError(f"{what}: expected data that is flat, or nested as shape says")
        for size in shape[1:]:
            if any(type(item) is not list or len(item) != size for item in data):
                raise InputError(f"{what}: expected data that is flat, or nested as shape says")
            data = list(chain.from_iterable(data))
    return stored(data, what, dtype)


def byte_texts(data: Any, count: int, what: str, limits: Limits) -> list[bytes]:
    """Return `count` files: of a list of bytes or of texts in base64, or of bytes, each after its size.

    No more is read than `count` says, which has been checked: bytes may hold millions of empty files.
    """
    expected = f"{what}: expected {count} files, as shape says"
    if type(data) is list:
        if len(data) != count:
            raise InputError(f"{expected}. Received: {len(data)}")
        return [
            item if isinstance(item, bytes) else file_from_base64(item, f"{what}[{k}]", limits.max_bytes)
            for k, item in enumerate(data)
        ]
    if not isinstance(data, bytes):
        raise InputError(f"{what}: expected data, a list. Received: {type_name(data)}")
    files, at = [], 0
    for k in range(count):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise InputError(f"{expected}, each after its size in 4 bytes. Received: {k}")
        files.append(data[start:at])
    if at < len(data):
        raise InputError(f"{expected}. Received: {len(data) - at} bytes more")
    return files


def stacked(request: InferRequest, predictions: Sequence[Prediction]) -> dict[str, np.ndarray]:
    """Return the wanted outputs as arrays: probability, float32 (B,) or (B, K), heatmap (B, H, W[, K]); and
    familiar, bool (B, H, W)."""
    return {
        output: np.array([getattr(p, output) for p in predictions], bool if output == FAMILIAR else "float32")
        for output in request.outputs
    }


def read_file(file: bytes, what: str, predict: Predictor, limits: Limits) -> np.ndarray:
    """Decode an image file for a model."""
    pixels = predict.contract.pixels
    return decode(file, pixels, what=what, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)


def check_count(count: int, limits: Limits, what: str) -> None:
    """Refuse no image, and more than the limit."""
    if count == 0:
        raise InputError(f"{what}: expected at least one image. Received: none")
    if count > limits.max_images:
        raise TooLargeError(f"{what}: expected at most {limits.max_images} images. Received: {count}")


def check_size(image: np.ndarray, what: str, limits: Limits) -> np.ndarray:
    """Refuse an image (H, W, C) with more pixels than the limit."""
    if image.shape[0] * image.shape[1] > limits.max_pixels:
        too_many_pixels(what, image.shape, limits)
    return image


def too_many_pixels(what: str, size: Sequence[int], limits: Limits) -> None:
    """Raise the error of an image that is too large."""
    raise TooLargeError(
        f"{what}: expected at most {limits.max_pixels} pixels. "
        f"Received: {size[0]} x {size[1]} (height x width)",
    )


def bounded(images: Iterable[np.ndarray], limits: Limits) -> list[np.ndarray]:
    """Return images (H, W, C), of which each is made when those before it are not too many pixels."""
    taken, pixels = [], 0
    for image in images:
        taken.append(image)
        pixels += image.shape[0] * image.shape[1]
        if pixels > limits.max_total_pixels:
            raise too_many_in_all(limits)
    return taken


def too_many_in_all(limits: Limits) -> TooLargeError:
    """Return the error of images that have too many pixels together."""
    return TooLargeError(f"request: expected at most {limits.max_total_pixels} pixels in all its images")


def checked(request: InferRequest, predict: Predictor, limits: Limits) -> InferRequest:
    """Refuse images that the model cannot take, sizes that differ where one array shall hold them, and maps
    of more values than the limit."""
    for k, image in enumerate(request.images):
        predict.check(image, f"image {k}")
    if request.maps:
        if request.columns and len({image.shape for image in request.images}) > 1:
            raise UnfitError('images: expected one size; "instances" takes several')
        check_maps(request, predict.contract.classes.outputs, limits)
    return request


def check_maps(request: InferRequest, maps: int, limits: Limits) -> None:
    """Refuse more pixels than the limit in the maps of one image, all of which are made, or of the answer."""
    sizes = [image.shape[0] * image.shape[1] for image in request.images]
    wanted = maps if request.classes is None else len(request.classes)
    most = limits.max_total_pixels
    if max(sizes) * maps > most:
        raise TooLargeError(
            f"image: expected at most {most // maps} pixels for heatmaps of {maps} classes; the probability "
            f"alone has no such bound. Received: {max(sizes)}"
        )
    if sum(sizes) * wanted > most:
        raise TooLargeError(
            f"request: expected at most {most} pixels in all its heatmaps; ask for fewer images, or for the "
            f"maps of some classes. Received: {wanted} maps of {sum(sizes)} pixels"
        )


def name(keys: Any) -> str:
    """Return keys, shortened, for a message."""
    return ", ".join(sorted(str(key)[:32] for key in keys)[:3]) or "none"
