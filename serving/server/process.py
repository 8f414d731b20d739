"""From the start of `patchnet serve` to its end."""

import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ..versions import Versions
from .app import application, operators_application
from .connection import address, http_server, listen, raise_file_limit
from .logs import configure_logging, log, where
from .metrics import Metrics
from .middleware import LimitsMiddleware
from .model import Model
from .options import Options
from .rpc import Rpc
from .workers import supervise

OPERATORS = 32  # connections to their own port
DRAIN_SECONDS = 0.5  # between the signal and the end of listening: answers ask clients to connect anew


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
    listening = [listen(options.host, options.port)]
    if options.metrics_port is not None:
        listening.append(listen(options.metrics_host, options.metrics_port))
    if options.grpc_port:
        listen(options.host, options.grpc_port).close()  # is it free?
    announce(address(*listening[0].getsockname()[:2]))
    if options.workers == 1:
        asyncio.run(run(options, listening, versions))
    with tempfile.TemporaryDirectory() as folder:
        del versions  # the workers have their own
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers' counts, for one of them to add up
        supervise(work, (options,), options.workers, options.grace, listening)


def work(options: Options, listening: list[socket.socket], started: Any) -> None:
    """Serve in a worker, and set the event `started`."""
    configure_logging()
    try:
        versions = Versions(options.model, options.device, options.threads)
        versions.refresh()
        asyncio.run(run(options, listening, versions, started.set))
    except (OSError, RuntimeError, ValueError) as error:
        log.error("worker cannot serve", extra={"reason": str(error)})
        sys.exit(1)


async def run(
    options: Options,
    listening: list[socket.socket],
    versions: Versions,
    started: Callable[[], object] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT, answer what has begun, and end the process.

    `listening` are the sockets of HTTP: for clients, and for operators if they have one of their own.
    It does not return, because Python would wait for threads that nobody waits for any more.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # lists of pixels are no garbage: looking for it would take longer
    metrics = Metrics()
    model = Model(options, versions, metrics)
    connections = raise_file_limit(options.max_connections)
    times = {"grace": options.grace, "keep_alive": options.keep_alive}
    app = LimitsMiddleware(application(model), model, metrics, options.tokens)
    servers = [http_server(app, max_connections=connections, tls=options.tls, **times)]
    if options.metrics_port is not None:
        app = LimitsMiddleware(operators_application(model), model, metrics)
        servers.append(http_server(app, max_connections=OPERATORS, **times))
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop.set)
    if parent := multiprocessing.parent_process():  # whose workers shall not outlive it
        loop.add_reader(parent.sentinel, stop.set)
    rpc = None if options.grpc_port is None else Rpc(model)
    if rpc:
        await rpc.start()
    watching = loop.create_task(watch(model))
    serving = [loop.create_task(server.serve([at])) for server, at in zip(servers, listening, strict=True)]
    started()
    log.info(
        "serving",
        extra={
            "model": options.name,
            "version": versions.current.number,
            "http": list(listening[0].getsockname()[:2]),
            "grpc": rpc and rpc.port,
            "metrics": list(listening[-1].getsockname()[:2]),
            "token": bool(options.tokens),
            "tls": bool(options.tls),
        },
    )
    await asyncio.wait([*serving, loop.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    log.info("draining")
    model.draining = True
    await asyncio.sleep(DRAIN_SECONDS)
    watching.cancel()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*serving, *([rpc.stop(options.grace)] if rpc else []))
    if cut := [task for server in servers for task in server.server_state.tasks]:  # is told so
        await asyncio.wait(cut, timeout=1)
    log.info("stopped")
    sys.stdout.flush()
    os._exit(0)


async def watch(model: Model) -> None:
    """Look for a new version now and then."""
    while True:
        model.metrics.version.labels(model.name).set(model.versions.current.number)
        await asyncio.sleep(model.options.poll)
        try:
            await asyncio.to_thread(model.versions.refresh)
        except Exception as error:
            log.error("looking for versions failed", extra={"fault": where(error)})
