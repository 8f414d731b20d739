"""PatchNet, explained by its own heatmap."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from ...config import PatchNetModel
from ...errors import InputError
from ...model.frozen import split_frozen
from ...model.heatmaps import Drawing, heatmap_model
from ...model.local import local_network
from ...model.patchnet import PatchNet
from .base import Draw, Kind, Names


def drawing(model: keras.Model) -> Draw:
    """Draw the heatmap in strips; those of all classes at once, as they share all work but the last."""
    strips = Drawing(heatmap_model(model))

    def draw(
        image: np.ndarray, progress: Callable[[float], None], classes: Sequence[int] | None = None
    ) -> np.ndarray:
        heatmap = strips(image, progress)  # (H, W) or (H, W, K)
        return heatmap if classes is None else heatmap[..., list(classes)]

    return draw


def network(
    shape: tuple[int | None, int | None, int],
    *,
    patch_size: int,
    subnet: dict[str, Any],
    classes: int = 2,
    multilabel: bool = False,
    mean: Any = None,
    std: Any = None,
    **arguments: Any,
) -> PatchNet:
    """Make a PatchNet: mean and std of the images are for an S that learns from them from scratch."""
    options = {**subnet, "classes": classes, "multilabel": multilabel}
    if options.pop("kind") == "paper":
        return PatchNet(shape, patch_size, mean=mean, std=std, **options, **arguments)
    tuned, _ = options.pop("fine_tune"), options.pop("fine_tune_rate")
    S = local_network(options.pop("network"), patch_size=patch_size, **options)
    if S.patch_size != patch_size:
        raise InputError(
            f"patch_size: the nearest that this network has is {S.patch_size}. Received: {patch_size}"
        )
    S.body.trainable = tuned
    return PatchNet(shape, subnet=S, **arguments)


def names(section: PatchNetModel) -> Names:
    """Name a PatchNet by its patch size; model and method are one."""
    slug, label = f"patchnet{section.patch_size}", f"PatchNet {section.patch_size}"
    return Names(slug, label, slug, label)


PATCHNET = Kind(
    section=PatchNetModel,
    network=network,
    drawing=drawing,
    smallest=lambda section: (section.patch_size, section.patch_size),
    names=names,
    split=split_frozen,
    patches=True,
    snapshots=True,
    exportable=True,
)
