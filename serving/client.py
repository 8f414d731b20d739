"""A model behind TF Serving, or behind `patchnet serve`, as a Python function."""

import base64
import functools
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import urllib3

from ..contract import FAMILIAR, HEATMAP, IMAGE, IMAGE_BYTES, PROBABILITY, SERVING_DEFAULT, Contract
from ..errors import InputError, extra
from .predictor import Prediction, one

ADDRESS = "SCHEME://HOST:PORT/v1/models/NAME or .../NAME/versions/NUMBER, with http, https, grpc or grpcs"
PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/([0-9]+))?(?::predict)?/?")
DTYPES = ("uint8", "uint16", "float32")
STATES = {0: "UNKNOWN", 10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}
UNNAMED = "TF Serving does not say what the classes are; the contract in the exported file does"
BOOL = 10  # TensorFlow's DT_BOOL
Answer = TypeVar("Answer")


class ServerError(RuntimeError):
    """The server did not give an answer.

    Attributes:
        status: HTTP's number, or the name of gRPC's code; None where no answer came at all.
    """

    def __init__(self, message: str, status: int | str | None = None) -> None:
        line = " ".join(message.split())  # servers may say many
        super().__init__(line if status is None else f"{line} (status {status})")
        self.status = status


class UnavailableError(ServerError):
    """The server could not be reached, or takes no requests now: asking again is safe.

    Attributes:
        after: seconds to wait before, as the server said.
    """

    after = 0.0


class VersionState(NamedTuple):
    """A version of a model and whether it is served: "AVAILABLE", "LOADING", ..."""

    version: int
    state: str


class Transport(Protocol):
    """How a client talks to a server."""

    def predict(
        self, signature: str, name: str, value: Any, classes: Sequence[int | str] | None, timeout: float
    ) -> dict[str, np.ndarray]:
        """Return a signature's outputs for its one input, an array of pixels or a list of files."""

    def contract(self, timeout: float) -> Contract:
        """Return what the model takes and answers."""

    def status(self, timeout: float) -> list[VersionState]:
        """Return the versions that the server knows."""

    def metadata(self, timeout: float) -> dict[str, dict[str, list[str]]]:
        """Return the signatures, each with the names of its "inputs" and "outputs"."""


