"""`patchnet compare`, `tradeoff` and `convergence`."""

from pathlib import Path
from typing import Annotated

import typer

from .console import Reporter, heavy_imports, one_line_errors, show
from .inspecting import write_page
from .options import ConfigFile, Overrides, packaged, read_config, read_patch_sizes
from .tables import comparison_tables, convergence_table


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
        bool,
        typer.Option(
            "--sweep/--no-sweep",
            help="Also train a small S at ten other ratios of patches, and with log-mean-exp.",
        ),
    ] = True,
) -> None:
    """Show that training ends where the paper's Appendix A says: black images against a white square.

    Where the image of class 1 has a black patches and b others, the decisions should approach
    p0 = max(0, (a - b) / (2a)) on black patches and p1 = 1 on the others. Trains on images of 128 x 128
    pixels and on images of four patches, then with a small S at ten ratios b / a, and with log-mean-exp in
    place of the average, without any data. Writes convergence.json, heatmap.png, sweep.png and pooling.png.
    What was interrupted continues.

    Example: patchnet convergence --out runs/appendix
    """
    with one_line_errors("the same command continues"):
        settings = packaged("convergence", [] if steps is None else [f"training.epochs={steps}"])
        with heavy_imports("train"):
            from ..studies import convergence

        folder = out or Path("runs") / settings.name
        with Reporter() as progress:
            points = convergence.converge(settings, folder, with_sweep=sweep, progress=progress)
        show(convergence_table(points))
        print(f"Pictures and figures: {folder}")


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
        typer.Option(metavar="DIR", help="Where all goes; by default `runs/<name in CONFIG>-tradeoff`."),
    ] = None,
) -> None:
    """Compare patch sizes: what larger patches gain in accuracy, and what they cost in time and sharpness.

    This is `patchnet compare` without baselines (comparison.baselines=null): it trains a PatchNet for each
    patch size, measures them, and prints and writes the same. DIR/patch_sizes.png has loss, accuracy and time
    by patch size, DIR/heatmaps.png the heatmaps of the same validation images side by side. After Ctrl-C or a
    crash, the same command goes on.

    Example: patchnet tradeoff configs/folder.yaml --set data.path=~/cells --patch-sizes 11,17,31
    """
    run_comparison(config, [*(overrides or []), "comparison.baselines=null"], patch_sizes, out, "tradeoff")


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
    insertion curves. DIR/report.html shows all of it with the maps side by side; of several patch sizes there
    are also a chart, DIR/patch_sizes.png, and DIR/heatmaps.png. After Ctrl-C or a crash,
    the same command goes on; a finished model is not trained again, unless training.epochs gives it more.

    comparison.baselines.networks=[pretrained] compares with the pretrained network of S in full instead, in
    minutes: it is trained as PatchNet is, and has both a CAM and a Grad-CAM.

    The paper's baselines have 20 and 129 million weights: slow to train without a GPU, and 4 GB on disk.
    comparison.baselines.width makes them narrower.

    Example: patchnet compare configs/folder.yaml --set data.path=~/cells --patch-sizes 17,31
    """
    run_comparison(config, overrides or [], patch_sizes, out, "comparison")


def run_comparison(
    config: Path, overrides: list[str], patch_sizes: str | None, out: Path | None, name: str
) -> None:
    """Compare with progress, print the tables, and write the page; `name` ends that of the folder."""
    with one_line_errors("the same command goes on"):
        sizes = [f"comparison.patch_sizes={read_patch_sizes(patch_sizes)}"] if patch_sizes is not None else []
        settings = read_config(config, [*overrides, *sizes])
        with heavy_imports("train"):
            from ..studies import comparison

        folder = out or Path("runs") / f"{settings.name}-{name}"
        with Reporter() as progress:
            compared = comparison.compare(settings, folder, progress=progress)
        for table in comparison_tables(compared):
            show(table)
        print(f"Figures, maps and models: {folder}")
        write_page(folder)
