"""The `patchnet` command: a function for each of its own commands.

Results go to stdout; progress, warnings and one-line errors to stderr. Exit codes: 0, all went well; 1, it
failed; 2, what was given cannot be used; 130, interrupted.
"""

import hashlib
import importlib.resources
import json
import logging
import os
import re
import signal
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..config import Config, FilesData, load_config
from ..errors import InputError
from .console import Reporter, one_line_errors, say, show, stderr_closed

SIZES_SHOWN = 6  # of images, in `patchnet data check`

UsageError = typer.BadParameter.__mro__[1]  # of click or of typer's own copy of it, as the version has it

app = typer.Typer(
    name="patchnet",
    add_completion=False,
    rich_markup_mode="markdown",  # whose paragraphs are filled to the width of the terminal
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="PatchNet: image classification whose explanation is exact. A small network decides about each "
    "patch of an image; the image's class is the average of those decisions, their map is the explanation.",
    epilog="Start with `patchnet demo`: two minutes, no data needed.",
)

data_app = typer.Typer(no_args_is_help=True, help="Look at data sets.")
app.add_typer(data_app, name="data")

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


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; by default `runs/<name in CONFIG>`.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the run in DIR after its last finished epoch, if there is one already."
        ),
    ] = False,
) -> None:
    """Train a PatchNet, or one of the paper's baselines, on two classes of images.

    CONFIG says where the images are, `PATH/train/<class>/` and `PATH/val/<class>/`, and how to train; every
    key is explained in configs/folder.yaml. Training ends when the validation loss has not improved for
    training.patience epochs, when the training accuracy is 100 % (unless training.stop_when_accurate is
    false), or after training.epochs. The weights with the lowest validation loss are kept. After Ctrl-C or
    a crash, the same command with --resume continues.

    Example: patchnet train configs/folder.yaml --set data.path=~/cells --set training.epochs=50
    """
    with one_line_errors("the same command with --resume continues"):
        settings = load_config(config, overrides or [])
        train_and_tell(settings, out or Path("runs") / settings.name, resume)


@app.command()
def evaluate(run: RunFolder) -> None:
    """Measure a run: validation loss, accuracy and AUROC; localization where masks are known.

    Writes RUN/metrics.json, a picture of images, masks and heatmaps to RUN/heatmaps/, and all of it on one
    page, RUN/report.html. A heatmap takes a few seconds, so many masks take a while.

    Example: patchnet evaluate runs/cells
    """
    with one_line_errors():
        measure_and_tell(run)


@app.command()
def explain(
    run: RunFolder,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files, each at least as large as a patch (or the crop, where the model has one).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; by default RUN/heatmaps.")
    ] = None,
    resize: Annotated[
        bool,
        typer.Option("--resize", help="Bring images to the size to which those of training were resized."),
    ] = False,
) -> None:
    """Draw the heatmap of images: which parts speak for class 1 (white), which for class 0 (black).

    Writes for each image NAME_heatmap.png (8-bit grey), NAME_heatmap.npy (float32, 0 to 1), both as large as
    the image, and NAME_overlay.png (red for class 1, blue for class 0, with a legend). Values are never
    rescaled: 0.5 means undecided in every picture; only of a baseline (model.kind) is the map, CAM or
    Grad-CAM, scaled for each image. Colour images are read as grey where the model is grey,
    and grey ones as RGB where it is RGB.

    Example: patchnet explain runs/cells new/*.png --out maps
    """
    with one_line_errors():
        experiment = load_experiment()
        with Reporter() as progress:
            explained = experiment.explain(run, images, out, resize=resize, progress=progress)
        table = Table("image", "class", "probability of class 1", "files")
        for e in explained:
            table.add_row(str(e.path), e.class_name, f"{e.probability:.4f}", f"{e.stem}_*")
        show(table)
        print(f"Heatmaps: {out or run / 'heatmaps'}")


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a run or of a comparison.", show_default=False)
    ],
) -> None:
    """Put what a run or a comparison found on one page, FOLDER/report.html, anew.

    `patchnet evaluate` does so too; do it again after `patchnet explain` has drawn heatmaps. The page holds
    its pictures and loads nothing: it opens without a network, and can be sent as it is.

    Example: patchnet report runs/cells
    """
    with one_line_errors():
        report_and_tell(folder)


