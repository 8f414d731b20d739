"""NAME_regions.geojson: the regions of each class as annotations, which QuPath takes by drag and drop.

Coordinates are (x, y) in pixels of the image file, (0, 0) the outer corner of its first pixel. Each region is
4-connected; its outline goes along the edges of pixels, its holes are holes.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ...errors import InputError
from ...files import write_json
from .base import Map, Wanted, Writer
from .outlines import outlines


def check(wanted: Wanted) -> None:
    """Refuse maps that no threshold fits."""
    if wanted.scaled:
        raise InputError(
            f"{wanted.source}: geojson is of values above a threshold, and a baseline's map is scaled for "
            "each image, so that none fits; take png, npy or ome-tiff"
        )


def write(result: Map, folder: Path) -> None:
    """Write the regions of all classes or labels; there may be none."""
    regions = features(result.planes, result.found(), result.names, result.colours(), result.scale)
    write_json(folder / f"{result.stem}_regions.geojson", collection(regions), indent=None)


def collection(regions: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Return regions as what a GeoJSON file holds."""
    return {"type": "FeatureCollection", "features": list(regions)}


def features(
    planes: np.ndarray,
    found: np.ndarray,
    names: tuple[str, ...],
    colours: np.ndarray,
    scale: tuple[float, float],
    least: int = 1,
) -> Iterator[dict[str, Any]]:
    """Give the regions of all planes, as features of GeoJSON.

    Args:
        planes: (H, W, K), the values.
        found: (H, W, K) bool, where the class of each plane is.
        names: of the K classes.
        colours: (K, 3), theirs.
        scale: how many pixels of the image, down and across, one of the map is wide.
        least: how many pixels of the map a region has at least; smaller ones are left out.
    """
    for k, name in enumerate(names):
        labels, count = ndimage.label(found[..., k])
        if least > 1:
            large = np.bincount(labels.ravel()) >= least
            labels, count = ndimage.label(large[labels] & (labels > 0))
        numbers = range(1, count + 1)
        means = ndimage.mean(planes[..., k], labels, numbers) if count else []
        highest = ndimage.maximum(planes[..., k], labels, numbers) if count else []
        for region, mean, high in zip(outlines(labels), means, highest, strict=True):
            yield {
                "type": "Feature",
                "id": str(uuid.uuid4()),
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [(ring[:, ::-1] * scale[::-1]).tolist() for ring in region],
                },
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": name, "color": colours[k].tolist()},
                    "measurements": {
                        "mean probability": round(float(mean), 4),
                        "max probability": round(float(high), 4),
                    },
                },
            }


GEOJSON = Writer("geojson", check, write)
