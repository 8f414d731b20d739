"""What is unlike training: distances against numpy and scikit-learn, patch by patch, and what is kept."""

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn.covariance import LedoitWolf

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.contract import Contract
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.explain import explain
from patchnet_tf.export import VerificationError, to_onnx, to_saved_model, verify
from patchnet_tf.export.comparison import compare
from patchnet_tf.images import pictures
from patchnet_tf.model.familiar import fit_familiarity
from patchnet_tf.model.heatmaps import Drawing
from patchnet_tf.serving import Predictor
from patchnet_tf.serving.saved_model import SavedModelPredictor
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import train

from .small import save

CONFIG = """
name: unlike
data: {kind: textures, size: 40, train: 6, val: 4, collages: 2, collage_size: 48}
model: {patch_size: 19, familiarity: true, subnet: {kind: pretrained, weights: null, hidden: 8}}
training: {epochs: 2, learning_rate: 1e-2, seed: 1, stop_when_accurate: false}
"""


def local(channels=1, **options):
    """S of a small ConvNet of strides 2 and 2; it sees 7 x 7 pixels."""
    image = keras.Input((None, None, channels))
    x = layers.Conv2D(6, 3, 2, "same", activation="relu", name="first")(image)
    x = layers.Conv2D(5, 3, 2, "same", activation="relu", name="last")(x)
    return pn.local_network(keras.Model(image, layers.Flatten()(x[:, :1, :1])), "last", hidden=3, **options)


def grid_features(model, images):
    """Normalized features (n, F), float64, of the patches that G looks at, each by itself."""
    p, s, S = model.patch_size, model.subnet.stride, model.subnet
    covered = np.asarray(model.covered(images))
    patches = [
        image[i : i + p, j : j + p]
        for image in covered
        for i in range(0, image.shape[0] - p + 1, s)
        for j in range(0, image.shape[1] - p + 1, s)
    ]
    x = np.asarray(S.body(np.stack(patches)))[:, 0, 0].astype("float64")  # (n, F)
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-3)


@pytest.fixture(scope="module")
def fitted():
    """A model that has seen grey noise around 100, the images, and others like them."""
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(3)
    images, others = (rng.normal(100, 20, (n, 22, 18, 1)).clip(0, 255).astype("uint8") for n in (12, 6))
    model = pn.PatchNet((None, None, 1), subnet=local(), border="reflect", familiarity=True)
    fit_familiarity(model, images, others, share=0.05)
    return model, images, others


