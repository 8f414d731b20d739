"""Charts, with matplotlib: SVG for pages, or uint8 arrays (h, w, 3) for `save_png`.

Decisions are drawn in the grey of heatmaps, and all charts can be read without colours.
"""

import io
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

DPI = 130
LONGEST = 42  # letters of a name in a legend
INK, BLUE, RED = "#222222", "#0571b0", "#ca0020"  # the colours of overlays
GRID = "#dddddd"
# A page may give them other values, where it is dark.
VARIABLES = {INK: "currentColor"} | {
    colour: f"var(--{name}, {colour})" for name, colour in (("blue", BLUE), ("red", RED), ("grid", GRID))
}
# Text stays text, in the page's font and on the page's ground.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "patchnet", "text.parse_math": False, "font.size": 11}
SVG |= dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none")
SVG |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
# A colour and a dash for each line: all 12 pairs, because 3 and 4 have no divisor in common.
COLOURS, DASHES = (INK, BLUE, RED), ("-", "--", ":", "-.")


def decisions(
    image: np.ndarray,
    grid: np.ndarray,
    heatmap: np.ndarray,
    *,
    patch_size: int,
    title: str,
    marks: Mapping[float, str],
) -> np.ndarray:
    """Draw an image, what S decides about each of G's patches, and what it decides at every pixel.

    Args:
        image: (H, W, 1), uint8.
        grid: (rows, columns) decisions of patches side by side, which cover the image and are centred on it.
        heatmap: (H, W) in [0, 1].
        patch_size: p, the side of a patch in pixels.
        title: above the picture.
        marks: decision to the text beside it on the scale.

    Example:
        >>> picture = decisions(image, grid, heatmap, patch_size=17, title="A square", marks={0: "0", 1: "1"})
    """
    figure = page(12, 4.4, title)
    left, middle, right = figure.subplots(1, 3)
    (height, width), (rows, columns) = heatmap.shape, grid.shape
    # Patches stick out of the image by as much at both ends; where that is odd, less at the first.
    top, side = (rows * patch_size - height) // 2 + 0.5, (columns * patch_size - width) // 2 + 0.5
    extent = (-side, columns * patch_size - side, rows * patch_size - top, -top)

    left.set_title(f"image of class 1, cut into {rows} x {columns} patches")
    left.set_facecolor("black")  # what sticks out is padded with black
    left.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
    middle.set_title("decision Q about each patch")
    middle.imshow(grid, cmap="gray", vmin=0, vmax=1, extent=extent)
    for k, q in np.ndenumerate(grid):
        y, x = ((k[i] + 0.5) * patch_size - (top, side)[i] for i in (0, 1))
        middle.text(x, y, f"{q:.2f}", ha="center", va="center", fontsize=7, color="w" if q < 0.5 else "k")
    right.set_title("heatmap: Q at every pixel")
    shades = right.imshow(heatmap, cmap="gray", vmin=0, vmax=1)
    figure.colorbar(shades, ax=right, shrink=0.8).set_ticks(list(marks), labels=list(marks.values()))
    for axes in (left, middle):
        axes.hlines(np.arange(rows + 1) * patch_size - top, *extent[:2], colors=BLUE, linewidths=0.6)
        axes.vlines(np.arange(columns + 1) * patch_size - side, *extent[2:], colors=BLUE, linewidths=0.6)
        axes.set(xlim=extent[:2], ylim=extent[2:])
    for axes in (left, middle, right):
        axes.set_xlabel("x in pixels")
    left.set_ylabel("y in pixels")
    return drawn(figure)


def convergence(
    curve: Mapping[str, tuple[Any, Any]], points: Mapping[str, tuple[Any, Any]], *, title: str
) -> np.ndarray:
    """Draw measured decisions on the curves of their closed form, over b / a.

    Args:
        curve: name to (b / a, Q): lines, the first one solid.
        points: name to (b / a, Q): markers, each name its own.
        title: above the picture.

    Example:
        >>> picture = convergence({"p0": ([0, 1], [0.5, 0])}, {"measured": ([1], [0.01])}, title="p0")
    """
    figure = page(7.5, 5, title)
    axes = figure.subplots()
    for (name, (x, y)), style in zip(curve.items(), ("-", "--"), strict=False):
        axes.plot(x, y, style, color=INK, linewidth=1, label=name)
    markers = (("o", BLUE, 7), ("^", RED, 7), ("s", BLUE, 12), ("D", BLUE, 12), ("x", INK, 9))
    for (name, (x, y)), (marker, colour, size) in zip(points.items(), markers, strict=False):
        axes.plot(x, y, marker, color=colour, markersize=size, fillstyle="none", label=name)
    axes.set(
        xlabel="b / a: white patches to black patches in the image of class 1",
        ylabel="decision Q about a patch",
        ylim=(-0.04, 1.06),
    )
    axes.legend(loc="center right", frameon=False)
    plain(axes)
    return drawn(figure)


