"""`patchnet evaluate`, `explain`, `report` and `data check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from .console import Reporter, heavy_imports, one_line_errors, say, show
from .options import ConfigFile, Overrides, RunFolder, read_config
from .tables import data_table, evaluation_tables, explained_table

if TYPE_CHECKING:
    from ..config import Config
    from ..contract import Pixels

SIZES_SHOWN = 6  # of images, in `patchnet data check`


def evaluate(run: RunFolder) -> None:
    """Measure a run: validation loss, accuracy and AUROC; localization where masks are known.

    Writes RUN/metrics.json, a picture of images, masks and heatmaps to RUN/heatmaps/, and all of it on one
    page, RUN/report.html. A heatmap takes a few seconds, so many masks take a while.

    Example: patchnet evaluate runs/cells
    """
    with one_line_errors():
        evaluate_run(run)


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
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Of several classes or labels, those whose maps are drawn; by default the three most "
            "probable of each image.",
            show_default=False,
        ),
    ] = None,
    resize: Annotated[
        bool,
        typer.Option("--resize", help="Bring images to the size to which those of training were resized."),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT,FORMAT,...",
            help="What to write: some of png, npy, ome-tiff, geojson, dicom; by default png,npy, of a slide "
            "png,ome-tiff.",
            show_default=False,
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of a slide, the level to explain, from 0.", show_default=False),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Or that of X micrometres per pixel, within a tenth.", show_default=False
        ),
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Of a slide, explain glass without tissue too.")
    ] = False,
) -> None:
    """Draw the heatmap of images: which parts speak for class 1 (white), which for class 0 (black).

    Writes for each image NAME_heatmap.png (8-bit grey), NAME_heatmap.npy (float32, 0 to 1), both as large as
    the image, and NAME_overlay.png (red for class 1, blue for class 0, with a legend). Values are never
    rescaled: 0.5 means undecided in every picture; only of a baseline (model.kind) is the map, CAM or
    Grad-CAM, scaled for each image. With model.familiarity the overlay is hatched where an image is unlike
    those of training, and NAME_familiar.png is black there. Colour images are read as grey where the model
    is grey, and grey ones as RGB where it is RGB.

    Of several classes or labels, NAME_heatmap.npy has the maps of all, NAME_heatmap_CLASS.png is that of one,
    and the overlay shows by its colour which class wins at each pixel.

    For other viewers: --to ome-tiff writes NAME_heatmap.ome.tif, values with a pyramid; geojson writes
    NAME_regions.geojson, where a class is found, which QuPath takes by drag and drop; dicom writes, of DICOM
    files, NAME_overlay.dcm, and NAME_map.dcm and NAME_regions.dcm where they have a frame of reference.

    A slide, any image with --level or --mpp or a file that only OpenSlide reads, is explained in tiles, in
    bounded memory: NAME_heatmap.ome.tif and NAME_overview.png. The same command goes on where it was cut off.

    Example: patchnet explain runs/cells new/*.png --out maps --to png,ome-tiff,geojson
    """
    with one_line_errors():
        formats = None if to is None else [name.strip() for name in to.split(",") if name.strip()]
        chosen = [name.strip() for name in classes.split(",")] if classes is not None else ()
        with heavy_imports("train"):
            from ..evaluation.explain import explain as explain_images
            from ..evaluation.slides import explain_slide
            from ..images.slides import is_slide
        wanted = {} if formats is None else {"to": formats}
        slides = level is not None or mpp is not None or any(map(is_slide, images))
        with Reporter() as progress:
            if slides:
                for name, given in (("--classes", chosen), ("--resize", resize)):
                    if given:
                        raise InputError(f"{name}: not of slides")
                if len({path.stem for path in images}) < len(images):
                    raise InputError("slides: expected different names, as those of their maps will be")
                wanted |= {"level": level, "mpp": mpp, "everywhere": everywhere}
                explained = [explain_slide(run, path, out, **wanted, progress=progress) for path in images]
            else:
                wanted |= {"classes": chosen, "resize": resize}
                explained = explain_images(run, images, out, **wanted, progress=progress)
        show(explained_table(explained, "mean of" if slides else "probability of"))
        print(f"Heatmaps: {out or run / 'heatmaps'}")


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of a run or of a comparison.", show_default=False)
    ],
    card: Annotated[
        bool,
        typer.Option(
            "--card", help="Write the model card of a run instead, FOLDER/export/README.md, in Markdown."
        ),
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the model, for its card, as model hubs write it, such as mit."),
    ] = None,
) -> None:
    """Put the figures and pictures of a run or a comparison on one page, FOLDER/report.html, anew.

    `patchnet evaluate` does so too; do it again after `patchnet explain` has drawn heatmaps. The page holds
    its pictures and loads nothing: it opens without a network, and can be sent as it is.

    A model card goes with an exported model to a model hub: what it was trained and measured on, its figures
    with their intervals, and what it is not for.

    Example: patchnet report runs/cells --card --license mit
    """
    with one_line_errors():
        if license is not None and not card:
            raise InputError(f"--license: of the model card, and so only with --card. Received: {license}")
        if not card:
            write_page(folder)
            return
        with heavy_imports("train"):
            from ..reporting.card import write_card
        print(f"Model card: {write_card(folder, license='other' if license is None else license)}")


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
    that are none, masks that do not fit, and images that are in two splits (a leak), of different classes,
    twice in one split, or nearly empty; and files that are passed over: in subfolders, without the suffix of
    an image, or masks without an image. Images are the same when their pixels are; a copy that was resized,
    compressed, mirrored or turned looks the same, and is told as a warning. The contact sheet,
    `<name in CONFIG>-contact-sheet.png`, shows up to 24 images of each split and class, 8 where there are
    more than four classes, with the outlines of their masks. The exit code is 2 when there are errors;
    warnings alone leave it 0.

    Example: patchnet data check configs/folder.yaml --set data.path=~/cells
    """
    with one_line_errors():
        settings = read_config(config, overrides)
        with heavy_imports("train"):
            from ..data.check import check
            from ..images.pictures import save_png

        with Reporter() as progress:
            checked = check(settings, progress)
        if checked.counts:
            show(data_table(checked))
        sizes = [f"{h} x {w} ({count})" for (h, w), count in checked.sizes.most_common(SIZES_SHOWN)]
        more = len(checked.sizes) - len(sizes)
        if sizes:
            print(f"Sizes, height x width: {', '.join(sizes)}{f' and {more} more' if more > 0 else ''}")
        else:
            print("Images looked at: none")
        if checked.masks:
            print(f"Masks: {checked.masks}")
        if checked.pixels is not None:
            print(pixels_line(checked.pixels, checked.ends, settings))
        if checked.leaks:
            leaks = (f"{checked.class_names[k]} {count}" for k, count in checked.leaks.most_common(10))
            print(f"Images of an earlier split too, by class: {', '.join(leaks)}")
        if checked.sheet is not None:
            path = (out or Path()) / f"{settings.name}-contact-sheet.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(checked.sheet, path)
            print(f"Contact sheet: {path}")
        for kind, lines in (("warning", checked.warnings), ("error", checked.errors)):
            for line in lines:
                say(kind, line)
        print(f"Errors: {len(checked.errors)}, warnings: {len(checked.warnings)}")
        if checked.errors:
            raise typer.Exit(2)


def pixels_line(pixels: "Pixels", there: tuple[float, float], settings: "Config") -> str:
    """Return what the pixels of a data set are, and the least and the greatest number there."""
    low, high = pixels.range
    ends = "each image's own ends" if pixels.per_image else f"{low} to {high}"
    if getattr(settings.data, "range", None) == "percentiles":
        ends += ", percentiles of the training images"
    chosen = f" ({', '.join(map(str, pixels.select))})" if pixels.select else ""
    beyond = ", clipped" if pixels.clip else ""
    return (
        f"Pixels: {pixels.dtype}, {pixels.channels} channel(s){chosen}, range {ends}{beyond}; "
        f"there are {there[0]} to {there[1]}"
    )


def evaluate_run(folder: Path) -> None:
    """Evaluate with progress and print the table."""
    with heavy_imports("train"):
        from ..evaluation.evaluate import evaluate as measure

    with Reporter() as progress:
        measured = measure(folder, progress=progress)
    for table in evaluation_tables(measured):
        show(table)
    write_page(folder)


def write_page(folder: Path) -> None:
    """Write report.html and say where it is."""
    with heavy_imports("train"):
        from ..reporting.report import write_report

    print(f"Report: {write_report(folder)}")
