"""The kinds of model, by `model.kind` of a configuration: how each is built, explained and named.

    kind = kind_of(config)
    model = kind.network((None, None, 3), **arguments)
    draw = kind.drawing(model)

A new kind is a file here, a line in `KINDS`, and its section in `patchnet_tf.config`.
"""

from ...config import Config
from .base import Draw, Kind, Names
from .patchnet import PATCHNET
from .pretrained import PRETRAINED
from .vgg11 import VGG11
from .vgg19_cam import VGG19_CAM

KINDS: dict[str, Kind] = {
    "patchnet": PATCHNET,
    "pretrained": PRETRAINED,
    "vgg19_cam": VGG19_CAM,
    "vgg11": VGG11,
}

__all__ = ["KINDS", "Draw", "Kind", "Names", "kind_of"]


def kind_of(config: Config) -> Kind:
    """Return the kind of a configuration's model.

    Example:
        >>> kind_of(load_config("configs/demo.yaml")).exportable
        True
    """
    return KINDS[config.model.kind]
