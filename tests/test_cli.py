import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from patchnet_tf.config import Loader, load_config
from patchnet_tf.export import comparison
from patchnet_tf.serving import Predictor
from patchnet_tf.training.train import train

from .small import SMALL, image_folder, save

ROOT = Path(__file__).parents[1]
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50), "uint8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a finished run, `run`, its configuration, and one that was cut off, `cut`."""
    place = tmp_path_factory.mktemp("place")
    (place / "small.yaml").write_text(SMALL)
    train(load_config(place / "small.yaml", ["training.epochs=1"]), place / "run")
    vgg = load_config(place / "small.yaml", ["training.epochs=1", "model={kind: vgg19_cam, width: 0.02}"])
    train(vgg, place / "vgg")
    (place / "cut").mkdir()
    (place / "cut" / "config.yaml").write_text(SMALL)
    (place / "other").mkdir()
    (place / "other" / "notes.txt").touch()
    save(place / "good.png", NOISE)
    save(place / "tiny.png", NOISE[:7, :7])
    save(place / "whole.jpg", NOISE)
    content = (place / "whole.jpg").read_bytes()
    (place / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (place / "empty.png").touch()
    (place / "text.png").write_text("hello")
    save(place / "deep.png", NOISE.astype("uint16"))
    for name in ("one", "three", "hollow", "sizes", "broken", "trainless"):
        image_folder(place / name)
    (place / "one" / "train" / "dog").rename(place / "one" / "dog")
    save(place / "three" / "train" / "bird" / "0.png", NOISE)
    (place / "hollow" / "val" / "cat").rename(place / "hollow" / "cat")
    (place / "hollow" / "val" / "cat").mkdir()
    save(place / "sizes" / "val" / "cat" / "2.png", NOISE)
    (place / "broken" / "train" / "cat" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (place / "trainless" / "train").rename(place / "trainless" / "training")
    return place


FOLDER = "data={kind: folder, path: %s}"
TRAIN = ("train", "small.yaml", "--out", "new")


def test_train_evaluate_explain(patchnet, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = patchnet(
        "train", place / "small.yaml", "--set", "training.epochs=2", "--set", "name=mine"
    )
    assert code == 0
    assert "Trained 2 epochs: all 2 epochs are done. Kept the weights of epoch" in out
    assert "Run folder: runs/mine" in out
    assert "training  2 of 2" in err
    assert len(err.splitlines()) < 10
    assert yaml.safe_load(Path("runs/mine/config.yaml").read_text())["training"]["epochs"] == 2

    code, out, err = patchnet("train", place / "small.yaml", "--out", "runs/mine")
    assert (code, out) == (2, "")
    assert err == "error: runs/mine: holds a run already; --resume continues it, --out starts another\n"
    code, out, _ = patchnet(
        "train", place / "small.yaml", "--set", "training.epochs=2", "--set", "name=mine", "--resume"
    )
    assert code == 0
    assert "Trained 2 epochs" in out

    code, out, _ = patchnet("evaluate", "runs/mine")
    assert code == 0
    measured = json.loads(Path("runs/mine/metrics.json").read_text())
    assert f"{measured['validation']['loss']['mean']:.3f}" in out
    auroc = measured["localization"]["auroc"]
    assert f"{auroc['mean']:.3f} ({auroc['low']:.2f} to {auroc['high']:.2f})" in out
    assert "Report: runs/mine/report.html" in out
    page = Path("runs/mine/report.html").read_text()
    assert f"{auroc['mean']:.3f}<small>{auroc['low']:.2f} to {auroc['high']:.2f}</small>" in page

    code, out, err = patchnet("explain", "runs/mine", place / "good.png")
    assert code == 0
    assert "good_*" in out
    assert Path("runs/mine/heatmaps/good_heatmap.png").is_file()
    assert "heatmaps  1 of 1" in err

    odd = tmp_path / "cells [red]\x1b[2J\n:smile:.png"
    shutil.copy(place / "good.png", odd)
    code, out, err = patchnet("explain", "runs/mine", odd, "--out", "odd")
    assert code == 0
    assert "\x1b" not in out + err
    assert r"[red]\x1b[2J\n:smile:" in out

    assert "<h3>good_overlay</h3>" not in page
    assert patchnet("report", "runs/mine") == (0, "Report: runs/mine/report.html\n", "")
    assert "<h3>good_overlay</h3>" in Path("runs/mine/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "none.yaml"), "none.yaml: cannot be read (No such file or directory)"),
        (("train", "good.png"), "good.png: not a text file"),
        ((*TRAIN, "--set", "model.patch_size=big"), "model.patch_size: expected a whole number"),
        ((*TRAIN, "--set", "model.pach_size=3"), "did you mean model.patch_size?"),
        ((*TRAIN, "--set", "x"), "--set: expected section.key=value"),
        ((*TRAIN, "--set", "name=2024-02-30"), "'2024-02-30' is no timestamp"),
        ((*TRAIN, "--set", "data.classes=[brick, brick]"), "data.classes: expected two of"),
        ((*TRAIN, "--set", "model.patch_size=30"), "train images: expected at least 30 x 30 pixels"),
        ((*TRAIN, "--set", "model.crop=[4, 4]"), "at least as large as a patch"),
        ((*TRAIN, "--set", FOLDER % "gone"), "gone: no such folder"),
        ((*TRAIN, "--set", FOLDER % "one"), "one/train: expected at least two class folders. Received: cat"),
        (
            (*TRAIN, "--set", FOLDER % "three"),
            "three: the classes below train and val must have the same names",
        ),
        ((*TRAIN, "--set", FOLDER % "hollow"), "hollow/val/cat: no images"),
        ((*TRAIN, "--set", FOLDER % "sizes"), "set data.size"),
        ((*TRAIN, "--set", FOLDER % "broken"), "cat/1.png: "),
        ((*TRAIN, "--set", FOLDER % "trainless"), "trainless/train: no such folder"),
        (("train", "small.yaml", "--out", "other"), "other: not empty, and not a run"),
        (("train", "small.yaml", "--out", "good.png"), "good.png: not a folder"),
        (("evaluate", "other"), "other: not a run folder"),
        (("evaluate", "gone"), "gone: not a run folder"),
        (("evaluate", "cut"), "cut: its training has not finished"),
        (("report", "cut"), "cut: neither a run nor a finished comparison"),
        (("explain", "cut", "good.png"), "cut: its training has not finished"),
        (("explain", "run", "good.png", "gone.png", "--out", "new"), "gone.png: cannot be read"),
        (("explain", "run", "good.png", "tiny.png", "--out", "new"), "tiny.png: expected at least 8 x 8"),
        (("explain", "run", "truncated.jpg", "--out", "new"), "truncated.jpg: damaged or truncated image"),
        (("explain", "run", "empty.png", "--out", "new"), "empty.png: empty file"),
        (("explain", "run", "text.png", "--out", "new"), "text.png: not an image file"),
        (("explain", "run", "deep.png", "--out", "new"), "deep.png: expected 8 bits per channel"),
        (("export", "vgg"), "vgg: only a PatchNet is exported"),
        (("verify", "good.png", "vgg"), "vgg: only a PatchNet is exported"),
        (("compare", "small.yaml", "--out", "other"), "other: not empty, and not a comparison"),
        (("compare", "small.yaml", "--set", "data.size=5", "--out", "new"), "PatchNet 8: train images: exp"),
        (("explain", "run"), "Missing argument"),
        (("explane", "run"), "explane"),
        (("train", "small.yaml", "--epochs", "3"), "--epochs"),
    ],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(patchnet, place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    code, out, err = patchnet(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(place.rglob("*")) == before


def test_data_check(patchnet, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = patchnet("data", "check", place / "small.yaml", "--out", "sheets")
    assert (code, err) == (0, "")
    assert re.search(r"train . 8 +. 8 +. 50%", out)
    assert "Sizes, height x width: 24 x 24 (24)" in out
    assert "Errors: 0, warnings: 0" in out
    assert Path("sheets/small-contact-sheet.png").is_file()

    code, out, err = patchnet(
        "data", "check", place / "small.yaml", "--set", FOLDER % (place / "broken"), "--set", "name=broken"
    )
    assert code == 2
    assert err == f"error: {place}/broken/train/cat/1.png: damaged or truncated image\n"
    assert re.search(r"train . 2 +. 3 +. 60%", out)
    assert "Contact sheet: broken-contact-sheet.png" in out
    assert Path("broken-contact-sheet.png").is_file()

    for number, name in enumerate("abc"):
        for split in ("train", "val"):
            for k in range(2):
                save(Path("several") / split / name / f"{k}.png", np.roll(NOISE, 9 * number + 3, axis=k))
    code, out, err = patchnet("data", "check", place / "small.yaml", "--set", FOLDER % "several")
    assert code == 2
    assert err.count("a leak between splits") == 6
    assert re.search(r"1: b +. 2 \(33%\) . 2 \(33%\)", out)
    assert "Images of an earlier split too, by class: a 2, b 2, c 2" in out

    code, out, err = patchnet("data", "check", place / "small.yaml", "--set", FOLDER % "gone", "--out", "new")
    assert code == 2
    assert "gone: no such folder" in err
    assert not Path("new").exists()


def test_no_command_shows_help(patchnet):
    code, out, err = patchnet()
    assert code == 2
    assert "Usage:" in out + err
    assert "error:" not in err


def test_each_complaint_about_a_config_has_its_line(patchnet, place, monkeypatch):
    monkeypatch.chdir(place)
    code, _, err = patchnet(*TRAIN, "--set", "model.subnet.depth=0", "--set", "name=")
    assert code == 2
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["error", "--set name"],
        ["error", "--set model.subnet.depth"],
    ]
    Path("wrong.yaml").write_text("data: {kind: textures}\nmodel: {patch_size: 9}\n")
    code, _, err = patchnet("train", "wrong.yaml", "--set", "model.patch_size=0")
    assert [line.split(": ")[1] for line in err.splitlines()] == ["wrong.yaml", "--set model.patch_size"]


@pytest.mark.parametrize(
    "arguments",
    [("train", "small.yaml", "--out", "good.png/new"), ("explain", "run", "good.png", "--out", "good.png")],
)
def test_what_cannot_be_written_is_exit_1(patchnet, place, monkeypatch, arguments):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    code, _, err = patchnet(*arguments)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: good.png")
    assert sorted(place.rglob("*")) == before


def test_pixels_of_0_and_1_are_warned_of(patchnet, place, tmp_path):
    path = save(tmp_path / "mask.png", (NOISE > 128).astype("uint8"))
    code, _, err = patchnet("explain", place / "run", path, "--out", tmp_path / "out")
    assert code == 0
    assert f"warning: {path}: pixels are 0..255, but none of these is above 1: are they 0..1?\n" in err


def test_interrupt(patchnet, place, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("patchnet_tf.training.train.train", interrupted)
    code, _, err = patchnet("train", place / "small.yaml", "--out", tmp_path / "new")
    assert code == 130
    assert err == "interrupted: the same command with --resume continues\n"


def test_help_imports_little(tmp_path):
    """Run it from another folder, as an uninstalled checkout."""
    for name in ("tensorflow", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('imported {name}')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    for arguments in (
        [],
        ["train"],
        ["evaluate"],
        ["explain"],
        ["report"],
        ["export"],
        ["verify"],
        ["demo"],
        ["data", "check"],
        ["compare"],
        ["serve"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "patchnet_tf.cli", *arguments, "--help"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "Usage:" in done.stdout
        assert done.stderr == ""
        assert arguments != ["serve"] or '"patchnet-tf[serve]"' in done.stdout


def test_configs_of_the_package_are_valid(monkeypatch):
    monkeypatch.setenv("PATCHNET_DATA", "/data")
    for path in (ROOT / "configs").glob("*.yaml"):
        model = load_config(path).model
        if path.stem != "folder":  # which starts from a pretrained network
            assert (
                (model.subnet.filters == 64) if model.kind == "patchnet" else (model.width == 1)
            )  # the paper's


@pytest.mark.parametrize("name", ["folder", "folder_paper"])
def test_folder_yaml_shows_the_defaults(name):
    path = ROOT / "configs" / f"{name}.yaml"
    lines = [re.sub("^  # ", "  ", line) for line in path.read_text().splitlines() if line[:1] != "#"]
    shown, config = yaml.load("\n".join(lines), Loader), load_config(path).model_dump(mode="json")
    del shown["data"]["path"], config["data"]["path"]
    assert shown == config


def test_export_and_verify(patchnet, place, tmp_path):
    run, out = place / "run", tmp_path / "served" / "small"
    code, stdout, stderr = patchnet("export", run, "--format", "both", "--out", out)
    assert code == 0, stderr
    assert {path.name for path in out.parent.iterdir()} == {
        "small", "small.onnx", "small.test_vectors.json", "verification.json", "MANIFEST.json"
    }  # fmt: skip
    assert stdout.count("Largest difference from Keras: probability") == 2
    assert f'Predictor("{out}.onnx")(image)' in stdout
    prediction = Predictor(f"{out}.onnx")(NOISE[..., None].repeat(Predictor(f"{out}.onnx").input_shape[3], 2))
    assert prediction.heatmap.shape == NOISE.shape
    config = (run / "config.yaml").read_bytes()
    metadata = Predictor(f"{out}.onnx").metadata
    assert metadata["training_config_sha256"] == hashlib.sha256(config).hexdigest()
    for path in (f"{out}.onnx", out, out / "1"):
        code, stdout, stderr = patchnet("verify", path, run)
        assert code == 0, stderr
        assert "Largest difference from Keras" in stdout

    code, stdout, stderr = patchnet("export", run, "--out", out)
    assert (code, stderr.count("exists already; --overwrite")) == (2, 1)
    (tmp_path / "folder").mkdir()
    code, stdout, stderr = patchnet("export", run, "--size", "70x90", "--out", tmp_path / "folder")
    assert (code, "smaller than those that the file takes" in stderr) == (0, True)
    assert Predictor(tmp_path / "folder" / "run.onnx").metadata["run"] == "run"
    alone = ("--outputs", "probability", "--out", tmp_path / "folder")
    code, stdout, stderr = patchnet("export", run, *alone)
    assert (code, '/run_probability.onnx").probability(image)' in stdout) == (0, True)
    assert "Keras: probability" in stdout
    assert "heatmap" not in stdout
    code, stdout, stderr = patchnet("export", run, "--format", "saved_model", *alone)
    assert (code, "--outputs: for the ONNX file alone" in stderr) == (2, True)
    fixed = tmp_path / "folder" / "run.onnx"
    code, stdout, stderr = patchnet("verify", fixed, run, "--runtime", "onnxruntime")
    assert (code, "(2 batches" in stdout) == (0, True)
    assert "right" in stdout
    assert "70 x 90" in stdout
    vectors = fixed.with_suffix(".test_vectors.json")
    batches = json.loads(vectors.read_text())
    batches[0]["heatmap"][0][0][0] += 0.5
    (tmp_path / "folder" / "MANIFEST.json").unlink()
    vectors.write_text(json.dumps(batches))
    code, stdout, stderr = patchnet("verify", fixed, run, "--runtime", "onnxruntime")
    assert (code, "wrong" in stdout, "5.0e-01" in stdout) == (1, True, True)
    for path in (out.with_suffix(".onnx"), out / "1" / "saved_model.pb"):
        path.write_bytes(path.read_bytes()[:-10])
        code, stdout, stderr = patchnet("verify", path if path.suffix == ".onnx" else out, run)
        assert (code, stdout) == (2, "")
        assert "altered or truncated" in stderr


def test_an_export_that_differs_is_exit_1(patchnet, place, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "largest_difference", lambda got, expected: 0.25)
    code, stdout, stderr = patchnet("export", place / "run", "--out", tmp_path / "small")
    assert (code, stdout) == (1, "")
    assert "differ by 0.25" in stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "cut"], "training has not finished"),
        (["export", "other"], "not a run folder"),
        (["export", "run", "--size", "64"], "--size: expected HxW"),
        (["export", "run", "--size", "4x64"], "from 8 x 8"),
        (["export", "run", "--batch", "0"], "--batch: expected"),
        (["export", "run", "--batch", "1000000"], "--batch: expected a whole number from 1 to 1024"),
        (["export", "run", "--size", "9x99999999999999999999"], "to 8192 x 8192"),
        (["export", "run", "--format", "both", "--out", "."], "--out: expected a path that ends with a name"),
        (["export", "run", "--out", "/"], "--out: expected a file or folder, not a device or the root"),
        (["export", "run", "--out", "/dev/null"], "--out: expected a file or folder, not a device"),
        (["export", "run", "--format", "saved_model", "--out", "/dev/null"], "not a device or the root"),
        (["export", "run", "--precision", "int8"], "int8"),
        (["export", "run", "--format", "tflite"], "tflite"),
        (["export", "run", "--format", "saved_model", "--size", "9x9"], "for the ONNX file"),
        (["verify", "none.onnx", "run"], "no such file"),
        (["verify", "text.png", "run", "--runtime", "tvm"], "--runtime: expected one of onnxruntime"),
        (["verify", "text.png", "run"], "cannot load it"),
        (["verify", "other", "run"], "neither a SavedModel"),
        (["verify", "text.png", "cut"], "training has not finished"),
    ],
)
def test_bad_exports_are_exit_2(patchnet, place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    code, stdout, stderr = patchnet(*arguments)
    assert (code, stdout) == (2, "")
    assert message in stderr.splitlines()[-1]
    assert sorted(place.rglob("*")) == before


@pytest.mark.slow
def test_demo(tmp_path):
    """The whole demo, in a process of its own, as a person runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "patchnet_tf.cli", "demo", "--out", tmp_path / "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "demo" / "metrics.json").read_text())
    assert measured["validation"]["accuracy"]["mean"] >= 0.95
    assert measured["localization"]["auroc"]["mean"] >= 0.9
    assert (tmp_path / "demo" / "heatmaps" / "collages.png").is_file()
    assert (tmp_path / "demo" / "export" / "demo.onnx").is_file()
    assert done.stderr.count("\n") < 40