class Client:
    """Asks a server for predictions. Threads may share one.

    A request is repeated where the server could not be reached, closed the connection without an answer, or
    said that it takes no requests now (503, UNAVAILABLE). That is safe: a prediction changes nothing. It is
    not repeated after a timeout, when the server may still be computing, nor after any other error.

    Args:
        url: SCHEME://HOST:PORT/v1/models/NAME[/versions/NUMBER], with USER:PASSWORD@ before HOST where a
            proxy asks for them. http and https are TF Serving's REST API, by default on port 8501; grpc and
            grpcs (with TLS) its gRPC API, on port 8500. For gRPC the package tensorflow-serving-api is
            imported, and with it TensorFlow. `patchnet serve` speaks another gRPC: ask it by http.
        timeout: seconds for an answer.
        token: that the server, or a proxy before it, asks for: `patchnet serve --token-file`.
        ca: PEM file of the authorities that the server's certificate is checked by, with https and grpcs; by
            default those that the system trusts.
        cert: PEM files of a certificate and its key, where the server asks for the client's.
        retries: how often a request is repeated at most, after 0.1, 0.2, 0.4 ... seconds, or when the server
            says so.

    Raises:
        ValueError: the URL is not as above, `timeout` or `retries` is negative, `token` is none, or `ca` or
            `cert` cannot be used, or is given for http or grpc.

    Example:
        >>> client = Client("http://localhost:8501/v1/models/cells")
        >>> probability, heatmap = client(image)
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        token: str | None = None,
        ca: str | Path | None = None,
        cert: tuple[str | Path, str | Path] | None = None,
    ) -> None:
        parts = urlsplit(url)
        named = PATH.fullmatch(parts.path)
        if parts.scheme not in TRANSPORTS or not parts.hostname or not named or parts.query:
            shown = url.replace(f"{parts.netloc.rpartition('@')[0]}@", "***@") if "@" in parts.netloc else url
            raise ValueError(f"`url` must be {ADDRESS}. Received: url={shown!r}")
        if not timeout > 0:
            raise ValueError(f"`timeout` must be above 0. Received: timeout={timeout!r}")
        if type(retries) is not int or retries < 0:
            raise ValueError(f"`retries` must be 0 or more. Received: retries={retries!r}")
        if token is not None and (type(token) is not str or not re.fullmatch(r"[!-~]+", token)):
            raise ValueError("`token` must be a text of printable ASCII without spaces")  # it is not shown
        if token and "@" in parts.netloc:
            raise ValueError("expected either `token` or USER:PASSWORD in `url`. Received: both")
        tls = trust(ca, cert) if parts.scheme in ("https", "grpcs") else None
        if tls is None and (ca or cert):
            raise ValueError(f"`ca` and `cert` go with https and grpcs. Received: {parts.scheme}")
        name, version = named.groups()
        self.timeout, self.retries = timeout, retries
        self._transport = TRANSPORTS[parts.scheme](parts, name, version, Keys(token, tls, ca, cert))

    def __call__(
        self, image: np.ndarray | bytes, *, classes: Sequence[int | str] | None = None
    ) -> Prediction:
        """Return probability and heatmap.

        Args:
            image: pixels of uint8, uint16 or float32, as the model takes them, (H, W, C), or (B, H, W, C) for
                a batch, as for `Predictor`; or the bytes of an image file, which the server decodes.
            classes: whose maps to send, by number or name, in that order; all by default. Others stay at
                the server. `patchnet serve` knows this, TF Serving does not.

        Raises:
            InputError: it is neither; nothing is sent.
            ValueError: `classes` are given for TF Serving's gRPC.
            ServerError: the server refused it, with its message, or could not be reached.
            TimeoutError: there was no answer in time.
        """
        image = bytes(image) if isinstance(image, bytearray | memoryview) else image
        signature = IMAGE_BYTES if isinstance(image, bytes) else SERVING_DEFAULT
        outputs = self._predict(image, signature, classes)
        batch = isinstance(image, np.ndarray) and image.ndim == 4
        made = Prediction.of(outputs[PROBABILITY], outputs[HEATMAP], lambda: self.contract, batch)
        if FAMILIAR in outputs:
            made.familiar = outputs[FAMILIAR] if batch else outputs[FAMILIAR][0]
        return made

    def probability(self, image: np.ndarray) -> Any:
        """Return the probability alone, at a small part of the heatmap's cost; pixels and errors as above."""
        if isinstance(image, bytes):
            raise InputError("A probability alone is given for pixels. Received: bytes")
        probability = self._predict(image, PROBABILITY)[PROBABILITY]
        return probability if image.ndim == 4 else one(probability[0])

    @functools.cached_property
    def contract(self) -> Contract:
        """What the model takes and answers, asked for once; errors as of a call.

        Raises:
            ServerError: the server does not say so: TF Serving.
        """
        return self._repeat(self._transport.contract)

    def status(self) -> list[VersionState]:
        """Return the versions that the server knows, and their states; errors as of a call."""
        return self._repeat(self._transport.status)

    def metadata(self) -> dict[str, dict[str, list[str]]]:
        """Return the signatures, each with the names of its "inputs" and "outputs"; errors as of a call."""
        return self._repeat(self._transport.metadata)

    def _predict(
        self, image: np.ndarray | bytes, signature: str, classes: Sequence[int | str] | None = None
    ) -> dict[str, np.ndarray]:
        if isinstance(image, bytes):
            name, value = IMAGE_BYTES, [image]
        elif isinstance(image, np.ndarray) and image.dtype in DTYPES and image.ndim in (3, 4):
            name, value = IMAGE, image if image.ndim == 4 else image[None]
            if image.dtype == "float32" and not np.isfinite(image).all():  # for which JSON has no word
                raise InputError("image: expected finite pixels. Received: NaN or infinity")
        else:
            raise InputError(
                "An image is a numpy array of uint8, uint16 or float32, (height, width, channels) or (batch, "
                "height, width, channels), or bytes. Received: "
                f"{getattr(image, 'dtype', type(image).__name__)}, shape={getattr(image, 'shape', None)}"
            )
        return self._repeat(lambda timeout: self._transport.predict(signature, name, value, classes, timeout))

    def _repeat(self, attempt: Callable[[float], Answer]) -> Answer:
        """Call `attempt` until there is an answer, as often as is allowed and as is safe."""
        for number in range(self.retries + 1):
            try:
                return attempt(self.timeout)
            except UnavailableError as error:
                if number == self.retries:
                    raise
                # Not all clients of a server that comes back shall ask at the same moment.
                time.sleep(max(error.after, 0.1 * 2**number) * random.uniform(1.0, 1.5))
        raise AssertionError


class Keys(NamedTuple):
    """Who the client is, and whom it trusts; `tls` is None without TLS."""

    token: str | None
    tls: ssl.SSLContext | None
    ca: str | Path | None
    cert: tuple[str | Path, str | Path] | None


