import itertools

import cv2
import numpy as np
import pytest

from patchnet_tf.config import load_config
from patchnet_tf.contract import Pixels
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.training.build import LEVEL, build, mean_and_std, model_pixels
from patchnet_tf.training.train import train

from .small import image_folder


def test_mean_and_std(rng):
    images = rng.integers(0, 256, (5, 6, 7, 3), "uint8")
    images[..., 2] = 51
    mean, std = mean_and_std(model_pixels(images))
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std[:2], (images / 255).std(axis=(0, 1, 2))[:2])
    assert std[2] == pytest.approx(1 / 255)  # never zero
    np.testing.assert_array_equal(list(model_pixels(images)), images / 255)


def test_mean_and_std_of_other_pixels(rng):
    """Dark images of 16 bits deviate by less than a level of 8 bits."""
    images = rng.integers(0, 100, (5, 6, 7, 2), "uint16")
    pixels = Pixels(dtype="uint16", range=(10, 60000), clip=True, channels=2)
    mean, std = mean_and_std(model_pixels(images, pixels=pixels), LEVEL["uint16"])
    x = (np.maximum(images, 10) - 10) / 59990
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, x.std(axis=(0, 1, 2)))
    assert max(std) < 1 / 255


@pytest.mark.parametrize(
    "model", ["patch_size: 5, subnet: {filters: 2, depth: 1}", "kind: vgg19_cam, width: 0.02"]
)
def test_models_take_the_pixels_of_the_data(model, rng, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(f"name: my\ndata: {{kind: folder, path: images}}\nmodel: {{{model}}}\n")
    for split, name in itertools.product(("train", "val"), ("cat", "dog")):
        folder = tmp_path / "images" / split / name
        folder.mkdir(parents=True)
        for k in range(2):
            cv2.imwrite(str(folder / f"{k}.png"), rng.integers(0, 4096, (12, 13), "uint16"))
    config = load_config(path, ["data.range=[0, 4095]"])
    data = load_dataset(config)
    scale = build(config, data).get_layer("zero_to_one")
    assert (scale.range, scale.clip) == ((0, 4095), False)
    np.testing.assert_allclose(scale(data.train.images), data.train.images / 4095, atol=1e-6)


def test_standardized_by_the_preprocessed_pixels_of_the_crop(rng, tmp_path):
    """The whole image decides about its light, and the crop about mean and deviation."""
    image_folder(tmp_path / "images", size=(13, 12), channels=3)
    (tmp_path / "my.yaml").write_text(
        "name: my\n"
        "data: {kind: folder, path: images}\n"
        "model: {patch_size: 5, subnet: {filters: 2, depth: 1}, crop: [6, 7],\n"
        "        preprocessing: [{kind: gamma, gamma: 2}, {kind: shades_of_gray, norm: 4}]}\n"
    )
    config = load_config(tmp_path / "my.yaml")
    data = load_dataset(config)
    model = build(config, data)
    x = np.sqrt(data.train.images / 255)
    light = (x**4).mean(axis=(1, 2), keepdims=True) ** (1 / 4)
    light /= np.sqrt((light**2).sum(axis=-1, keepdims=True))
    x = np.minimum(x / (np.sqrt(3) * light), 1)[:, 3:9, 2:9]
    rescaling = model.get_layer("standardize")
    np.testing.assert_allclose(1 / np.array(rescaling.scale), x.std(axis=(0, 1, 2)), rtol=1e-5)
    means = -np.array(rescaling.offset) / np.array(rescaling.scale)
    np.testing.assert_allclose(means, x.mean(axis=(0, 1, 2)), rtol=1e-5)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds[:4] == ["InputLayer", "ZeroToOne", "GammaCorrection", "ShadesOfGray"]


def test_bad_model_leaves_no_folder(small, tmp_path):
    for override, message in (
        ("model.patch_size=25", "train images: expected at least 25 x 25"),
        ("model.crop=[30, 10]", "train images: expected at least 30 x 10"),
        ("model.crop=[6, 6]", "model: The crop must be at least as large as a patch"),
        ("model={patch_size: 8, subnet: {depth: 7, padding: valid}}", "model: .*the smallest patch is 15"),
    ):
        with pytest.raises(InputError, match=message):
            train(load_config(small, [override]), tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_baselines_that_cannot_be(small, tmp_path):
    for overrides, message in (
        (["model={kind: vgg19_cam}", "data.size=7"], "train images: expected at least 8 x 8"),
        (["model={kind: vgg11, resize: null}"], "train images: expected at least 32 x 32"),
        (["model={kind: vgg11, resize: [31, 40]}"], r"model: .*at least 32 x 32.*Received: 31 x 40"),
        (["model={kind: vgg19_cam, crop: [4, 9]}"], r"model: .*at least 8 x 8.*Received: 4 x 9"),
        (["model={kind: vgg19_cam, crop: [30, 30]}"], "train images: expected at least 30 x 30"),
        (
            ["model={kind: vgg11}", "training.snapshot_every=1"],
            r"training.snapshot_every: expected null.*Received: 1 with model.kind vgg11",
        ),
    ):
        with pytest.raises(InputError, match=message):
            train(load_config(small, overrides), tmp_path / "new")
        assert not (tmp_path / "new").exists()
