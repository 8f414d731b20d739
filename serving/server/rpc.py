"""The Open Inference protocol (V2) by gRPC, with the messages of its public definition."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from ...errors import InputError
from .. import protocols
from ..predictor import Predictor
from ..protocols import DATATYPES
from ..requests import RequestError, status_of
from .app import UNLOADABLE, server_metadata
from .connection import address
from .model import Model
from .security import check_token

SERVICE = "inference.GRPCInferenceService"
METHODS = (
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"),
    *("RepositoryModelLoad", "RepositoryModelUnload"),
)
OPEN = ("ServerLive", "ServerReady")  # to probes, which have no token
DRAIN_SECONDS = 0.5
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class Rpc:
    """The server of gRPC.

    Args:
        model: what answers.

    Attributes:
        port: where it listens.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.metrics, self.options = model, model.metrics, model.options
        self._closed, self._inside = False, 0
        settings = {
            "grpc.max_receive_message_length": min(self.options.limits.max_bytes, 2**31 - 1),
            "grpc.max_send_message_length": -1,
            # Otherwise two servers could share a port unnoticed.
            "grpc.so_reuseport": int(self.options.workers > 1),
        }
        self._server = grpc.aio.server(options=list(settings.items()))
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._counted(name)) for name in METHODS}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        at = address(self.options.host, self.options.grpc_port)
        if tls := self.options.tls:
            self.port = self._server.add_secure_port(at, tls.grpc())
        else:
            self.port = self._server.add_insecure_port(at)

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Refuse what comes from now on, answer what has begun for at most `grace` seconds, and stop.

        gRPC's own end would answer CANCELLED, which clients do not try again, to a request that it has
        received and not yet begun; therefore a moment more to refuse what follows the last answers.
        """
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._inside:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(DRAIN_SECONDS)
        await self._server.stop(0)

    def _counted(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Return what answers, counts and logs a request of one method."""
        method, message = getattr(self, name), getattr(pb, f"{name}Request")

        async def answer(content: bytes, context: grpc.aio.ServicerContext) -> bytes:
            began, code, fault = time.monotonic(), grpc.StatusCode.CANCELLED, None
            self._inside += 1
            try:
                if name not in OPEN:
                    said = dict(context.invocation_metadata() or ())
                    check_token(said.get("authorization", ""), self.options.tokens)
                reply = await self._reply(method, message, content, context.time_remaining())
                code = grpc.StatusCode.OK
                return reply
            except InputError as error:
                code = CODES.get(status_of(error), grpc.StatusCode.INVALID_ARGUMENT)
                await context.abort(code, str(error).encode("utf-8", "backslashreplace").decode())
            except Exception as error:
                code, fault = grpc.StatusCode.INTERNAL, error
                await context.abort(code, type(error).__name__)
            finally:  # CANCELLED is what a client that leaves, or --grace, does to it
                self._inside -= 1
                route, size = f"/{SERVICE}/{name}", len(content)
                self.metrics.request(
                    route, code.name, began, fault, id=str(uuid.uuid4()), method="gRPC", bytes=size
                )

        return answer

    async def _reply(self, method: Callable, message: type, content: bytes, wanted: float | None) -> bytes:
        """Answer a request in the time that the client gives, or that of --timeout."""
        if self._closed:
            raise RequestError("the server is stopping", 503)
        try:
            request = message.FromString(content)
        except DecodeError:
            raise InputError(f"request: not a {message.__name__}") from None
        seconds = self.options.timeout if wanted is None else min(wanted, self.options.timeout)
        try:
            async with asyncio.timeout(seconds):
                return (await method(request)).SerializeToString()
        except TimeoutError:
            raise RequestError(f"request: not answered in {seconds:g} s", 504) from None

    async def ServerLive(self, request: Any) -> Any:
        """Answer."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:
        """Return whether a load balancer may send requests."""
        return pb.ServerReadyResponse(ready=self.model.ready)

    async def ServerMetadata(self, request: Any) -> Any:
        """Return name and version of the server."""
        return pb.ServerMetadataResponse(**server_metadata())

    async def ModelReady(self, request: Any) -> Any:
        """Return whether a model takes requests."""
        self.model.version(request.name, request.version or None)
        return pb.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: Any) -> Any:
        """Return inputs and outputs."""
        version = self.model.version(request.name, request.version or None)
        return pb.ModelMetadataResponse(**self.model.metadata(version))

    async def RepositoryModelLoad(self, request: Any) -> Any:
        """Refuse."""
        raise RequestError(UNLOADABLE, 501)

    RepositoryModelUnload = RepositoryModelLoad

    async def ModelInfer(self, request: Any) -> Any:
        """Answer for images."""
        version = self.model.version(request.model_name, request.model_version or None)

        def read(predict: Predictor, limits: protocols.Limits) -> protocols.InferRequest:
            names = [output.name for output in request.outputs]
            said = {
                key: getattr(value, value.WhichOneof("parameter_choice") or "", None)
                for key, value in request.parameters.items()
            }
            return protocols.read_v2(tensors(request), names, predict, limits, said)

        answered = await self.model.predict(version, read, request.ByteSize())
        reply = pb.ModelInferResponse(
            model_name=self.model.name, model_version=str(answered.version.number), id=request.id
        )
        for name, array in protocols.stacked(answered.request, answered.predictions).items():
            reply.outputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
            reply.raw_output_contents.append(array.tobytes())
        return reply


def tensors(request: Any) -> list[protocols.Tensor]:
    """Return the inputs of a ModelInferRequest.

    Raises:
        InputError: it has bytes for another number of inputs, or bytes and numbers.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise InputError(
            f"raw_input_contents: expected the number of inputs, {len(inputs)}. Received: {len(raw)}"
        )
    if raw and any(tensor.HasField("contents") for tensor in inputs):
        raise InputError("inputs: expected either contents or raw_input_contents. Received: both")
    fields = {"BYTES": "bytes_contents", "FP32": "fp32_contents"}
    datas = raw or [list(getattr(t.contents, fields.get(t.datatype, "uint_contents"))) for t in inputs]
    return [
        protocols.Tensor(t.name, t.datatype, list(t.shape), data)
        for t, data in zip(inputs, datas, strict=True)
    ]
