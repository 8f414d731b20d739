"""What the paper compares PatchNet with: networks with CAM and Grad-CAM, and features of nuclei.

    from patchnet_tf import baselines

    model = baselines.vgg19_cam((224, 224, 3))
    maps = baselines.cam(model, images)

`baselines.nuclear_features` is imported by itself: it needs mahotas.
"""

from .maps import cam, grad_cam, occlusion
from .vgg import vgg11, vgg19_cam

__all__ = ["cam", "grad_cam", "occlusion", "vgg11", "vgg19_cam"]