def test_distance_and_limit(fitted):
    model, images, others = fitted
    truth = LedoitWolf().fit(grid_features(model, images))
    expected = np.sqrt(truth.mahalanobis(grid_features(model, others)))
    distances = np.asarray(model.familiarity(grid_features(model, others).astype("float32")))
    np.testing.assert_allclose(distances, expected, rtol=1e-3)
    assert float(model.familiarity.limit) == pytest.approx(np.quantile(expected, 0.95), rel=1e-3)
    fit_familiarity(model, images, share=0.05)
    own = np.sqrt(truth.mahalanobis(grid_features(model, images)))
    assert float(model.familiarity.limit) == pytest.approx(np.quantile(own, 0.95), rel=1e-3)
    fit_familiarity(model, images, others, share=0.05)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 3}, {"stride": 4}, {"memory": 1}, {"memory": None}], ids=str
)
def test_map_is_that_of_each_patch(fitted, options, monkeypatch):
    model, images, _ = fitted
    picture = np.concatenate(
        [images[:1], np.zeros_like(images[:1]), 255 - images[1:2]], axis=2
    )  # (1, 22, 54, 1)
    maps = pn.heatmap_model(model, kind="familiar", **options)
    if options.get("memory"):
        monkeypatch.setattr(type(maps.every_patch), "tile_side", lambda self: 10)
    familiar = maps.predict(picture, verbose=0)
    p, step = model.patch_size, options.get("stride", 1)
    padded = np.asarray(model.padded(picture))[0]
    patches = np.lib.stride_tricks.sliding_window_view(padded, (p, p), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    features = np.asarray(model.subnet.body(patches.reshape(-1, p, p, 1)))[:, 0, 0]
    distances = np.asarray(model.familiarity(model.subnet.normalized(features))).reshape(22, 54)[
        ::step, ::step
    ]
    limit = float(model.familiarity.limit)
    clear = np.abs(distances - limit) > 1e-3
    assert familiar.dtype == bool
    assert familiar.shape == (1, *distances.shape) == tuple(maps.compute_output_shape(picture.shape))
    np.testing.assert_array_equal(familiar[0][clear], (distances <= limit)[clear])
    assert 0.2 < familiar.mean() < 0.9


def test_decisions_stay_as_they_are(fitted):
    model, images, _ = fitted
    plain = pn.PatchNet((None, None, 1), subnet=model.subnet, border="reflect")
    np.testing.assert_array_equal(model.predict(images, verbose=0), plain.predict(images, verbose=0))
    assert len(model.trainable_weights) == len(plain.trainable_weights)
    assert len(model.weights) == len(plain.weights) + 3


def test_kept_in_files(fitted, tmp_path):
    model, images, _ = fitted
    maps = pn.heatmap_model(model, kind="familiar")
    expected = maps.predict(images, verbose=0)
    assert not expected.all()
    model.save(tmp_path / "model.keras")
    again = pn.heatmap_model(pn.load_model(tmp_path / "model.keras"), kind="familiar")
    np.testing.assert_array_equal(again.predict(images, verbose=0), expected)
    maps.save(tmp_path / "maps.keras")
    np.testing.assert_array_equal(
        keras.models.load_model(tmp_path / "maps.keras").predict(images, verbose=0), expected
    )
    layer = maps.every_patch
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    older = model.get_config()
    del older["familiarity"]  # of earlier versions
    assert pn.PatchNet.from_config(older).familiarity is None


def test_drawn_in_strips(fitted, monkeypatch):
    model, images, _ = fitted
    monkeypatch.setattr("patchnet_tf.model.heatmaps.STRIP_ROWS", 8)
    maps = pn.heatmap_model(model, kind="familiar")
    np.testing.assert_array_equal(Drawing(maps)(images[0]), maps.predict(images[:1], verbose=0)[0])


def test_before_it_is_measured_all_is_familiar():
    model = pn.PatchNet((None, None, 3), subnet=local(3, classes=3), familiarity=True)
    familiar = pn.heatmap_model(model, kind="familiar").predict(np.zeros((1, 9, 9, 3), "uint8"), verbose=0)
    assert familiar.shape == (1, 9, 9)
    assert familiar.all()


def test_flat_images_have_no_deviation():
    model = pn.PatchNet((None, None, 1), subnet=local(), border="reflect", familiarity=True)
    images = np.full((2, 12, 12, 1), 90, "uint8")
    fit_familiarity(model, images)
    assert all(np.isfinite(w).all() for w in model.familiarity.get_weights())
    maps = pn.heatmap_model(model, kind="familiar")
    other = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 1), "uint8")
    assert not maps.predict(other, verbose=0).all()


