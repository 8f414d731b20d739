"""A pretrained network in full, explained by CAM; a comparison draws its Grad-CAM too."""

from typing import Any

import keras

from ...baselines import cam, grad_cam, pretrained_full
from ...baselines.pretrained import smallest_of, split_pretrained
from ...config import PretrainedModel
from .base import Kind, Names, drawn_by


def network(
    shape: tuple[int | None, int | None, int],
    *,
    fine_tune_rate: float,
    mean: Any = None,
    std: Any = None,
    **arguments: Any,
) -> keras.Model:
    """Make the network; mean and std of the images are for those that start from scratch."""
    return pretrained_full(shape, **arguments)


def names(section: PretrainedModel, slug: str = "cam", label: str = "CAM") -> Names:
    """Name the network, and one of its methods."""
    return Names("pretrained", f"{section.network} in full", f"pretrained_{slug}", f"{label}, pretrained")


PRETRAINED = Kind(
    section=PretrainedModel,
    network=network,
    drawing=drawn_by(cam),
    smallest=lambda section: (smallest_of(section.network),) * 2,
    names=names,
    others=((lambda section: names(section, "grad_cam", "Grad-CAM"), drawn_by(grad_cam)),),
    split=split_pretrained,
)
