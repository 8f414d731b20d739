"""Answers of HTTP: in JSON, with numbers as bytes, and to what cannot be answered."""

import io
import uuid
from typing import Any

import numpy as np
import orjson
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ...errors import InputError
from ..protocols import DATATYPES, HEADER_LENGTH
from ..requests import status_of as request_status


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in JSON."""
    return Response(to_json(content), status, headers, "application/json")


def to_json(content: Any) -> bytes:
    """Write JSON; arrays with as many digits as their bits need, each in a step of its own.

    Other threads may run between two steps only.
    """

    def written(array: np.ndarray) -> orjson.Fragment:
        return orjson.Fragment(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))

    return orjson.dumps(content, default=written)


def png(picture: np.ndarray) -> bytes:
    """Return uint8 pixels, (H, W, 1) or (H, W, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def refusal(error: Exception) -> Response:
    """Return the answer that says what was wrong."""
    status = status_of(error)
    # Of what is ours to mend, not what it says: that might be part of the request.
    known = isinstance(error, InputError | HTTPException)
    text = str(getattr(error, "detail", error)) if known else type(error).__name__
    text = text.encode("utf-8", "backslashreplace").decode()  # JSON may name half a surrogate pair
    headers = {503: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}
    return json_answer({"error": text}, status, headers.get(status))


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, InputError):
        return request_status(error)
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, ClientDisconnect):
        return 499  # for the log; nobody is there to read it
    return 503 if isinstance(error, MemoryError) else 500


def v2_answer(request: dict, name: str, version: str, arrays: dict[str, np.ndarray]) -> Response:
    """Return the answer of the V2 protocol; numbers follow the JSON as bytes where the request says so."""
    binary = parameters_of(request).get("binary_data_output") is True
    asked = {output.get("name"): output for output in request.get("outputs") or []}
    outputs, blobs = [], []
    for output, array in arrays.items():
        described = {"name": output, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
        if parameters_of(asked.get(output, {})).get("binary_data", binary) is True:
            blobs.append(array.tobytes())
            described["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            described["data"] = array.ravel()
        outputs.append(described)
    identity = request.get("id")
    usable = type(identity) is str and len(identity) <= 256 and identity.isprintable()
    answer = {
        "id": identity if usable else str(uuid.uuid4()),
        "model_name": name,
        "model_version": version,
        "outputs": outputs,
    }
    if not blobs:
        return json_answer(answer)
    written = to_json(answer)
    headers = {HEADER_LENGTH: str(len(written))}
    return Response(b"".join([written, *blobs]), media_type="application/octet-stream", headers=headers)


def parameters_of(item: dict) -> dict:
    """Return what a V2 request says beside of itself or of a tensor."""
    parameters = item.get("parameters")
    return parameters if type(parameters) is dict else {}
