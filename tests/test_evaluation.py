import shutil

import cv2
import keras
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.evaluation.explain import explain
from patchnet_tf.evaluation.results import Run
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import train

from .small import history, image_folder, save


def test_evaluate(run):
    told = []
    measured = evaluate(run, progress=lambda task, done, total, note="": told.append((task, done, total)))
    assert Run.read(run / "metrics.json") == measured
    assert measured.versions["keras"] == keras.__version__
    data = load_dataset(load_config(run / "config.yaml"))
    model = pn.load_model(run / "model.keras")
    q, labels = model.predict(data.val.images, verbose=0)[:, 0], data.val.labels
    validation = measured.validation
    assert validation["loss"].images == 8
    assert validation["accuracy"].mean == np.mean((q > 0.5) == labels)
    pairs = q[labels == 1][:, None] - q[labels == 0][None]
    assert validation["auroc"].mean == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    for mean in validation.values():
        assert mean.low <= mean.mean <= mean.high
    assert validation["loss"].mean == pytest.approx(min(float(row[3]) for row in history(run)), abs=1e-5)
    maps = pn.heatmap_model(model).predict(data.masked.images, verbose=0)
    assert measured.masks == "collages"
    exact = measured.localization["exact_match"]
    assert exact.mean == pytest.approx(np.mean((maps >= 0.5) == data.masked.masks), abs=1e-3)
    assert exact.low <= exact.mean <= exact.high
    assert (exact.images, exact.skipped) == (2, 0)
    assert ("heatmaps", 2, 2) in told
    assert cv2.imread(str(run / "heatmaps" / "collages.png")) is not None


def test_a_damaged_history_is_told_before_anything_is_measured(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "damaged")
    (tmp_path / "damaged" / "history.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr("patchnet_tf.evaluation.evaluate.load_dataset", None)
    with pytest.raises(InputError, match=r"history\.csv: not the history of a run"):
        evaluate(tmp_path / "damaged")


def test_explain(run, rng, tmp_path):
    paths = [
        save(tmp_path / "a" / "x.png", rng.integers(0, 256, (30, 41), "uint8")),
        save(tmp_path / "b" / "x.png", rng.integers(0, 256, (9, 20, 3), "uint8")),
        save(tmp_path / "b" / "x.jpg", rng.integers(0, 256, (8, 8), "uint8")),
    ]
    explained = explain(run, paths, tmp_path / "out")
    assert [e.stem for e in explained] == ["x", "x-2", "x-3"]
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        f"{stem}_{kind}"
        for stem in ("x", "x-2", "x-3")
        for kind in ("heatmap.png", "heatmap.npy", "overlay.png")
    }
    model = pn.load_model(run / "model.keras")
    for e, size in zip(explained, [(30, 41), (9, 20), (8, 8)], strict=True):
        image = cv2.imread(str(e.path), cv2.IMREAD_GRAYSCALE)[None, ..., None]
        heatmap = np.load(tmp_path / "out" / f"{e.stem}_heatmap.npy", allow_pickle=False)
        assert (heatmap.dtype, heatmap.shape) == (np.float32, size)
        # Grey levels of a colour file may differ by one between decoders.
        expected = pn.heatmap_model(model).predict(image, verbose=0)[0]
        np.testing.assert_allclose(heatmap, expected, atol=1e-5 if e.stem == "x" else 0.02)
        assert e.probability == pytest.approx(float(model.predict(image, verbose=0)[0, 0]), abs=0.01)
        assert e.class_name == ("gravel" if e.probability > 0.5 else "brick")
        grey = cv2.imread(str(tmp_path / "out" / f"{e.stem}_heatmap.png"), cv2.IMREAD_UNCHANGED)
        assert (grey.dtype, grey.shape) == (np.uint8, size)  # grey, and not rescaled:
        np.testing.assert_array_equal(grey, np.rint(255 * heatmap.astype("float64")))
        overlay = cv2.imread(str(tmp_path / "out" / f"{e.stem}_overlay.png"))
        assert overlay.shape[0] > size[0]  # the legend is below


