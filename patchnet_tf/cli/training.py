"""`patchnet train` and `demo`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Reporter, heavy_imports, one_line_errors
from .exporting import export_run
from .inspecting import evaluate_run
from .options import ConfigFile, Overrides, packaged, read_config

if TYPE_CHECKING:
    from ..config import Config


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
    """Train a PatchNet, or one of the paper's baselines, on two or more classes of images, or on labels.

    CONFIG says where the images are, `PATH/train/<class>/` and `PATH/val/<class>/`, and how to train; every
    key is explained in configs/folder.yaml. Training ends when the validation loss has not improved for
    training.patience epochs, when the training accuracy is 100 % (unless training.stop_when_accurate is
    false), or after training.epochs. The weights with the lowest validation loss are kept. After Ctrl-C or
    a crash, the same command with --resume continues.

    Example: patchnet train configs/folder.yaml --set data.path=~/cells --set training.epochs=50
    """
    with one_line_errors("the same command with --resume continues"):
        settings = read_config(config, overrides)
        train_run(settings, out or Path("runs") / settings.name, resume)


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
        train_run(settings, folder, resume=True)
        evaluate_run(folder)
        export_run(folder, "onnx", None, overwrite=True)
        print(
            f"The demo took {time.monotonic() - began:.0f} s. Look at {folder / 'heatmaps' / 'collages.png'}"
        )


def train_run(config: "Config", folder: Path, resume: bool) -> None:
    """Train with progress; say what stopped the training and where things are."""
    with heavy_imports("train"):
        from ..training.train import train as train_model
    with Reporter() as progress:
        trained = train_model(config, folder, resume=resume, progress=progress)
    best = trained.best
    count = len(trained.rows)
    print(
        f"Trained {count} epoch{'s' * (count != 1)}: {trained.reason}. "
        f"Kept the weights of epoch {best.epoch} (val_loss {best.val_loss:.4f}, "
        f"val_accuracy {best.val_accuracy:.3f})."
    )
    print(f"Run folder: {folder}")
