import csv
import json
import re

import cv2
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.images import pictures
from patchnet_tf.studies import tradeoff
from patchnet_tf.training import experiment

from .small import SMALL, image_folder


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def table(folder):
    with (folder / "tradeoff.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["patch_size"]): row for row in csv.DictReader(file)}


def difference(page, part, factor):
    """The largest difference of `part`, enlarged, from the place of the page that is most like it."""
    part = part.repeat(factor, axis=0).repeat(factor, axis=1)
    found = cv2.matchTemplate(page, part, cv2.TM_SQDIFF)
    y, x = np.unravel_index(found.argmin(), found.shape)
    return np.abs(page[y : y + part.shape[0], x : x + part.shape[1]].astype(int) - part).max()


def test_command(patchnet, small, tmp_path):
    """Two patch sizes, then a third beside what is finished and what was cut off."""
    out = tmp_path / "sizes"
    command = ("tradeoff", small, "--out", out, "--set", "training.epochs=2")
    code, stdout, err = patchnet(*command, "--patch-sizes", "9,5")
    assert code == 0, err
    files = ("heatmaps.png", "p5", "p9", "tradeoff.csv", "tradeoff.json", "tradeoff.png")
    assert sorted(f.name for f in out.iterdir()) == sorted(files)
    rows = table(out)
    assert list(rows) == [5, 9]
    for figures in json.loads((out / "tradeoff.json").read_text()):
        p = figures["patch_size"]
        run = out / f"p{p}"
        config = load_config(run / "config.yaml")
        assert config.model.patch_size == p
        measured = json.loads((run / "metrics.json").read_text())
        assert {key: figures[key] for key in measured} == measured
        history = np.genfromtxt(run / "history.csv", delimiter=",", skip_header=1)  # seconds are second
        # Two convolutions of four filters with biases, four readouts with biases, one unit.
        parameters = (9 * 4 + 4) + (9 * 4 * 4 + 4) + 4 * (p * p + 1) + 5
        expected = {
            "val_loss": measured["validation"]["loss"],
            "val_accuracy": measured["validation"]["accuracy"],
            "seconds_per_epoch": np.median(history[:, 1]),
            "epochs": 2,
            "best_epoch": 1 + history[:, 4].argmin(),
            "parameters": parameters,
            "localization_auroc": measured["localization"]["auroc"]["mean"],
        }
        assert {key: float(rows[p][key]) for key in expected} == pytest.approx(expected)
        # The decisions that the run's model makes about the first collage stand in the picture, unscaled.
        collage = load_dataset(config).masked.images[:1]
        heatmap = pn.heatmap_model(pn.load_model(run / "model.keras")).predict(collage, verbose=0)[0]
        page = cv2.imread(str(out / "heatmaps.png"), cv2.IMREAD_GRAYSCALE)
        assert difference(page, pictures.grey(heatmap), 4) <= 1  # one level where Q is rounded the other way
        assert f"{measured['validation']['loss']:.4f}" in stdout
    assert cv2.imread(str(out / "tradeoff.png")).std() > 5

    code, stdout, err = patchnet(*command, "--patch-sizes", "5,9")
    assert (code, stdout) == (2, "")
    assert err.endswith("p5: holds a run already; --resume continues it, --out starts another\n")

    finished = (out / "p5" / "checkpoint.npz").stat().st_mtime_ns
    cut = load_config(small, ["model.patch_size=7", "training.epochs=1"])
    first = experiment.train(cut, out / "p7").rows
    code, _, err = patchnet(*command, "--patch-sizes", "7,5", "--resume")
    assert code == 0, err
    assert list(table(out)) == [5, 7]
    assert (out / "p5" / "checkpoint.npz").stat().st_mtime_ns == finished
    history = (out / "p7" / "history.csv").read_text().splitlines()
    assert history[1] == ",".join(map(str, first[0]))
    assert len(history) == 3


def test_without_masks_both_classes_are_drawn(tmp_path):
    path = tmp_path / "folder.yaml"
    images = image_folder(tmp_path / "images")
    path.write_text(re.sub("data: .*", f"data: {{kind: folder, path: {images}}}", SMALL))
    found = tradeoff.tradeoff(load_config(path, ["training.epochs=1"]), [6], tmp_path / "out")
    assert "localization" not in found[0]
    assert not any(name.startswith("localization") for name in table(tmp_path / "out")[6])
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
        ("8,", (), "Received: 8,"),
        ("eight", (), "Received: eight"),
        ("8,25", (), "patch size 25: The image must be at least as large as a patch, 25 x 25 pixels"),
        ("8,4", ("--set", "model.padding=valid"), 'patch size 4: With padding="valid"'),
        ("8", ("--set", "model.crop=[6, 6]"), "patch size 8: The crop must be at least as large as a patch"),
        ("8,4", ("--set", "model.pach_size=3"), "unknown key"),
        ("8,4", ("--out", "small.yaml"), "small.yaml: not a folder"),
        ("8,4", ("--out", "used"), "p8: not empty, and not a run"),
        ("8,4", ("--out", "other", "--resume"), "the run there has another training.seed"),
    ],
)
def test_bad_input_is_refused_before_any_training(
    patchnet, small, tmp_path, monkeypatch, sizes, more, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used" / "p8").mkdir(parents=True)
    (tmp_path / "used" / "p8" / "notes.txt").touch()
    config = load_config(small, ["model.patch_size=8", "training.seed=5"])
    (tmp_path / "other" / "p8").mkdir(parents=True)
    (tmp_path / "other" / "p8" / "config.yaml").write_text(config.to_yaml())
    (tmp_path / "other" / "p8" / "checkpoint.npz").touch()
    before = sorted(tmp_path.rglob("*"))
    code, out, err = patchnet("tradeoff", small, "--patch-sizes", sizes, *more)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_patch_sizes_of_the_function(small, tmp_path):
    for sizes in ([], [8, 8]):
        with pytest.raises(InputError, match="patch sizes: expected each once"):
            tradeoff.tradeoff(load_config(small), sizes, tmp_path / "out")
    with pytest.raises(InputError, match=r"model.kind: expected patchnet"):
        tradeoff.tradeoff(load_config(small, ["model={kind: vgg11}"]), [8], tmp_path / "out")
