"""The routes of HTTP: TF Serving's predict API (V1), the Open Inference protocol (V2), metrics, the page."""

import asyncio
import mimetypes
from collections.abc import Callable
from importlib import metadata, resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from ...contract import IMAGE, IMAGE_BYTES
from ...errors import InputError
from ...images.pixels import displayed, in_words
from .. import protocols
from ..predictor import Predictor
from ..protocols import HEADER_LENGTH, InferRequest, Limits
from ..requests import RequestError, read_json
from ..versions import Version
from .answers import json_answer, parameters_of, png, refusal, v2_answer
from .model import Model

PAGE = {"/": "index.html", "/page.js": "page.js", "/page.css": "page.css"}
LIVE, READY = "/v2/health/live", "/v2/health/ready"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
UNLOADABLE = "versions are loaded from the model's folder"
TF_DTYPES = {
    "UINT8": "DT_UINT8",
    "UINT16": "DT_UINT16",
    "BYTES": "DT_STRING",
    "FP32": "DT_FLOAT",
    "BOOL": "DT_BOOL",
}


def application(model: Model) -> Starlette:
    """Return the routes that clients ask, each an answer of `Routes`, and those of operators where they have
    no port of their own."""
    answer = Routes(model)
    routes = [Route("/v1/models", answer.models), Route("/v2/models", answer.models)]
    for at in ("/v1/models/{name}", "/v1/models/{name}/versions/{version}"):
        routes.append(Route(at + ":predict", answer.predict, methods=["POST"]))
        routes.append(Route(at + ":explain", answer.explain, methods=["POST"]))
        routes.append(Route(at + ":picture", answer.picture, methods=["POST"]))
        routes += [Route(at + "/metadata", answer.metadata), Route(at, answer.status)]
    for at in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes.append(Route(at + "/infer", answer.infer, methods=["POST"]))
        routes += [Route(at + "/ready", answer.model_ready), Route(at, answer.model_metadata)]
    for verb in ("load", "unload"):
        routes.append(Route(f"/v2/repository/models/{{name}}/{verb}", answer.load, methods=["POST"]))
    routes += [Route(path, page(file)) for path, file in PAGE.items()]
    return routed(routes + (operators_routes(answer) if model.options.metrics_port is None else []))


def operators_application(model: Model) -> Starlette:
    """Return the routes that operators ask at a port of their own."""
    return routed(operators_routes(Routes(model)))


def operators_routes(answer: "Routes") -> list[Route]:
    """Return the routes of metrics, health, and what the server is."""
    return [
        Route("/metrics", answer.metrics),
        Route("/v2", answer.server_metadata),
        Route(LIVE, answer.live),
        Route(READY, answer.ready),
    ]


def routed(routes: list[Route]) -> Starlette:
    """Return an application that answers what is wrong in JSON."""

    async def refuse(request: Request, error: Exception) -> Response:
        return refusal(error)

    kinds = (InputError, HTTPException, ClientDisconnect, Exception)
    app = Starlette(routes=routes, exception_handlers=dict.fromkeys(kinds, refuse))
    app.router.redirect_slashes = False
    return app


