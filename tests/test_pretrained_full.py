"""A pretrained network in full: its maps, its training on features computed once, and its comparison."""

import keras
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf import baselines
from patchnet_tf.baselines import pretrained
from patchnet_tf.baselines.cam import CAM
from patchnet_tf.baselines.class_maps import min_max_normalized
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.model.lite import EfficientNetLite0, load_lite_weights
from patchnet_tf.studies import comparison
from patchnet_tf.studies.comparison import study
from patchnet_tf.studies.comparison.candidates import candidates_of
from patchnet_tf.training import train as training
from patchnet_tf.training.build import build
from patchnet_tf.training.run import open_run

FULL = """
name: full
data: {kind: textures, size: 40, train: 4, val: 3, collages: 2, collage_size: 48}
model: {kind: pretrained, weights: null, dropout: 0.0}
training: {epochs: 2, learning_rate: 1e-2, flips: true, seed: 1, stop_when_accurate: false}
"""
LOCAL = FULL.replace(
    "{kind: pretrained, weights: null, dropout: 0.0}",
    "{patch_size: 19, subnet: {kind: pretrained, weights: null, dropout: 0.25, hidden: 4}}",
)


@pytest.fixture(scope="module")
def full():
    return baselines.pretrained_full((None, None, 3))


@pytest.fixture
def place(tmp_path):
    (tmp_path / "full.yaml").write_text(FULL)
    (tmp_path / "local.yaml").write_text(LOCAL)
    return tmp_path


def features_of(model):
    return keras.Model(model.input, model.get_layer("average").output)


def test_its_features_are_those_of_the_network_as_published(full, rng):
    network = EfficientNetLite0()
    load_lite_weights(network)
    published = keras.Model(network.input, network.get_layer("average").output)
    images = rng.integers(0, 256, (2, 45, 64, 3), "uint8")
    expected = published((images.astype("float32") - 127) / 128, training=False)
    np.testing.assert_allclose(features_of(full)(images.astype("float32")), expected, atol=1e-4)
    assert np.std(expected) > 0.01


def test_grey_images_become_three_equal_channels(full, rng):
    grey = rng.integers(0, 256, (2, 40, 33, 1)).astype("float32")
    model = baselines.pretrained_full((None, None, 1))
    np.testing.assert_allclose(features_of(model)(grey), features_of(full)(grey.repeat(3, -1)), atol=1e-5)


@pytest.mark.parametrize("crop", [None, (36, 40)])
def test_cam_adds_up_to_the_logit(crop, rng):
    model = baselines.pretrained_full((None, None, 3), weights=None, dropout=0.5, crop=crop)
    images = rng.integers(0, 256, (2, 64, 50, 3)).astype("float32")
    size, seen = (64, 50), crop or (64, 50)
    raw = np.asarray(CAM(model).raw(images))
    if crop:  # enlarged to the crop, which up-sampling by whole numbers would leave the mean of
        assert raw.shape == (2, *size)
        frame = [(b - a) // 2 for a, b in zip(seen, size, strict=True)]
        assert not raw[:, : frame[0]].any()
        assert not raw[:, :, -frame[1] :].any()
    else:
        assert raw.shape == (2, 2, 2)
        q = np.asarray(model(images), "float64")[:, 0]
        bias = float(model.get_layer("probability").bias[0])
        np.testing.assert_allclose(raw.mean((1, 2)) + bias, np.log(q / (1 - q)), atol=1e-4)
    for method in (baselines.cam, baselines.grad_cam):
        assert method(model, images).shape == (2, *size)


def test_grad_cam_of_the_averaged_maps_is_the_positive_part_of_cam(full, rng):
    images = rng.integers(0, 256, (3, 96, 96, 3)).astype("float32")
    raw = np.maximum(np.asarray(CAM(full).raw(images)), 0)
    resized = np.asarray(keras.ops.image.resize(raw[..., None], (96, 96)))[..., 0]
    expected = min_max_normalized(resized)
    assert (expected.max((1, 2)) == 1).any()
    maps = baselines.grad_cam(full, images, layer="top")
    np.testing.assert_allclose(maps, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "ResNet50", "Xception"])
def test_networks_of_keras(name, rng):
    """Those with squeeze-and-excite, with blue first, and built for one size too."""
    model = baselines.pretrained_full((None, None, 3), network=name, weights=None)
    images = rng.integers(0, 256, (1, 75, 80, 3)).astype("float32")
    network, rest = pretrained.split_pretrained(model)
    np.testing.assert_allclose(rest(network(images)), model(images), atol=1e-6)
    assert baselines.cam(model, images).shape == baselines.grad_cam(model, images).shape == (1, 75, 80)


