import csv
import dataclasses
import datetime
import shutil

import numpy as np
import pytest
import yaml
from sklearn.metrics import roc_auc_score

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import Examples, load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.evaluation.results import Comparison
from patchnet_tf.studies import comparison
from patchnet_tf.studies.comparison import measuring, study
from patchnet_tf.studies.comparison.candidates import candidates_of
from patchnet_tf.studies.comparison.images import choose
from patchnet_tf.training.train import train

from .small import SMALL, image_folder, save

TINY = ["training.epochs=2", "comparison.baselines={width: 0.02, batch_size: 8}", "comparison.images=4"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(SMALL.replace("collages: 2", "collages: 5"))
    return path


@pytest.fixture(scope="module")
def config(small):
    return load_config(small, [*TINY, "comparison.patch_sizes=[11, 8]"])


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """A comparison that was cut off inside the second epoch of CAM, and what it had then."""
    folder = tmp_path_factory.mktemp("runs") / "compared"

    def cut(task, done, total, note=""):
        if task.startswith("VGG-19") and done > 1.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        comparison.compare(config, folder, progress=cut)
    assert not (folder / "comparison.json").exists()
    then = {name: models(folder)[name] for name in ("patchnet8", "patchnet11")}
    tasks = []
    results = comparison.compare(config, folder, progress=lambda task, *_: tasks.append(task))
    return folder, results, then, tasks


def read_rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def models(folder):
    """When the model of each run was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/model.keras")}


def test_a_comparison_goes_on_where_it_was(compared, config, tmp_path):
    folder, _, then, tasks = compared
    assert set(models(folder)) == {"patchnet8", "patchnet11", "cam", "vgg11"}
    assert {name: models(folder)[name] for name in then} == then
    trained = [task for task in dict.fromkeys(tasks) if task.endswith("training")]
    assert trained == ["VGG-19, CAM: training", "VGG-11: training"]
    # The model that was cut off has the history of one that was not.
    run = load_config(folder / "cam" / "config.yaml")
    assert (run.training.batch_size, run.training.learning_rate, run.model.width) == (8, 1e-3, 0.02)
    whole = train(run, tmp_path / "cam").rows
    rows = [line.split(",") for line in (folder / "cam" / "history.csv").read_text().splitlines()[1:]]
    assert [[float(v) for v in row[2:]] for row in rows] == [list(row[2:]) for row in whole]


def test_nothing_is_done_twice(compared, config, monkeypatch):
    folder, results, *_ = compared

    def refuse(*args, **kwargs):
        raise AssertionError("done again")

    before = models(folder)
    for module, name in (
        (study, "train"),
        (measuring, "draw_maps"),
        (measuring, "deletion"),
        (measuring, "insertion"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert comparison.compare(config, folder) == results
    assert models(folder) == before
    assert Comparison.read(folder / "comparison.json") == results


def test_figures_of_maps_by_hand(compared, config):
    folder, results, *_ = compared
    data = load_dataset(config)
    images, masks = (np.load(folder / "maps" / f"{name}.npy") for name in ("images", "masks"))
    np.testing.assert_array_equal(images, data.masked.images)
    np.testing.assert_array_equal(masks, data.masked.masks)
    assert results.masks == "collages"
    assert [image.name for image in results.images] == [f"collages {k}" for k in range(1, 6)]
    assert [method.slug for method in results.methods] == ["patchnet8", "patchnet11", "cam", "grad_cam"]
    for method in results.methods:
        maps = np.load(folder / "maps" / f"{method.slug}.npy")
        assert (maps.shape, maps.dtype) == (masks.shape, np.float32)
        by_hand = {
            "exact_match": [np.mean((q >= 0.5) == m) for q, m in zip(maps, masks, strict=True)],
            "recall": [np.mean(q[m] >= 0.5) for q, m in zip(maps, masks, strict=True)],
            "auroc": [roc_auc_score(m.ravel(), q.ravel()) for q, m in zip(maps, masks, strict=True)],
        }
        for name, values in by_hand.items():
            each = [image.localization[method.slug][name] for image in results.images]
            assert each == pytest.approx(values)
            measure = method.localization[name]
            assert measure.mean == pytest.approx(np.mean(values))
            assert (measure.images, measure.skipped) == (5, 0)
            assert min(values) <= measure.low <= measure.mean <= measure.high <= max(values)


def test_maps_are_those_of_their_models(compared):
    folder, results, *_ = compared
    images = np.load(folder / "maps" / "images.npy")
    draw = {
        "patchnet8": lambda model: pn.heatmap_model(model).predict(images, verbose=0),
        "cam": lambda model: pn.baselines.cam(model, images),
        "grad_cam": lambda model: pn.baselines.grad_cam(model, images),
    }
    for method in results.methods:
        if method.slug in draw:
            model = pn.load_model(folder / method.model / "model.keras")
            maps = np.load(folder / "maps" / f"{method.slug}.npy")
            np.testing.assert_allclose(maps, draw[method.slug](model), atol=1e-5)


def test_figures_of_models_by_hand(compared, config):
    folder, results, *_ = compared
    images, labels = load_dataset(config).val
    masked = np.load(folder / "maps" / "images.npy")
    for figures in results.models:
        model = pn.load_model(folder / figures.slug / "model.keras")
        q = model.predict(images, verbose=0)[:, 0].astype("float64")
        measured = figures.validation
        assert measured["accuracy"].mean == pytest.approx(np.mean((q > 0.5) == labels))
        loss = -np.mean(np.log(np.where(labels == 1, q, 1 - q)))
        assert measured["loss"].mean == pytest.approx(loss, abs=1e-5)
        assert measured["loss"].images == len(images)
        assert figures.test is None
        of_images = [image.probability[figures.slug] for image in results.images]
        np.testing.assert_allclose(of_images, model.predict(masked, verbose=0)[:, 0], atol=1e-5)
        rows = read_rows(folder / figures.slug / "history.csv")
        assert figures.epochs == len(rows) == 2
        losses = [float(row["val_loss"]) for row in rows]
        assert figures.best_epoch == 1 + int(np.argmin(losses))
        assert figures.seconds_per_epoch == pytest.approx(np.mean([float(row["seconds"]) for row in rows]))
        assert figures.parameters == sum(w.size for w in model.get_weights())
        assert figures.ended == "all 2 epochs are done"
    assert [model.kind for model in results.models] == ["patchnet", "patchnet", "vgg19_cam", "vgg11"]


def test_curves_by_hand(compared):
    """They begin and end where they must, and the areas are theirs."""
    folder, results, *_ = compared
    black = np.zeros((1, 32, 32, 1))
    for method in results.methods:
        model = pn.load_model(folder / method.model / "model.keras")
        nothing = model.predict(black, verbose=0)[0, 0]
        whole = np.mean([image.probability[method.model] for image in results.images[:4]])
        curves = method.faithfulness.curves
        assert (curves.share[0], curves.share[-1], len(curves.share)) == (0, 1, 26)
        assert (curves.deletion[0], curves.deletion[-1]) == pytest.approx((whole, nothing), abs=1e-5)
        assert (curves.insertion[0], curves.insertion[-1]) == pytest.approx((nothing, whole), abs=1e-5)
        for name in ("deletion", "insertion"):
            area = getattr(method.faithfulness, name)
            assert area.images == 4  # comparison.images
            steps, values = np.diff(curves.share), np.array(getattr(curves, name))
            assert area.mean == pytest.approx(np.sum(steps * (values[1:] + values[:-1]) / 2))


def test_files(compared, config):
    folder, results, *_ = compared
    assert load_config(folder / "config.yaml") == config
    assert results.config == yaml.safe_load((folder / "config.yaml").read_text())
    assert {"keras", "tensorflow", "python"} <= set(results.versions)
    rows = read_rows(folder / "comparison.csv")
    assert [row["method"] for row in rows] == ["PatchNet 8", "PatchNet 11", "CAM", "Grad-CAM"]
    for row, model, method in zip(rows, results.models, results.methods, strict=True):
        assert float(row["validation_loss"]) == model.validation["loss"].mean
        assert float(row["map_auroc_high"]) == method.localization["auroc"].high
        assert float(row["insertion"]) == method.faithfulness.insertion.mean
        assert row["test_loss"] == ""


def test_command(compared, small, patchnet, tmp_path):
    """What was compared before is shown again, and put on a page."""
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    options = [part for option in TINY for part in ("--set", option)]
    code, out, err = patchnet("compare", small, *options, "--patch-sizes", "8,11", "--out", folder)
    assert code == 0, err
    for label in ("PatchNet 8", "PatchNet 11", "VGG-19, CAM", "VGG-11", "Grad-CAM"):
        assert f"│ {label} " in out
    auroc = compared[1].methods[2].localization["auroc"]
    assert f"{auroc.mean:.3f}" in out
    assert f"({auroc.low:.2f} to {auroc.high:.2f})" in out
    assert "validation, 8 images" in out
    classified = compared[1].models[0].validation["auroc"]
    assert f"({classified.low:.2f} to {classified.high:.2f})" in out.partition("training")[0]
    assert f"{compared[1].models[3].parameters:,}" in out
    assert "areas below curves, 4 images" in out
    assert "Grad-CAM" in (folder / "report.html").read_text(encoding="utf-8")
    code, _, err = patchnet("compare", small, *options, "--patch-sizes", "8,8", "--out", folder)
    assert code == 2
    assert "--patch-sizes: expected whole numbers of at least 1, each once" in err


def test_more_epochs_and_other_images(compared, small, tmp_path):
    """Maps of a model that is trained further, and of images that are no longer shown, are drawn anew."""
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    stale = np.zeros((5, 32, 32), "float32")
    np.save(folder / "maps" / "grad_cam.npy", stale)
    more = load_config(small, [*TINY, "comparison.patch_sizes=[8]", "comparison.baselines.epochs=3"])
    results = comparison.compare(more, folder)
    assert [model.epochs for model in results.models] == [2, 3, 3]
    images = np.load(folder / "maps" / "images.npy")
    model = pn.load_model(folder / "vgg11" / "model.keras")
    drawn = np.load(folder / "maps" / "grad_cam.npy")
    np.testing.assert_allclose(drawn, pn.baselines.grad_cam(model, images), atol=1e-5)
    np.save(folder / "maps" / "images.npy", images[::-1])
    np.save(folder / "maps" / "patchnet8.npy", stale)
    comparison.compare(more, folder)
    np.testing.assert_array_equal(
        np.load(folder / "maps" / "patchnet8.npy"), np.load(compared[0] / "maps" / "patchnet8.npy")
    )


@pytest.fixture
def unmasked(tmp_path):
    """A configuration of images without masks, with a test split."""
    image_folder(tmp_path / "images", counts=(6, 3))
    shutil.copytree(tmp_path / "images" / "val", tmp_path / "images" / "test")
    (tmp_path / "my.yaml").write_text(
        "name: my\ndata: {kind: folder, path: images}\n"
        "model: {patch_size: 7, subnet: {filters: 4, depth: 2}}\n"
        "training: {epochs: 1, snapshot_every: 1}\ncomparison: {images: 5, baselines: {width: 0.02}}\n"
    )
    return tmp_path / "my.yaml"


def test_without_masks(unmasked, tmp_path, patchnet):
    config = load_config(unmasked)
    code, out, err = patchnet("compare", unmasked, "--out", tmp_path / "out")
    assert code == 0, err
    assert "test, 9 images" in out
    assert "exact match" not in out
    results = Comparison.read(tmp_path / "out" / "comparison.json")
    assert results.masks is None
    assert not (tmp_path / "out" / "maps" / "masks.npy").exists()
    # Two of class 0 and three of class 1, apart from each other.
    assert [image.name for image in results.images] == ["cat/0", "5", "dog/0", "dog/1", "dog/2"]
    assert [image.label for image in results.images] == [0, 0, 1, 1, 1]
    data = load_dataset(config)
    images = np.load(tmp_path / "out" / "maps" / "images.npy")
    np.testing.assert_array_equal(images, data.val.images[[0, 5, 6, 7, 8]])
    for model, method in zip(results.models, results.methods, strict=True):
        assert model.test["loss"].mean == pytest.approx(model.validation["loss"].mean)
        assert method.localization is None
        assert method.faithfulness.deletion.images == 3  # of class 1
    assert [image.localization for image in results.images] == [None] * 5
    assert (tmp_path / "out" / "patchnet7" / "heatmaps" / "epoch_0001.png").is_file()
    assert (tmp_path / "out" / "report.html").is_file()


def test_the_date_is_that_of_the_first_measuring(unmasked, tmp_path, monkeypatch):
    config = load_config(unmasked, ["comparison.baselines=null"])
    first = comparison.compare(config, tmp_path / "out")
    path = tmp_path / "out" / "comparison.json"
    earlier = first.model_copy(update={"date": datetime.date(2020, 2, 29)})
    earlier.write(path)
    assert comparison.compare(config, tmp_path / "out") == earlier
    earlier.model_copy(update={"name": "other"}).write(path)
    assert comparison.compare(config, tmp_path / "out").date >= first.date


def test_names_of_masked_files(unmasked, tmp_path):
    mask = np.zeros((20, 24), "uint8")
    mask[5:9, 5:9] = 255
    save(tmp_path / "images" / "masks" / "val" / "dog" / "1__spot.png", mask)
    config = load_config(unmasked, ["data.mask=spot"])
    chosen = choose(config, load_dataset(config))
    assert (chosen.names, chosen.labels, chosen.masks.shape) == (["1"], [1], (1, 20, 24))


def test_damaged_maps_are_drawn_again(compared, config, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    for name in ("patchnet8.npy", "cam.npy", "cam_curves.npz", "images.npy"):
        path = out / "maps" / name
        path.write_bytes(path.read_bytes()[:300])
        assert comparison.compare(config, out) == compared[1]
    (out / "maps" / "grad_cam_curves.npz").write_bytes(b"")
    assert comparison.compare(config, out) == compared[1]


def test_what_a_finished_model_cannot_be(compared, config, tmp_path, monkeypatch):
    """Of fewer epochs than it has, or trained on other images."""
    fewer = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})})
    with pytest.raises(InputError, match=r"patchnet8: has 2 epochs already; choose another --out. .*=1"):
        comparison.compare(fewer, compared[0])
    data = load_dataset(config)
    images, labels = data.train
    for pair in ((images[::-1], labels), (255 - images, labels), (images, 1 - labels)):
        other = dataclasses.replace(data, train=Examples(*pair))
        monkeypatch.setattr(study, "load_dataset", lambda *_, other=other: other)
        with pytest.raises(InputError, match="patchnet8: the run there was trained on other images"):
            comparison.compare(config, compared[0])


def test_a_damaged_history_is_told_before_anything_is_measured(compared, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(compared[0], out)
    (out / "cam" / "history.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(study, "measure", None)
    with pytest.raises(InputError, match=r"cam/history\.csv: not the history of a run"):
        comparison.compare(config, out)


def test_masks_that_come_later(unmasked, tmp_path):
    """They are measured on with the models that are there."""
    out = tmp_path / "out"
    comparison.compare(load_config(unmasked), out)
    before = models(out)
    save(tmp_path / "images" / "masks" / "val" / "dog" / "1__spot.png", np.eye(20, 24, dtype="uint8") * 255)
    results = comparison.compare(load_config(unmasked, ["data.mask=spot"]), out)
    assert models(out) == before
    assert results.masks == "spot"
    assert results.methods[0].localization["auroc"].images == 1


def test_budgets(small):
    config = load_config(small, ["training.epochs=7", "model.crop=[16, 16]", "training.patience=3"])
    patchnet, cam, vgg11 = candidates_of(config)
    assert patchnet.config.training == config.training
    assert patchnet.config.model == config.model
    expected = config.training.model_copy(update={"batch_size": 64})  # as in the paper
    assert cam.config.training == vgg11.config.training == expected
    assert (cam.config.model.kind, cam.config.model.crop) == ("vgg19_cam", (16, 16))
    assert (vgg11.config.model.kind, vgg11.config.model.resize) == ("vgg11", (224, 224))
    own = "comparison.baselines={epochs: 5, batch_size: null, learning_rate: 0.1, patience: 9}"
    _, cam, _ = candidates_of(load_config(small, [own]))
    training = cam.config.training
    assert (training.epochs, training.batch_size, training.learning_rate, training.patience) == (5, 4, 0.1, 9)


def test_refused_before_anything_is_trained(small, tmp_path):
    new = tmp_path / "new"
    for overrides, message in (
        (["model={kind: vgg11}"], "model.kind: expected patchnet"),
        (["data.size=7", "model.patch_size=3"], "VGG-19, CAM: train images: expected at least 8 x 8"),
        (["comparison.patch_sizes=[8, 25]"], "PatchNet 25: train images: expected at least 25 x 25"),
        (["model.crop=[10, 10]", "comparison.patch_sizes=[8, 11]"], "PatchNet 11: model: The crop must be"),
        (["model.crop=[6, 6]", "model.patch_size=5"], "VGG-19, CAM: model: .*at least 8 x 8"),
    ):
        with pytest.raises(InputError, match=message):
            comparison.compare(load_config(small, [*TINY, *overrides]), new)
        assert not new.exists()
    config = load_config(small, TINY)
    save(tmp_path / "other" / "precious.png", np.zeros((3, 3), "uint8"))
    with pytest.raises(InputError, match="other: not empty, and not a comparison"):
        comparison.compare(config, tmp_path / "other")
    with pytest.raises(InputError, match=r"precious.png: not a folder"):
        comparison.compare(config, tmp_path / "other" / "precious.png")


def test_folders_of_other_runs(compared, config, tmp_path):
    with pytest.raises(
        InputError, match="the folder of several, cam, patchnet11, patchnet8, vgg11; choose one"
    ):
        evaluate(compared[0])
    with pytest.raises(InputError, match="patchnet8: not empty, and not a comparison"):
        comparison.compare(config, compared[0] / "patchnet8")
    other = config.model_copy(update={"training": config.training.model_copy(update={"seed": 5})})
    with pytest.raises(InputError, match=r"patchnet8: the run there has another training.seed"):
        comparison.compare(other, compared[0])
