"""`patchnet export` and `verify`."""

import logging
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import InputError
from .console import Reporter, Table, heavy_imports, one_line_errors, say, show
from .options import RunFolder, read_size

if TYPE_CHECKING:
    from ..config import Config

RUNTIMES = ("onnxruntime", "openvino", "opencv", "node", "web")
FEW = 64  # of the images in a file, which is more than are compared unless a batch has more
MOST_IMAGES = 1024  # in a batch of a fixed size, which the file is tried with


def export(
    run: RunFolder,
    file_format: Annotated[
        Literal["onnx", "saved_model", "both"],
        typer.Option("--format", help="onnx: one file, for ONNX Runtime; saved_model: for TF Serving."),
    ] = "onnx",
    precision: Annotated[
        Literal["float32", "float16"],
        typer.Option(help="float16: half the ONNX file, for graphics processors; elsewhere it is slower."),
    ] = "float32",
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Fix the size of the ONNX file's images; by default any size does."),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fix the number of images in a batch of the ONNX file."),
    ] = None,
    outputs: Annotated[
        Literal["both", "probability", "heatmap"],
        typer.Option(help="Of the ONNX file: one alone, for runtimes that compute all that a file has."),
    ] = "both",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="PATH.onnx, or a folder to put it in; for TF Serving PATH/1, PATH/2, ...; by default "
            "`RUN/export/<name of the folder RUN>`.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an ONNX file that is there.")
    ] = False,
) -> None:
    """Make one file for other people's applications: raw pixels in, probability and heatmap out.

    The new file is run in its own runtime and compared with Keras, on held-back images of the run and on
    generated ones; where a probability or a pixel of a heatmap differs by more than 0.0001 (float16: 0.005),
    nothing is written and the exit code is 1. Beside it are written verification.json (the differences),
    MANIFEST.json (sha256) and test vectors (images and answers, to check an application with). Of labels the
    file carries the thresholds that `patchnet evaluate` chose.

    Example: patchnet export runs/cells --format both --out served/cells
    """
    with one_line_errors():
        options: dict[str, Any] = {"precision": precision, "size": read_size(size), "batch": batch}
        options["outputs"] = outputs
        if batch is not None and not 1 <= batch <= MOST_IMAGES:
            raise InputError(f"--batch: expected a whole number from 1 to {MOST_IMAGES}. Received: {batch}")
        export_run(run, file_format, out, overwrite=overwrite, **options)


def verify(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="ONNX file, or folder of a SavedModel.", show_default=False),
    ],
    run: RunFolder,
    runtimes: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help=f"Run the test vectors beside FILE in {', '.join(RUNTIMES)}, and print a table; may be "
            "given several times. node and web are found in this folder's node_modules.",
        ),
    ] = None,
) -> None:
    """Compare an exported file with the run that it was made from, as `patchnet export` does.

    Says whether the file was altered since (sha256), and the largest differences from Keras. The exit code
    is 2 for a file that is altered, truncated or not ours, and 1 for one that computes something else, or
    does in one of the runtimes.

    Example: patchnet verify runs/cells/export/cells.onnx runs/cells --runtime openvino --runtime opencv
    """
    with one_line_errors():
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        for name in runtimes or ():
            if name not in RUNTIMES:
                raise InputError(f"--runtime: expected one of {', '.join(RUNTIMES)}. Received: {name}")
        config, model = open_patchnet(run)
        exporter = load_exporter()
        with Reporter() as progress:
            progress("verifying", 0, 1)
            verification = exporter.verify(
                model, path, class_names=config.data.classes or (), images=held_back(config)
            )
            progress("verifying", 1, 1)
        say_differences(verification)
        if runtimes and not try_runtimes(exporter, verification, dict.fromkeys(runtimes)):
            raise typer.Exit(1)


