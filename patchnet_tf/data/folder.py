"""A folder of images as a data set.

    path/train/<class>/*.png    images to train on
    path/val/<class>/*.png      images to validate on
    path/masks/val/<class>/<stem>__<kind>.png    optional: black and white, the size of the image <stem>

The two class folders may have any names, the same below train and val; the one that sorts first is class 0,
black in heatmaps, unless `classes` says otherwise. Images are PNG, JPEG, BMP, TIFF, WebP or GIF with 8 bits
per channel; other files and hidden ones are passed over, and subfolders are not searched. Where every
training image is grey, all are read as grey, otherwise all as RGB, unless `channels` says otherwise.

Localization is measured on validation images of class 1 that have a mask of the kind `mask`.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..config import FolderData, InputError
from . import Dataset, Examples, Masked

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
GREY_MODES = ("1", "L", "LA")
MODES = (*GREY_MODES, "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def load(data: FolderData) -> Dataset:
    """Read all images into memory.

    Raises:
        InputError: a folder is missing or empty, there are not two classes, an image cannot be read, or
            sizes differ and `data.size` is not set.
    """
    root = Path(data.path)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder (data.path)")
    files = {split: class_files(root / split, data.classes) for split in ("train", "val")}
    names = tuple(files["train"])
    if names != tuple(files["val"]):
        raise InputError(
            f"{root}: the classes below train and val must have the same names. "
            f"Received: {', '.join(names)} and {', '.join(files['val'])}"
        )
    channels = data.channels or (1 if all(is_grey(f) for fs in files["train"].values() for f in fs) else 3)
    train, val = (
        read_examples(list(files[split].values()), channels, data.size) for split in ("train", "val")
    )
    first, other = files["train"][names[0]][0], files["val"][names[0]][0]
    check_same_size(first, train.images[0], other, val.images[0])
    masked = None
    if data.mask:
        # The masks of class 1 in the order of its images, which are the last ones of `val`.
        images = val.images[len(files["val"][names[0]]) :]
        masked = read_masks(root / "masks" / "val" / names[1], files["val"][names[1]], images, data)
    return Dataset(names, train, val, masked)


def class_files(folder: Path, classes: tuple[str, str] | None) -> dict[str, list[Path]]:
    """Return the sorted image files of class 0 and class 1 below `folder`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; a data set has train/<class>/ and val/<class>/")
    there = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
    names = classes or there
    if len(names) != 2 or not set(names) <= set(there):
        wanted = "two class folders" + (" (data.classes chooses)" if len(there) > 2 else "")
        wanted = f"the class folders {' and '.join(classes)}" if classes else wanted
        raise InputError(f"{folder}: expected {wanted}. Received: {', '.join(there) or 'none'}")
    files = {}
    for name in names:
        found = (folder / name).iterdir()
        files[name] = sorted(f for f in found if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        if not files[name]:
            raise InputError(f"{folder / name}: no images ({', '.join(sorted(SUFFIXES))})")
    return files


def read_examples(files: list[list[Path]], channels: int, size: tuple[int, int] | None) -> Examples:
    """Read the files of class 0 and of class 1 into one array."""
    images = []
    for file in (paths := [path for of_class in files for path in of_class]):
        images.append(resized(read_image(file, channels), size))
        check_same_size(paths[0], images[0], file, images[-1])
    return Examples(np.stack(images), np.repeat(np.array([0, 1], "uint8"), [len(fs) for fs in files]))


def check_same_size(first: Path, image: np.ndarray, other: Path, other_image: np.ndarray) -> None:
    """Raise InputError where two images (H, W, C) differ in size."""
    if image.shape != other_image.shape:
        sizes = [f"{shape[0]} x {shape[1]}" for shape in (image.shape, other_image.shape)]
        raise InputError(
            "Images of one data set must have one size; set data.size: [height, width] to resize them. "
            f"Received: {first} {sizes[0]}, {other} {sizes[1]} (height x width)"
        )


def read_masks(folder: Path, files: list[Path], images: np.ndarray, data: FolderData) -> Masked:
    """Read the masks that exist for `files`, whose pixels are `images`."""
    paths = [folder / f"{file.stem}__{data.mask}.png" for file in files]
    there = [i for i, path in enumerate(paths) if path.is_file()]
    if not there:
        raise InputError(f"{folder}: no mask of the kind {data.mask!r} (data.mask), such as {paths[0].name}")
    masks = []
    for i in there:
        mask, image = read_image(paths[i], 1), read_image(files[i], 1)
        if mask.shape != image.shape:
            raise InputError(
                f"{paths[i]}: a mask has the size of its image, {image.shape[:2]} (height, width). "
                f"Received: {mask.shape[:2]}"
            )
        masks.append(resized(mask, data.size)[..., 0] > 127)
    return Masked(data.mask, images[there], np.stack(masks), np.ones(len(there), "uint8"))


def read_image(path: str | Path, channels: int) -> np.ndarray:
    """Read one image file, turned as its EXIF orientation says.

    Args:
        path: an image of 8 bits per channel, one frame, no transparency.
        channels: 1 to read grey, a colour image too; 3 to read RGB, a grey image too.

    Returns:
        (H, W, channels), uint8.

    Raises:
        InputError: it cannot be opened, is truncated or damaged, or is not such an image.

    Example:
        >>> read_image("cell.png", channels=1).shape
        (128, 128, 1)
    """
    with opened(path) as image:
        try:
            if image.mode not in MODES:
                raise InputError(
                    f"{path}: expected 8 bits per channel. Received: pixels of type {image.mode}"
                )
            if getattr(image, "n_frames", 1) != 1:
                raise InputError(f"{path}: expected one image. Received: {image.n_frames} frames")
            image.load()  # the decoders of Pillow, unlike those of OpenCV, refuse a truncated file
            if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                raise InputError(f"{path}: expected an opaque image. Received: transparent pixels")
            image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        except InputError:
            raise
        except Exception as error:  # decoders raise whatever they like for damaged data
            raise InputError(f"{path}: damaged or truncated image ({one_line(error)})") from None
    return np.asarray(image).reshape(image.height, image.width, channels)


def is_grey(path: Path) -> bool:
    """Return whether an image file has one channel; only its head is read."""
    with opened(path) as image:
        return image.mode in GREY_MODES


def opened(path: str | Path) -> Image.Image:
    """Open an image file and read its head."""
    try:
        return Image.open(path)
    except Image.UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise InputError(f"{path}: {'empty file' if empty else 'not an image file'}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from None
    except Exception as error:  # heads of damaged files, and images too large to be true
        raise InputError(f"{path}: damaged image ({one_line(error)})") from None


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def resized(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return an image (H, W, C) in `size` (height, width), smoothed where it shrinks."""
    if size is None or image.shape[:2] == size:
        return image
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, image.shape[2])
