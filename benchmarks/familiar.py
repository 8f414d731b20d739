"""How well patches unlike training are told: the figures of docs/local-networks.md.

    python -m benchmarks.familiar IMAGES     # some minutes on two cores

IMAGES has <task>/{train,val}/<class>/*.png, and for nuclei masks/val/<class>/<stem>__nucleus.png.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import patchnet_tf as pn
from patchnet_tf.images.reading import read_image
from patchnet_tf.model.familiar import sampled

P = 35
NUCLEI, TEXTURES, SKIN = "nuclei_3t3_u2os", "texture_cracked_perforated_60", "skin_isic2017"
OTHERS = ("texture_cracked_bubbly_224", "defect_magnetic_tile", "nuclei_hep2_centromere", SKIN)
SHARES = {
    "none": (0, 0),
    "up to 10 %": (1e-9, 0.1),
    "10 to 50 %": (0.1, 0.5),
    "50 to 90 %": (0.5, 0.9),
    "90 % and more": (0.9, 1),
}


def read(folder: Path, channels: int = 3) -> np.ndarray:
    """Return the images of both classes, (N, H, W, C)."""
    return np.stack([read_image(path, channels) for path in sorted(folder.glob("?/*.png"))])


def distances(model: pn.PatchNet, images: np.ndarray) -> np.ndarray:
    """Return the distance of each patch on the network's own grid."""
    return np.concatenate([np.asarray(model.familiarity(features)) for features in sampled(model, images)])


def unfamiliar(model: pn.PatchNet, images: np.ndarray) -> float:
    """Return the share of the patches that lie beyond the limit."""
    return float((distances(model, images) > float(model.familiarity.limit)).mean())


def false_alarms(root: Path, task: str, channels: int, crop: tuple[int, int] | None) -> pn.PatchNet:
    """Print what fitting takes and how many patches of images that set nothing are marked."""
    train, val = read(root / task / "train", channels), read(root / task / "val", channels)
    S = pn.local_network("efficientnet_lite0", patch_size=P)
    shape = (None, None, channels)
    model = pn.PatchNet(shape, subnet=S, border="reflect", crop=crop, familiarity=True)
    began = time.perf_counter()
    pn.fit_familiarity(model, train, val[1::2])
    seconds = time.perf_counter() - began
    alarms = unfamiliar(model, val[::2])
    print(f"{task}: {len(train)} images fitted in {seconds:.1f} s, false alarms {alarms:.2%}", flush=True)
    pn.fit_familiarity(model, train, val)
    return model


def nuclei(root: Path, model: pn.PatchNet) -> None:
    """Print how many pixels are unfamiliar, by how much of their patch lies on a nucleus."""
    folder = root / NUCLEI
    images = read(folder / "val", 1)
    masks = [
        read_image(folder / "masks" / "val" / path.parent.name / f"{path.stem}__nucleus.png", 1)[..., 0] > 127
        for path in sorted((folder / "val").glob("?/*.png"))
    ]
    before, behind = (P - 1) // 2, P // 2
    padded = np.pad(np.stack(masks), ((0, 0), (before, behind), (before, behind)), mode="reflect")
    share = np.stack([sliding_window_view(mask, (P, P)).mean((-1, -2)) for mask in padded])  # (N, H, W)
    familiar = pn.heatmap_model(model, kind="familiar").predict(images, batch_size=8, verbose=0)
    for name, (low, high) in SHARES.items():
        pixels = (share >= low) & (share <= high)
        print(f"  on a nucleus {name}: {pixels.sum()} pixels, unfamiliar {1 - familiar[pixels].mean():.1%}")


def other_images(root: Path, model: pn.PatchNet) -> None:
    """Print how much of images of other kinds is unfamiliar."""
    for task in OTHERS:
        print(f"  {task}: unfamiliar {unfamiliar(model, read(root / task / 'val')):.1%}", flush=True)
    flat = np.stack([np.full((60, 60, 3), grey, "uint8") for grey in (0, 64, 128, 192, 255)])
    noise = np.random.default_rng(0).integers(0, 256, (5, 60, 60, 3)).astype("uint8")
    print(f"  flat: unfamiliar {unfamiliar(model, flat):.1%}; noise: {unfamiliar(model, noise):.1%}")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    root = parser.parse_args().images
    nuclei(root, false_alarms(root, NUCLEI, 1, (44, 44)))
    other_images(root, false_alarms(root, TEXTURES, 3, None))
    false_alarms(root, SKIN, 3, None)


if __name__ == "__main__":
    main()
