import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.training import experiment

from .small import SMALL, image_folder, save

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run of four epochs that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    experiment.train(load_config(small), folder)
    return folder


def history(folder):
    """The rows of history.csv as text, without the seconds."""
    header, *rows = (folder / "history.csv").read_text().splitlines()
    assert header == "epoch,seconds,loss,accuracy,val_loss,val_accuracy"
    return [[value for k, value in enumerate(row.split(",")) if k != 1] for row in rows]


def test_run_folder(run, small):
    assert {f.name for f in run.iterdir()} == {
        "config.yaml",
        "checkpoint.npz",
        "history.csv",
        "model.keras",
        "tensorboard",
    }
    config = load_config(run / "config.yaml")
    assert config == load_config(small)
    rows = np.array(history(run), float)
    assert rows[:, 0].tolist() == [1, 2, 3, 4]
    assert np.isfinite(rows).all()
    # The model has the weights of the epoch with the lowest validation loss.
    data = load_dataset(config)
    model = pn.load_model(run / "model.keras")
    q = model.predict(data.val.images, verbose=0)[:, 0].astype("float64")
    loss = -np.mean(np.where(data.val.labels == 1, np.log(q), np.log(1 - q)))
    assert loss == pytest.approx(rows[:, 3].min(), abs=1e-5)


