"""`patchnet explain` of a slide of 20,000 x 20,000 pixels: time, memory and files.

    python -m benchmarks.slides --out DIR

Makes in DIR, unless they are there, a run (EfficientNet-Lite0 as S, p = 35, trained for --epochs on crops of
scikit-image's photograph of stained tissue, strongly stained against weakly) and a slide (OME-TIFF, tiles of
256 x 256 in JPEG, levels of 1, 1/4 and 1/16, 0.25 micrometres per pixel): that photograph, mirrored again and
again, in an ellipse on glass. Then explains --level of it in a process of its own. Memory is the most that
this process ever held, its framework included. DIR needs 6 GB for the largest; delete it afterwards.

A tiny run: --side 600 --epochs 1
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage.color
import skimage.data
import yaml
from PIL import Image
from tifffile import TiffWriter

TILE, CROP = 256, 64
FACTORS = (1, 4, 16)
GLASS = 243
PHOTOGRAPH = skimage.data.immunohistochemistry()  # 512 x 512
PATCHNET = [sys.executable, "-m", "patchnet_tf.cli"]


def make_run(folder: Path, epochs: int) -> Path:
    """Train on crops of the photograph; of each class are those with more, or less, of the brown stain."""
    photograph = PHOTOGRAPH
    brown = skimage.color.rgb2hed(photograph)[..., 2]
    corners = [(y, x) for y in range(0, 512, CROP) for x in range(0, 512, CROP)]
    stain = [brown[y : y + CROP, x : x + CROP].mean() for y, x in corners]
    for (y, x), strong in zip(corners, np.array(stain) > np.median(stain), strict=True):
        place = folder / "crops" / ("val" if x >= 384 else "train") / ("weak", "strong")[int(strong)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[y : y + CROP, x : x + CROP]).save(place / f"{y}-{x}.png")
    config = {
        "name": "stain",
        "data": {"kind": "folder", "path": str((folder / "crops").absolute()), "classes": ["weak", "strong"]},
        "model": {
            "patch_size": 35,
            "border": "reflect",
            "subnet": {"kind": "pretrained", "network": "efficientnet_lite0"},
        },
        "training": {"epochs": epochs, "flips": True, "learning_rate": 1e-3, "seed": 0},
    }
    (folder / "stain.yaml").write_text(yaml.safe_dump(config))
    run = folder / "run"
    subprocess.run([*PATCHNET, "train", folder / "stain.yaml", "--out", run], check=True)
    return run


def tissue_at(rows: np.ndarray, columns: np.ndarray, side: int) -> np.ndarray:
    """Return pixels (H, W, 3) of the first level at these rows and columns."""

    def mirrored(numbers: np.ndarray) -> np.ndarray:
        numbers = numbers % 1024
        return np.where(numbers < 512, numbers, 1023 - numbers)

    pixels = PHOTOGRAPH[mirrored(rows)[:, None], mirrored(columns)[None]]
    y, x = (rows[:, None] / side - 0.5) / 0.42, (columns[None] / side - 0.5) / 0.36
    return np.where((y**2 + x**2 < 1)[..., None], pixels, np.uint8(GLASS))


def make_slide(path: Path, side: int) -> None:
    """Write the slide, tile by tile; a pixel of a smaller level is the first of those that it stands for."""
    part = path.with_name(f".part-{path.name}")

    def tiles(factor: int) -> Iterator[np.ndarray]:
        size = -(-side // factor)
        for top in range(0, size, TILE):
            for left in range(0, size, TILE):
                yield tissue_at(
                    factor * np.arange(top, top + TILE), factor * np.arange(left, left + TILE), side
                )

    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    with TiffWriter(part, ome=True, bigtiff=True) as file:
        for factor in FACTORS:
            size = -(-side // factor)
            place = {"subifds": len(FACTORS) - 1, "metadata": metadata} if factor == 1 else {"subfiletype": 1}
            file.write(
                tiles(factor),
                shape=(size, size, 3),
                dtype="uint8",
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 90},
                **place,
            )
    part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--level", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run = options.out / "run"
    if not (run / "model.keras").exists():
        make_run(options.out, options.epochs)
    slide = options.out / f"slide-{options.side}.ome.tif"
    if not slide.exists():
        make_slide(slide, options.side)
    maps = options.out / "maps"
    command = [*PATCHNET, "explain", run, slide, "--level", str(options.level), "--out", maps]
    command += ["--to", "png,ome-tiff,geojson"]
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True)
    seconds, after = time.perf_counter() - start, os.times()
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # also of the training before
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"level {options.level} of {options.side} x {options.side}: {seconds:.0f} s", end=", ")
    print(f"{processor:.0f} s of processor time, at most {memory:.2f} GiB")
    for path in sorted([slide, *maps.iterdir()]):
        print(f"{path.name}  {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