def poolings(
    curves: Mapping[str, tuple[Any, Any, Any]],
    points: Mapping[str, tuple[Any, Any, Any]],
    *,
    title: str,
) -> np.ndarray:
    """Draw decisions about black patches, and the loss beside them, for each pooling.

    Args:
        curves: name of a pooling to (share of white patches, p0, loss) of the closed form: lines.
        points: the same names to what was measured: markers.
        title: above the picture.

    Example:
        >>> curves = {"mean": ([0, 1], [0.5, 0], [0.7, 0])}
        >>> picture = poolings(curves, {"mean": ([1], [0.01], [0.02])}, title="mean")
    """
    figure = page(9.5, 4.2, title)
    pair = figure.subplots(1, 2)
    looks = zip(curves, ("-", "--", ":"), "o^s", (INK, BLUE, RED), strict=False)
    for name, dash, marker, colour in looks:
        x, *lines = curves[name]
        at, *values = points[name]
        for axes, line, value in zip(pair, lines, values, strict=True):
            axes.plot(x, line, dash, color=colour, linewidth=1.5)
            axes.plot(at, value, marker, color=colour, markersize=7, fillstyle="none")
            axes.plot([], [], marker + dash, color=colour, fillstyle="none", label=name)
    for axes, label in zip(
        pair, ("p0, decision about a black patch", "loss, mean of both images"), strict=True
    ):
        axes.set(xlabel="b / (a + b), share of white patches in class 1", ylabel=label)
        axes.set_ylim(bottom=-0.02)
        plain(axes)
    pair[1].legend(loc="upper right", frameon=False)
    return drawn(figure)


def by_patch_size(
    sizes: Sequence[int],
    figures: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    shares: Collection[str] = (),
    title: str,
) -> np.ndarray:
    """Draw one chart for each figure below the other, over the patch size.

    Args:
        sizes: of patches, in pixels.
        figures: label of the axis to value, lower and upper end of its interval for each size; NaN where
            there is none.
        shares: labels of figures between 0.5, a guess, and 1; the axis of the others begins at 0.
        title: above the picture.

    Example:
        >>> picture = by_patch_size([11, 17], {"loss": [(0.4, 0.3, 0.5), (0.3, 0.2, 0.4)]}, title="cells")
    """
    figure = page(6.5, 0.8 + 1.7 * len(figures), title)
    rows = figure.subplots(len(figures), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, values) in zip(rows, figures.items(), strict=True):
        y, low, high = np.array(values, "float64").T  # NaN is not drawn
        axes.vlines(sizes, low, high, colors=INK, linewidth=1)
        axes.plot(sizes, y, "o-", color=INK, linewidth=1, markersize=5)
        tops = np.fmax(y, high)
        for x, value, top in zip(sizes, y, tops, strict=True):
            if np.isfinite(value):
                text = axes.annotate(
                    f"{value:#.3g}", (x, top), (0, 5), textcoords="offset points", ha="center"
                )
                text.set(fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axes.set_ylabel(label)
        axes.margins(x=0.08)
        bottom = min([0.5, *low[np.isfinite(low)], *y[np.isfinite(y)]]) if label in shares else 0
        peak = max([1.0 if label in shares else 0, *tops[np.isfinite(tops)]])
        axes.set_ylim(bottom - 0.04 * (peak - bottom), bottom + 1.3 * (peak - bottom) or 1)
        if label in shares:
            axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= 1])
        plain(axes)
    rows[-1].set_xticks(sizes)
    rows[-1].set_xlabel("patch size in pixels")
    return drawn(figure)