def test_sampled_evenly(fitted, monkeypatch):
    model, images, others = fitted
    limit = float(model.familiarity.limit)
    monkeypatch.setattr("patchnet_tf.model.familiar.MOST", 12 * 8)
    fit_familiarity(model, images, others, share=0.05)
    first = model.familiarity.get_weights()
    fit_familiarity(model, images, others, share=0.05)
    for a, b in zip(first, model.familiarity.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(model.familiarity.limit) != limit
    monkeypatch.undo()
    fit_familiarity(model, images, others, share=0.05)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_share(fitted, share):
    model, images, _ = fitted
    with pytest.raises(ValueError, match=r"`share` must be above 0 and below 1\. Received"):
        fit_familiarity(model, images, share=share)


def test_what_cannot_be_familiar(fitted):
    with pytest.raises(ValueError, match=r"`familiarity` needs an S that `local_network` returned"):
        pn.PatchNet((None, None, 1), 7, familiarity=True)
    plain = pn.PatchNet((None, None, 1), subnet=local())
    with pytest.raises(ValueError, match="Only a PatchNet with `familiarity=True`"):
        pn.heatmap_model(plain, kind="familiar")
    with pytest.raises(ValueError, match="Only a PatchNet with `familiarity=True`"):
        fit_familiarity(plain, np.zeros((1, 9, 9, 1)))
    for options in ({"method": "patchwise"}, {"classes": [0]}):
        with pytest.raises(ValueError, match='kind "familiar" is "exact", and one for all classes'):
            pn.heatmap_model(fitted[0], kind="familiar", **options)


def test_runs_measure_and_explain_it(tmp_path):
    (tmp_path / "unlike.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "unlike.yaml")
    train(config, tmp_path / "run")
    config, model = open_run(tmp_path / "run")
    kept = model.familiarity.get_weights()
    data = load_dataset(config)
    fit_familiarity(model, data.train.images, data.val.images)
    for a, b in zip(kept, model.familiarity.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    image = data.val.images[0]
    image[:, :20] = 0
    explain(tmp_path / "run", [save(tmp_path / "half.png", image[..., 0])], tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"half_{what}" for what in ("heatmap.npy", "heatmap.png", "overlay.png", "familiar.png")}
    familiar = np.asarray(Image.open(tmp_path / "out" / "half_familiar.png"))
    expected = pn.heatmap_model(model, kind="familiar").predict(image[None], verbose=0)[0]
    assert (familiar == 255 * expected).mean() > 0.99  # rounding may differ at the limit
    assert not expected.all()
    overlay = np.asarray(Image.open(tmp_path / "out" / "half_overlay.png"))
    heatmap = np.load(tmp_path / "out" / "half_heatmap.npy")
    plain = pictures.overlay(image, heatmap)
    expected = pictures.hatched(plain, familiar == 0)
    np.testing.assert_array_equal(overlay[:160, :160], pictures.enlarged(expected))
    np.testing.assert_array_equal(expected[familiar == 255], plain[familiar == 255])
    assert len(overlay) > len(pictures.with_legend(plain, ("a", "b")))


def test_papers_subnet_has_none(tmp_path):
    (tmp_path / "unlike.yaml").write_text(
        CONFIG.replace("kind: pretrained, weights: null, hidden: 8", "depth: 2")
    )
    with pytest.raises(InputError, match="model: `familiarity` needs an S that `local_network` returned"):
        train(load_config(tmp_path / "unlike.yaml"), tmp_path / "run")


def test_hatching():
    grey = np.full((16, 24), 100, "uint8")
    where = np.zeros((16, 24), bool)
    where[4:12, 8:16] = True
    hatched = pictures.hatched(grey, where)
    assert hatched.shape == (16, 24, 3)
    assert (hatched[~where] == 100).all()
    assert [(hatched[where] == value).all(-1).sum() for value in (30, 255)] == [8, 8]  # a line in 8 each
    assert pictures.with_hatching_legend(grey).shape[0] > 16
    with pytest.raises(ValueError, match="A mask must have the size"):
        pictures.hatched(grey, where[1:])


@pytest.mark.parametrize("to_file", [to_onnx, to_saved_model])
def test_exported(fitted, to_file, tmp_path):
    model, images, others = fitted
    path = to_file(model, tmp_path / "model.onnx").path
    predict = Predictor(path) if path.is_file() else SavedModelPredictor(path)
    assert predict.contract.outputs["familiar"] == ("familiar", "bool", ("batch", "height", "width"))
    pictures = np.concatenate([images[:2], np.zeros_like(images[:2])], axis=2)  # (2, 22, 36, 1)
    for batch in (pictures, others):
        familiar = predict(batch).familiar
        expected = pn.heatmap_model(model, kind="familiar").predict(batch, verbose=0)
        assert (familiar.dtype, familiar.shape) == (bool, expected.shape)
        assert 0 < expected.mean() < 1
        assert (familiar == expected).mean() > 0.995  # rounding may differ at the limit
        np.testing.assert_array_equal(predict(batch[0]).familiar, familiar[0])
    assert len(predict(pictures)) == 2
    assert verify(model, path).heatmap < 1e-4
    plain = pn.PatchNet((None, None, 1), subnet=model.subnet, border="reflect")
    with pytest.raises(VerificationError, match="made from another model, with familiar=True"):
        verify(plain, path)
    mean = model.familiarity.mean.numpy()
    model.familiarity.mean.assign(mean + 1)
    with pytest.raises(VerificationError, match="made from another model; its weights differ"):
        verify(model, path)
    with pytest.raises(VerificationError, match="of the pixels in what is like training"):
        compare(model, predict, path, "float32")
    model.familiarity.mean.assign(mean)
    other = to_file(plain, tmp_path / "plain.onnx").path
    assert (Predictor(other) if other.is_file() else SavedModelPredictor(other))(images).familiar is None


def test_contract():
    fields = {"classes": {"names": ["cat", "dog"]}, "pixels": {"channels": 3}, "smallest": [17, 17]}
    plain, familiar = Contract(**fields), Contract(**fields, familiar=True)
    assert "familiar" not in plain.to_json()
    assert list(plain.outputs) == ["probability", "heatmap"]
    assert Contract.from_json(familiar.to_json()) == familiar != plain
