"""`patchnet serve`."""

import contextlib
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError, extra
from .console import one_line_errors

MOST = 2**31 - 1  # bytes or pixels: gRPC's limit, too
MANY = 2**16  # images or connections
DAY = 86_400  # seconds


def serve(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="ONNX file, SavedModel, or the folder of their versions, NAME/1, NAME/2, ...",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name in the addresses; by default that of MODEL.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For HTTP.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=-1, max=65535, help="For gRPC; -1 for none.")] = 8081,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with the model.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Of ONNX files.")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, max=256, help="Of a worker; 0: one per core.")] = 0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Of tokens, one a line; requests need one of them.", show_default=False
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate, in PEM; then TLS alone.", show_default=False),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its key, in PEM.", show_default=False)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Authorities whose certificates clients have to show.", show_default=False
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="For metrics and health, which are not at --port then; no TLS, no token.",
            show_default=False,
        ),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option(help="Address for --metrics-port; by default 127.0.0.1.", show_default=False),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, max=MOST, help="Of a request.")] = 2**24,
    max_pixels: Annotated[int, typer.Option(min=1, max=MOST, help="Of an image.")] = 2**20,
    max_images: Annotated[int, typer.Option(min=1, max=MANY, help="In a request.")] = 32,
    max_total_pixels: Annotated[
        int, typer.Option(min=1, max=MOST, help="Of all images in a request, and of all that wait.")
    ] = 2**23,
    max_batch: Annotated[
        int, typer.Option(min=1, max=MANY, help="Images computed at once; 1: no batches.")
    ] = 8,
    max_waiting: Annotated[int, typer.Option(min=1, max=MANY, help="Images that wait; more get 503.")] = 64,
    max_connections: Annotated[
        int, typer.Option(min=1, max=MANY, help="Of HTTP, of a worker; then idle ones are closed.")
    ] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=DAY, help="Seconds that a request may take.")
    ] = 300,
    keep_alive: Annotated[
        int, typer.Option(min=1, max=DAY, help="Seconds that a connection may wait for its next request.")
    ] = 75,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name in the addresses that clients use, beside localhost and numbers; * for all.",
            show_default=False,
        ),
    ] = None,
    grace: Annotated[int, typer.Option(min=0, max=DAY, help="Seconds to end requests after SIGTERM.")] = 30,
) -> None:
    """Serve an exported model: HTTP, gRPC, and a page to drop images on.

    Answers TF Serving's /v1/models/NAME:predict and the V2 protocol, both by REST and V2 by gRPC too; says
    whether it is ready at /v2/health/ready, and gives Prometheus's metrics at /metrics. Of a folder of
    versions the highest is served, and a new one is picked up. SIGTERM or Ctrl-C ends the requests that have
    begun, then the server. Needs `pip install "patchnet-tf[serve]"`.

    Example: patchnet serve runs/cells/export/cells.onnx
    """
    with one_line_errors():
        if not model.exists():
            raise InputError(f"{model}: there is no such file or folder")
        if run := run_of(model):
            raise InputError(f"{model}: not an exported model; export it first: patchnet export {run}")
        name = name or (model.stem if model.is_file() else model.resolve().name)
        for option, address in (("--host", host), ("--metrics-host", metrics_host)):
            if address == "":
                raise InputError(f"{option}: expected an address. Received: an empty text")
        if metrics_host and metrics_port is None:
            raise InputError("--metrics-host goes with --metrics-port")
        for allowed in allow_host or ():
            if not is_host(allowed):
                raise InputError(
                    "--allow-host: expected a name without a port, an address, or *. "
                    f"Received: {allowed[:64]!r}"
                )
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"--name: expected letters, digits, '_', '-' and '.'. Received: {name}")
        if timeout != timeout:  # which is in no range, and no limit refuses
            raise InputError("--timeout: expected seconds. Received: nan")
        if bool(tls_cert) != bool(tls_key) or (tls_client_ca and not tls_cert):
            raise InputError("--tls-cert and --tls-key go together, and --tls-client-ca needs both")
        with extra("serve"):
            from ..serving import server
        options = server.Options(
            model=model,
            name=name,
            host=host,
            port=port,
            grpc_port=None if grpc_port < 0 else grpc_port,
            workers=workers,
            device=device,
            threads=threads,
            limits=server.Limits(max_bytes, max_pixels, max_images, max_total_pixels),
            max_batch=max_batch,
            max_waiting=max_waiting,
            grace=grace,
            timeout=timeout,
            keep_alive=keep_alive,
            max_connections=max_connections,
            metrics_port=metrics_port,
            metrics_host=metrics_host or "127.0.0.1",
            tokens=server.read_tokens(token_file) if token_file else (),
            tls=server.Tls(tls_cert, tls_key, tls_client_ca) if tls_cert else None,
            allow_host=tuple(map(str.lower, allow_host or ())),
        )

        def announce(address: str) -> None:
            print(
                f"Serving {name}: {'https' if tls_cert else 'http'}://{address}/ has a page to try it",
                flush=True,
            )

        try:
            server.serve(options, announce)
        except (ValueError, RuntimeError) as error:
            raise InputError(str(error)) from None


def is_host(name: str) -> bool:
    """Return whether a header Host can have this name, or it is *, which stands for all."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return True
    return name == "*" or re.fullmatch(r"[\w.-]+", name, re.ASCII) is not None


def run_of(model: Path) -> Path | None:
    """Return the run that someone names, by its folder or its model.keras, in place of an exported model."""
    if model.suffix == ".keras":
        return model.parent
    return model if (model / "model.keras").is_file() else None
