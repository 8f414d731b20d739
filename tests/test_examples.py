import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import cv2
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.images import pictures

from .browser import visit
from .conftest import shake
from .test_model_pixels import PIXELS, images_of, make, to_255

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


@pytest.fixture(
    scope="module",
    params=[(("cat", "dog", "cow"), False), (("red", "green"), True)],
    ids=["classes", "labels"],
)
def several(request, tmp_path_factory):
    """A model of several classes or labels, its ONNX file, and its names."""
    names, multilabel = request.param
    model = pn.PatchNet((None, None, 3), 5, filters=4, depth=2, classes=len(names), multilabel=multilabel)
    path = tmp_path_factory.mktemp("several") / "model.onnx"
    thresholds = (0.0, 1.0) if multilabel else None
    pn.export.to_onnx(shake(model, np.random.default_rng(0)), path, class_names=names, thresholds=thresholds)
    return model, path, names


def test_onnxruntime_app_of_several_classes(several, tmp_path):
    model, path, names = several
    image = np.random.default_rng(1).integers(0, 256, (20, 24, 3), "uint8")
    cv2.imwrite(str(tmp_path / "picture.png"), image[..., ::-1])
    ran = run_app(sys.executable, path, tmp_path / "picture.png", tmp_path / "overlay.png")
    assert ran.returncode == 0, ran.stderr
    [q] = model.predict(image[None], verbose=0)
    chosen = {"red"} if model.multilabel else {names[q.argmax()]}
    lines = [
        f"{name}: {value:.4f}{' *' if name in chosen else ''}" for name, value in zip(names, q, strict=True)
    ]
    assert ran.stdout.splitlines() == lines
    heatmap = pn.heatmap_model(model, method="patchwise").predict(image[None], verbose=0)[0, ..., q.argmax()]
    drawn = cv2.imread(str(tmp_path / "overlay.png"))[..., ::-1]
    grey = np.repeat(image.mean(axis=-1, keepdims=True).round().astype("uint8"), 3, axis=-1)
    assert np.abs(drawn.astype(int) - pictures.overlay(grey, heatmap)).max() <= 2


def test_onnxruntime_app_of_other_pixels(tmp_path, rng):
    pixels = PIXELS["negative"]
    model, image = make(pixels, rng), images_of(pixels, rng, 20, 24)
    pn.export.to_onnx(model, tmp_path / "model.onnx", class_names=("cat", "dog"))
    np.save(tmp_path / "picture.npy", image)
    ran = run_app(sys.executable, tmp_path / "model.onnx", tmp_path / "picture.npy", tmp_path / "overlay.png")
    assert ran.returncode == 0, ran.stderr
    q = model.predict(image[None], verbose=0)[0, 0]
    assert ran.stdout == f"{('cat', 'dog')[int(q > 0.5)]}: probability of dog is {q:.4f}\n"
    heatmap = pn.heatmap_model(model).predict(image[None], verbose=0)[0]
    grey = to_255(image[None], pixels)[0].mean(axis=-1, keepdims=True).round().astype("uint8")
    drawn = cv2.imread(str(tmp_path / "overlay.png"))[..., ::-1]
    expected = pictures.overlay(np.repeat(grey, 3, axis=-1), heatmap)
    assert np.abs(drawn.astype(int) - expected).max() <= 2
    bad = {
        "dtype": (image.astype("float64"), "not float32 of 5"),
        "range": (image * 2, "not in -1024.0 to 3071.5"),
    }
    for name, (wrong, message) in bad.items():
        np.save(tmp_path / f"{name}.npy", wrong)
        ran = run_app(sys.executable, tmp_path / "model.onnx", tmp_path / f"{name}.npy", tmp_path / "no.png")
        assert ran.returncode == 1
        assert ran.stderr.startswith(f"{tmp_path / name}.npy: ")
        assert message in ran.stderr


def test_onnxruntime_app_says_what_is_wrong(exported, tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((1, 9), "uint8"))
    for name in ("text.png", "small.png"):
        ran = run_app(sys.executable, exported[1], tmp_path / name, tmp_path / "overlay.png")
        assert ran.returncode == 1
        assert f"{name}: not a picture of at least " in ran.stderr
    assert not (tmp_path / "overlay.png").exists()