@pytest.mark.parametrize("name", ["MobileNetV3Small", "MobileNet", "VGG16"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_head_of_a_network_is_cut_off(name, nested):
    maker = getattr(keras.applications, name)
    network = maker(weights=None, include_top=True, classes=3, input_shape=(64, 64, 3))
    if nested:
        image = keras.Input((64, 64, 3))
        network = keras.Model(image, network(keras.layers.Identity()(image)))
    maps = pretrained.to_last_maps(network).output.shape
    assert maps[1:] == maker(weights=None, include_top=False, input_shape=(64, 64, 3)).output.shape[1:]


def test_the_two_parts_are_the_whole(rng):
    model = baselines.pretrained_full((None, None, 1), weights=None, dropout=0.3, crop=(40, 40))
    network, rest = pretrained.split_pretrained(model)
    images = rng.integers(0, 256, (3, 44, 48, 1)).astype("float32")
    np.testing.assert_allclose(rest(network(images)), model(images), atol=1e-6)
    assert [w.path for w in rest.trainable_weights] == [w.path for w in model.trainable_weights]
    assert len(rest.trainable_weights) == 2
    model = baselines.pretrained_full((None, None, 1), weights=None, fine_tune=True)
    assert pretrained.split_pretrained(model) is None


def test_the_history_is_that_of_the_whole_model(place, monkeypatch):
    config = load_config(place / "full.yaml")
    kept = training.train(config, place / "kept")
    monkeypatch.setattr(training, "frozen_network", lambda *arguments: None)
    whole = training.train(config, place / "whole")
    for a, b in zip(kept.rows, whole.rows, strict=True):
        np.testing.assert_allclose(a[2:], b[2:], atol=1e-3)
    (_, a), (_, b) = open_run(place / "kept"), open_run(place / "whole")
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_fine_tuning_leaves_batch_normalization_as_it_is(place):
    config = load_config(
        place / "full.yaml", ["model.fine_tune=true", "model.weights=imagenet", "training.epochs=1"]
    )
    assert config.model.learning_rate == 1e-4
    keras.utils.set_random_seed(1)
    before = build(config, load_dataset(config))
    training.train(config, place / "run")
    after = open_run(place / "run")[1]
    changed = {w.path: not np.array_equal(w, v) for v, w in zip(before.weights, after.weights, strict=True)}
    constant = {path for path in changed if path.endswith(("scale", "offset"))}
    assert constant
    assert not any(changed[path] for path in constant)
    assert all(changed[path] for path in changed.keys() - constant)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": "nonet"}, InputError, "A network is"),
        ({"weights": "no.pth"}, InputError, "no.pth"),
        ({"dropout": 1.0}, ValueError, "`dropout` must be below 1. Received: dropout=1.0"),
        ({"input_shape": (40, 40, 2)}, ValueError, "takes 1 or 3 channels"),
        ({"input_shape": (31, 40, 3)}, ValueError, "at least 32 x 32"),
        ({"network": "xception", "input_shape": (70, 80, 3)}, ValueError, "at least 71 x 71"),
    ],
)
def test_bad_arguments_are_one_line(options, error, message):
    with pytest.raises(error, match=message) as caught:
        baselines.pretrained_full(**{"input_shape": (None, None, 3), "weights": None, **options})
    assert "\n" not in str(caught.value)


def test_it_is_the_network_of_patchnet_and_trained_as_it_is(place):
    networks = "comparison.baselines={networks: [vgg11, pretrained], epochs: 3}"
    config = load_config(place / "local.yaml", [networks, "model.crop=[36, 36]", "training.snapshot_every=1"])
    patchnet, vgg11, full = candidates_of(config)
    assert (vgg11.config.model.kind, vgg11.config.training.epochs) == ("vgg11", 3)
    assert full.config.training == patchnet.config.training.model_copy(update={"snapshot_every": None})
    model, subnet = full.config.model, patchnet.config.model.subnet
    for key in ("network", "weights", "dropout", "fine_tune", "fine_tune_rate"):
        assert getattr(model, key) == getattr(subnet, key)
    assert (model.kind, model.crop) == ("pretrained", (36, 36))
    *_, alone = candidates_of(
        load_config(
            place / "local.yaml", ["model={patch_size: 9}", "comparison.baselines.networks=[pretrained]"]
        )
    )
    assert (alone.config.model.network, alone.config.model.weights) == ("efficientnet_lite0", "imagenet")


def test_one_training_is_explained_by_both_methods(place, patchnet, monkeypatch):
    overrides = ["--set", "comparison.baselines.networks=[pretrained]", "--set", "training.epochs=1"]
    out = place / "out"
    code, shown, err = patchnet("compare", place / "local.yaml", *overrides, "--out", out)
    assert code == 0, err
    assert "efficientnet_lite0 in full" in shown
    config = load_config(place / "local.yaml", overrides[1::2])
    monkeypatch.setattr(study, "train", None)  # nothing is trained again
    results = comparison.compare(config, out)
    assert [model.slug for model in results.models] == ["patchnet19", "pretrained"]
    assert [(m.slug, m.label, m.model) for m in results.methods] == [
        ("patchnet19", "PatchNet 19", "patchnet19"),
        ("pretrained_cam", "CAM, pretrained", "pretrained"),
        ("pretrained_grad_cam", "Grad-CAM, pretrained", "pretrained"),
    ]
    images = np.load(out / "maps" / "images.npy")
    model = pn.load_model(out / "pretrained" / "model.keras")
    for name, method in (("cam", baselines.cam), ("grad_cam", baselines.grad_cam)):
        maps = np.load(out / "maps" / f"pretrained_{name}.npy")
        np.testing.assert_allclose(maps, method(model, images), atol=1e-4)
    rows = (out / "comparison.csv").read_text().splitlines()
    assert len(rows) == 4
    assert "Grad-CAM, pretrained" in (out / "report.html").read_text(encoding="utf-8")
