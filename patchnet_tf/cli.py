"""The `patchnet` command: train, evaluate, explain, export, verify, demo.

Results go to stdout; progress, warnings and one-line errors to stderr. Exit codes: 0, all went well; 1, it
failed; 2, what was given cannot be used; 130, interrupted.
"""

import contextlib
import hashlib
import importlib.resources
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .config import Config, InputError, load_config

PLAIN_SECONDS = 15  # between two lines of progress where there is no terminal
UsageError = typer.BadParameter.__mro__[1]  # of click or of typer's own copy of it, as the version has it

app = typer.Typer(
    name="patchnet",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="PatchNet: image classification whose explanation is exact. A small network decides about each "
    "patch of an image; the image's class is the average of those decisions, their map is the explanation.",
    epilog="Start with `patchnet demo`: three minutes, no data needed.",
)

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a finished run.", show_default=False)
]


@app.command()
def train(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="YAML file, such as configs/folder.yaml.", show_default=False),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a value of CONFIG, such as training.epochs=50; can be given several times.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; by default runs/<name in CONFIG>.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the run in DIR after its last finished epoch, if there is one already."
        ),
    ] = False,
) -> None:
    """Train a PatchNet on two classes of images.

    CONFIG says where the images are, PATH/train/<class>/ and PATH/val/<class>/, and how to train; every key
    is explained in configs/folder.yaml. Training ends when the validation loss has not improved for
    training.patience epochs, when the training accuracy is 100 %, or after training.epochs. The weights with
    the lowest validation loss are kept. After Ctrl-C or a crash, the same command with --resume continues.

    Example: patchnet train configs/folder.yaml --set data.path=~/cells --set training.epochs=50
    """
    with one_line_errors("the same command with --resume continues"):
        settings = load_config(config, overrides or [])
        train_and_tell(settings, out or Path("runs") / settings.name, resume)