def test_kill_in_the_middle_of_an_epoch_and_resume(run, small, tmp_path):
    kill_in_epoch_3 = """
import os, signal, sys
from patchnet_tf.training import experiment
from patchnet_tf.config import load_config

def kill(task, done, total, note=""):
    if done > 2.4:
        os.kill(os.getpid(), signal.SIGKILL)

experiment.train(load_config(sys.argv[1]), sys.argv[2], progress=kill)
"""
    folder = tmp_path / "cut"
    killed = subprocess.run(
        [sys.executable, "-c", kill_in_epoch_3, small, folder], cwd=ROOT, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(history(folder)) == 2
    with pytest.raises(InputError, match="has not finished"):
        experiment.evaluate(folder)
    with pytest.raises(InputError, match="--resume continues it"):
        experiment.train(load_config(small), folder)

    seen = []
    trained = experiment.train(
        load_config(small), folder, resume=True, progress=lambda task, done, *_: seen.append(done)
    )
    assert 2 < seen[0] < 3
    assert [row.epoch for row in trained.rows] == [1, 2, 3, 4]
    # Another process, and yet the very same losses as the run that nothing interrupted.
    assert history(folder) == history(run)


def test_resume_a_finished_run_with_more_epochs(small, tmp_path):
    folder = tmp_path / "more"
    first = experiment.train(load_config(small, ["training.epochs=1"]), folder)
    assert first.reason == "all 1 epochs are done"
    again = experiment.train(load_config(small, ["training.epochs=1"]), folder, resume=True)
    assert again == first
    more = experiment.train(load_config(small, ["training.epochs=2"]), folder, resume=True)
    assert more.rows[0] == first.rows[0]
    assert len(more.rows) == 2
    with pytest.raises(InputError, match=r"another model.depth, training.seed; choose another --out"):
        experiment.train(load_config(small, ["model.depth=3", "training.seed=5"]), folder, resume=True)


def test_resume_with_all_augmentation(small, tmp_path):
    """Two epochs at once are those of one epoch and its resumption."""
    options = ["training.rotations=true", "training.zoom=1.2", "training.balanced=true"]
    for folder, epochs in (("once", 2), ("twice", 1), ("twice", 2)):
        config = load_config(small, [*options, f"training.epochs={epochs}"])
        experiment.train(config, tmp_path / folder, resume=True)
    assert history(tmp_path / "once") == history(tmp_path / "twice")
    plain = load_config(small, ["training.epochs=1"])
    experiment.train(plain, tmp_path / "plain")
    assert history(tmp_path / "plain")[0] != history(tmp_path / "once")[0]


def test_convergence_ends_a_run_for_good(small, tmp_path):
    """A learning rate of almost nothing never improves enough to last."""
    overrides = ["training.patience=1", "training.learning_rate=1e-30"]
    config = load_config(small, overrides)
    trained = experiment.train(config, tmp_path / "stuck")
    assert trained.reason == "validation loss has not improved for 1 epochs"
    assert [row.epoch for row in trained.rows] == [1, 2]
    assert trained.best.epoch == 1
    assert experiment.train(config, tmp_path / "stuck", resume=True) == trained


def test_folders_that_are_no_runs(small, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").touch()
    with pytest.raises(InputError, match=r"full: not empty, and not a run"):
        experiment.train(load_config(small), tmp_path / "full", resume=True)
    with pytest.raises(InputError, match=r"precious.txt: not a folder"):
        experiment.train(load_config(small), tmp_path / "full" / "precious.txt")
    for folder in (tmp_path / "full", tmp_path / "none"):
        with pytest.raises(InputError, match="not a run folder"):
            experiment.evaluate(folder)


def test_damaged_runs(run, small, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.yaml").write_text(SMALL)
    (folder / "model.keras").write_text("no zip")
    with pytest.raises(InputError, match=r"model.keras: not a model") as caught:
        experiment.evaluate(folder)
    assert "\n" not in str(caught.value)
    (folder / "config.yaml").write_text(
        SMALL.replace("kind: textures,", "kind: textures, classes: [brick, gravel],")
    )
    checkpoint = folder / "checkpoint.npz"
    whole = (run / "checkpoint.npz").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - b for b in whole[middle : middle + 9]) + whole[middle + 9 :]
    for content in (b"no archive", b"", whole[:middle], flipped):
        checkpoint.write_bytes(content)
        with pytest.raises(InputError) as caught:
            experiment.train(load_config(small), folder, resume=True)
        assert str(caught.value) == f"{checkpoint}: not the checkpoint of this run, or damaged"


BASELINES = {
    "vgg19_cam": ["model={kind: vgg19_cam, width: 0.02}"],
    "vgg11": ["model={kind: vgg11, width: 0.02, resize: [40, 40]}"],
    "vgg11 as it is": ["model={kind: vgg11, width: 0.02, resize: null}", "data.size=32"],
}


@pytest.mark.parametrize("kind", BASELINES)
def test_baselines_are_runs_like_any_other(kind, small, tmp_path, rng):
    run = tmp_path / "once"
    experiment.train(load_config(small, [*BASELINES[kind], "training.epochs=2"]), run)
    if kind == "vgg11":  # two epochs at once are those of one and its resumption: dropout too
        for epochs in (1, 2):
            config = load_config(small, [*BASELINES[kind], f"training.epochs={epochs}"])
            experiment.train(config, tmp_path / "twice", resume=True)
        assert history(run) == history(tmp_path / "twice")
    config, model = experiment.open_run(run)
    data = load_dataset(config)
    assert config.model.kind == kind.split()[0]
    method = pn.baselines.cam if kind == "vgg19_cam" else pn.baselines.grad_cam
    measured = experiment.evaluate(run)
    right = (model.predict(data.val.images, verbose=0)[:, 0] > 0.5) == data.val.labels
    assert measured["validation"]["accuracy"] == pytest.approx(right.mean())
    maps = method(model, data.masked.images)
    assert measured["localization"]["exact_match"]["mean"] == pytest.approx(
        np.mean((maps >= 0.5) == data.masked.masks)
    )
    image = rng.integers(0, 256, (32, 32) if kind.endswith("as it is") else (37, 45), "uint8")
    (explained,) = experiment.explain(run, [save(tmp_path / "new.png", image)])
    heatmap = np.load(run / "heatmaps" / "new_heatmap.npy")
    np.testing.assert_array_equal(heatmap, method(model, image[None, ..., None])[0])
    assert explained.probability == pytest.approx(model.predict(image[None, ..., None], verbose=0)[0, 0])


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
            experiment.train(load_config(small, overrides), tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_finish(small, tmp_path, monkeypatch):
    """A run that has ended is only read; one that has not goes on."""
    config = load_config(small, ["training.epochs=2"])
    first = experiment.finish(config, tmp_path / "run")
    assert history(tmp_path / "run") == history_of(first)
    stamp = (tmp_path / "run" / "model.keras").stat().st_mtime_ns

    def refuse(*args, **kwargs):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "train", refuse)
        assert experiment.finish(config, tmp_path / "run") == first
        assert experiment.finish(load_config(small, ["training.epochs=1"]), tmp_path / "run") == first
    assert (tmp_path / "run" / "model.keras").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match=r"another training.seed"):
        experiment.finish(load_config(small, ["training.seed=9"]), tmp_path / "run")
    more = experiment.finish(load_config(small, ["training.epochs=3"]), tmp_path / "run")
    assert more.rows[:2] == first.rows
    assert len(more.rows) == 3
    assert (tmp_path / "run" / "model.keras").stat().st_mtime_ns > stamp


def history_of(trained):
    return [[str(v) for k, v in enumerate(row) if k != 1] for row in trained.rows]


def test_more_epochs_take_the_old_model_away(small, tmp_path):
    """A run that goes on and is cut off has not finished."""
    experiment.train(load_config(small, ["training.epochs=1"]), tmp_path)

    def cut(task, done, total, note=""):
        if done > 1.4:
            raise KeyboardInterrupt

    config = load_config(small, ["training.epochs=2"])
    with pytest.raises(KeyboardInterrupt):
        experiment.train(config, tmp_path, resume=True, progress=cut)
    with pytest.raises(InputError, match="has not finished"):
        experiment.open_run(tmp_path)
    assert len(experiment.finish(config, tmp_path).rows) == 2


def test_bad_model_leaves_no_folder(small, tmp_path):
    for override, message in (
        ("model.patch_size=25", "train images: expected at least 25 x 25"),
        ("model.crop=[30, 10]", "train images: expected at least 30 x 10"),
        ("model.crop=[6, 6]", "model: The crop must be at least as large as a patch"),
        ("model={patch_size: 8, depth: 7, padding: valid}", "model: .*the smallest patch is 15"),
    ):
        with pytest.raises(InputError, match=message):
            experiment.train(load_config(small, [override]), tmp_path / "new")
        assert not (tmp_path / "new").exists()


def test_divergence(small, tmp_path):
    config = load_config(small, ["training.learning_rate=1e38"])
    with pytest.raises(FloatingPointError, match=r"try a smaller training.learning_rate"):
        experiment.train(config, tmp_path / "wild")
    # No epoch was finished, so other settings may have the folder.
    assert {f.name for f in (tmp_path / "wild").iterdir()} == {"config.yaml", "tensorboard"}
    trained = experiment.train(load_config(small, ["training.epochs=1"]), tmp_path / "wild")
    assert len(trained.rows) == 1
    with pytest.raises(InputError, match="holds a run already"):
        experiment.train(config, tmp_path / "wild")


def test_a_persons_config_is_not_replaced(small, tmp_path):
    (tmp_path / "config.yaml").write_text(f"# Mine.\n{SMALL}")
    with pytest.raises(InputError, match="holds a run already"):
        experiment.train(load_config(small), tmp_path)
    assert (tmp_path / "config.yaml").read_text().startswith("# Mine.")


def test_no_space_left(run, small, tmp_path, monkeypatch):
    """The disk is full in the middle of a checkpoint: the last one stays, and no part of the new one."""
    savez, saved = np.savez, []

    def full(file, **arrays):
        saved.append(len(arrays["history"]))
        if len(saved) == 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            experiment.train(load_config(small), tmp_path / "full")
    assert {f.name for f in (tmp_path / "full").iterdir()} == {
        "config.yaml",
        "checkpoint.npz",
        "history.csv",
        "tensorboard",
    }
    experiment.train(load_config(small), tmp_path / "full", resume=True)
    assert history(tmp_path / "full") == history(run)


def test_mean_and_std(rng):
    images = rng.integers(0, 256, (5, 6, 7, 3), "uint8")
    images[..., 2] = 51
    mean, std = experiment.mean_and_std(experiment.seen(images))
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std[:2], (images / 255).std(axis=(0, 1, 2))[:2])
    assert std[2] == pytest.approx(1 / 255)  # never zero


