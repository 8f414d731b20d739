"""What a request of any protocol goes through: read, predict."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from ...contract import FAMILIAR, HEATMAP, IMAGE, IMAGE_BYTES, OUTPUTS, PROBABILITY
from ..batcher import Batcher
from ..predictor import Prediction, Predictor
from ..protocols import DATATYPES, InferRequest, Limits
from ..requests import RequestError
from ..versions import Version, Versions
from .metrics import Metrics
from .options import Options

READERS = 2  # requests of which pixels are made at once: a list in JSON takes many times its size in memory
INPUTS = (IMAGE, IMAGE_BYTES)
T = TypeVar("T")


class Answered(NamedTuple):
    """A request, the version that answered it, and a prediction for each of its images."""

    request: InferRequest
    version: Version
    predictions: list[Prediction]


class Model:
    """The served model.

    Attributes:
        draining: whether the server is about to stop: it goes on answering, but is not ready.
    """

    def __init__(self, options: Options, versions: Versions, metrics: Metrics) -> None:
        self.name, self.options, self.versions, self.metrics = options.name, options, versions, metrics
        self.draining = False
        # Small requests do not wait for large ones.
        self._readers = {large: asyncio.Semaphore(READERS) for large in (False, True)}
        limits = options.limits
        self._batchers = {
            output: Batcher(
                heatmap=output == HEATMAP,
                max_batch=options.max_batch,
                max_batch_pixels=limits.max_pixels,
                max_waiting=options.max_waiting,
                max_waiting_pixels=limits.max_total_pixels,
                observe=metrics.batch.labels(output).observe,
            )
            for output in OUTPUTS
        }

    @property
    def ready(self) -> bool:
        """Whether a load balancer may send requests."""
        return self.versions.current is not None and not self.draining

    def version(self, name: str, number: str | None = None) -> Version:
        """Return the current version, or raise RequestError where another model or version is wanted."""
        if name != self.name:
            raise RequestError(f"Model with name {name[:64]} does not exist.", 404)
        current = self.versions.current
        if number not in (None, str(current.number)):
            raise RequestError(f"version {number[:32]} is not served. Served: {current.number}", 404)
        return current

    async def predict(
        self, version: Version, read: Callable[[Predictor, Limits], InferRequest], size: int
    ) -> Answered:
        """Answer a request of `size` bytes; `read` makes images of it, in a thread.

        Raises:
            InputError: as of `read`; 503, too many images wait.
        """
        request = await self.read(version, read, size)
        with self.metrics.stage("predict"):
            batcher = self._batchers[HEATMAP if request.maps else PROBABILITY]
            return Answered(request, version, await batcher.predict(request.images, version, request.classes))

    async def read(self, version: Version, read: Callable[[Predictor, Limits], T], size: int) -> T:
        """Return what `read` makes, in a thread, of a request of `size` bytes."""
        limits = self.options.limits
        with self.metrics.stage("read"):
            async with self._readers[size > limits.small]:
                return await asyncio.to_thread(read, version.predict, limits)

    def tensors(self, version: Version, names: tuple[str, ...]) -> list[dict]:
        """Return names, datatypes and shapes in the V2 protocol's words; -1 is any size."""
        batch, height, width, channels = (size or -1 for size in version.predict.input_shape)
        classes, pixels = version.predict.contract.classes, version.predict.contract.pixels
        several = [] if classes.binary else [classes.outputs]
        described = {
            IMAGE: (DATATYPES[pixels.dtype], [batch, height, width, channels]),
            IMAGE_BYTES: ("BYTES", [batch]),
            PROBABILITY: ("FP32", [batch, *several]),
            HEATMAP: ("FP32", [batch, height, width, *several]),
            FAMILIAR: ("BOOL", [batch, height, width]),
        }
        return [
            dict(zip(("name", "datatype", "shape"), (name, *described[name]), strict=True)) for name in names
        ]

    def metadata(self, version: Version) -> dict:
        """Return the V2 protocol's description of the model."""
        return {
            "name": self.name,
            "versions": [str(version.number)],
            "platform": version.predict.provider,
            "inputs": self.tensors(version, INPUTS),
            "outputs": self.tensors(version, tuple(version.predict.contract.outputs)),
        }
