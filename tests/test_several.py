"""Several classes and labels from the command line: train, evaluate, explain, compare."""

import json
import shutil

import keras
import numpy as np
import pytest
import sklearn.metrics
import yaml
from PIL import Image

from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.evaluation.explain import explain
from patchnet_tf.evaluation.metrics import auroc
from patchnet_tf.model.heatmaps import heatmap_model
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import train

from .small import history, save

CLASSES = ("dark", "mid", "white spot")
EXCLUSIVE = """
name: three
data: {{kind: folder, path: {path}, mask: region}}
model: {{patch_size: 8, subnet: {{filters: 4, depth: 2}}}}
training: {{epochs: 2, learning_rate: 1e-3, flips: true, seed: 1, balanced: true, snapshot_every: 1}}
comparison: {{images: 5, baselines: {{networks: [vgg19_cam, vgg11], width: 0.02}}}}
"""
LABELS = """
name: labels
data: {{kind: manifest, path: {path}, classes: [a, b, c], multilabel: true}}
model: {{patch_size: 8, subnet: {{filters: 4, depth: 2}}}}
training: {{epochs: 2, learning_rate: 1e-3, seed: 1}}
"""


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Images of three classes, with masks of two of them."""
    root, rng = tmp_path_factory.mktemp("three"), np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(CLASSES):
            for k in range(4 + label):
                pixels = rng.integers(0, 80, (36, 40), "uint8") + np.uint8(80 * label)
                save(root / "data" / split / name / f"{k}.png", pixels)
                if split == "val" and label and k < 3:
                    mask = np.zeros((36, 40), "uint8")
                    mask[5 * k : 5 * k + 15, 3:30] = 255
                    save(root / "data" / "masks" / split / name / f"{k}__region.png", mask)
    (root / "three.yaml").write_text(EXCLUSIVE.format(path=root / "data"))
    return root


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """Images with any of three labels, some with masks of two."""
    root, rng = tmp_path_factory.mktemp("labels"), np.random.default_rng(0)
    rows = ["path,split,labels,masks"]
    for split in ("train", "val", "test"):
        for k in range(8):
            save(root / f"{split}{k}.png", rng.integers(0, 256, (24, 26, 3), "uint8"))
            names = [name for j, name in enumerate("abc") if k >> j & 1]
            masks = []
            if split == "val" and k > 4:
                for name in names:
                    mask = np.zeros((24, 26), "uint8")
                    mask[2 * k :, 3 : 20 - k] = 255
                    save(root / f"{k}{name}.png", mask)
                    masks.append(f"{name}:{k}{name}.png")
            rows.append(f"{split}{k}.png,{split},{';'.join(names)},{';'.join(masks)}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    (root / "labels.yaml").write_text(LABELS.format(path=root / "list.csv"))
    return root


@pytest.fixture(scope="module")
def run(three):
    train(load_config(three / "three.yaml"), three / "run")
    return three / "run"


@pytest.fixture(scope="module")
def labels_run(labels):
    train(load_config(labels / "labels.yaml"), labels / "run")
    return labels / "run"


def test_a_run_of_three_classes(run):
    measured = evaluate(run)
    config, model = open_run(run)
    data = load_dataset(config)
    assert config.data.classes == CLASSES
    q = model.predict(data.val.images, verbose=0)
    assert q.shape == (15, 3)
    confusion = sklearn.metrics.confusion_matrix(data.val.labels, q.argmax(1), labels=range(3))
    assert measured.confusion == confusion.tolist()
    assert measured.validation["accuracy"].mean == np.mean(q.argmax(1) == data.val.labels)
    right = q[np.arange(15), data.val.labels].astype("float64")
    assert measured.validation["loss"].mean == pytest.approx(-np.log(right).mean(), rel=1e-5)
    # The history's last loss is of the kept weights, or of later ones.
    losses = [float(row[3]) for row in history(run)]
    assert min(losses) == pytest.approx(-np.log(right).mean(), rel=1e-4)
    for k, name in enumerate(CLASSES):
        area = sklearn.metrics.roc_auc_score(data.val.labels == k, q[:, k])
        assert measured.per_class[name]["auroc"].mean == pytest.approx(area)
    assert measured.thresholds is None

    # Localization: each mask against the map of its class.
    maps = heatmap_model(model).predict(data.masked.images, verbose=0)
    areas = [
        auroc(maps[k, ..., label], mask)
        for k, (label, mask) in enumerate(zip(data.masked.labels, data.masked.masks, strict=True))
    ]
    assert data.masked.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert measured.localization["auroc"].mean == pytest.approx(np.mean(areas), abs=1e-5)
    by_class = measured.localization_per_class
    assert by_class["dark"]["auroc"].images == 0
    assert by_class["mid"]["auroc"].mean == pytest.approx(np.mean(areas[:3]), abs=1e-5)
    assert by_class["white spot"]["auroc"].mean == pytest.approx(np.mean(areas[3:]), abs=1e-5)
    pictures = {path.name for path in (run / "heatmaps").glob("*.png")}
    assert {"region.png", "epoch_0000.png", "epoch_0001.png", "epoch_0002.png"} <= pictures


def test_three_classes_are_explained(run, three, patchnet, tmp_path):
    image = three / "data/val/mid/0.png"
    code, out, err = patchnet("explain", run, image, "--out", tmp_path / "maps")
    assert code == 0, err
    model = open_run(run)[1]
    pixels = np.asarray(Image.open(image))[..., None]
    maps, q = (
        heatmap_model(model).predict(pixels[None], verbose=0)[0],
        model.predict(pixels[None], verbose=0)[0],
    )
    np.testing.assert_allclose(np.load(tmp_path / "maps/0_heatmap.npy"), maps, atol=1e-6)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    files = {"0_heatmap_dark.png", "0_heatmap_mid.png", "0_heatmap_white_spot.png"}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == files | {"0_heatmap.npy", "0_overlay.png"}
    grey = np.asarray(Image.open(tmp_path / "maps/0_heatmap_white_spot.png"))
    assert np.abs(grey / 255 - maps[..., 2]).max() <= 0.502 / 255
    assert CLASSES[q.argmax()] in out
    assert f"{q.max():.4f}" in out

    chosen = explain(run, [image, image], tmp_path / "chosen", classes=["white spot"])
    assert [e.stem for e in chosen] == ["0", "0-2"]
    assert chosen[0].class_names == (CLASSES[q.argmax()],)
    assert chosen[0].probabilities == pytest.approx(q)
    written = {path.name for path in (tmp_path / "chosen").glob("0_*.png")}
    assert written == {"0_heatmap_white_spot.png", "0_overlay.png"}
    code, out, err = patchnet("explain", run, image, "--classes", "dark, bright")
    assert code == 2
    assert "expected some of dark, mid, white spot. Received: bright" in err


def test_a_run_of_labels(labels_run, labels, tmp_path):
    measured = evaluate(labels_run)
    config, model = open_run(labels_run)
    data = load_dataset(config)
    q = model.predict(data.val.images, verbose=0)
    assert measured.multilabel
    assert measured.confusion is None
    assert measured.thresholds_by == "youden"
    limits = np.array(measured.thresholds)
    for k, threshold in enumerate(limits):  # no other one is better
        truth = data.val.labels[:, k] == 1

        def youden(t, scores=q[:, k], truth=truth):
            return np.mean(scores[truth] > t) - np.mean(scores[~truth] > t)

        assert youden(threshold) == pytest.approx(max(map(youden, [0, *q[:, k]])))
    accuracy = np.mean((q > limits) == data.val.labels)
    assert measured.validation["accuracy"].mean == pytest.approx(accuracy)
    on_test = model.predict(data.test.images, verbose=0)  # by the same thresholds
    assert measured.test["accuracy"].mean == pytest.approx(np.mean((on_test > limits) == data.test.labels))
    maps = heatmap_model(model).predict(data.masked.images, verbose=0)
    areas = [
        auroc(maps[k, ..., label], mask)
        for k, (label, mask) in enumerate(zip(data.masked.labels, data.masked.masks, strict=True))
    ]
    assert data.masked.labels.tolist() == [0, 2, 1, 2, 0, 1, 2]
    assert measured.localization["auroc"].mean == pytest.approx(np.mean(areas), abs=1e-5)

    e = explain(labels_run, [labels / "val3.png"], tmp_path)[0]
    assert e.class_names == tuple(name for name, p, t in zip("abc", q[3], limits, strict=True) if p > t)
    assert e.class_name == (", ".join(e.class_names) or "none")
    assert np.load(tmp_path / "val3_heatmap.npy").shape == (24, 26, 3)


def test_a_run_without_masks_has_a_picture(three, tmp_path):
    config = load_config(three / "three.yaml", ["data.mask=null", "training.epochs=1"])
    train(config, tmp_path / "run")
    assert evaluate(tmp_path / "run").localization is None
    picture = np.asarray(Image.open(tmp_path / "run/heatmaps/validation.png"))
    assert len(picture) > 6 * 128  # two of each class


@pytest.mark.slow
def test_several_classes_are_compared(three, patchnet, tmp_path):
    out = tmp_path / "compared"
    code, _, err = patchnet(
        "compare", three / "three.yaml", "--out", out, "--set", "training.epochs=1", "--patch-sizes", "5,8"
    )
    assert code == 0, err
    compared = json.loads((out / "comparison.json").read_text())
    assert [method["slug"] for method in compared["methods"]] == ["patchnet5", "patchnet8", "cam", "grad_cam"]
    for model in compared["models"]:
        assert np.sum(model["confusion"]) == 15
    for method in compared["methods"]:
        assert method["localization_per_class"]["mid"]["auroc"]["images"] == 3
        assert method["localization_per_class"]["dark"]["auroc"]["images"] == 0
        assert method["faithfulness"]["deletion"]["images"] == 5
    np.testing.assert_array_equal(np.load(out / "maps/classes.npy"), [1, 1, 1, 2, 2, 2])
    for name in ("patchnet8", "cam", "grad_cam"):
        folder = {"grad_cam": "vgg11"}.get(name, name)
        model = open_run(out / folder)[1]
        curves = np.load(out / f"maps/{name}_curves.npz")
        images, classes = np.load(out / "maps/images.npy"), np.load(out / "maps/classes.npy")
        shown = [0, 1, 2, 4, 5]  # evenly
        q = model.predict(images[shown], verbose=0)[np.arange(5), classes[shown]]
        np.testing.assert_allclose(curves["deletion"][:, 0], q, atol=1e-5)
        np.testing.assert_allclose(curves["insertion"][:, -1], q, atol=1e-5)
    assert (out / "heatmaps.png").is_file()


def test_baselines_of_several_classes_are_explained(three, tmp_path):
    overrides = ["model={kind: vgg19_cam, width: 0.02}", "training.epochs=1", "training.snapshot_every=null"]
    train(load_config(three / "three.yaml", overrides), tmp_path / "run")
    assert evaluate(tmp_path / "run").localization_per_class["mid"]["auroc"].images == 3
    (one,) = explain(tmp_path / "run", [three / "data/val/dark/0.png"])
    assert len(one.drawn) == 3
    maps = np.load(tmp_path / "run/heatmaps/0_heatmap.npy")
    for k in range(3):
        assert (maps[..., k].min(), maps[..., k].max()) in ((0, 1), (0.5, 0.5))


def test_classes_are_only_chosen_where_there_are_several(labels_run, labels):
    for chosen, message in (([""], r"some of a, b, c\. Received: nothing"), (["a", "a"], "each once")):
        with pytest.raises(InputError, match=message):
            explain(labels_run, [labels / "val3.png"], classes=chosen)
    with pytest.raises(InputError, match=r"expected some of a, b, c\. Received: d"):
        explain(labels_run, [labels / "val3.png"], classes=["a", "d"])


def test_a_configuration_of_other_classes_is_refused(labels_run, tmp_path):
    for name in ("config.yaml", "model.keras"):
        shutil.copy(labels_run / name, tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["data"]["classes"] = ["a", "b"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"has 3 output\(s\)\. Received: a, b$"):
        evaluate(tmp_path)


def test_training_of_several_classes_learns(three, tmp_path):
    config = load_config(three / "three.yaml", ["training.epochs=60", "training.snapshot_every=null"])
    trained = train(config, tmp_path)
    assert trained.best.val_accuracy == 1
    keras.backend.clear_session()