def test_standardized_by_the_preprocessed_pixels_of_the_crop(rng, tmp_path):
    """The whole image decides about its light, and the crop about mean and deviation."""
    image_folder(tmp_path / "images", size=(13, 12), channels=3)
    (tmp_path / "my.yaml").write_text(
        "name: my\n"
        "data: {kind: folder, path: images}\n"
        "model: {patch_size: 5, filters: 2, depth: 1, crop: [6, 7],\n"
        "        preprocessing: [{kind: gamma, gamma: 2}, {kind: shades_of_gray, norm: 4}]}\n"
    )
    config = load_config(tmp_path / "my.yaml")
    data = load_dataset(config)
    model = experiment.build(config, data)
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


def test_evaluate(run):
    told = []
    measured = experiment.evaluate(
        run, progress=lambda task, done, total, note="": told.append((task, done, total))
    )
    assert json.loads((run / "metrics.json").read_text()) == measured
    assert measured["versions"]["keras"] == keras.__version__
    data = load_dataset(load_config(run / "config.yaml"))
    model = pn.load_model(run / "model.keras")
    q, labels = model.predict(data.val.images, verbose=0)[:, 0], data.val.labels
    validation = measured["validation"]
    assert validation["images"] == 8
    assert validation["accuracy"] == np.mean((q > 0.5) == labels)
    pairs = q[labels == 1][:, None] - q[labels == 0][None]
    assert validation["auroc"] == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    for name, (low, high) in validation["intervals"].items():
        assert low <= validation[name] <= high
    assert validation["loss"] == pytest.approx(min(float(row[3]) for row in history(run)), abs=1e-5)
    maps = pn.heatmap_model(model).predict(data.masked.images, verbose=0)
    localization = measured["localization"]
    assert localization["masks"] == "collages"
    exact = localization["exact_match"]
    assert exact["mean"] == pytest.approx(np.mean((maps >= 0.5) == data.masked.masks), abs=1e-3)
    assert exact["low"] <= exact["mean"] <= exact["high"]
    assert (exact["images"], exact["skipped"]) == (2, 0)
    assert ("heatmaps", 2, 2) in told
    assert cv2.imread(str(run / "heatmaps" / "collages.png")) is not None