def try_runtimes(exporter: ModuleType, verification: Any, names: Iterable[str]) -> bool:
    """Print what each runtime makes of a file's test vectors; return whether all is right."""
    path = verification.path
    [kind] = [kind for kind in exporter.FORMATS.values() if kind.recognizes(path)]
    vectors, contract = kind.records(path)[1], kind.open(path).contract
    table = Table("runtime", "images", *(f"{name} off by" for name in contract.outputs), "")
    right = True
    for name in names:
        version, trials = exporter.runtimes.try_vectors(exporter.RUNTIMES[name], path, vectors, contract)
        for trial in trials:
            good = trial.right(verification.tolerance)
            right &= good
            off = [f"{trial.differences[k]:.1e}" if k in trial.differences else "" for k in contract.outputs]
            shape = " x ".join(map(str, trial.shape))
            table.add_row(version, shape, *off, "right" if good else trial.said or "wrong")
    show(table)
    return right


def export_run(folder: Path, file_format: str, out: Path | None, *, overwrite: bool, **options: Any) -> None:
    """Export a run with progress; say where the files are and how they differ from Keras."""
    config, model = open_patchnet(folder)
    exporter = load_exporter()
    names = ["onnx", "saved_model"] if file_format == "both" else [file_format]
    formats = exporter.formats.choose(names, overwrite=overwrite, **options)
    paths = exporter.formats.places(folder, out, formats)
    settings: dict[str, Any] = {
        "class_names": config.data.classes,
        "thresholds": label_thresholds(folder) if model.multilabel else None,
        "metadata": exporter.metadata.describe_run(folder, config),
        "images": held_back(config),
    }
    done = []
    with Reporter() as progress:
        for k, (path, one) in enumerate(zip(paths, formats, strict=True)):
            progress("exporting", k, len(formats), f"{one.name}: converting, then comparing with Keras")
            done.append(exporter.stages.export_model(model, path, one, **settings))
        progress("exporting", len(formats), len(formats))
    for verification in done:
        print(f"Exported {verification.path}")
        say_differences(verification)
    if "onnx" in names:
        call = f".{formats[0].only}" if formats[0].only else ""
        print(
            f'Run it: from patchnet_tf.serving import Predictor; Predictor("{done[0].path}"){call}(image), '
            f"where image is {model.pixels.dtype} (height, width, channels)"
        )


def open_patchnet(folder: Path) -> "tuple[Config, Any]":
    """Open a run whose model can be exported."""
    with heavy_imports("train"):
        from ..training.kinds import kind_of
        from ..training.run import open_run

    config, model = open_run(folder)
    if not kind_of(config).exportable:
        raise InputError(
            f"{folder}: only a PatchNet is exported, as its heatmap is part of the file. "
            f"Received: model.kind {config.model.kind}"
        )
    return config, model


def label_thresholds(folder: Path) -> list[float] | None:
    """Return the thresholds of a run's labels, or None, and a warning, where they were not chosen."""
    from ..evaluation.evaluate import thresholds_of
    from ..training.run import METRICS

    thresholds = thresholds_of(folder)
    if thresholds is None:
        path = folder / METRICS
        say("warning", f"{path}: no thresholds of the labels; the file calls an image a label above 0.5")
    return thresholds


def say_differences(verification: Any) -> None:
    """Print the largest differences of an exported file from Keras."""
    largest = ", ".join(f"{name} {value:.1e}" for name, value in verification.largest.items())
    print(
        f"Largest difference from Keras: {largest} "
        f"({len(verification.batches)} batches, {verification.runtime})"
    )


def held_back(config: "Config") -> Any:
    """Return the validation images, of those in a file a few; None, and a warning, without them."""
    import numpy as np

    from ..data import load_dataset
    from ..data.store import Stored

    try:
        images = load_dataset(config).val.images
        if isinstance(images, Stored):
            images = images[np.linspace(0, len(images) - 1, min(len(images), FEW)).astype(int)]
        return images
    except (InputError, OSError):
        say("warning", "the run's images cannot be read; comparing on generated ones alone")
        return None


def load_exporter() -> ModuleType:
    """Import what converts models, silently."""
    with heavy_imports("export"):
        from .. import export as exporter
    logging.disable(logging.WARNING)
    return exporter
