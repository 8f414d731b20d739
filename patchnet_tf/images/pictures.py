"""Pictures of heatmaps: grey maps, overlays, legends and strips, as uint8 arrays, with numpy and Pillow.

Colours never depend on the picture: the same Q has the same grey and the same colour everywhere.
"""

import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, features

from ..files import replacing

# The ends of ColorBrewer's red-blue scale, which people with any colour blindness tell apart.
BLUE, RED = np.array([5, 113, 176]), np.array([202, 0, 32])
STRENGTH = 0.65  # how much of the colour a certain decision gets: the image stays visible below it

PAGE, INK, FRAME = 255, 30, 128
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
LINE = 20  # height in pixels of a line of text on a picture of up to PAGE_WIDTH pixels
PAGE_WIDTH = 1000
HATCHING = 8  # pixels from one line to the next
SMALLEST = 128  # strips enlarge an image until its longer side has this many pixels
LONGEST_NAME = 32
LONGEST_CLASS = 20  # where several classes stand beside each other

# Okabe and Ito's colours, which people with any colour blindness tell apart; black last: it is hard to see.
COLOURS = np.array(
    [
        (230, 159, 0),  # orange
        (86, 180, 233),  # sky blue
        (0, 158, 115),  # bluish green
        (240, 228, 66),  # yellow
        (0, 114, 178),  # blue
        (213, 94, 0),  # vermilion
        (204, 121, 167),  # reddish purple
        (0, 0, 0),
    ]
)
OTHERS = np.array([160, 160, 160])  # classes without a colour


def grey(heatmap: Any) -> np.ndarray:
    """Draw a heatmap in grey: white is class 1, black is class 0. It is never rescaled.

    Args:
        heatmap: (H, W), any float dtype, in [0, 1].

    Returns:
        (H, W), uint8: round(255 * Q).

    Raises:
        ValueError: the heatmap has another rank, no pixels, NaN, or values outside [0, 1].

    Example:
        >>> grey([[0.0, 0.5, 1.0]])
        array([[  0, 128, 255]], dtype=uint8)
    """
    return np.rint(255 * check_heatmap(heatmap)).astype("uint8")


def overlay(image: Any, heatmap: Any) -> np.ndarray:
    """Lay a heatmap over its image, which turns grey: class 1 is red, class 0 blue, undecided clear.

    Args:
        image: (H, W, 1) or (H, W, 3) in 0..255, uint8 or float.
        heatmap: (H, W) in [0, 1].

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        ValueError: the image or the heatmap is not as above, or their sizes differ.

    Example:
        >>> overlay(numpy.full((1, 1, 1), 100), [[0.5]])
        array([[[100, 100, 100]]], dtype=uint8)
    """
    image, q = check_image(image), check_heatmap(heatmap)[..., None]
    if image.shape[:2] != q.shape[:2]:
        raise ValueError(
            "The image and its heatmap must have the same size. "
            f"Received: image {image.shape[:2]}, heatmap {q.shape[:2]} (height, width)"
        )
    share = STRENGTH * np.abs(2 * q - 1)  # (H, W, 1)
    return np.rint((1 - share) * in_grey(image) + share * np.where(q < 0.5, BLUE, RED)).astype("uint8")


def class_overlay(
    image: Any,
    heatmap: Any,
    *,
    coloured: Sequence[int] | None = None,
    thresholds: Sequence[float] | None = None,
) -> np.ndarray:
    """Lay the maps of several classes over their image, which turns grey: each pixel has its winner's colour.

    The colour is the stronger the further the winner is above what says nothing, 1 / K, where it is clear. Of
    labels, the highest of those above their thresholds wins; where none is, the image is clear.

    Args:
        image: (H, W, 1) or (H, W, 3) in 0..255, uint8 or float.
        heatmap: (H, W, K) in [0, 1].
        coloured: up to 8 classes, which get the colours of `COLOURS` in this order; the others are grey.
            None means `with_colours(K)`.
        thresholds: K numbers in [0, 1], of labels; None means exclusive classes.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        ValueError: the arguments are not as above, or the sizes of image and heatmap differ.

    Example:
        >>> class_overlay(numpy.full((1, 1, 1), 100), [[[0.25, 0.25, 0.25, 0.25]]])
        array([[[100, 100, 100]]], dtype=uint8)
    """
    image, q = check_image(image), check_heatmaps(heatmap)
    if image.shape[:2] != q.shape[:2]:
        raise ValueError(
            "The image and its heatmap must have the same size. "
            f"Received: image {image.shape[:2]}, heatmap {q.shape[:2]} (height, width)"
        )
    classes = q.shape[2]
    limits = np.full(classes, 1 / classes) if thresholds is None else np.asarray(thresholds, "float64")
    if limits.shape != (classes,) or not np.all((limits >= 0) & (limits <= 1)):
        raise ValueError(f"`thresholds` must be {classes} numbers in [0, 1]. Received: {thresholds}")
    wins = q.argmax(2) if thresholds is None else np.where(q > limits, q, -1).argmax(2)  # (H, W)
    q, limits = np.take_along_axis(q, wins[..., None], 2), limits[wins][..., None]  # (H, W, 1)
    share = STRENGTH * np.clip((q - limits) / np.maximum(1 - limits, 1e-6), 0, 1)  # none is above 1
    colours = colours_of(classes, coloured)[wins]  # (H, W, 3)
    return np.rint((1 - share) * in_grey(image) + share * colours).astype("uint8")


