"""PatchNet, explained by its own heatmap."""

import keras

from ...config import PatchNetModel
from ...model.heatmaps import Drawing, heatmap_model
from ...model.patchnet import PatchNet
from .base import Draw, Kind, Names


def drawing(model: keras.Model) -> Draw:
    """Draw the heatmap in strips."""
    return Drawing(heatmap_model(model))


def names(section: PatchNetModel) -> Names:
    """Name a PatchNet by its patch size; model and method are one."""
    slug, label = f"patchnet{section.patch_size}", f"PatchNet {section.patch_size}"
    return Names(slug, label, slug, label)


PATCHNET = Kind(
    section=PatchNetModel,
    network=PatchNet,
    drawing=drawing,
    smallest=lambda section: (section.patch_size, section.patch_size),
    names=names,
    patches=True,
    snapshots=True,
    exportable=True,
)