def training(history: Sequence[Any], best_epoch: int | None) -> str:
    """Draw loss and accuracy over the epochs, and a line where the weights are from.

    Args:
        history: epochs, with the attributes `epoch`, `loss`, `accuracy`, `val_loss` and `val_accuracy`.
        best_epoch: whose weights were kept; None draws no line.

    Returns:
        An <svg> element.

    Example:
        >>> svg = training(train(config, folder).rows, best_epoch=20)
    """
    with matplotlib.rc_context(SVG):
        figure = Figure((4.6, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        epochs = [row.epoch for row in history]
        alone = "o" if len(history) == 1 else ""
        for axes, name in ((upper, "loss"), (lower, "accuracy")):
            for values, label, colour, style in (
                (name, "training", BLUE, "-"),
                (f"val_{name}", "validation", RED, "--"),
            ):
                y = [getattr(row, values) for row in history]
                axes.plot(epochs, y, style, marker=alone, color=colour, linewidth=1.5, label=label)
            if best_epoch is not None:
                kept = f"epoch {best_epoch}, kept"
                axes.axvline(best_epoch, color=INK, linewidth=1, linestyle=":", label=kept)
            axes.set_ylabel(name)
            axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
            plain(axes)
        lower.set_ylim(min(0.45, lower.get_ylim()[0]), 1.02)
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
        return as_svg(figure)


def shares(curves: Mapping[str, tuple[Any, Any]], *, xlabel: str, ylabel: str) -> str:
    """Draw lines over a share of pixels, all from 0 to 1.

    Args:
        curves: name to (share, value).
        xlabel: the share's axis.
        ylabel: the values' axis.

    Returns:
        An <svg> element.

    Example:
        >>> svg = shares({"CAM": ([0, 1], [0.9, 0.1])}, xlabel="pixels taken away", ylabel="probability")
    """
    with matplotlib.rc_context(SVG):
        figure = Figure((4.6, 3.6), layout="constrained")
        axes = figure.subplots()
        styles = zip(cycle(COLOURS), cycle(DASHES), strict=False)
        for (name, (x, y)), (colour, style) in zip(curves.items(), styles, strict=False):
            label = name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
            axes.plot(x, y, style, color=colour, linewidth=1.6, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel=xlabel, ylabel=ylabel)
        plain(axes)
        # The page's font may be wider than the one that is measured here.
        columns = 2 if all(len(name) <= LONGEST // 3 for name in curves) else 1
        figure.legend(loc="outside upper left", ncols=columns, frameon=False)
        return as_svg(figure)


def reliability(bins: Any, *, xlabel: str, ylabel: str) -> str:
    """Draw how often a network is right over how sure it is; on the diagonal the two are the same.

    Args:
        bins: of equal width, with the attributes `counts`, `probability` and `share`, lists of as many
            numbers, such as `results.Calibration`; a bin without a count is left out.
        xlabel: the probability's axis.
        ylabel: the share's axis.

    Returns:
        An <svg> element: points, with a bar for each from the diagonal, above bars of how many there are.

    Example:
        >>> svg = reliability(metrics.calibration(q, labels), xlabel="probability", ylabel="share")
    """
    counts = np.asarray(bins.counts)
    x, y = (np.array(values, "float64")[counts > 0] for values in (bins.probability, bins.share))
    with matplotlib.rc_context(SVG):
        figure = Figure((4.6, 4.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot((0, 1), (0, 1), ":", color=INK, linewidth=1)
        upper.vlines(x, x, y, colors=RED, linewidth=1.5)
        upper.plot(x, y, "o-", color=BLUE, linewidth=1.5, markersize=5)
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=ylabel)
        edges = np.linspace(0, 1, len(counts) + 1)
        lower.bar(edges[:-1], counts, width=1 / len(counts), align="edge", color=GRID, edgecolor=INK)
        lower.set(xlabel=xlabel, ylabel="count")
        lower.yaxis.get_major_locator().set_params(integer=True)
        for axes in (upper, lower):
            plain(axes)
        return as_svg(figure)


def confusion(counts: Any, class_names: Sequence[str], *, title: str) -> np.ndarray:
    """Draw a confusion matrix: a row for each true class, a column for each predicted one.

    Args:
        counts: (K, K), how many images.
        class_names: K names; those of more than 20 characters are cut.
        title: above the picture.

    Returns:
        (h, w, 3), uint8. A field is the darker the larger its share of its row; up to 30 classes the counts
        stand in it, and only those that are not 0.

    Raises:
        ValueError: there is not a name for each row and column.

    Example:
        >>> save_png(confusion([[3, 1], [0, 4]], ("cat", "dog"), title="pets"), "confusion.png")
    """
    counts = np.asarray(counts)
    if counts.shape != (len(class_names),) * 2:
        raise ValueError(
            f"Each row and column needs a name. Received: counts {counts.shape}, {len(class_names)} names"
        )
    side = 2.5 + 0.42 * min(len(counts), 30)
    figure = page(side + 0.6, side, title)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(counts) <= 30:
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.6 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    names = [name if len(name) <= 20 else name[:19] + "…" for name in class_names]
    size = 9 if len(names) <= 30 else 5
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="true class")
    return drawn(figure)


def as_svg(figure: Figure) -> str:
    """Return a figure as an <svg> element whose colours a page may change."""
    with io.StringIO() as file:
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(file, metadata=nothing)
        text = file.getvalue()
    text = text[text.index("<svg") :]
    # On a page, its style would be everyone's, its names would be there once for each chart.
    text = re.sub(r'<defs>\s*<style.*?</defs>| id="[a-z0-9.]+_\d+"', "", text, flags=re.DOTALL)
    text = re.sub("font-family: '[^;]*;", "font-family: inherit;", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def page(width: float, height: float, title: str) -> Figure:
    """Return an empty figure, in inches."""
    figure = Figure((width, height), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=11)
    return figure


def plain(axes: Axes) -> None:
    """Take away the box, and let a faint grid help the eye."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def drawn(figure: Figure) -> np.ndarray:
    """Return the pixels of a figure, (h, w, 3) uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
