"""How to serve."""

from dataclasses import dataclass, field
from pathlib import Path

from ..protocols import Limits
from .security import Tls


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
        timeout: seconds that a request may take.
        keep_alive: seconds that a connection may wait for its next request.
        max_connections: of HTTP, of each worker.
        metrics_port, metrics_host: where metrics, health and the server's metadata are instead, without TLS
            and without a token; None is beside the rest.
        tokens: of which a request has to have one; none are needed where there are none.
        tls: the certificate of HTTP and gRPC; None is no TLS.
        allow_host: names in the header Host that are answered, beside localhost and addresses; "*" is all.
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
    timeout: float = 300.0
    keep_alive: int = 75
    max_connections: int = 1000
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    tokens: tuple[str, ...] = field(default=(), repr=False)
    tls: Tls | None = None
    allow_host: tuple[str, ...] = ()
    poll: float = 2.0