@pytest.mark.filterwarnings(r"ignore:.*there is no identity\.json:UserWarning")
def test_explain_without_class_names(run, rng, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(
        "name: a\ndata: {kind: folder, path: gone}\nmodel: {patch_size: 8}\n"
    )
    (tmp_path / "run" / "model.keras").write_bytes((run / "model.keras").read_bytes())
    image = save(tmp_path / "x.png", rng.integers(0, 256, (9, 10), "uint8"))
    (explained,) = explain(tmp_path / "run", [image])
    assert explained.class_name == f"class {int(explained.probability > 0.5)}"


def test_explain_checks_all_images_first(run, rng, tmp_path):
    good = save(tmp_path / "good.png", rng.integers(0, 256, (30, 41), "uint8"))
    small = save(tmp_path / "tiny.png", np.zeros((30, 7), "uint8"))
    with pytest.raises(InputError, match=r"tiny.png: expected at least 8 x 8 pixels.*Received: 30 x 7"):
        explain(run, [good, small], tmp_path / "out")
    with pytest.raises(InputError, match=r"none.png: cannot be read"):
        explain(run, [good, tmp_path / "none.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_colour_folder_with_masks_crop_and_snapshots(tmp_path):
    image_folder(tmp_path / "images", channels=3)
    mask = np.zeros((20, 24), "uint8")
    mask[5:9, 5:9] = 255
    save(tmp_path / "images" / "masks" / "val" / "dog" / "0__spot.png", mask)
    (tmp_path / "my.yaml").write_text(
        "name: my\n"
        "data: {kind: folder, path: images, mask: spot, size: [20, 22]}\n"
        "model: {patch_size: 7, subnet: {filters: 4, depth: 2}, crop: [14, 14]}\n"
        "training: {epochs: 2, snapshot_every: 1, learning_rate: 0.01}\n"
    )
    run = tmp_path / "run"
    train(load_config(tmp_path / "my.yaml"), run)
    assert load_config(run / "config.yaml").data.classes == ("cat", "dog")
    model = pn.load_model(run / "model.keras")
    inside = load_dataset(load_config(run / "config.yaml")).train.images[:, 3:17, 4:18] / 255
    rescaling = model.get_layer("standardize")
    np.testing.assert_allclose(1 / np.array(rescaling.scale), inside.std(axis=(0, 1, 2)), rtol=1e-5)
    assert (run / "heatmaps" / "epoch_0001.png").is_file()
    measured = evaluate(run)
    assert measured.test is None
    assert measured.localization["auroc"].images == 1
    assert (run / "heatmaps" / "spot.png").is_file()
    for name, other in (("cat", "dog"), ("dog", "cat")):  # a test split whose labels are all wrong
        shutil.copytree(tmp_path / "images" / "val" / name, tmp_path / "images" / "test" / other)
    measured = evaluate(run)
    validation, test = measured.validation, measured.test
    assert test["loss"].images == 6
    assert test["accuracy"].mean == pytest.approx(1 - validation["accuracy"].mean)
    assert test["auroc"].mean == pytest.approx(1 - validation["auroc"].mean)
    small = save(tmp_path / "tiny.png", np.zeros((13, 20), "uint8"))
    with pytest.raises(InputError, match="at least 14 x 14"):
        explain(run, [small])
    grey = save(tmp_path / "grey.png", np.full((16, 20), 200, "uint8"))
    with pytest.warns(UserWarning, match=r"grey.png: .* resized to 20 x 22; .* 16 x 20"):
        explain(run, [grey])
    assert np.load(run / "heatmaps" / "grey_heatmap.npy").shape == (16, 20)
    [as_trained] = explain(run, [grey], resize=True)
    assert np.load(run / "heatmaps" / "grey_heatmap.npy").shape == (20, 22)
    model = open_run(run)[1]
    assert as_trained.probability == pytest.approx(float(model(np.full((1, 20, 22, 3), 200.0))[0, 0]))


BASELINES = {
    "vgg19_cam": ["model={kind: vgg19_cam, width: 0.02}"],
    "vgg11": ["model={kind: vgg11, width: 0.02, resize: [40, 40]}"],
    "vgg11 as it is": ["model={kind: vgg11, width: 0.02, resize: null}", "data.size=32"],
}


@pytest.mark.parametrize("kind", BASELINES)
def test_baselines_are_runs_like_any_other(kind, small, tmp_path, rng):
    run = tmp_path / "once"
    train(load_config(small, [*BASELINES[kind], "training.epochs=2"]), run)
    if kind == "vgg11":  # two epochs at once are those of one and its resumption: dropout too
        for epochs in (1, 2):
            config = load_config(small, [*BASELINES[kind], f"training.epochs={epochs}"])
            train(config, tmp_path / "twice", resume=True)
        assert history(run) == history(tmp_path / "twice")
    config, model = open_run(run)
    data = load_dataset(config)
    assert config.model.kind == kind.split()[0]
    method = pn.baselines.cam if kind == "vgg19_cam" else pn.baselines.grad_cam
    measured = evaluate(run)
    right = (model.predict(data.val.images, verbose=0)[:, 0] > 0.5) == data.val.labels
    assert measured.validation["accuracy"].mean == pytest.approx(right.mean())
    maps = method(model, data.masked.images)
    assert measured.localization["exact_match"].mean == pytest.approx(
        np.mean((maps >= 0.5) == data.masked.masks)
    )
    image = rng.integers(0, 256, (32, 32) if kind.endswith("as it is") else (37, 45), "uint8")
    (explained,) = explain(run, [save(tmp_path / "new.png", image)])
    heatmap = np.load(run / "heatmaps" / "new_heatmap.npy")
    np.testing.assert_array_equal(heatmap, method(model, image[None, ..., None])[0])
    assert explained.probability == pytest.approx(model.predict(image[None, ..., None], verbose=0)[0, 0])