def test_onnxruntime_app_is_short():
    assert len((EXAMPLES / "onnxruntime_app.py").read_text().splitlines()) < 50


# Drops picture.png on the page, waits for its answer, and sends that and the heatmap's pixels back.
DROP = """<!doctype html><iframe id="page" src="index.html"></iframe><script>
const page = document.getElementById("page");
const answer = () => page.contentDocument?.getElementById("answer")?.textContent ?? "";
const until = async (test) => { while (!test()) await new Promise((wake) => setTimeout(wake, 50)); };
addEventListener("load", async () => {
  await until(() => answer() && !answer().startsWith("Loading"));
  const transfer = new DataTransfer();
  transfer.items.add(new File([await (await fetch("picture.png")).blob()], "picture.png"));
  page.contentDocument.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer }));
  await until(() => !/^(Ready|Thinking)/.test(answer()));
  const { width, height } = page.contentDocument.getElementById("heatmap");
  const context = page.contentDocument.getElementById("heatmap").getContext("2d");
  const heatmap = width ? [...context.getImageData(0, 0, width, height).data] : [];
  const listed = [...page.contentDocument.querySelectorAll("option")].map((option) => option.textContent);
  const told = { answer: answer(), width, height, heatmap, listed };
  await fetch("done", { method: "POST", body: JSON.stringify(told) });
});
</script>"""


def browser_folder(path, tmp_path):
    """The example in a folder of its own, with a model and onnxruntime-web."""
    if not (shutil.which("chromium") and (npm := shutil.which("npm"))):
        pytest.skip("needs chromium and npm")
    folder = shutil.copytree(EXAMPLES / "browser", tmp_path / "browser")
    subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    shutil.copy(path, folder)
    return folder


@pytest.mark.slow
def test_browser_page_of_several_classes(several, tmp_path):
    model, path, names = several
    folder = browser_folder(path, tmp_path)
    image = np.random.default_rng(1).integers(0, 256, (20, 24, 3), "uint8")
    cv2.imwrite(str(folder / "picture.png"), image[..., ::-1])
    shown = visit(shutil.which("chromium"), folder, DROP)[0]
    [q] = model.predict(image[None], verbose=0)
    assert shown["listed"] == [f"{names[k]}: {q[k]:.4f}" for k in np.argsort(-q)]
    heatmap = pn.heatmap_model(model, method="patchwise").predict(image[None], verbose=0)[0, ..., q.argmax()]
    drawn = np.array(shown["heatmap"]).reshape(shown["height"], shown["width"], 4)
    assert np.abs(drawn[..., 0] - 255 * heatmap).max() <= 1


@pytest.mark.slow
def test_browser_page(exported, tmp_path):
    model, path = exported
    folder, browser = browser_folder(path, tmp_path), shutil.which("chromium")
    image = np.random.default_rng(1).integers(0, 256, (20, 24, model.input_shape[-1]), "uint8")
    cv2.imwrite(str(folder / "picture.png"), image[..., ::-1])
    shown = visit(browser, folder, DROP)[0]
    assert shown["answer"] == f"Probability of dog: {model.predict(image[None], verbose=0)[0, 0]:.4f}"
    heatmap = pn.heatmap_model(model, method="patchwise").predict(image[None], verbose=0)[0]
    drawn = np.array(shown["heatmap"]).reshape(shown["height"], shown["width"], 4)
    assert np.abs(drawn[..., 0] - 255 * heatmap).max() <= 1
    assert (drawn[..., 3] == 255).all()

    cv2.imwrite(str(folder / "picture.png"), image[:4, :, ::-1])
    assert visit(browser, folder, DROP)[0]["answer"] == (
        "picture.png: not a picture of at least 5 x 5 pixels (height x width)"
    )
    (folder / "picture.png").write_text("not a picture")
    assert visit(browser, folder, DROP)[0]["answer"].startswith("picture.png: ")
    (folder / "model.onnx").unlink()
    (folder / "picture.png").unlink()
    assert visit(browser, folder, DROP)[0]["answer"].startswith("model.onnx cannot be loaded: ")
