import numpy as np
import pytest

from patchnet_tf.config import Config, Model, by_kind
from patchnet_tf.contract import make_classes
from patchnet_tf.data import Dataset, Examples
from patchnet_tf.errors import InputError
from patchnet_tf.training.build import build
from patchnet_tf.training.kinds import KINDS, kind_of

SECTIONS = {
    "patchnet": {"patch_size": 9, "subnet": {"filters": 2, "depth": 1}},
    "pretrained": {"weights": None},
    "vgg19_cam": {"width": 0.01},
    "vgg11": {"width": 0.01, "resize": None},
}


def config(kind, **model):
    return Config.model_validate(
        {"name": "a", "data": {"kind": "squares"}, "model": {"kind": kind, **SECTIONS[kind], **model}}
    )


def data(height, width, rng):
    images = rng.integers(0, 256, (2, height, width, 1), "uint8")
    both = Examples(images, np.array([0, 1], "uint8"))
    return Dataset(make_classes(("a", "b")), both, both, None)


def test_every_kind_of_a_configuration_is_known():
    assert {name: kind.section for name, kind in KINDS.items()} == by_kind(Model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crop", [None, (33, 35)])
def test_the_smallest_image_and_none_smaller(kind, crop, rng):
    settings = config(kind, crop=crop)
    height, width = kind_of(settings).smallest_image(settings.model)
    for size in ((height - 1, width), (height, width - 1)):
        with pytest.raises(InputError, match=f"at least {height} x {width}"):
            build(settings, data(*size, rng), measured=False)
    images = data(height, width, rng)
    model = build(settings, images, measured=False)
    assert model.predict(images.val.images, verbose=0).shape == (2, 1)
    assert (None not in model.input_shape[1:3]) == kind_of(settings).fixed_size(settings.model)

    shares = []
    heatmap = kind_of(settings).drawing(model)(images.val.images[0], shares.append)
    assert heatmap.shape == (height, width)
    assert 0 <= heatmap.min() <= heatmap.max() <= 1
    assert shares[-1] == 1
    if kind_of(settings).min_max_normalized:
        assert (heatmap.min(), heatmap.max()) in ((0, 1), (0.5, 0.5))


def test_names():
    labels = {kind: kind_of(config(kind)).names(config(kind).model) for kind in KINDS}
    assert labels == {
        "patchnet": ("patchnet9", "PatchNet 9", "patchnet9", "PatchNet 9"),
        "pretrained": (
            "pretrained",
            "efficientnet_lite0 in full",
            "pretrained_cam",
            "CAM, pretrained",
        ),
        "vgg19_cam": ("cam", "VGG-19, CAM", "cam", "CAM"),
        "vgg11": ("vgg11", "VGG-11", "grad_cam", "Grad-CAM"),
    }
