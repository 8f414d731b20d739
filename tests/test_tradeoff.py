"""Patch sizes compared, which is a comparison without baselines."""

import csv
import re

import cv2
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.evaluation.results import Comparison
from patchnet_tf.images import pictures
from patchnet_tf.studies import comparison
from patchnet_tf.training.train import train

from .small import SMALL, image_folder

FILES = {"patch_sizes.png", "heatmaps.png"}  # of several patch sizes alone


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def table(folder):
    with (folder / "comparison.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["patch_size"]): row for row in csv.DictReader(file)}


def difference(page, part, factor):
    """The largest difference of `part`, enlarged, from the place of the page that is most like it."""
    part = part.repeat(factor, axis=0).repeat(factor, axis=1)
    differences = cv2.matchTemplate(page, part, cv2.TM_SQDIFF)
    y, x = np.unravel_index(differences.argmin(), differences.shape)
    return np.abs(page[y : y + part.shape[0], x : x + part.shape[1]].astype(int) - part).max()


def test_command(patchnet, small, tmp_path):
    """Two patch sizes, then a third beside what is finished and what was cut off."""
    out = tmp_path / "sizes"
    command = ("tradeoff", small, "--out", out, "--set", "training.epochs=2")
    code, stdout, err = patchnet(*command, "--patch-sizes", "9,5")
    assert code == 0, err
    files = {
        "comparison.csv",
        "comparison.json",
        "config.yaml",
        "maps",
        "patchnet5",
        "patchnet9",
        "report.html",
    }
    assert {f.name for f in out.iterdir()} == files | FILES
    rows = table(out)
    assert list(rows) == [5, 9]
    data = load_dataset(load_config(small))
    compared = Comparison.read(out / "comparison.json")
    for figures, method in zip(compared.models, compared.methods, strict=True):
        p = figures.patch_size
        run = out / f"patchnet{p}"
        config = load_config(run / "config.yaml")
        assert config.model.patch_size == p
        model = pn.load_model(run / "model.keras")
        q, labels = model.predict(data.val.images, verbose=0)[:, 0].astype("float64"), data.val.labels
        assert figures.validation["loss"].mean == pytest.approx(
            -np.mean(np.log(np.where(labels == 1, q, 1 - q))), abs=1e-5
        )
        history = np.genfromtxt(run / "history.csv", delimiter=",", skip_header=1)  # seconds are second
        # Two convolutions of four filters with biases, four readouts with biases, one unit.
        parameters = (9 * 4 + 4) + (9 * 4 * 4 + 4) + 4 * (p * p + 1) + 5
        expected = {
            "validation_loss": figures.validation["loss"].mean,
            "validation_accuracy": figures.validation["accuracy"].mean,
            "seconds_per_epoch": np.median(history[:, 1]),
            "epochs": 2,
            "best_epoch": 1 + history[:, 4].argmin(),
            "parameters": parameters,
            "map_auroc": method.localization["auroc"].mean,
        }
        assert {key: float(rows[p][key]) for key in expected} == pytest.approx(expected)
        # The decisions that the run's model makes about the first collage stand in the picture, unscaled.
        collage = data.masked.images[:1]
        heatmap = pn.heatmap_model(model).predict(collage, verbose=0)[0]
        page = cv2.imread(str(out / "heatmaps.png"), cv2.IMREAD_GRAYSCALE)
        assert difference(page, pictures.grey(heatmap), 4) <= 1  # one level where Q is rounded the other way
        assert f"{figures.validation['loss'].mean:.3f}" in stdout
        assert f"│ PatchNet {p} │ 2      │ {figures.seconds_per_epoch:.2f}    │ {parameters}" in stdout
    assert cv2.imread(str(out / "patch_sizes.png")).std() > 5

    finished = (out / "patchnet5" / "checkpoint.npz").stat().st_mtime_ns
    cut = load_config(small, ["model.patch_size=7", "training.epochs=1", "name=small-patchnet7"])
    first = train(cut, out / "patchnet7").rows
    code, _, err = patchnet(*command, "--patch-sizes", "7,5")
    assert code == 0, err
    assert list(table(out)) == [5, 7]
    assert (out / "patchnet5" / "checkpoint.npz").stat().st_mtime_ns == finished
    history = (out / "patchnet7" / "history.csv").read_text().splitlines()
    assert history[1] == ",".join(map(str, first[0]))
    assert len(history) == 3
    # One patch size has no pictures by patch size, and those of others do not stay.
    code, _, err = patchnet(*command, "--patch-sizes", "5")
    assert code == 0, err
    assert not FILES & {f.name for f in out.iterdir()}


@pytest.mark.slow
def test_without_masks_both_classes_are_drawn(tmp_path):
    path = tmp_path / "folder.yaml"
    images = image_folder(tmp_path / "images")
    path.write_text(re.sub("data: .*", f"data: {{kind: folder, path: {images}}}", SMALL))
    overrides = ["training.epochs=1", "comparison={baselines: null, patch_sizes: [6, 7]}"]
    compared = comparison.compare(load_config(path, overrides), tmp_path / "out")
    assert [method.localization for method in compared.methods] == [None, None]
    assert table(tmp_path / "out")[6]["map_auroc"] == ""
    page = cv2.imread(str(tmp_path / "out" / "heatmaps.png"), cv2.IMREAD_GRAYSCALE)
    val = load_dataset(load_config(path)).val
    # 20 x 24 pixels: 6 times that is the first to reach 128.
    drawn = [difference(page, image, 6) == 0 for image in val.images[..., 0]]
    assert drawn == [True, True, False] * 2  # of three images of each class


@pytest.mark.parametrize(
    ("sizes", "more", "message"),
    [
        ("8,8", (), "--patch-sizes: expected whole numbers of at least 1, each once"),
        ("8,4.5", (), "Received: 8,4.5"),
        ("0", (), "Received: 0"),
        ("", (), "--patch-sizes: expected whole numbers of at least 1, each once"),
        ("8,", (), "Received: 8,"),
        ("eight", (), "Received: eight"),
        ("8,25", (), "PatchNet 25: train images: expected at least 25 x 25"),
        ("8,4", ("--set", "model.subnet.padding=valid"), 'PatchNet 4: model: With padding="valid"'),
        (
            "8",
            ("--set", "model.crop=[6, 6]"),
            "PatchNet 8: model: The crop must be at least as large as a patch",
        ),
        ("8,4", ("--set", "model.pach_size=3"), "unknown key"),
        ("8,4", ("--set", "model={kind: vgg11}"), "model.kind: expected patchnet"),
        ("8,4", ("--out", "small.yaml"), "small.yaml: not a folder"),
        ("8,4", ("--out", "used"), "used: not empty, and not a comparison"),
        ("8,4", ("--out", "mixed"), "patchnet8: not empty, and not a run"),
        ("8,4", ("--out", "other"), "the run there has another training.seed"),
    ],
)
def test_bad_input_is_refused_before_any_training(
    patchnet, small, tmp_path, monkeypatch, sizes, more, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    config = load_config(small, ["model.patch_size=8", "training.seed=5", "name=small-patchnet8"])
    for name in ("mixed", "other"):
        (tmp_path / name / "patchnet8").mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(config.to_yaml())
    (tmp_path / "mixed" / "patchnet8" / "notes.txt").touch()
    (tmp_path / "other" / "patchnet8" / "config.yaml").write_text(config.to_yaml())
    (tmp_path / "other" / "patchnet8" / "checkpoint.npz").touch()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = patchnet("tradeoff", small, "--patch-sizes", sizes, *more)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before
