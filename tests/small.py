"""A configuration that trains in seconds, and a folder of images to train on."""

import numpy as np
from PIL import Image

SMALL = """
name: small
data: {kind: textures, size: 24, train: 8, val: 4, collages: 2, collage_size: 32}
model: {patch_size: 8, subnet: {filters: 4, depth: 2}}
training: {epochs: 4, learning_rate: 1e-3, flips: true, seed: 1}
"""


def save(path, pixels, **options):
    """Write pixels, (H, W) or (H, W, C) uint8, to an image file, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def image_folder(root, size=(20, 24), channels=None, counts=(3, 3)):
    """Make train/{cat,dog} and val/{cat,dog}; image k of dog has the pixels 128 + k and more, of cat less."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog")):
            for k in range(counts[label]):
                pixels = rng.integers(0, 100, size if channels is None else (*size, channels), "uint8")
                pixels.flat[0] = k
                save(root / split / name / f"{k}.png", pixels + np.uint8(128 * label))
    return root


def history(folder):
    """The rows of history.csv as text, without the seconds."""
    header, *rows = (folder / "history.csv").read_text().splitlines()
    assert header == "epoch,seconds,loss,accuracy,val_loss,val_accuracy"
    return [[value for k, value in enumerate(row.split(",")) if k != 1] for row in rows]
