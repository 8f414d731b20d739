"""What the paper compares PatchNet with: networks with CAM and Grad-CAM; and occlusion.

from patchnet_tf import baselines

model = baselines.vgg19_cam((224, 224, 3))
maps = baselines.cam(model, images)
"""

from .cam import cam
from .grad_cam import grad_cam
from .occlusion import occlusion
from .pretrained import pretrained_full
from .vgg import vgg11, vgg19_cam

__all__ = ["cam", "grad_cam", "occlusion", "pretrained_full", "vgg11", "vgg19_cam"]
