"""`patchnet serve`: an exported model behind HTTP and gRPC, in KServe's model server.

KServe brings the other routes of the V1 and V2 protocols, gRPC, and the metrics of a model's stages. The REST
routes that take images are ours, because KServe answers many malformed requests with 500, and so are the
limits, the log and the page. Images are never written to disk, and nothing of a request's body is logged.
"""

import asyncio
import contextlib
import functools
import json
import logging
import mimetypes
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError, TooLargeError
from ..files import parse_json
from . import protocols
from .batching import Lane
from .protocols import Limits
from .requests import RequestError
from .requests import status_of as request_status
from .versions import Version, Versions

with contextlib.ExitStack() as _stack:
    # KServe reads the command line when it is imported.
    _stack.callback(setattr, sys, "argv", sys.argv)
    sys.argv = sys.argv[:1]
    import kserve
    from kserve.errors import ModelNotFound, ModelNotReady, ServerNotReady
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferResponse
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
    from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

import grpc
import h11
import orjson
import prometheus_client
import uvicorn
from fastapi import FastAPI, Request, Response
from grpc_interceptor import AsyncServerInterceptor
from grpc_interceptor.exceptions import GrpcException
from prometheus_client import multiprocess
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger("patchnet.serve")

# The last is what `curl -d` says of any text; TF Serving takes that too.
JSON_TYPES = ("", "application/json", "application/octet-stream", "application/x-www-form-urlencoded")
HEADER_LENGTH = "inference-header-content-length"  # of the JSON in a V2 request or answer with binary data
UNLOADABLE = "versions are loaded from the model's folder"
HEAD_BYTES = 2**15  # of a request
HEAD_SECONDS = 30  # a request whose head is not whole by then is given up
BODY_SECONDS = 60  # likewise its body
HELD = 8  # bodies of the largest size that are held at once
READERS = 2  # bodies of which pixels are made at once: a list in JSON takes many times its size in memory
DRAIN_SECONDS = 0.5  # between the signal and the end of listening: answers ask clients to connect anew
BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
STATUS = {
    ModelNotFound: 404,
    NotImplementedError: 501,
    ClientDisconnect: 499,  # for the log; nobody is there to read it
    ServerNotReady: 503,
    ModelNotReady: 503,
    MemoryError: 503,
}
CODES = {key: code.name for code in grpc.StatusCode for key in (code, code.value[0])}
GRPC_STATUS = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    503: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        model: an ONNX file, a SavedModel, or the folder of numbered versions of one of them.
        name: under which it is served.
        host, port, grpc_port: where; a port of 0 lets the system choose, a `grpc_port` of None is no gRPC.
        workers: processes, each with the model.
        device, threads: as of `Predictor`.
        limits: of a request.
        max_batch: images that are computed at once.
        max_waiting: images that wait; more are refused with 503.
        grace: seconds that requests have to end after SIGTERM.
        poll: seconds between two looks for a new version.
    """

    model: Path
    name: str
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = 8081
    workers: int = 1
    device: str = "cpu"
    threads: int = 0
    limits: Limits = field(default_factory=Limits)
    max_batch: int = 8
    max_waiting: int = 64
    grace: int = 30
    poll: float = 2.0


class Metrics:
    """What Prometheus reads at /metrics, beside KServe's times of a model's stages."""

    def __init__(self) -> None:
        self.requests = prometheus_client.Counter(
            "patchnet_requests", "Requests answered", ["route", "status"]
        )
        self.seconds = prometheus_client.Histogram(
            "patchnet_request_seconds", "Time from a request's head to its answer", ["route"], buckets=BUCKETS
        )
        self.batch = prometheus_client.Histogram(
            "patchnet_batch_images", "Images computed at once", ["output"], buckets=(1, 2, 4, 8, 16, 32)
        )
        self.version = prometheus_client.Gauge(
            "patchnet_version", "Version served", ["model"], multiprocess_mode="max"
        )

    def request(
        self, route: str, status: int | str, began: float, fault: Exception | None = None, **more: Any
    ) -> None:
        """Count a request that has been answered, and log it; `began` is of the monotonic clock."""
        seconds = time.monotonic() - began
        self.requests.labels(route, status).inc()
        self.seconds.labels(route).observe(seconds)
        # Probes and scrapes would drown the rest.
        probe = "health" in route or route == "/metrics" or route.endswith(("Live", "Ready"))
        level = logging.ERROR if fault else logging.DEBUG if probe else logging.INFO
        # Of an error, where it was raised, not what it says: that might be part of the request.
        more |= {"fault": where(fault)} if fault else {}
        described = {"route": route, "status": status, "ms": round(1000 * seconds, 1), **more}
        log.log(level, "request", extra=described)

    @staticmethod
    def read(accept: str) -> Response:
        """Return all of them; of all workers, where there are several."""
        registry = prometheus_client.REGISTRY
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = prometheus_client.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        encode, content_type = prometheus_client.exposition.choose_encoder(accept)
        return Response(encode(registry), media_type=content_type)


@dataclass
class Call:
    """A predict request: its protocol, what it says, and the version that it wants, if any."""

    protocol: str
    content: Any
    version: str | None = None


class Service(kserve.Model):
    """The model as KServe sees it: reads a request, predicts, writes the answer."""

    def __init__(self, options: Options, versions: Versions, metrics: Metrics) -> None:
        super().__init__(options.name)
        self.options, self.versions = options, versions
        self.ready, self.draining = True, False
        self.readers = asyncio.Semaphore(READERS)
        self.lanes = {
            heatmap: Lane(
                heatmap=heatmap,
                max_batch=options.max_batch,
                max_waiting=options.max_waiting,
                observe=metrics.batch.labels("heatmap" if heatmap else "probability").observe,
            )
            for heatmap in (False, True)
        }

    async def healthy(self) -> bool:
        """Return whether it takes requests; it goes on taking them while the server drains."""
        return self.versions.current is not None

    def stop(self) -> None:
        """Do nothing: a model cannot be unloaded by a request."""

    def version(self, wanted: str | None = None) -> Version:
        """Return the current version, or raise RequestError where another is wanted."""
        current = self.versions.current
        if wanted not in (None, str(current.number)):
            raise RequestError(f"version {wanted[:32]} is not served. Served: {current.number}", 404)
        return current

    async def __call__(self, body: Any, headers: Any = None, verb: Any = None) -> tuple[Any, dict[str, str]]:
        """Answer a request; `body` is a `Call`, or of gRPC an InferRequest."""
        verb = verb or kserve.model.InferenceVerb.PREDICT
        if verb != kserve.model.InferenceVerb.PREDICT:
            raise RequestError("this model's explanation is its heatmap; ask for :predict", 404)
        if isinstance(body, Call):
            return await super().__call__(body, headers, verb)
        try:
            version = body.model_version or None
            return await super().__call__(Call("grpc", body, version), headers, verb)
        except InputError as error:
            raise GrpcException(status_code=GRPC_STATUS[request_status(error)], details=str(error)) from None

    async def preprocess(self, call: Call, headers: Any = None) -> Any:
        """Read the images of a request, in a thread: decoding takes time."""
        version = self.version(call.version)
        predict, limits = version.predict, self.options.limits

        def read() -> protocols.Asked:
            if call.protocol == "v1":
                return protocols.read_v1(parse_json(call.content), predict, limits)
            tensors, outputs = call.content if call.protocol == "v2" else grpc_tensors(call.content)
            return protocols.read_v2(tensors, outputs, predict, limits)

        async with self.readers:
            return call, version, await asyncio.to_thread(read)

    async def predict(self, work: Any, headers: Any = None) -> Any:
        """Compute what is wanted, together with what other requests want."""
        call, version, asked = work
        lane = self.lanes["heatmap" in asked.outputs]
        return call, version, asked, await lane.ask(asked.images, version)

    async def postprocess(self, result: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Write the answer in the request's protocol."""
        call, version, asked, predictions = result
        if call.protocol == "v1":
            return protocols.write_v1(asked, predictions)
        arrays = protocols.stacked(asked, predictions)
        if call.protocol == "v2":
            return version, arrays
        answer = ModelInferResponse(
            model_name=self.name, model_version=str(version.number), id=call.content.id
        )
        for name, array in arrays.items():
            answer.outputs.add(name=name, datatype="FP32", shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    def tensors(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return the names, types and shapes of inputs or outputs for the V2 protocol; -1 is any size."""
        batch, height, width, channels = (d or -1 for d in self.version().predict.input_shape)
        known = {
            "image": ("UINT8", [batch, height, width, channels]),
            "image_bytes": ("BYTES", [batch]),
            "probability": ("FP32", [batch]),
            "heatmap": ("FP32", [batch, height, width]),
        }
        return [{"name": name, "datatype": known[name][0], "shape": known[name][1]} for name in names]

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the inputs for the V2 protocol: one of them is given."""
        return self.tensors(("image", "image_bytes"))

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the outputs for the V2 protocol."""
        return self.tensors(protocols.BOTH)


def grpc_tensors(request: kserve.InferRequest) -> tuple[list[protocols.Tensor], list[str]]:
    """Return the inputs and the names of the outputs of a V2 request that came by gRPC."""
    tensors = [
        protocols.Tensor(t.name, t.datatype, t.shape, t.data if t._raw_data is None else t._raw_data)
        for t in request.inputs
    ]
    return tensors, [output.name for output in request.request_outputs or []]


class Repository(kserve.ModelRepository):
    """The one model; requests can neither load nor unload it."""

    def load(self, name: str) -> bool:
        """Refuse."""
        raise GrpcException(status_code=grpc.StatusCode.UNIMPLEMENTED, details=UNLOADABLE)

    unload = load


class Plane(DataPlane):
    """KServe's data plane, which is not ready while the server drains."""

    async def ready(self) -> bool:
        """Return whether a load balancer may send requests."""
        [service] = self.model_registry.get_models().values()
        return not service.draining and await service.healthy()


def application(service: Service, metrics: Metrics) -> FastAPI:
    """Return the routes: ours first, then KServe's."""
    repository = Repository()
    repository.update(service)
    plane, extension = Plane(repository), ModelRepositoryExtension(repository)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.plane, app.state.extension = plane, extension

    def check_name(name: str) -> None:
        if name != service.name:
            raise ModelNotFound(name[:64])

    async def predict(request: Request, name: str, version: str | None = None) -> Response:
        call = Call("v1", await request.body(), version)
        answer, _ = await plane.infer(name, call, dict(request.headers))
        return json_answer(answer)

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        body = await request.body()
        length = request.headers.get(HEADER_LENGTH, str(len(body)))
        if not length.isascii() or not length.isdecimal() or not 0 < int(length) <= len(body):
            raise InputError(f"{HEADER_LENGTH}: expected at most the body's {len(body)} bytes")
        async with service.readers:
            head = await asyncio.to_thread(parse_json, body[: int(length)])
        content = protocols.read_v2_json(head, body[int(length) :])
        (version, arrays), _ = await plane.infer(name, Call("v2", content, version), dict(request.headers))
        return v2_answer(service.name, head, version, arrays)

    async def status(name: str, version: str | None = None) -> dict:
        check_name(name)
        number = str(service.version(version).number)
        state = {"version": number, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return {"name": name, "ready": True, "model_version_status": [state]}

    async def v2_metadata(name: str, version: str) -> dict:
        check_name(name)
        service.version(version)
        return await plane.model_metadata(name)

    async def v2_ready(name: str, version: str) -> dict:
        check_name(name)
        service.version(version)
        return {"name": name, "ready": True}

    async def metadata(name: str, version: str | None = None) -> dict:
        check_name(name)
        return v1_metadata(service, service.version(version))

    async def repository_change(name: str) -> None:
        raise RequestError(UNLOADABLE, 404)

    async def read_metrics(request: Request) -> Response:
        return metrics.read(request.headers.get("accept", ""))

    for at in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}"):
        app.add_api_route(at + ":predict", predict, methods=["POST"], response_model=None)
        app.add_api_route(at + "/metadata", metadata, methods=["GET"])
        app.add_api_route(at, status, methods=["GET"])
    for at in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        app.add_api_route(at + "/infer", infer, methods=["POST"], response_model=None)
    app.add_api_route(at, v2_metadata, methods=["GET"], response_model=None)
    app.add_api_route(at + "/ready", v2_ready, methods=["GET"])
    for verb in ("load", "unload"):
        app.add_api_route(f"/v2/repository/models/{{name}}/{verb}", repository_change, methods=["POST"])
    app.add_api_route("/metrics", read_metrics, methods=["GET"], response_model=None)
    for file in ("index.html", "page.js", "page.css"):
        at = "/" + file.replace("index.html", "")
        app.add_api_route(at, functools.partial(page, file), methods=["GET"], response_model=None)
    register_v1_endpoints(app, plane, extension)
    register_v2_endpoints(app, plane, extension)

    async def refuse(request: Request, error: Exception) -> Response:
        status, message = status_of(error), message_of(error)
        headers = {"retry-after": "1"} if status == 503 else None
        return json_answer({"error": message}, status, headers)

    for kind in (InputError, HTTPException, *STATUS, Exception):
        app.add_exception_handler(kind, refuse)
    return app


async def page(file: str) -> Response:
    """Return a file of the page."""
    content = resources.files(f"{__package__}.page").joinpath(file).read_bytes()
    headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
    return Response(content, media_type=mimetypes.guess_type(file)[0], headers=headers)


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in JSON; arrays are written with as many digits as their bits need."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, "application/json")


def status_of(error: Exception) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, InputError):
        return request_status(error)
    if isinstance(error, HTTPException):
        return error.status_code
    return STATUS.get(type(error), 500)


def message_of(error: Exception) -> str:
    """Return one sentence about an error; of those that are ours to mend, not what they say."""
    told = status_of(error) < 500 or isinstance(error, InputError | ServerNotReady | ModelNotReady)
    text = str(getattr(error, "detail", error)) if told else type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()  # JSON may name half a surrogate pair


def v2_answer(name: str, request: dict, version: Version, arrays: dict[str, np.ndarray]) -> Response:
    """Return the answer of the V2 protocol; numbers follow the JSON as bytes where the request says so."""
    parameters = request.get("parameters")
    binary = type(parameters) is dict and parameters.get("binary_data_output") is True
    outputs, blobs = [], []
    for output, array in arrays.items():
        described = {"name": output, "datatype": "FP32", "shape": list(array.shape)}
        asked = next((o for o in request.get("outputs") or [] if o.get("name") == output), {})
        parameters = asked.get("parameters")
        if (parameters if type(parameters) is dict else {}).get("binary_data", binary) is True:
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
        "model_version": str(version.number),
        "outputs": outputs,
    }
    if not blobs:
        return json_answer(answer)
    written = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {HEADER_LENGTH: str(len(written))}
    return Response(b"".join([written, *blobs]), media_type="application/octet-stream", headers=headers)


