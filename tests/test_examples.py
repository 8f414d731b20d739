import os
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf import pictures

from .conftest import shake

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def exported(request, tmp_path_factory):
    """A model and its ONNX file."""
    model = pn.PatchNet((None, None, request.param), 5, filters=4, depth=2)
    path = tmp_path_factory.mktemp("app") / "model.onnx"
    pn.export.to_onnx(shake(model, np.random.default_rng(0)), path, class_names=("cat", "dog"))
    return model, path


def run_app(python, model_path, picture_path, overlay_path):
    """Run the application in an empty environment, where neither TensorFlow nor this package can be had."""
    code = (
        "import runpy, sys\n"
        "for name in ('tensorflow', 'keras', 'patchnet_tf', 'onnx'): sys.modules[name] = None\n"
        "sys.argv[:] = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    app = EXAMPLES / "onnxruntime_app.py"
    return subprocess.run(
        [python, "-I", "-c", code, app, model_path, picture_path, overlay_path],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        cwd=overlay_path.parent,
    )


def check_app(python, exported, tmp_path):
    model, path = exported
    image = np.random.default_rng(1).integers(0, 256, (20, 24, model.input_shape[-1]), "uint8")
    cv2.imwrite(str(tmp_path / "picture.png"), image[..., ::-1])
    ran = run_app(python, path, tmp_path / "picture.png", tmp_path / "overlay.png")
    assert ran.returncode == 0, ran.stderr
    q = model.predict(image[None], verbose=0)[0, 0]
    assert ran.stdout == f"{('cat', 'dog')[int(q > 0.5)]}: probability of dog is {q:.4f}\n"
    heatmap = pn.heatmap_model(model, method="patchwise").predict(image[None], verbose=0)[0]
    drawn = cv2.imread(str(tmp_path / "overlay.png"))[..., ::-1]
    # The same colours as the package's own, whose grey weighs red, green and blue otherwise.
    grey = np.repeat(image.mean(axis=-1, keepdims=True).round().astype("uint8"), 3, axis=-1)
    assert np.abs(drawn.astype(int) - pictures.overlay(grey, heatmap)).max() <= 2


def test_onnxruntime_app(exported, tmp_path):
    check_app(sys.executable, exported, tmp_path)


@pytest.mark.slow
def test_onnxruntime_app_in_a_fresh_environment(exported, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["numpy", "opencv-python-headless", "onnxruntime"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert not {"tensorflow", "keras", "patchnet-tf"} & {line.split()[0] for line in listed.splitlines()}
    check_app(python, exported, tmp_path)


def test_onnxruntime_app_says_what_is_wrong(exported, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    ran = run_app(sys.executable, exported[1], tmp_path / "text.png", tmp_path / "overlay.png")
    assert ran.returncode == 1
    assert ran.stderr.strip().endswith("text.png: not a picture")
    assert not (tmp_path / "overlay.png").exists()


def test_onnxruntime_app_is_short():
    assert len((EXAMPLES / "onnxruntime_app.py").read_text().splitlines()) < 40