@app.command()
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
    MANIFEST.json (sha256) and test vectors (images and answers, to check an application with).

    Example: patchnet export runs/cells --format both --out served/cells
    """
    with one_line_errors():
        options: dict[str, Any] = {"precision": precision, "size": read_size(size), "batch": batch}
        if batch is not None and batch < 1:
            raise InputError(f"--batch: expected a whole number of at least 1. Received: {batch}")
        if file_format == "saved_model" and (precision != "float32" or size or batch or overwrite):
            raise InputError("--precision, --size, --batch and --overwrite are for the ONNX file")
        export_and_tell(run, file_format, out, overwrite=overwrite, **options)


@app.command()
def verify(
    path: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="ONNX file, or folder of a SavedModel.", show_default=False),
    ],
    run: RunFolder,
) -> None:
    """Compare an exported file with the run that it was made from, as `patchnet export` does.

    Says whether the file was altered since (sha256), and the largest differences from Keras. The exit code
    is 2 for a file that is altered, truncated or not ours, and 1 for one that computes something else.

    Example: patchnet verify runs/cells/export/cells.onnx runs/cells
    """
    with one_line_errors():
        if not path.exists():
            raise InputError(f"{path}: there is no such file")
        config, model = open_patchnet(run)
        exporter = load_exporter()
        with Reporter() as progress:
            progress("verifying", 0, 1)
            verification = exporter.verify(model, path, images=held_back(config))
            progress("verifying", 1, 1)
        tell_differences(verification)


@data_app.command("check")
def data_check(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write the contact sheet; by default the current folder."),
    ] = None,
) -> None:
    """Look for what is wrong with the data set of CONFIG, all of it at once, and draw a contact sheet.

    Counts images by split and class; finds images that are missing, unreadable or of another size, labels
    that are none, masks that do not fit, and images that are in two splits (a leak), in both classes, twice
    in one split, or nearly empty; and files that are passed over, in subfolders or masks without an image.
    Images are the same when their pixels are: a copy that was resized or compressed is not found. The
    contact sheet, `<name in CONFIG>-contact-sheet.png`, shows up to 24 images of each split and class with
    the outlines of their masks. The exit code is 2 when there are errors; warnings alone leave it 0.

    Example: patchnet data check configs/folder.yaml --set data.path=~/cells
    """
    with one_line_errors():
        settings = load_config(config, overrides or [])
        load_experiment()
        from ..data.check import check

        with Reporter() as progress:
            report = check(settings, progress)
        table = Table(
            "split", *[f"{k}: {name}" for k, name in enumerate(report.class_names)], "share of class 1"
        )
        for split in dict.fromkeys(split for split, _ in report.counts):
            zero, one = (report.counts[split, label] for label in (0, 1))
            table.add_row(split, str(zero), str(one), f"{one / (zero + one):.0%}")
        if report.counts:
            show(table)
        sizes = [f"{h} x {w} ({count})" for (h, w), count in report.sizes.most_common(SIZES_SHOWN)]
        more = len(report.sizes) - len(sizes)
        print(f"Sizes, height x width: {', '.join(sizes) or 'none'}{f' and {more} more' if more > 0 else ''}")
        if report.masks:
            print(f"Masks: {report.masks}")
        if report.sheet is not None:
            from ..images.pictures import save_png

            path = (out or Path()) / f"{settings.name}-contact-sheet.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(report.sheet, path)
            print(f"Contact sheet: {path}")
        for kind, lines in (("warning", report.warnings), ("error", report.errors)):
            for line in lines:
                say(kind, line)
        print(f"Errors: {len(report.errors)}, warnings: {len(report.warnings)}")
        if report.errors:
            raise typer.Exit(2)


@app.command()
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
    threads: Annotated[int, typer.Option(min=0, help="Of a worker; 0: one per core.")] = 0,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 2**24,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image.")] = 2**20,
    max_images: Annotated[int, typer.Option(min=1, help="In a request.")] = 32,
    max_batch: Annotated[int, typer.Option(min=1, help="Images computed at once; 1: no batches.")] = 8,
    max_waiting: Annotated[int, typer.Option(min=1, help="Images that wait; more get 503.")] = 64,
    grace: Annotated[int, typer.Option(min=0, help="Seconds to end requests after SIGTERM.")] = 30,
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
        name = name or (model.stem if model.is_file() else model.resolve().name)
        if not re.fullmatch(r"[\w.-]+", name):
            raise InputError(f"--name: expected letters, digits, '_', '-' and '.'. Received: {name}")
        try:
            from ..serving import server
        except ImportError as error:
            raise InputError(
                f'`patchnet serve` needs more packages: pip install "patchnet-tf[serve]" ({error})'
            ) from None
        limits = server.Limits(max_bytes, max_pixels, max_images)
        options = server.Options(
            model,
            name,
            host,
            port,
            None if grpc_port < 0 else grpc_port,
            workers,
            device,
            threads,
            limits,
            max_batch,
            max_waiting,
            grace,
        )

        def announce(address: str) -> None:
            print(f"Serving {name}: http://{address}/ has a page to try it", flush=True)

        try:
            server.serve(options, announce)
        except (ValueError, RuntimeError) as error:
            raise InputError(str(error)) from None


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; by default runs/demo.", show_default=False)
    ] = None,
) -> None:
    """Train on two real photographs, brick and gravel, draw heatmaps of collages of both, export to ONNX.

    About two minutes on two cores. The photographs come with scikit-image: nothing is downloaded. Training
    crops are from the left halves; validation crops and collages are from the right halves. A demo that was
    interrupted continues; one that is finished is only measured again.
    """
    with one_line_errors("`patchnet demo` continues"):
        began = time.monotonic()
        settings = packaged("demo")
        folder = out or Path("runs") / settings.name
        train_and_tell(settings, folder, resume=True)
        measure_and_tell(folder)
        export_and_tell(folder, "onnx", None, overwrite=True)
        print(
            f"The demo took {time.monotonic() - began:.0f} s. Look at {folder / 'heatmaps' / 'collages.png'}"
        )


@app.command()
def convergence(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder; by default runs/convergence.", show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Steps of the two trainings with the paper's S; by default 250."
        ),
    ] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep/--no-sweep", help="Also train a small S at ten other ratios of patches.")
    ] = True,
) -> None:
    """Show that training ends where the paper's Appendix A says: black images against a white square.

    Where the image of class 1 has a black patches and b others, the decisions should approach
    p0 = max(0, (a - b) / (2a)) on black patches and p1 = 1 on the others. Trains on images of 128 x 128
    pixels and on images of four patches, then with a small S at ten ratios b / a, without any data. Writes
    convergence.json, heatmap.png and sweep.png. What was interrupted continues.

    Example: patchnet convergence --out runs/appendix
    """
    with one_line_errors("the same command continues"):
        settings = packaged("convergence", [] if steps is None else [f"training.epochs={steps}"])
        load_experiment()
        from ..studies import convergence

        folder = out or Path("runs") / settings.name
        with Reporter() as progress:
            found = convergence.converge(settings, folder, with_sweep=sweep, progress=progress)
        table = Table("images", "a", "b", "p0", "closed form", "paper", "p1 (limit 1)", "paper")
        rows = [("64 patches", found["square"]), ("4 patches", found["four_patches"])]
        rows += [("16, small S", point) for point in found.get("sweep", [])]
        for name, point in rows:
            paper = [f"{point['paper'][p]:.3f}" if "paper" in point else "" for p in ("p0", "p1")]
            decided = [f"{q:.4f}" for q in (point["p0"], point["closed_form"]["p0"], point["p1"])]
            table.add_row(
                name, str(point["a"]), str(point["b"]), *decided[:2], paper[0], decided[2], paper[1]
            )
        show(table)
        print(f"Pictures and figures: {folder}")


@app.command()
def tradeoff(
    config: ConfigFile,
    patch_sizes: Annotated[
        str,
        typer.Option(
            "--patch-sizes", metavar="P,P,...", help="In pixels, such as 11,17,31.", show_default=False
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the runs go; by default `runs/<name in CONFIG>-tradeoff`."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was cut off; what is finished stays as it is.")
    ] = False,
) -> None:
    """Compare patch sizes: what larger patches gain in accuracy, and what they cost in time and sharpness.

    Trains a PatchNet for each patch size, to DIR/p11, DIR/p17, ..., which are runs as `train` makes them, and
    measures it. Writes tradeoff.csv, tradeoff.json, a chart (tradeoff.png) and the heatmaps of the same
    validation images side by side (heatmaps.png). model.patch_size of CONFIG is not used.

    Example: patchnet tradeoff configs/folder.yaml --set data.path=~/cells --patch-sizes 11,17,31
    """
    with one_line_errors("the same command with --resume continues"):
        sizes = read_patch_sizes(patch_sizes)
        settings = load_config(config, overrides or [])
        load_experiment()
        from ..studies import tradeoff

        folder = out or Path("runs") / f"{settings.name}-tradeoff"
        with Reporter() as progress:
            found = tradeoff.tradeoff(settings, sizes, folder, resume=resume, progress=progress)
        table = Table("p", "val_loss", "val_accuracy", "s/epoch", "epochs", "parameters")
        masks = "localization" in found[0]
        if masks:
            table.add_column("map AUROC")
        for row in map(tradeoff.row, found):
            cells = [str(row["patch_size"]), f"{row['val_loss']:.4f}", f"{row['val_accuracy']:.3f}"]
            cells += [f"{row['seconds_per_epoch']:.2f}", str(row["epochs"]), f"{row['parameters']:,}"]
            if masks:
                cells.append(with_interval(row["localization_auroc"], None, None))
            table.add_row(*cells)
        show(table)
        print(f"Figures, chart and heatmaps: {folder}")


@app.command()
def compare(
    config: ConfigFile,
    overrides: Overrides = None,
    patch_sizes: Annotated[
        str | None,
        typer.Option(
            "--patch-sizes",
            metavar="P,P,...",
            help="A PatchNet for each, such as 17,31; by default that of CONFIG.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where all goes; by default `runs/<name in CONFIG>-comparison`."),
    ] = None,
) -> None:
    """Compare PatchNet with CAM (VGG-19) and Grad-CAM (VGG-11) on the same images, as the paper does.

    Trains what is not trained yet: PatchNet at each patch size, and the two baselines from scratch, with the
    same data, augmentation and stopping rule, in batches of 64; `comparison` in CONFIG changes that, and
    training.epochs is a budget for all. Then prints and writes loss, accuracy and time of each model; how
    well each method's maps find the masks, where there are any; and the areas below the deletion and
    insertion curves. DIR/report.html shows all of it with the maps side by side. After Ctrl-C or a crash,
    the same command goes on; a finished model is not trained again, unless training.epochs gives it more.

    The baselines have 20 and 129 million weights: slow to train without a GPU, and 4 GB on disk.
    comparison.baselines.width makes them narrower.

    Example: patchnet compare configs/folder.yaml --set data.path=~/cells --patch-sizes 17,31
    """
    with one_line_errors("the same command goes on"):
        sizes = [f"comparison.patch_sizes={read_patch_sizes(patch_sizes)}"] if patch_sizes else []
        settings = load_config(config, [*(overrides or []), *sizes])
        load_experiment()
        from ..studies import comparison

        folder = out or Path("runs") / f"{settings.name}-comparison"
        with Reporter() as progress:
            found = comparison.compare(settings, folder, progress=progress)
        tell_comparison(found)
        print(f"Figures, maps and models: {folder}")
        report_and_tell(folder)


def tell_comparison(found: dict[str, Any]) -> None:
    """Print the tables of a comparison: the models, and their maps."""

    def cell(m: dict[str, Any]) -> str:
        counted = f", {m['images']} images" if m.get("skipped") else ""
        return with_interval(m["mean"], m["low"], m["high"]) + counted

    for split in ("validation", "test"):
        rows = [model for model in found["models"] if model[split]]
        of_split = Table("model", "loss", "accuracy", "epochs", "s/epoch")
        for model in rows:
            figures = model[split]
            measures = [
                dict(zip(("mean", "low", "high"), (figures[name], *figures["intervals"][name]), strict=True))
                for name in ("loss", "accuracy")
            ]
            seconds = f"{model['seconds_per_epoch']:.2f}"
            of_split.add_row(model["label"], *map(cell, measures), str(model["epochs"]), seconds)
        if rows:
            of_split.title = f"{split}, {rows[0][split]['images']} images"
            show(of_split)

    methods = found["methods"]
    if found["masks"]:
        from ..evaluation.metrics import TITLES

        names = ("exact_match", "recall", "auroc")
        located = Table("method", *(TITLES[name] for name in names))
        located.title = f"maps of {len(found['images'])} images against {found['masks']}"
        for method in methods:
            cells = [cell(method["localization"][name]) for name in names]
            located.add_row(method["label"], *(text.replace(" (", "\n(") for text in cells))
        show(located)
    if methods[0]["faithfulness"]:
        curves = Table("method", "deletion (less is better)", "insertion (more is better)")
        for method in methods:
            of_both = (method["faithfulness"][name] for name in ("deletion", "insertion"))
            curves.add_row(method["label"], *map(cell, of_both))
        curves.title = f"areas below curves, {methods[0]['faithfulness']['deletion']['images']} images"
        curves.caption = (
            "For maps of one network: between networks it says as much about their probabilities."
        )
        show(curves)


def read_patch_sizes(text: str) -> list[int]:
    """Read P,P,..."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,4}", part) for part in parts) or len(set(parts)) < len(parts):
        raise InputError(
            "--patch-sizes: expected whole numbers of at least 1, each once, such as 11,17,31. "
            f"Received: {text}"
        )
    return [int(part) for part in parts]