class Routes:
    """What each route answers."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def version(self, request: Request) -> Version:
        """Return the version that a path names, or the current one."""
        return self.model.version(request.path_params["name"], request.path_params.get("version"))

    async def predict(self, request: Request) -> Response:
        """V1: answer for images."""
        version, body = self.version(request), await request.body()

        def read(predict: Predictor, limits: Limits) -> InferRequest:
            said = read_json(body, limits.max_values(predict.contract.pixels.channels))
            return protocols.read_v1(said, predict, limits)

        answered = await self.model.predict(version, read, len(body))
        return await self.write(
            lambda: json_answer(protocols.write_v1(answered.request, answered.predictions))
        )

    async def infer(self, request: Request) -> Response:
        """V2: answer for images, as JSON, or as bytes after JSON of a length that a header says."""
        version, body = self.version(request), await request.body()
        length = request.headers.get(HEADER_LENGTH, str(len(body)))
        if not length.isascii() or not length.isdecimal() or not 0 < int(length[:20]) <= len(body):
            raise InputError(f"{HEADER_LENGTH}: expected at most the body's {len(body)} bytes")
        head: Any = None

        def read(predict: Predictor, limits: Limits) -> InferRequest:
            nonlocal head
            head = read_json(body[: int(length)], limits.max_values(predict.contract.pixels.channels))
            tensors, outputs = protocols.read_v2_json(head, body[int(length) :])
            return protocols.read_v2(tensors, outputs, predict, limits, parameters_of(head))

        answered = await self.model.predict(version, read, len(body))
        number = str(answered.version.number)
        arrays = protocols.stacked(answered.request, answered.predictions)
        return await self.write(lambda: v2_answer(head, self.model.name, number, arrays))

    async def write(self, answer: Callable[[], Response]) -> Response:
        """Write an answer in a thread."""
        with self.model.metrics.stage("write"):
            return await asyncio.to_thread(answer)

    async def explain(self, request: Request) -> Response:
        """V1: a verb of KServe's."""
        raise RequestError("this model's explanation is its heatmap; ask for :predict", 404)

    async def picture(self, request: Request) -> Response:
        """The page: an image file, the body, as a PNG that a browser can draw, 8 bits, grey or RGB."""
        version, body = self.version(request), await request.body()

        def read(predict: Predictor, limits: Limits) -> bytes:
            image = protocols.read_file(body, IMAGE, predict, limits)
            return png(displayed(image, predict.contract.pixels))

        return Response(await self.model.read(version, read, len(body)), media_type="image/png")

    async def models(self, request: Request) -> Response:
        """V1 and V2: the names of all models."""
        return json_answer({"models": [self.model.name]})

    async def status(self, request: Request) -> Response:
        """V1: which version is served."""
        number = str(self.version(request).number)
        state = {"version": number, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        return json_answer({"name": self.model.name, "ready": True, "model_version_status": [state]})

    async def metadata(self, request: Request) -> Response:
        """V1: what TF Serving says of a model; its contract; what the file says of itself."""
        version = self.version(request)

        def described(names: tuple[str, ...]) -> dict:
            return {
                tensor["name"]: {
                    "dtype": TF_DTYPES[tensor["datatype"]],
                    "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in tensor["shape"]]},
                    "name": tensor["name"],
                }
                for tensor in self.model.tensors(version, names)
            }

        signatures = {
            name: {
                "inputs": described((IMAGE_BYTES if name == IMAGE_BYTES else IMAGE,)),
                "outputs": described(outputs),
                "method_name": "tensorflow/serving/predict",
            }
            for name, outputs in version.predict.contract.signatures.items()
        }
        spec = {"name": self.model.name, "signature_name": "", "version": str(version.number)}
        said = {
            "signature_def": {"signature_def": signatures},
            "pixels": in_words(version.predict.contract.pixels),
            "contract": version.predict.contract.model_dump(mode="json"),
            "patchnet": version.predict.metadata,
        }
        return json_answer({"model_spec": spec, "metadata": said})

    async def server_metadata(self, request: Request) -> Response:
        """V2: name and version of the server."""
        return json_answer(server_metadata())

    async def model_metadata(self, request: Request) -> Response:
        """V2: inputs and outputs."""
        return json_answer(self.model.metadata(self.version(request)))

    async def model_ready(self, request: Request) -> Response:
        """V2: whether a model takes requests."""
        self.version(request)
        return json_answer({"name": self.model.name, "ready": True})

    async def load(self, request: Request) -> Response:
        """V2: refuse to load or unload."""
        raise RequestError(UNLOADABLE, 404)

    async def live(self, request: Request) -> Response:
        """V2: answer."""
        return json_answer({"live": True})

    async def ready(self, request: Request) -> Response:
        """V2: whether a load balancer may send requests."""
        if not self.model.ready:
            raise RequestError("Server is not ready.", 503)
        return json_answer({"ready": True})

    async def metrics(self, request: Request) -> Response:
        """Prometheus's format."""
        content, kind = self.model.metrics.read(request.headers.get("accept", ""))
        return Response(content, media_type=kind)


def server_metadata() -> dict[str, Any]:
    """Return name and version of the server, and what it knows beyond the V2 protocol."""
    try:
        version = metadata.version("patchnet-tf")
    except metadata.PackageNotFoundError:
        version = "not installed"
    return {"name": "patchnet-tf", "version": version, "extensions": ["binary_tensor_data"]}


def page(file: str) -> Callable:
    """Return the answer with a file of the page."""

    async def answer(request: Request) -> Response:
        content = resources.files("patchnet_tf.serving.page").joinpath(file).read_bytes()
        headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
        return Response(content, media_type=mimetypes.guess_type(file)[0], headers=headers)

    return answer
