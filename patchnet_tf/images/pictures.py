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
SMALLEST = 128  # strips enlarge an image until its longer side has this many pixels
LONGEST_NAME = 32


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
    below = image if image.shape[2] == 1 else np.asarray(Image.fromarray(image).convert("L"))[..., None]
    share = STRENGTH * np.abs(2 * q - 1)  # (H, W, 1)
    return np.rint((1 - share) * below + share * np.where(q < 0.5, BLUE, RED)).astype("uint8")


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
            cells.insert(1, rgb(255 * check_mask(masks[i], image.shape[:2]).astype("uint8")))
        rows.append([framed(enlarged(cell)) for cell in cells])

    captions = [f"P({names[1]}) = {q:.3f}" for q in probabilities]
    if labels is not None:
        captions = [
            f"{text}   label: {names[int(k)]}" for text, k in zip(captions, given["labels"], strict=True)
        ]
    return in_rows(headings, rows, captions, partial(legend, names, colours="both", normalized=normalized))


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
            cells.append(rgb(255 * check_mask(masks[i], image.shape[:2]).astype("uint8")))
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

    def short(name: str) -> str:
        text = unicodedata.normalize("NFC", str(name))
        return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "..."

    return short(class_names[0]), short(class_names[1])


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