def packaged(name: str, overrides: list[str] | None = None) -> Config:
    """Read a configuration that comes with the package."""
    configs = importlib.resources.files("patchnet_tf.configs")
    with importlib.resources.as_file(configs / f"{name}.yaml") as path:
        return load_config(path, overrides or [])


def main() -> None:
    """Run the command and exit with its code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half done is cleaned up
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        if message := error.format_message():  # empty where no command was given: help is shown instead
            say("error", message)
        code = 2
    sys.exit(code or 0)


def train_and_tell(config: Config, folder: Path, resume: bool) -> None:
    """Train with progress; say what stopped the training and where things are."""
    experiment = load_experiment()
    with Reporter() as progress:
        trained = experiment.train(config, folder, resume=resume, progress=progress)
    best = trained.best
    print(
        f"Trained {len(trained.rows)} epochs: {trained.reason}. Kept the weights of epoch {best.epoch} "
        f"(val_loss {best.val_loss:.4f}, val_accuracy {best.val_accuracy:.3f})."
    )
    print(f"Run folder: {folder}")


def measure_and_tell(folder: Path) -> None:
    """Evaluate with progress and print the table."""
    experiment = load_experiment()
    with Reporter() as progress:
        measured = experiment.evaluate(folder, progress=progress)
    table = Table("measure", "value (95 % interval)", "images")
    for split in ("validation", "test"):
        for name in ("accuracy", "loss", "auroc") if split in measured else ():
            of_split = measured[split]
            value = with_interval(of_split[name], *of_split["intervals"][name])
            title = f"{split} {experiment.metrics.TITLES.get(name, name)}"
            table.add_row(title, value, str(of_split["images"]))
    if localization := measured.get("localization"):
        for name, title in experiment.metrics.TITLES.items():
            m = localization[name]
            value = with_interval(m["mean"], m["low"], m["high"])
            table.add_row(f"{title} ({localization['masks']})", value, str(m["images"]))
    show(table)
    report_and_tell(folder)


def report_and_tell(folder: Path) -> None:
    """Write report.html and say where it is."""
    from ..reporting.report import write_report

    print(f"Report: {write_report(folder)}")


def with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Write a figure as in "0.905 (0.87 to 0.94)"."""
    if mean is None:
        return "undefined"
    return f"{mean:.3f}" if low is None else f"{mean:.3f} ({low:.2f} to {high:.2f})"