def trust(ca: str | Path | None, cert: tuple[str | Path, str | Path] | None) -> ssl.SSLContext:
    """Return what checks a server's certificate, and shows the client's.

    Raises:
        ValueError: the files cannot be used.
    """
    what = "ca"
    try:
        context = ssl.create_default_context(cafile=ca)
        what = "cert"
        if cert:
            context.load_cert_chain(*cert, password="")
    except (OSError, TypeError) as error:  # those of ssl are OSError too
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        expected = {
            "ca": "a PEM file of certificates",
            "cert": "a PEM file of a certificate, and one of its key",
        }
        raise ValueError(
            f"`{what}` must be {expected[what]}. Received: {dict(ca=ca, cert=cert)[what]} ({reason})"
        ) from None
    return context


class Rest:
    """TF Serving's REST API. Pixels go as nested lists, files in base64."""

    def __init__(self, parts: Any, name: str, version: str | None, keys: Keys) -> None:
        secret, _, host = parts.netloc.rpartition("@")
        at = f"{parts.scheme}://{host}" if parts.port else f"{parts.scheme}://{host}:8501"
        self._url = f"{at}/v1/models/{name}" + (f"/versions/{version}" if version else "")
        # A name and a password are sent, and never shown.
        self._headers = urllib3.make_headers(basic_auth=unquote(secret)) if secret else {}
        if keys.token:
            self._headers["authorization"] = f"Bearer {keys.token}"
        self._pool = urllib3.PoolManager(maxsize=32, ssl_context=keys.tls)

    def predict(
        self, signature: str, name: str, value: Any, classes: Sequence[int | str] | None, timeout: float
    ) -> dict[str, np.ndarray]:
        """Return a signature's outputs; in JSON the output of a signature with one has no name."""
        encoded = (
            value.tolist()
            if isinstance(value, np.ndarray)
            else [{"b64": base64.b64encode(file).decode("ascii")} for file in value]
        )
        request = {"signature_name": signature, "inputs": {name: encoded}}
        if classes is not None:
            request["parameters"] = {"classes": list(classes)}
        body = json.dumps(request, separators=(",", ":"))
        outputs = self._ask("POST", ":predict", timeout, body.encode())["outputs"]
        named = outputs if isinstance(outputs, dict) else {signature: outputs}
        return {
            output: np.array(values, bool if output == FAMILIAR else "float32")
            for output, values in named.items()
        }

    def status(self, timeout: float) -> list[VersionState]:
        """Return the versions that the server knows."""
        versions = self._ask("GET", "", timeout)["model_version_status"]
        return [VersionState(int(v["version"]), v["state"]) for v in versions]

    def metadata(self, timeout: float) -> dict[str, dict[str, list[str]]]:
        """Return the signatures."""
        signatures = self._ask("GET", "/metadata", timeout)["metadata"]["signature_def"]["signature_def"]
        return named_tensors(signatures)

    def contract(self, timeout: float) -> Contract:
        """Return what the model takes and answers."""
        said = self._ask("GET", "/metadata", timeout)["metadata"].get("contract")
        if said is None:
            raise ServerError(f"{self._url}: {UNNAMED}")
        return Contract.from_json(json.dumps(said), self._url)

    def _ask(self, method: str, path: str, timeout: float, body: bytes | None = None) -> Any:
        headers = {**self._headers, **({"content-type": "application/json"} if body else {})}
        end = time.monotonic() + timeout
        late = TimeoutError(f"{self._url}: no answer in {timeout:g} s")
        try:
            # urllib3's timeout is that of a packet, so the whole answer has one of ours.
            answer = self._pool.request(
                method,
                self._url + path,
                body=body,
                headers=headers,
                timeout=timeout,
                retries=False,
                preload_content=False,
            )
            data = bytearray()
            while part := answer.read1(2**20):
                data += part
                if time.monotonic() > end:
                    answer.close()
                    raise late
            answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # a kind of timeout there
            if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
                raise late from None
            reason = "the connection was closed" if not error.args else str(error.args[0])
            if isinstance(error.args and error.args[0], ssl.SSLCertVerificationError):
                raise ServerError(f"{self._url}: not trusted ({error.args[0].verify_message})") from None
            raise UnavailableError(f"{self._url}: cannot be reached ({reason.splitlines()[0]})") from None
        try:
            content = json.loads(data)
        except ValueError:
            content = None
        if answer.status == 200 and isinstance(content, dict):
            return content
        message = content.get("error") if isinstance(content, dict) else None
        kind = UnavailableError if answer.status == 503 else ServerError
        message = message or answer.reason or "not an answer of such a server"
        error = kind(f"{self._url}: {message}", answer.status)
        if kind is UnavailableError and (after := answer.headers.get("retry-after", "")).isdecimal():
            error.after = float(after[:6])
        raise error