@app.command()
def evaluate(run: RunFolder) -> None:
    """Measure a run: validation loss, accuracy and AUROC; localization where masks are known.

    Writes RUN/metrics.json, and a picture of images, masks and heatmaps to RUN/heatmaps/. A heatmap takes a
    few seconds, so many masks take a while.

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
) -> None:
    """Draw the heatmap of images: which parts speak for class 1 (white), which for class 0 (black).

    Writes for each image NAME_heatmap.png (8-bit grey), NAME_heatmap.npy (float32, 0 to 1), both as large as
    the image, and NAME_overlay.png (red for class 1, blue for class 0, with a legend). Values are never
    rescaled: 0.5 means undecided in every picture. Colour images are read as grey where the model is grey,
    and grey ones as RGB where it is RGB.

    Example: patchnet explain runs/cells new/*.png --out maps
    """
    with one_line_errors():
        experiment = load_experiment()
        with Reporter() as progress:
            explained = experiment.explain(run, images, out, progress=progress)
        table = Table("image", "class", "probability of class 1", "files")
        for e in explained:
            table.add_row(str(e.path), e.class_name, f"{e.probability:.4f}", f"{e.stem}_*")
        show(table)
        print(f"Heatmaps: {out or run / 'heatmaps'}")


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
            help="PATH.onnx, or for TF Serving PATH/1, PATH/2, ...; by default RUN/export/<name>.",
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
        experiment = load_experiment()
        config, model = experiment.open_run(run)
        exporter = load_exporter()
        with Reporter() as progress:
            progress("verifying", 0, 1)
            verification = exporter.verify(model, path, images=held_back(config))
            progress("verifying", 1, 1)
        tell_differences(verification)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run folder; by default runs/demo.", show_default=False)
    ] = None,
) -> None:
    """Train on two real photographs, brick and gravel, draw heatmaps of collages of both, export to ONNX.

    About three minutes on two cores. The photographs come with scikit-image: nothing is downloaded. Training
    crops are from the left halves; validation crops and collages are from the right halves. A demo that was
    interrupted continues; one that is finished is only measured again.
    """
    with one_line_errors("`patchnet demo` continues"):
        began = time.monotonic()
        with importlib.resources.as_file(
            importlib.resources.files("patchnet_tf.configs") / "demo.yaml"
        ) as path:
            settings = load_config(path)
        folder = out or Path("runs") / settings.name
        train_and_tell(settings, folder, resume=True)
        measure_and_tell(folder)
        export_and_tell(folder, "onnx", None, overwrite=True)
        print(
            f"The demo took {time.monotonic() - began:.0f} s. Look at {folder / 'heatmaps' / 'collages.png'}"
        )


def main() -> None:
    """Run the command and exit with its code."""
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
    table = Table("measure", "value", "images")
    for name in ("accuracy", "loss", "auroc"):
        value = measured["validation"][name]
        table.add_row(
            f"validation {name.replace('auroc', 'AUROC')}",
            f"{value:.3f}",
            str(measured["validation"]["images"]),
        )
    localization = measured.get("localization", {})
    for name in ("auroc", "exact_match", "recall"):
        if name in localization:
            mean, images = localization[name]["mean"], localization[name]["images"]
            label = (
                f"localization {name.replace('auroc', 'AUROC').replace('_', ' ')} ({localization['masks']})"
            )
            table.add_row(label, "undefined" if mean is None else f"{mean:.3f}", str(images))
    show(table)


def export_and_tell(
    folder: Path, file_format: str, out: Path | None, *, overwrite: bool, **options: Any
) -> None:
    """Export a run with progress; say where the files are and how they differ from Keras."""
    experiment = load_experiment()
    config, model = experiment.open_run(folder)
    exporter = load_exporter()
    out = (
        folder / "export" / config.name
        if out is None
        else out.with_suffix("")
        if out.suffix == ".onnx"
        else out
    )
    settings: dict[str, Any] = {
        "class_names": config.data.classes,
        "metadata": {
            "run": config.name,
            "training_config_sha256": hashlib.sha256((folder / "config.yaml").read_bytes()).hexdigest(),
        },
        "images": held_back(config, options.get("size")),
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
        print(f'Run it: from patchnet_tf.serving import Predictor; Predictor("{done[0].path}")(image)')


def tell_differences(verification: Any) -> None:
    """Print the largest differences of an exported file from Keras."""
    print(
        f"Largest difference from Keras: probability {verification.probability:.1e}, "
        f"heatmap {verification.heatmap:.1e} ({len(verification.batches)} batches, {verification.runtime})"
    )


def held_back(config: Config, size: tuple[int, int] | None = None) -> Any:
    """Return the validation images, or None where they are not there (any more) or of another size."""
    from .data import load_dataset

    try:
        images = load_dataset(config).val.images
    except (InputError, OSError):
        say("warning", "the run's images cannot be read; comparing on generated ones alone")
        return None
    return images if size in (None, images.shape[1:3]) else None


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
        from . import export as exporter
    logging.disable(logging.WARNING)
    return exporter


def load_experiment() -> ModuleType:
    """Import what needs TensorFlow, which takes seconds; `--help` and errors in CONFIG do without."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr_closed():
        from . import experiment
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"patchnet_tf\.")
    warnings.showwarning = lambda message, *where, **more: say("warning", str(message))
    return experiment


@contextlib.contextmanager
def stderr_closed() -> Iterator[None]:
    """Drop what C++ code writes to stderr: TensorFlow greets there, whatever its log level is."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def one_line_errors(after_interrupt: str = "nothing was lost") -> Iterator[None]:
    """Turn what can go wrong into a line on stderr and the exit code."""
    try:
        yield
    except InputError as error:
        for line in str(error).splitlines():
            say("error", line)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        say("interrupted", after_interrupt)
        raise typer.Exit(130) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say("error", f"{where}{error.strerror or error}")
        raise typer.Exit(1) from None
    except (ArithmeticError, MemoryError) as error:
        say("error", str(error) or "not enough memory")
        raise typer.Exit(1) from None
    except Exception as error:
        # TensorFlow has errors of its own for no memory, and for no room for TensorBoard's files.
        if not type(error).__module__.startswith("tensorflow."):
            raise
        say("error", re.sub(r"^\{\{.*?\}\} ", "", str(error).splitlines()[0]))
        raise typer.Exit(1) from None


def say(kind: str, message: str) -> None:
    """Print one line to stderr."""
    print(f"{kind}: {' '.join(message.split())}", file=sys.stderr)


def show(table: Table) -> None:
    """Print a table to stdout, with nothing cut off."""
    for column in table.columns:
        column.overflow = "fold"
    Console().print(table)


class Bars(Progress):
    """Progress bars with a line of text below them."""

    text = ""

    def get_renderables(self) -> Iterator[Any]:
        """Return what is drawn."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.text)


class Reporter:
    """Shows progress: bars on a terminal, otherwise a line now and then.

    An instance is a `patchnet_tf.experiment.Progress`.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f} of {task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, Any] = {}
        self.first: dict[
            str, tuple[float, float]
        ] = {}  # when each task was first heard of, and how far it was
        self.printed = -PLAIN_SECONDS

    def __enter__(self) -> "Reporter":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def __call__(self, task: str, done: float, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of a task are done."""
        if self.console.is_terminal:
            if task not in self.tasks:
                self.tasks[task] = self.bars.add_task(task)
            self.bars.text = note
            self.bars.update(self.tasks[task], completed=done, total=total)
            return
        now = time.monotonic()
        began, start = self.first.setdefault(task, (now, done))
        if now - self.printed >= PLAIN_SECONDS or done == total:
            self.printed = now
            left = f"{(now - began) / (done - start) * (total - done):.0f} s left" if done > start else ""
            print("  ".join(filter(None, (task, f"{done:.1f} of {total}", left, note))), file=sys.stderr)


if __name__ == "__main__":
    main()