def export_and_tell(
    folder: Path, file_format: str, out: Path | None, *, overwrite: bool, **options: Any
) -> None:
    """Export a run with progress; say where the files are and how they differ from Keras."""
    config, model = open_patchnet(folder)
    exporter = load_exporter()
    name = folder.resolve().name
    if out is None:
        out = folder / "export" / name
    elif file_format == "onnx" and out.is_dir() and not any(out.glob("*/saved_model.pb")):
        out = out / name
    elif out.suffix == ".onnx":
        out = out.with_suffix("")
    if not out.name:
        raise InputError(f"--out: expected a path that ends with a name. Received: {out}")
    settings: dict[str, Any] = {
        "class_names": config.data.classes,
        "metadata": {
            "run": name,
            "training_size": json.dumps(config.data.size if isinstance(config.data, FilesData) else None),
            "training_config_sha256": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        },
        "images": held_back(config),
    }
    formats = ["onnx", "saved_model"] if file_format == "both" else [file_format]
    done = []
    with Reporter() as progress:
        for k, name in enumerate(formats):
            progress("exporting", k, len(formats), f"{name}: converting, then comparing with Keras")
            if name == "onnx":
                path = out.with_name(f"{out.name}.onnx")
                done.append(exporter.to_onnx(model, path, overwrite=overwrite, **options, **settings))
            else:
                done.append(exporter.to_saved_model(model, out, **settings))
        progress("exporting", len(formats), len(formats))
    for verification in done:
        print(f"Exported {verification.path}")
        tell_differences(verification)
    if "onnx" in formats:
        print(
            f'Run it: from patchnet_tf.serving import Predictor; Predictor("{done[0].path}")(image), '
            "where image is uint8 (height, width, channels)"
        )