class Grpc:
    """TF Serving's gRPC API. Pixels and heatmaps go as bytes, which is much faster than JSON."""

    def __init__(self, parts: Any, name: str, version: str | None, keys: Keys) -> None:
        with extra("client"):
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._target = f"{parts.hostname}:{parts.port or 8500}"
        options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
        if keys.tls:
            ca = Path(keys.ca).read_bytes() if keys.ca else None
            cert, key = (Path(file).read_bytes() for file in keys.cert) if keys.cert else (None, None)
            credentials = grpc.ssl_channel_credentials(ca, key, cert)
            channel = grpc.secure_channel(self._target, credentials, options)
        else:
            channel = grpc.insecure_channel(self._target, options)
        self._metadata = [("authorization", f"Bearer {keys.token}")] if keys.token else []
        self._grpc, self._name, self._version = grpc, name, version
        self._channel = channel
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def predict(
        self, signature: str, name: str, value: Any, classes: Sequence[int | str] | None, timeout: float
    ) -> dict[str, np.ndarray]:
        """Return a signature's outputs."""
        if classes is not None:
            raise ValueError("TF Serving's gRPC sends all maps; leave `classes` out, or ask by http")
        outputs = self._ask(self._service.Predict, self.request(signature, name, value), timeout).outputs
        return {output: array(tensor) for output, tensor in outputs.items()}

    def contract(self, timeout: float) -> Contract:
        """Say that TF Serving has none."""
        raise ServerError(f"{self._target}: {UNNAMED}")

    def request(self, signature: str, name: str, value: Any) -> Any:
        """Return the PredictRequest."""
        from tensorflow.core.framework import types_pb2
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        self._specify(request.model_spec)
        request.model_spec.signature_name = signature
        tensor = request.inputs[name]
        if isinstance(value, np.ndarray):
            dtypes = {
                "uint8": types_pb2.DT_UINT8,
                "uint16": types_pb2.DT_UINT16,
                "float32": types_pb2.DT_FLOAT,
            }
            tensor.dtype, tensor.tensor_content = dtypes[value.dtype.name], value.tobytes()
            sizes = value.shape
        else:
            tensor.dtype, sizes = types_pb2.DT_STRING, (len(value),)
            tensor.string_val.extend(value)
        for size in sizes:
            tensor.tensor_shape.dim.add(size=size)
        return request

    def status(self, timeout: float) -> list[VersionState]:
        """Return the versions that the server knows."""
        from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

        request = get_model_status_pb2.GetModelStatusRequest()
        self._specify(request.model_spec)
        service = model_service_pb2_grpc.ModelServiceStub(self._channel)
        versions = self._ask(service.GetModelStatus, request, timeout).model_version_status
        return [VersionState(v.version, STATES[v.state]) for v in versions]

    def metadata(self, timeout: float) -> dict[str, dict[str, list[str]]]:
        """Return the signatures."""
        from google.protobuf import json_format
        from tensorflow_serving.apis import get_model_metadata_pb2

        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._specify(request.model_spec)
        packed = self._ask(self._service.GetModelMetadata, request, timeout).metadata["signature_def"]
        signatures = get_model_metadata_pb2.SignatureDefMap()
        packed.Unpack(signatures)
        return named_tensors(json_format.MessageToDict(signatures)["signatureDef"])

    def _specify(self, spec: Any) -> None:
        spec.name = self._name
        if self._version:
            spec.version.value = int(self._version)

    def _ask(self, method: Callable, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            code, message = error.code(), f"{self._target}: {error.details()}"
        if code == self._grpc.StatusCode.DEADLINE_EXCEEDED:
            raise TimeoutError(f"{self._target}: no answer in {timeout:g} s")
        kind = UnavailableError if code == self._grpc.StatusCode.UNAVAILABLE else ServerError
        raise kind(message, code.name)


TRANSPORTS: dict[str, Callable[..., Transport]] = {"http": Rest, "https": Rest, "grpc": Grpc, "grpcs": Grpc}


def array(tensor: Any) -> np.ndarray:
    """Return a TensorProto of float32 or bool as an array; servers write either the bytes or the numbers."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    dtype, numbers = ("bool", tensor.bool_val) if tensor.dtype == BOOL else ("<f4", tensor.float_val)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.array(numbers, dtype)
    return np.broadcast_to(values, shape) if values.size == 1 else values.reshape(shape)


def named_tensors(signatures: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Return the names of each signature's inputs and outputs; TensorFlow has signatures of its own too."""
    return {
        name: {kind: sorted(signature.get(kind, {})) for kind in ("inputs", "outputs")}
        for name, signature in signatures.items()
        if not name.startswith("__")
    }