def hatched(picture: Any, where: Any) -> np.ndarray:
    """Hatch a region of a picture with thin lines, dark beside light, that are seen on any ground.

    Args:
        picture: uint8, (H, W) or (H, W, 3).
        where: (H, W), bool.

    Returns:
        (H, W, 3), uint8, RGB.

    Raises:
        ValueError: the picture is not as above, or the sizes differ.

    Example:
        >>> picture = hatched(overlay(image, heatmap), ~familiar)
    """
    picture = rgb(check_picture(picture)).copy()
    where = check_mask(where, picture.shape[:2])
    diagonal = np.add(*np.indices(where.shape)) % HATCHING
    picture[where & (diagonal == 0)] = INK
    picture[where & (diagonal == 1)] = PAGE
    return picture


def with_hatching_legend(picture: Any, text: str = "unlike training") -> np.ndarray:
    """Say below a picture what is hatched in it.

    Args:
        picture: uint8, (H, W) or (H, W, 3); it may have another legend.
        text: what the hatching means.

    Returns:
        (h, w, 3), uint8, RGB: the picture in the top left corner.

    Raises:
        ValueError: the picture is not as above.

    Example:
        >>> picture = with_hatching_legend(with_legend(hatched(overlay(image, heatmap), ~familiar)))
    """
    picture = rgb(check_picture(picture))
    line = line_height(picture.shape[1])
    swatch = np.full((line * 3 // 5, line, 3), 192, "uint8")
    swatch = stack([blank(line // 10, 1), framed(hatched(swatch, np.ones(swatch.shape[:2], bool)))])
    entry = beside([blank(1, line // 2), swatch, written(f"  {text}", line)])
    return stack([picture, entry, blank(line // 2, 1)])


def with_colours(classes: int, probabilities: Any = None, first: Sequence[int] = ()) -> tuple[int, ...]:
    """Choose which classes get a colour: all, or of more than 8 the most probable.

    Args:
        classes: how many there are.
        probabilities: (..., K); those with the highest means over images are chosen. None means the first.
        first: classes that are chosen before others, such as the true ones.

    Returns:
        Up to 8 classes in their order, so that the same choice has the same colours.

    Example:
        >>> with_colours(3)
        (0, 1, 2)
    """
    if classes <= len(COLOURS):
        return tuple(range(classes))
    means = np.zeros(classes) if probabilities is None else np.reshape(probabilities, (-1, classes)).mean(0)
    order = dict.fromkeys([*map(int, first), *np.argsort(-means, kind="stable").tolist()])
    return tuple(sorted(list(order)[: len(COLOURS)]))


def class_legend(
    class_names: Sequence[str],
    *,
    coloured: Sequence[int] | None = None,
    line: int = LINE,
    width: int = 0,
    grey_bar: bool = True,
    marked: bool = False,
    multilabel: bool = False,
) -> np.ndarray:
    """Draw the legend of several classes: the colour of each, and the grey of a map from 0 to 1.

    Args:
        class_names: K names; those of more than 20 characters are cut.
        coloured: the classes that have a colour, as of `class_overlay`; the others share one line.
        line: height of a line of text in pixels.
        width: of the page in pixels; the names take as many columns as it has room for, at least one.
        grey_bar: whether the bar is drawn.
        marked: whether to say what the marks of `class_strip` mean.
        multilabel: whether the classes are labels.

    Returns:
        (h, w, 3), uint8, RGB.

    Raises:
        ValueError: `coloured` is not as above.

    Example:
        >>> save_png(class_legend(("crack", "dent", "smooth")), "legend.png")
    """
    colours = colours_of(len(class_names), coloured)
    coloured = with_colours(len(class_names)) if coloured is None else coloured
    entries = [(colours[k], short_class(class_names[k])) for k in coloured]
    if others := len(class_names) - len(entries):
        entries.append((OTHERS, f"{others} others"))
    what = "label" if multilabel else "class"
    parts = []
    for colour, name in entries:
        swatch = np.broadcast_to(colour.astype("uint8"), (line * 3 // 5, line * 3 // 5, 3))
        parts.append(beside([stack([blank(line // 10, 1), framed(swatch)]), written(f" {name}", line)]))
    cell = max(part.shape[1] for part in parts) + line // 2
    columns = max(1, (width - line) // cell)
    rows = [
        beside([widened(part, cell) for part in parts[k : k + columns]])
        for k in range(0, len(parts), columns)
    ]
    if grey_bar:
        ramp = framed(rgb(grey(np.repeat(np.linspace(0, 1, 6 * line)[None], line * 3 // 5, axis=0))))
        ramp = stack([blank(line // 10, 1), ramp])
        rows.append(
            beside([written("0 ", line), ramp, written(f" 1   probability of the {what}, in grey", line)])
        )
    if not multilabel:
        clear = f"clear where none is above 1/{len(class_names)}"
        rows.append(written(f"colour: the most probable class; {clear}", line))
    else:
        rows.append(written("colour: the highest label above its threshold; clear where none is", line))
    if marked:
        rows.append(written(f"✓ a true {what}", line))
    body = beside([blank(1, line // 2), stack(rows), blank(1, line // 2)])
    return stack([blank(line // 2, 1), body, blank(line // 2, 1)])


def with_class_legend(
    picture: Any,
    class_names: Sequence[str],
    *,
    coloured: Sequence[int] | None = None,
    multilabel: bool = False,
) -> np.ndarray:
    """Put the legend of several classes below an overlay of `class_overlay`.

    Args:
        picture: uint8, (H, W, 3); enlarged pixel by pixel to 128 of them, where it is smaller.
        class_names, coloured, multilabel: as of `class_legend`.

    Returns:
        (h, w, 3), uint8, RGB: the picture in the top left corner.

    Raises:
        ValueError: an argument is not as above.

    Example:
        >>> picture = with_class_legend(class_overlay(image, heatmap), ("crack", "dent", "smooth"))
    """
    picture = enlarged(rgb(check_picture(picture)))
    line = line_height(picture.shape[1])
    below = class_legend(
        class_names,
        coloured=coloured,
        line=line,
        width=max(picture.shape[1], 24 * line),
        grey_bar=False,
        multilabel=multilabel,
    )
    return stack([picture, below])


def legend(
    class_names: Sequence[str] = ("0", "1"),
    *,
    colours: str = "overlay",
    line: int = LINE,
    normalized: bool = False,
) -> np.ndarray:
    """Draw the scale of a heatmap: a bar from 0 to 1, "undecided" at 0.5 and a class name at each end.

    Args:
        class_names: names of class 0 and class 1, in any script that a font has: DejaVu Sans, which is
            always there (Latin, Greek, Cyrillic, Arabic, ...), or else a font of the system that has all the
            letters, as for Chinese. A letter that no font has is drawn as an empty box; names of more than
            32 characters are cut.
        colours: "grey", "overlay" or "both", one bar beside the other.
        line: height of a line of text in pixels.
        normalized: the maps are min-max normalized, each by itself, as CAM and Grad-CAM are: 0.5 does not
            mean undecided, and has no word.

    Returns:
        (h, w, 3), uint8, RGB: as large as it needs to be.

    Raises:
        ValueError: there are not two class names, or `colours` is none of those three.

    Example:
        >>> save_png(legend(("human", "mouse")), "legend.png")
    """
    if colours not in ("grey", "overlay", "both"):
        raise ValueError(f'`colours` must be "grey", "overlay" or "both". Received: colours={colours!r}')
    name0, name1 = short_names(class_names)
    q = np.repeat(np.linspace(1, 0, 4 * line)[:, None], line, axis=1)  # (4 lines, 1 line), 1 on top
    bars = {"grey": rgb(grey(q)), "overlay": overlay(np.full((*q.shape, 1), 192), q)}
    row = [blank(q.shape[0] + 2, line // 2)]
    for name, bar in bars.items():
        if colours in (name, "both"):
            row += [framed(bar), blank(len(row[0]), line // 2)]
    text = [
        written(f"1  {name1}", line),
        written("0.5" if normalized else "0.5  undecided", line),
        written(f"0  {name0}", line),
    ]
    gap = len(row[0]) - 3 * line
    row += [stack([text[0], blank(gap // 2, 1), text[1], blank(gap - gap // 2, 1), text[2]])]
    picture = beside([*row, blank(1, line // 2)])
    return stack([blank(line // 2, 1), picture, blank(line // 2, 1)])


def with_legend(
    picture: Any, class_names: Sequence[str] = ("0", "1"), *, normalized: bool = False
) -> np.ndarray:
    """Put the legend below a picture, whose own pixels stay as they are.

    Args:
        picture: uint8, (H, W) as `grey` draws it, or (H, W, 3) as `overlay` does; it gets the bar
            with its colours.
        class_names: names of class 0 and class 1.
        normalized: as of `legend`.

    Returns:
        (H + h, max(W, w), 3), uint8, RGB: the picture in the top left corner. Text is larger on
        pictures more than 1000 pixels wide.

    Raises:
        ValueError: the picture or the class names are not as above.

    Example:
        >>> save_png(with_legend(overlay(image, heatmap), ("human", "mouse")), "overlay.png")
    """
    picture = check_picture(picture)
    colours = "grey" if picture.ndim == 2 else "overlay"
    line = line_height(picture.shape[1])
    return stack([rgb(picture), legend(class_names, colours=colours, line=line, normalized=normalized)])


def strip(
    images: Sequence[Any],
    heatmaps: Sequence[Any],
    probabilities: Any,
    labels: Any = None,
    masks: Sequence[Any] | None = None,
    class_names: Sequence[str] = ("0", "1"),
    *,
    normalized: bool = False,
) -> np.ndarray:
    """Draw one row for each image: image | mask | heatmap | overlay, the probability above, one legend.

    Images with less than 128 pixels are enlarged by a whole number, pixel by pixel.

    Args:
        images: N images (H, W, 1) or (H, W, 3) in 0..255, uint8 or float; sizes may differ.
        heatmaps: N heatmaps (H, W) in [0, 1].
        probabilities: N probabilities of class 1, (N,) or (N, 1).
        labels: N true classes, 0 or 1, written beside the probabilities; None leaves them out.
        masks: N masks (H, W), bool, 0/1 or 0/255; None leaves the column out.
        class_names: names of class 0 and class 1.
        normalized: as of `legend`.

    Returns:
        (h, w, 3), uint8, RGB.

    Raises:
        ValueError: there is no image, there are not as many of each, or an argument is not as above.

    Example:
        >>> maps = heatmap_model(model).predict(images)
        >>> save_png(strip(images, maps, model.predict(images)), "strip.png")
    """
    if np.ndim(probabilities) == 2 and np.shape(probabilities)[1] > 1:
        raise ValueError(
            "`strip` draws two classes, `class_strip` more, or labels. "
            f"Received: probabilities of shape {np.shape(probabilities)}"
        )
    names = short_names(class_names)
    probabilities = np.ravel(probabilities)
    given = {"images": images, "heatmaps": heatmaps, "probabilities": probabilities}
    given |= {} if labels is None else {"labels": np.ravel(labels)}
    given |= {} if masks is None else {"masks": masks}
    check_counts(given)
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError(f"`probabilities` must be in [0, 1]. Received: probabilities={probabilities}")
    if labels is not None and not np.isin(given["labels"], (0, 1)).all():
        raise ValueError(f"`labels` must be 0 or 1. Received: labels={given['labels']}")

    headings = ["image", *(["mask"] if masks is not None else []), "heatmap", "overlay"]
    rows = []
    for i, (image, heatmap) in enumerate(zip(images, heatmaps, strict=True)):
        image = check_image(image)
        cells = [rgb(image), rgb(grey(heatmap)), overlay(image, heatmap)]
        if masks is not None:
            cells.insert(1, black_and_white(masks[i], image))
        rows.append([framed(enlarged(cell)) for cell in cells])

    captions = [f"P({names[1]}) = {q:.3f}" for q in probabilities]
    if labels is not None:
        captions = [
            f"{text}   label: {names[int(k)]}" for text, k in zip(captions, given["labels"], strict=True)
        ]
    return in_rows(headings, rows, captions, partial(legend, names, colours="both", normalized=normalized))


def class_strip(
    images: Sequence[Any],
    heatmaps: Sequence[Any],
    probabilities: Any,
    labels: Any = None,
    masks: Sequence[Any] | None = None,
    class_names: Sequence[str] = (),
    *,
    classes: Sequence[int] | None = None,
    most: int = 4,
    thresholds: Sequence[float] | None = None,
) -> np.ndarray:
    """Draw one row for each image: image | mask | overlay of all classes | the map of each of some classes.

    A map is grey, from 0, black, to 1, white, and never rescaled. First comes that of the most probable
    class, then that of the true ones, then the most probable others. Images with less than 128 pixels are
    enlarged by a whole number, pixel by pixel.

    Args:
        images: N images (H, W, 1) or (H, W, 3) in 0..255, uint8 or float; sizes may differ.
        heatmaps: N heatmaps (H, W, K) in [0, 1].
        probabilities: (N, K), written above the maps.
        labels: (N,), the number of each image's class, or (N, K) of 0 and 1; None leaves them out.
        masks: N masks (H, W), bool, 0/1 or 0/255; None leaves the column out.
        class_names: K names; empty means "class 0" and so on. Long ones are cut.
        classes: which maps to draw, in this order, of every image; None chooses for each image.
        most: how many maps of an image are chosen at most.
        thresholds: K numbers in [0, 1], of labels; None means exclusive classes.

    Returns:
        (h, w, 3), uint8, RGB.

    Raises:
        ValueError: there is no image, there are not as many of each, or an argument is not as above.

    Example:
        >>> maps = heatmap_model(model).predict(images)
        >>> save_png(class_strip(images, maps, model.predict(images), labels), "strip.png")
    """
    probabilities = np.asarray(probabilities, "float64")
    given = {"images": images, "heatmaps": heatmaps, "probabilities": probabilities}
    given |= {} if labels is None else {"labels": labels}
    check_counts(given | ({} if masks is None else {"masks": masks}))
    heatmaps = [check_heatmaps(heatmap) for heatmap in heatmaps]
    shape = (len(images), heatmaps[0].shape[2])
    if probabilities.shape != shape or not np.all((probabilities >= 0) & (probabilities <= 1 + 1e-6)):
        raise ValueError(
            f"`probabilities` must be {shape} in [0, 1], one for each map. "
            f"Received: shape={probabilities.shape}"
        )
    names = class_names or [f"class {k}" for k in range(shape[1])]
    if isinstance(names, str) or len(names) != shape[1]:
        raise ValueError(
            f"`class_names` must be {shape[1]} names, one for each map. Received: {class_names!r}"
        )
    truth = true_classes(labels, shape)
    if classes is not None and (not len(classes) or not np.isin(classes, range(shape[1])).all()):
        raise ValueError(f"`classes` must be numbers below {shape[1]}. Received: classes={classes}")
    chosen = [
        list(classes) if classes is not None else choose_classes(q, true, most)
        for q, true in zip(probabilities, truth, strict=True)
    ]
    every_true = sorted({k for true in truth for k in true})
    coloured = with_colours(shape[1], probabilities, every_true)

    columns = max(map(len, chosen))
    first = ["image", *(["mask"] if masks is not None else []), "overlay"]
    headings = [*first, "heatmap" if columns == 1 else "heatmaps", *[""] * (columns - 1)]
    rows, captions = [], []
    for i, (image, heatmap) in enumerate(zip(images, heatmaps, strict=True)):
        image = check_image(image)
        cells = [rgb(image)]
        if masks is not None:
            cells.append(black_and_white(masks[i], image))
        cells.append(class_overlay(image, heatmap, coloured=coloured, thresholds=thresholds))
        cells += [rgb(grey(heatmap[..., k])) for k in chosen[i]]
        missing = [blank(1, 1)] * (columns - len(chosen[i]))
        rows.append([*(framed(enlarged(cell)) for cell in cells), *missing])
        label = "" if labels is None else ", ".join(short_class(names[k]) for k in truth[i]) or "no label"
        above = [f"{short_class(names[k])} {probabilities[i, k]:.3f}" for k in chosen[i]]
        marks = [" ✓" if k in truth[i] else "" for k in chosen[i]]
        captions.append(
            [label, *[""] * (len(first) - 1), *map("".join, zip(above, marks, strict=True))]
            + [""] * len(missing)
        )

    def below(line: int) -> np.ndarray:
        width = sum(max(part.shape[1] for part in column) + line // 2 for column in zip(*rows, strict=True))
        return class_legend(
            names,
            coloured=coloured,
            line=line,
            width=width,
            marked=labels is not None,
            multilabel=thresholds is not None,
        )

    return in_rows(headings, rows, captions, below)


def choose_classes(probabilities: np.ndarray, true: Sequence[int], most: int) -> list[int]:
    """Return the classes whose maps are shown: the most probable, the true ones, then others."""
    order = np.argsort(-probabilities, kind="stable").tolist()
    return list(dict.fromkeys([order[0], *true, *order]))[: max(1, most)]


def true_classes(labels: Any, shape: tuple[int, int]) -> list[list[int]]:
    """Return the true classes of each image, given its class (N,) or labels (N, K); none are given as []."""
    if labels is None:
        return [[] for _ in range(shape[0])]
    labels = np.asarray(labels)
    if labels.shape == shape and np.isin(labels, (0, 1)).all():
        return [np.flatnonzero(row).tolist() for row in labels]
    if labels.shape == shape[:1] and np.isin(labels, range(shape[1])).all():
        return [[int(k)] for k in labels]
    raise ValueError(
        f"`labels` must be numbers of classes {shape[:1]} below {shape[1]}, or 0 and 1 {shape}. "
        f"Received: shape={labels.shape}, values {np.unique(labels)[:10]}"
    )


def side_by_side(
    images: Sequence[Any],
    heatmaps: Mapping[str, Sequence[Any]],
    probabilities: Mapping[str, Any],
    labels: Any = None,
    masks: Sequence[Any] | None = None,
    class_names: Sequence[str] = ("0", "1"),
) -> np.ndarray:
    """Draw the heatmaps of several models: image | mask | heatmap of each, a row for each image, one legend.

    Args:
        images, labels, masks, class_names: as for `strip`; labels are written above the images.
        heatmaps: name of a model to its N heatmaps (H, W) in [0, 1], drawn in the same grey.
        probabilities: name of a model to its N probabilities of class 1, (N,) or (N, 1), written above
            its heatmaps.

    Returns:
        (h, w, 3), uint8, RGB.

    Raises:
        ValueError: there are not as many of each, or an argument is not as above.

    Example:
        >>> maps = {"p = 11": maps_11, "p = 31": maps_31}
        >>> save_png(side_by_side(images, maps, {"p = 11": q_11, "p = 31": q_31}), "patch-sizes.png")
    """
    names = short_names(class_names)
    given = {"images": images} | {f"heatmaps of {name}": maps for name, maps in heatmaps.items()}
    given |= {f"probabilities of {name}": q for name, q in probabilities.items()}
    given |= {} if labels is None else {"labels": np.ravel(labels)}
    check_counts(given | ({} if masks is None else {"masks": masks}))
    first = [] if masks is None else ["mask"]
    rows, captions = [], []
    for i, image in enumerate(map(check_image, images)):
        cells = [rgb(image)]
        if masks is not None:
            cells.append(black_and_white(masks[i], image))
        rows.append(
            [framed(enlarged(cell)) for cell in [*cells, *(rgb(grey(m[i])) for m in heatmaps.values())]]
        )
        label = "" if labels is None else f"label: {names[int(np.ravel(labels)[i])]}"
        decided = [f"P({names[1]}) = {np.ravel(probabilities[name])[i]:.3f}" for name in heatmaps]
        captions.append([label, *("" for _ in first), *decided])
    return in_rows(["image", *first, *heatmaps], rows, captions, partial(legend, names, colours="grey"))


def save_png(picture: Any, path: str | Path) -> None:
    """Write a picture to a PNG file, whole or not at all; a file that is there is replaced.

    Args:
        picture: uint8, (H, W) or (H, W, 3) RGB.
        path: the file, in a folder that exists; ends with .png.

    Raises:
        ValueError: the picture is not as above, or the path has another ending.
        OSError: the file cannot be written (no such folder, no room, no permission).

    Example:
        >>> save_png(grey(heatmap), "heatmap.png")
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"A picture's file ends with .png. Received: path={path}")
    encoded = to_png(picture)
    with replacing(path) as part:
        part.write_bytes(encoded)


def to_png(picture: Any) -> bytes:
    """Return the PNG file of a picture, as `save_png` writes it."""
    file = io.BytesIO()
    Image.fromarray(check_picture(picture)).save(file, "PNG")
    return file.getvalue()


def black_and_white(mask: Any, image: np.ndarray) -> np.ndarray:
    """Draw the mask of an image, (H, W, 3), uint8, white where it is True."""
    return rgb(255 * check_mask(mask, image.shape[:2]).astype("uint8"))


def check_counts(given: Mapping[str, Any]) -> None:
    """Raise ValueError unless there are as many of each, and at least one."""
    counts = {name: len(values) for name, values in given.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"A picture needs as many of each, and at least one. Received: {counts}")


def check_heatmap(heatmap: Any) -> np.ndarray:
    """Return `heatmap` (H, W) as float64 in [0, 1]; raise ValueError when it is no heatmap."""
    q = np.asarray(heatmap, "float64")
    if q.ndim != 2 or q.size == 0:
        raise ValueError(f"A heatmap has two axes, (height, width). Received: shape={q.shape}")
    # NaN fails the comparison too. Rounding may leave the interval by a little.
    if not np.all((q >= -1e-6) & (q <= 1 + 1e-6)):
        raise ValueError(f"A heatmap is in [0, 1] without NaN. Received: from {q.min()} to {q.max()}")
    return np.clip(q, 0, 1)


def check_heatmaps(heatmap: Any) -> np.ndarray:
    """Return maps of several classes (H, W, K) as float64 in [0, 1]; raise ValueError when they are none."""
    q = np.asarray(heatmap, "float64")
    if q.ndim != 3 or q.size == 0 or q.shape[2] < 2:
        raise ValueError(
            f"Maps of several classes have three axes, (height, width, classes). Received: shape={q.shape}"
        )
    return check_heatmap(q.reshape(q.shape[0], -1)).reshape(q.shape)


def check_mask(mask: Any, size: tuple[int, int]) -> np.ndarray:
    """Return `mask`, (H, W) or (H, W, 1), bool, 0/1 or 0/255, as bool (H, W) of the given size."""
    mask = np.asarray(mask)
    if mask.ndim == 3 and mask.shape[2] == 1:
        mask = mask[..., 0]
    if mask.shape != tuple(size):
        raise ValueError(
            "A mask must have the size of its heatmap. "
            f"Received: mask {mask.shape}, heatmap {tuple(size)} (height, width)"
        )
    if not (np.isin(mask, (0, 1)).all() or np.isin(mask, (0, 255)).all()):
        raise ValueError(f"A mask holds 0 and 1, or 0 and 255. Received: values {np.unique(mask)[:10]}")
    return mask != 0


def check_image(image: Any) -> np.ndarray:
    """Return `image`, (H, W, 1) or (H, W, 3) in 0..255, as uint8; raise ValueError when it is none."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(
            f"An image has the shape (height, width, 1) or (height, width, 3). Received: shape={image.shape}"
        )
    rounded = np.rint(image) if image.dtype.kind == "f" else image
    if not np.all((rounded >= 0) & (rounded <= 255)):
        raise ValueError(f"Pixels are in 0..255 without NaN. Received: from {image.min()} to {image.max()}")
    return rounded.astype("uint8")


def check_picture(picture: Any) -> np.ndarray:
    """Return `picture` when it is uint8, (H, W) or (H, W, 3), and not empty; raise ValueError otherwise."""
    picture = np.asarray(picture)
    if (
        picture.dtype != np.uint8
        or picture.size == 0
        or picture.ndim < 2
        or picture.shape[2:] not in ((), (3,))
    ):
        raise ValueError(
            "A picture is uint8, (height, width) or (height, width, 3). "
            f"Received: {picture.dtype}, shape={picture.shape}"
        )
    return picture


def short_names(class_names: Sequence[str]) -> tuple[str, str]:
    """Return the two class names, cut where they are too long."""
    if isinstance(class_names, str) or len(class_names) != 2:
        raise ValueError(
            f"`class_names` must be the names of class 0 and class 1. Received: class_names={class_names!r}"
        )
    return short_name(worded(class_names[0])), short_name(worded(class_names[1]))


def worded(name: str) -> str:
    """Return a class's name, "class 0" for "0": in P(0) or at the end of a scale a number says nothing."""
    return f"class {name}" if str(name).isdecimal() else str(name)


def short_name(name: str) -> str:
    """Return the name of a class, cut where it is too long."""
    text = unicodedata.normalize("NFC", str(name))
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "..."


def short_class(name: str) -> str:
    """Return the name of one of several classes, cut where it is too long."""
    text = unicodedata.normalize("NFC", worded(name))
    return text if len(text) <= LONGEST_CLASS else text[: LONGEST_CLASS - 1] + "…"


def colours_of(classes: int, coloured: Sequence[int] | None) -> np.ndarray:
    """Return the colour (K, 3) of each class."""
    coloured = with_colours(classes) if coloured is None else list(coloured)
    if (
        len(set(coloured)) < len(coloured)
        or len(coloured) > len(COLOURS)
        or set(coloured) - set(range(classes))
    ):
        raise ValueError(
            f"`coloured` must be up to {len(COLOURS)} different classes below {classes}. Received: {coloured}"
        )
    colours = np.tile(OTHERS, (classes, 1))
    colours[list(coloured)] = COLOURS[: len(coloured)]
    return colours


def in_grey(image: np.ndarray) -> np.ndarray:
    """Return an image, (H, W, 1) or (H, W, 3) uint8, in grey, (H, W, 1)."""
    return image if image.shape[2] == 1 else np.asarray(Image.fromarray(image).convert("L"))[..., None]


# What follows puts a page together from RGB parts, (h, w, 3) uint8, on white.


def line_height(width: int) -> int:
    """Return the height of a line of text that can be read on a picture `width` pixels wide."""
    return max(LINE, LINE * width // PAGE_WIDTH)


def blank(height: int, width: int) -> np.ndarray:
    """Return an empty part of the page."""
    return np.full((height, width, 3), PAGE, "uint8")


def rgb(picture: np.ndarray) -> np.ndarray:
    """Return (h, w), (h, w, 1) or (h, w, 3) as (h, w, 3)."""
    if picture.ndim == 2:
        picture = picture[..., None]
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def framed(picture: np.ndarray) -> np.ndarray:
    """Draw a thin frame around a part."""
    # Without a frame the white of a heatmap would run into the page.
    return np.pad(picture, ((1, 1), (1, 1), (0, 0)), constant_values=FRAME)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """Repeat pixels until the longer side has at least SMALLEST of them."""
    factor = -(-SMALLEST // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def widened(picture: np.ndarray, width: int) -> np.ndarray:
    """Add page at the right until the part is `width` wide."""
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=PAGE)


def stack(parts: list[np.ndarray]) -> np.ndarray:
    """Put parts below each other, aligned at the left."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([widened(part, width) for part in parts])


def beside(parts: list[np.ndarray]) -> np.ndarray:
    """Put parts beside each other, aligned at the top."""
    height = max(part.shape[0] for part in parts)
    pads = [((0, height - part.shape[0]), (0, 0), (0, 0)) for part in parts]
    padded = [np.pad(part, pad, constant_values=PAGE) for part, pad in zip(parts, pads, strict=True)]
    return np.concatenate(padded, axis=1)


def in_rows(
    headings: Sequence[str],
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[str | Sequence[str]],
    legend: Callable[..., np.ndarray],
) -> np.ndarray:
    """Return a page of columns with headings, and below them a legend.

    Args:
        headings: of the columns.
        rows: parts of each row, one for each column.
        captions: above each row: one text for all of it, or one for each column.
        legend: draws it, given the height `line` of a line of text.
    """
    line = line_height(sum(max(part.shape[1] for part in column) for column in zip(*rows, strict=True)))
    titles = [written(heading, line) for heading in headings]
    above = [
        written(text, line) if isinstance(text, str) else [written(t, line) for t in text]
        for text in captions
    ]
    in_columns = [titles, *rows, *(parts for parts in above if isinstance(parts, list))]
    widths = [max(part.shape[1] for part in column) + line // 2 for column in zip(*in_columns, strict=True)]

    def aligned(parts: Sequence[np.ndarray]) -> np.ndarray:
        return beside([widened(part, width) for part, width in zip(parts, widths, strict=True)])

    page = [blank(line // 2, 1), aligned(titles)]
    for row, caption in zip(rows, above, strict=True):
        page += [
            aligned(caption) if isinstance(caption, list) else caption,
            aligned(row),
            blank(line // 2, 1),
        ]
    page = beside([blank(1, line // 2), stack(page)])
    return stack([page, legend(line=line)])


def written(text: str, line: int) -> np.ndarray:
    """Draw one line of text, `line` pixels high and as wide as it needs to be."""
    # Line breaks and other control characters, and bytes of file names that are no text, have no glyph.
    text = "".join("?" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    font = ImageFont.truetype(font_for(text), line * 13 // 20)
    # Without Raqm letters stand from left to right, unjoined. With it, the page still reads from the left.
    options = {"anchor": "ls", "direction": "ltr" if features.check("raqm") else None}
    left, _, right, _ = font.getbbox(text, **options)
    start = -min(0, int(left))  # some letters begin left of their place
    part = Image.new("RGB", (start + int(right) + line // 5, line), (PAGE,) * 3)
    ImageDraw.Draw(part).text((start, line * 14 // 20), text, (INK,) * 3, font, **options)
    return np.asarray(part)


@cache
def font_for(text: str) -> Path:
    """Return the file of the first font that has every letter, DejaVu Sans where none has."""
    letters = set(map(ord, text))
    if letters <= FT2Font(FONT).get_charmap().keys():
        return FONT
    from matplotlib.font_manager import fontManager  # its first import looks for the system's fonts

    regular = [font for font in fontManager.ttflist if (font.style, font.weight) == ("normal", 400)]
    for font in sorted(regular, key=lambda font: font.name):
        if font.name.startswith("Last Resort"):  # which has a box for every letter
            continue
        if letters <= FT2Font(font.fname).get_charmap().keys():
            return Path(font.fname)
    return FONT