def test_explain(run, rng, tmp_path):
    paths = [
        save(tmp_path / "a" / "x.png", rng.integers(0, 256, (30, 41), "uint8")),
        save(tmp_path / "b" / "x.png", rng.integers(0, 256, (9, 20, 3), "uint8")),
        save(tmp_path / "b" / "x.jpg", rng.integers(0, 256, (8, 8), "uint8")),
    ]
    explained = experiment.explain(run, paths, tmp_path / "out")
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


def test_explain_without_class_names(run, rng, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(
        "name: a\ndata: {kind: folder, path: gone}\nmodel: {patch_size: 8}\n"
    )
    (tmp_path / "run" / "model.keras").write_bytes((run / "model.keras").read_bytes())
    image = save(tmp_path / "x.png", rng.integers(0, 256, (9, 10), "uint8"))
    (explained,) = experiment.explain(tmp_path / "run", [image])
    assert explained.class_name == f"class {int(explained.probability > 0.5)}"


def test_explain_checks_all_images_first(run, rng, tmp_path):
    good = save(tmp_path / "good.png", rng.integers(0, 256, (30, 41), "uint8"))
    small = save(tmp_path / "tiny.png", np.zeros((30, 7), "uint8"))
    with pytest.raises(InputError, match=r"tiny.png: expected at least 8 x 8 pixels.*Received: 30 x 7"):
        experiment.explain(run, [good, small], tmp_path / "out")
    with pytest.raises(InputError, match=r"none.png: cannot be read"):
        experiment.explain(run, [good, tmp_path / "none.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_colour_folder_with_masks_crop_and_snapshots(tmp_path):
    image_folder(tmp_path / "images", channels=3)
    mask = np.zeros((20, 24), "uint8")
    mask[5:9, 5:9] = 255
    save(tmp_path / "images" / "masks" / "val" / "dog" / "0__spot.png", mask)
    (tmp_path / "my.yaml").write_text(
        "name: my\n"
        "data: {kind: folder, path: images, mask: spot, size: [20, 22]}\n"
        "model: {patch_size: 7, filters: 4, depth: 2, crop: [14, 14]}\n"
        "training: {epochs: 2, snapshot_every: 1, learning_rate: 0.01}\n"
    )
    run = tmp_path / "run"
    experiment.train(load_config(tmp_path / "my.yaml"), run)
    assert load_config(run / "config.yaml").data.classes == ("cat", "dog")
    model = pn.load_model(run / "model.keras")
    inside = load_dataset(load_config(run / "config.yaml")).train.images[:, 3:17, 4:18] / 255
    rescaling = model.get_layer("standardize")
    np.testing.assert_allclose(1 / np.array(rescaling.scale), inside.std(axis=(0, 1, 2)), rtol=1e-5)
    assert (run / "heatmaps" / "epoch_0001.png").is_file()
    measured = experiment.evaluate(run)
    assert "test" not in measured
    assert measured["localization"]["auroc"]["images"] == 1
    assert (run / "heatmaps" / "spot.png").is_file()
    for name, other in (("cat", "dog"), ("dog", "cat")):  # a test split whose labels are all wrong
        shutil.copytree(tmp_path / "images" / "val" / name, tmp_path / "images" / "test" / other)
    measured = experiment.evaluate(run)
    validation, test = measured["validation"], measured["test"]
    assert test["images"] == 6
    assert test["accuracy"] == pytest.approx(1 - validation["accuracy"])
    assert test["auroc"] == pytest.approx(1 - validation["auroc"])
    small = save(tmp_path / "tiny.png", np.zeros((13, 20), "uint8"))
    with pytest.raises(InputError, match="at least 14 x 14"):
        experiment.explain(run, [small])
    grey = save(tmp_path / "grey.png", np.full((16, 20), 200, "uint8"))
    with pytest.warns(UserWarning, match=r"grey.png: .* resized to 20 x 22; .* 16 x 20"):
        experiment.explain(run, [grey])
    assert np.load(run / "heatmaps" / "grey_heatmap.npy").shape == (16, 20)
    [as_trained] = experiment.explain(run, [grey], resize=True)
    assert np.load(run / "heatmaps" / "grey_heatmap.npy").shape == (20, 22)
    model = experiment.open_run(run)[1]
    assert as_trained.probability == pytest.approx(float(model(np.full((1, 20, 22, 3), 200.0))[0, 0]))