def open_patchnet(folder: Path) -> tuple[Config, Any]:
    """Open a run whose model can be exported."""
    config, model = load_experiment().open_run(folder)
    if config.model.kind != "patchnet":
        raise InputError(
            f"{folder}: only a PatchNet is exported, as its heatmap is part of the file. "
            f"Received: model.kind {config.model.kind}"
        )
    return config, model


def tell_differences(verification: Any) -> None:
    """Print the largest differences of an exported file from Keras."""
    print(
        f"Largest difference from Keras: probability {verification.probability:.1e}, "
        f"heatmap {verification.heatmap:.1e} ({len(verification.batches)} batches, {verification.runtime})"
    )


def held_back(config: Config) -> Any:
    """Return the validation images, or None, and a warning, where they are not there (any more)."""
    from ..data import load_dataset

    try:
        return load_dataset(config).val.images
    except (InputError, OSError):
        say("warning", "the run's images cannot be read; comparing on generated ones alone")
        return None


def read_size(size: str | None) -> tuple[int, int] | None:
    """Read HxW."""
    if size is None:
        return None
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", size):
        raise InputError(f"--size: expected HxW, such as 128x96 (height x width). Received: {size}")
    height, width = map(int, size.split("x"))
    return height, width


def load_exporter() -> ModuleType:
    """Import what converts to ONNX, silently."""
    with stderr_closed():
        from .. import export as exporter
    logging.disable(logging.WARNING)
    return exporter


def load_experiment() -> ModuleType:
    """Import what needs TensorFlow, which takes seconds; `--help` and errors in CONFIG do without."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr_closed():
        from ..training import experiment
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of the number of models
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"patchnet_tf\.")
    warnings.showwarning = lambda message, *where, **more: say("warning", str(message))
    return experiment
