"""The arguments that several commands share, and how their texts are read."""

import importlib.resources
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..config import Config

ConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", help="YAML file, such as configs/folder.yaml.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a value of CONFIG, such as training.epochs=50; can be given several times.",
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)
]


def read_config(path: Path, overrides: list[str] | None) -> "Config":
    """Read a configuration."""
    from ..config import load_config  # whose schema takes a moment, which `--help` does without

    return load_config(path, overrides or [])


def packaged(name: str, overrides: list[str] | None = None) -> "Config":
    """Read a configuration that comes with the package."""
    configs = importlib.resources.files("patchnet_tf.configs")
    with importlib.resources.as_file(configs / f"{name}.yaml") as path:
        return read_config(path, overrides)


def read_patch_sizes(text: str) -> list[int]:
    """Read P,P,..."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,4}", part) for part in parts) or len(set(parts)) < len(parts):
        raise InputError(
            "--patch-sizes: expected whole numbers of at least 1, each once, such as 11,17,31. "
            f"Received: {text}"
        )
    return [int(part) for part in parts]


def read_size(size: str | None) -> tuple[int, int] | None:
    """Read HxW."""
    if size is None:
        return None
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
        raise InputError(f"--size: expected HxW, such as 128x96 (height x width). Received: {size}")
    height, width = map(int, size.split("x"))
    return height, width
