"""VGG-11, explained by Grad-CAM."""

from ...baselines import grad_cam, vgg11
from ...baselines.vgg import SMALLEST_VGG11
from ...config import Vgg11Model
from .base import Kind, Names, drawn_by

VGG11 = Kind(
    section=Vgg11Model,
    network=vgg11,
    drawing=drawn_by(grad_cam),
    # What is resized inside the model may have any size.
    smallest=lambda section: (1, 1) if section.resize else (SMALLEST_VGG11, SMALLEST_VGG11),
    names=lambda section: Names("vgg11", "VGG-11", "grad_cam", "Grad-CAM"),
    fixed_size=lambda section: not section.resize and not section.crop,
)