def v1_metadata(service: Service, version: Version) -> dict:
    """Return what TF Serving says of a model, and what the file says of itself."""
    kinds = {"UINT8": "DT_UINT8", "BYTES": "DT_STRING", "FP32": "DT_FLOAT"}

    def described(names: tuple[str, ...]) -> dict:
        return {
            t["name"]: {
                "dtype": kinds[t["datatype"]],
                "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in t["shape"]]},
                "name": t["name"],
            }
            for t in service.tensors(names)
        }

    signatures = {
        name: {
            "inputs": described(("image_bytes",) if name == "image_bytes" else ("image",)),
            "outputs": described(outputs),
            "method_name": "tensorflow/serving/predict",
        }
        for name, outputs in protocols.SIGNATURES.items()
    }
    return {
        "model_spec": {"name": service.name, "signature_name": "", "version": str(version.number)},
        "metadata": {
            "signature_def": {"signature_def": signatures},
            "patchnet": version.predict.metadata,
        },
    }


class Door:
    """Every HTTP request comes through here: limits before it is read, a line of log after its answer."""

    def __init__(self, app: Callable, service: Service, metrics: Metrics) -> None:
        self.app, self.service, self.metrics = app, service, metrics
        self.held = 0  # bytes of bodies whose requests have not been answered

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.monotonic()
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        identity = headers.get(b"x-request-id", "")[:64] or str(uuid.uuid4())
        answered = {"status": 500, "started": False}
        received, whole, cut = 0, False, False
        limits = self.service.options.limits

        async def limited() -> dict:
            nonlocal received, whole, cut
            cut = True  # unless what follows goes well
            try:
                left = None if whole else max(0, began + BODY_SECONDS - time.monotonic())
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise RequestError(f"request: its body took more than {BODY_SECONDS} s", 408) from None
            whole = not message.get("more_body", False)
            size = len(message.get("body", b""))
            received, self.held = received + size, self.held + size
            if received > limits.max_bytes:
                raise too_long(limits)
            if self.held > HELD * limits.max_bytes:
                raise RequestError("too many requests: try again", 503)
            cut = False
            return message

        async def labelled(message: dict) -> None:
            if message["type"] == "http.response.start":
                answered.update(status=message["status"], started=True)
                extra = [(b"x-request-id", identity.encode("latin-1"))]
                if self.service.draining or cut or answered["status"] == 413:
                    extra.append((b"connection", b"close"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        fault = None
        try:
            check_head(scope, headers, limits)
            await self.app(scope, limited, labelled)
        except asyncio.CancelledError:  # --grace is over
            if not answered["started"]:
                answer = json_answer({"error": "the server is stopping"}, 503, {"retry-after": "1"})
                await answer(scope, receive, labelled)
        except Exception as error:
            fault = None if isinstance(error, InputError) else error
            if not answered["started"]:
                retry = {"retry-after": "1"} if status_of(error) == 503 else None
                answer = json_answer({"error": message_of(error)}, status_of(error), retry)
                await answer(scope, receive, labelled)
        finally:
            self.held -= received
            route = getattr(scope.get("route"), "path", "none")
            more = {"id": identity, "method": scope["method"], "bytes": received}
            self.metrics.request(route, answered["status"], began, fault, **more)


class GrpcDoor(AsyncServerInterceptor):
    """Every gRPC request comes through here, to be counted, and to be logged with a line after its answer."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.closed, self.inside = False, 0

    async def drain(self) -> None:
        """Refuse what comes from now on, and wait for what has begun.

        gRPC's own end would answer CANCELLED, which clients do not try again, to a request that it has
        received and not yet begun; therefore a moment more to refuse what follows the last answers.
        """
        self.closed = True
        while self.inside:
            await asyncio.sleep(0.01)
        await asyncio.sleep(DRAIN_SECONDS)

    async def intercept(self, method: Callable, request: Any, context: Any, method_name: str) -> Any:
        """Answer one request."""
        began, code = time.monotonic(), "CANCELLED"  # what a client that leaves, or --grace, does to it
        self.inside += 1
        try:
            if self.closed:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            answer = await method(request, context)
            code = "OK"
            return answer
        except Exception:
            code = CODES.get(context.code(), "UNKNOWN")
            raise
        finally:
            self.inside -= 1
            self.metrics.request(
                method_name, code, began, id=str(uuid.uuid4()), method="gRPC", bytes=request.ByteSize()
            )


def check_head(scope: dict, headers: dict[bytes, str], limits: Limits) -> None:
    """Refuse by the head alone what is too long, or of a kind that is not read."""
    if scope["method"] not in ("POST", "PUT", "PATCH"):
        return
    length = headers.get(b"content-length", "0")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise too_long(limits)
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise FormatError(f"content-type: expected application/json. Received: {kind[:64]}")
    coding = headers.get(b"content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise FormatError(f"content-encoding: expected none. Received: {coding[:64]}")


def too_long(limits: Limits) -> TooLargeError:
    """Return the error of a body beyond the limit."""
    return TooLargeError(f"request: expected at most {limits.max_bytes} bytes")


def where(error: BaseException) -> list[str]:
    """Return the type of an error and the last places that it passed."""
    places, trace = [], error.__traceback__
    while trace:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return [type(error).__name__, *places[-5:]]


class Connection(H11Protocol):
    """uvicorn's connection, given up where a request's head does not arrive."""

    silent = False

    def connection_made(self, transport: Any) -> None:
        """Begin to look now and then whether a head is half there."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self.look)

    def look(self) -> None:
        """Close the connection where a head, or the first one, has been awaited since the last look."""
        if self.transport.is_closing():
            return
        awaited = self.cycle is None or (
            self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        )
        if awaited and (self.silent or self.cycle is None):
            self.transport.close()
            return
        self.silent = awaited
        self.loop.call_later(HEAD_SECONDS, self.look)


class Server(uvicorn.Server):
    """uvicorn's server, stopped by us instead of by its own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leave the signals alone."""
        yield


async def run(
    options: Options,
    listening: socket.socket,
    versions: Versions,
    started: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, answer what has begun, and end the process.

    It does not return, because Python would wait for threads that nobody waits for any more.
    """
    metrics = Metrics()
    service = Service(options, versions, metrics)
    app = application(service, metrics)
    config = uvicorn.Config(
        Door(app, service, metrics),
        http=Connection,
        h11_max_incomplete_event_size=HEAD_BYTES,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=options.grace,
        server_header=False,
    )
    server = Server(config)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    if parent := multiprocessing.parent_process():  # whose workers shall not outlive it
        loop.add_reader(parent.sentinel, stop.set)
    door = GrpcDoor(metrics)
    remote, grpc_port = await start_grpc(options, app, door)
    watching = loop.create_task(watch(service, metrics))
    serving = loop.create_task(server.serve([listening]))
    started()
    log.info(
        "serving",
        extra={
            "model": options.name,
            "version": versions.current.number,
            "http": list(listening.getsockname()[:2]),
            "grpc": grpc_port,
        },
    )
    await asyncio.wait([serving, loop.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    log.info("draining")
    service.draining = True
    await asyncio.sleep(DRAIN_SECONDS)
    watching.cancel()
    server.should_exit = True
    await asyncio.gather(serving, *([stop_grpc(remote, door, options.grace)] if remote else []))
    if server.server_state.tasks:  # what --grace cut off is told so
        await asyncio.wait(server.server_state.tasks, timeout=1)
    log.info("stopped")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


async def start_grpc(
    options: Options, app: FastAPI, door: GrpcDoor
) -> tuple[grpc.aio.Server | None, int | None]:
    """Serve the V2 protocol by gRPC; return the server and its port."""
    if options.grpc_port is None:
        return None, None
    settings = {
        "grpc.max_receive_message_length": options.limits.max_bytes,
        "grpc.max_send_message_length": -1,
        "grpc.so_reuseport": int(options.workers > 1),  # otherwise two servers could share a port unnoticed
    }
    server = grpc.aio.server(
        interceptors=(door, ExceptionToStatusInterceptor()), options=list(settings.items())
    )
    servicer = InferenceServicer(app.state.plane, app.state.extension)
    add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(address(options.host, options.grpc_port))
    await server.start()
    return server, port


async def stop_grpc(server: grpc.aio.Server, door: GrpcDoor, grace: int) -> None:
    """Answer what has begun, for at most `grace` seconds, and stop."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(door.drain(), grace)
    await server.stop(0)


async def watch(service: Service, metrics: Metrics) -> None:
    """Look for a new version now and then."""
    while True:
        metrics.version.labels(service.name).set(service.versions.current.number)
        await asyncio.sleep(service.options.poll)
        try:
            await asyncio.to_thread(service.versions.refresh)
        except Exception as error:
            log.error("looking for versions failed", extra={"fault": where(error)})


class JsonLines(logging.Formatter):
    """One JSON object per line, with what `extra` gives."""

    usual = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; of an exception, where it was raised, not what it says."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in self.usual},
        }
        if record.exc_info and record.exc_info[1]:
            line["fault"] = where(record.exc_info[1])
        return json.dumps(line, default=str)


def configure_logging() -> None:
    """Log JSON lines to stderr; KServe's and uvicorn's own lines only from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(logging.INFO)
    for name in ("kserve", "kserve.trace"):  # their messages could show parts of requests
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, whose connections send small packets at once.

    Raises:
        OSError: the address is taken, or not one of this machine.
    """
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except OSError as error:
        # create_server says the address too, in its own way.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OSError(error.errno, reason, address(host, port)) from None
    # asyncio does so only for sockets that name their protocol, which create_server's do not.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address(host: str, port: int) -> str:
    """Return HOST:PORT as URLs have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(options: Options, announce: Callable[[str], object] = lambda address: None) -> None:
    """Serve a model until SIGTERM or SIGINT, then end the process.

    `announce` is told HOST:PORT of HTTP when the model is loaded and the server listens.

    Raises:
        ValueError: there is no model that can be loaded.
        OSError: the port is taken.

    Example:
        >>> serve(Options(Path("served/cells"), "cells"))
    """
    configure_logging()
    versions = Versions(options.model, options.device, options.threads)
    versions.refresh()
    listening = listen(options.host, options.port)
    if options.grpc_port:
        listen(options.host, options.grpc_port).close()  # is it free?
    announce(address(*listening.getsockname()[:2]))
    if options.workers == 1:
        asyncio.run(run(options, listening, versions))
    with tempfile.TemporaryDirectory() as folder:
        del versions  # the workers have their own
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers' counts, for one of them to add up
        supervise(options, listening)


def supervise(options: Options, listening: socket.socket) -> None:
    """Keep as many workers as wanted until SIGTERM or SIGINT, and start another for one that dies."""
    processes = multiprocessing.get_context("spawn")
    started = processes.Event()  # a worker has come up
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, stop)
    workers: list[Any] = []
    while not stopping:
        for dead in [worker for worker in workers if not worker.is_alive()]:
            log.error("worker died", extra={"pid": dead.pid, "code": dead.exitcode})
            multiprocess.mark_process_dead(dead.pid)
            workers.remove(dead)
            if not started.is_set():
                for worker in workers:
                    worker.kill()
                raise ChildProcessError("no worker could start; the log says why")
            time.sleep(1)  # one that cannot start shall not keep the machine busy
        while len(workers) < options.workers:
            workers.append(processes.Process(target=work, args=(options, listening, started)))
            workers[-1].start()
        time.sleep(0.2)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(options.grace + 10)
        worker.kill()


def work(options: Options, listening: socket.socket, started: Any) -> None:
    """Serve in a worker, and set the event `started`."""
    configure_logging()
    try:
        versions = Versions(options.model, options.device, options.threads)
        versions.refresh()
        asyncio.run(run(options, listening, versions, started.set))
    except (OSError, RuntimeError, ValueError) as error:
        log.error("worker cannot serve", extra={"reason": str(error)})
        sys.exit(1)
