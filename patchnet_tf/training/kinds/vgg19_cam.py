"""VGG-19, explained by CAM."""

from ...baselines import cam, vgg19_cam
from ...baselines.vgg import SMALLEST_VGG19_CAM
from ...config import Vgg19CamModel
from .base import Kind, Names, drawn_by

VGG19_CAM = Kind(
    section=Vgg19CamModel,
    network=vgg19_cam,
    drawing=drawn_by(cam),
    smallest=lambda section: (SMALLEST_VGG19_CAM, SMALLEST_VGG19_CAM),
    names=lambda section: Names("cam", "VGG-19, CAM", "cam", "CAM"),
)
