"""The page of `patchnet serve` in a real browser."""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import urllib3
from PIL import Image

import patchnet_tf as pn
from patchnet_tf.export import to_onnx
from patchnet_tf.images import pictures
from patchnet_tf.serving import Predictor

from .conftest import shake
from .serving import serving
from .test_model_pixels import make
from .test_validation import encoded

pytest.importorskip("tritonclient", reason="needs the extra serve")
websocket = pytest.importorskip("websocket")
BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium")

DROP = """(async () => {{
  const bytes = Uint8Array.from(atob("{file}"), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "{name}"));
  document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: transfer }}));
  const answer = document.getElementById("answer");
  const waiting = () => !answer.textContent.startsWith("{name}") || answer.textContent.endsWith("...");
  while (waiting()) await new Promise((wake) => setTimeout(wake, 20));
  return answer.textContent;
}})()"""
PIXELS = """(() => {
  const canvas = document.getElementById("picture");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return { height: canvas.height, width: canvas.width, data: [...data] };
})()"""
CHOOSE = """(() => {{
  document.querySelector("input[value={view}]").click();
  const threshold = document.getElementById("threshold");
  threshold.value = "{threshold}";
  threshold.dispatchEvent(new Event("input"));
}})()"""


class Browser:
    """A headless Chromium with one page, told what to do through its debugging port."""

    def __init__(self, home):
        quiet = ["background-networking", "component-update", "sync", "gpu", "extensions"]
        options = [
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            "--window-size=1100,800",
            f"--user-data-dir={home}",
        ]
        options += [f"--disable-{q}" for q in quiet]
        self.process = subprocess.Popen(
            [BROWSER, *options, "--remote-debugging-port=0", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file, end = Path(home) / "DevToolsActivePort", time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert time.monotonic() < end
            time.sleep(0.05)
        port = port_file.read_text().split()[0]
        targets = urllib3.request("GET", f"http://127.0.0.1:{port}/json").json()
        [page] = [target for target in targets if target["type"] == "page"]
        self.socket = websocket.create_connection(
            page["webSocketDebuggerUrl"], timeout=60, suppress_origin=True
        )
        self.count = 0
        self.problems = []
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            entry = message.get("params", {}).get("entry", {})
            if message.get("method") == "Runtime.exceptionThrown" or entry.get("level") == "error":
                self.problems.append(message["params"])
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]

    def run(self, script):
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, script):
        end = time.monotonic() + 60
        while not self.run(script):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def download(self, link, path):
        """Click a link, and return the bytes of the file that it leaves."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(path.parent))
        self.run(f"document.getElementById('{link}').click()")
        end = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < end, list(path.parent.iterdir())
            time.sleep(0.05)
        return path.read_bytes()

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    model = shake(pn.PatchNet((None, None, 3), 5, filters=4, depth=2), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("page") / "cells.onnx"
    pn.export.to_onnx(model, path, class_names=("human <i>", "mouse"))
    return Predictor(path), path


@pytest.fixture(scope="module")
def browser(predict, tmp_path_factory):
    """A browser that shows the page of a server."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(predict[1], tmp_path_factory.mktemp("log") / "log"))
        browser = Browser(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        stack.callback(browser.close)
        browser.send("Page.navigate", url=f"http://127.0.0.1:{server.http}/")
        browser.wait_for("document.getElementById('answer')?.textContent === 'Ready.'")
        yield browser


def drop(browser, file, name="cell.png"):
    return browser.run(DROP.format(file=base64.b64encode(file).decode(), name=name))


def shown(browser, view, threshold=0.5):
    """Return the pixels (H, W, 3) of a view."""
    browser.run(CHOOSE.format(view=view, threshold=threshold))
    canvas = browser.run(PIXELS)
    pixels = np.array(canvas["data"], "uint8").reshape(canvas["height"], canvas["width"], 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def picture(rng):
    """An image (60, 80, 3) with something to see."""
    rows, columns = np.mgrid[:60, :80]
    waves = 128 + 100 * np.sin(rows / 6) * np.cos(columns / 9)
    return (waves[..., None] + rng.integers(-20, 20, (60, 80, 3))).clip(0, 255).astype("uint8")


def test_page(browser, predict, rng, tmp_path):
    image = picture(rng)
    probability, heatmap = predict[0](image)
    said = drop(browser, encoded(image))
    chosen = predict[0].class_names[probability > 0.5]
    assert said == f"cell.png: {chosen}. Probability of mouse: {probability:.4f}"
    np.testing.assert_array_equal(shown(browser, "image"), image)
    assert np.abs(shown(browser, "heatmap")[..., 0].astype(int) - pictures.grey(heatmap)).max() <= 1
    expected = pictures.overlay(image, heatmap)
    assert np.abs(shown(browser, "overlay").astype(int) - expected).max() <= 2
    # Decisions below the threshold are left out.
    threshold = round(float(np.median(np.maximum(heatmap, 1 - heatmap))), 2)
    certain = np.maximum(heatmap, 1 - heatmap) >= threshold
    assert 0.1 < certain.mean() < 0.9
    grey = np.repeat(image @ [0.299, 0.587, 0.114], 3).reshape(image.shape)
    overlay = shown(browser, "overlay", threshold).astype(int)
    assert np.abs(overlay - np.where(certain[..., None], expected, grey)).max() <= 2
    assert browser.run("document.getElementById('certainty').textContent") == f"{threshold:.2f}"

    png = browser.download("png", tmp_path / "cell_overlay.png")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), overlay)
    loaded = np.load(io.BytesIO(browser.download("npy", tmp_path / "cell_heatmap.npy")))
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, heatmap)
    names = [browser.run(f"document.getElementById('{which}').textContent") for which in ("zero", "one")]
    assert tuple(names) == predict[0].class_names
    shown(browser, "overlay")
    (tmp_path / "page.png").write_bytes(base64.b64decode(browser.send("Page.captureScreenshot")["data"]))
    assert not browser.problems


def test_orientation_and_formats(browser, predict, rng):
    image = picture(rng)
    exif = Image.Exif()
    exif[0x0112] = 6
    drop(browser, encoded(image, exif=exif), "turned.png")
    np.testing.assert_array_equal(shown(browser, "image"), np.rot90(image, -1))
    drop(browser, encoded(image, "TIFF"), "cell.tif")  # which Chromium cannot read, and the server draws
    np.testing.assert_array_equal(shown(browser, "image"), image)
    heatmap = predict[0](image).heatmap
    assert np.abs(shown(browser, "heatmap")[..., 0].astype(int) - pictures.grey(heatmap)).max() <= 1


def test_other_pixels(browser, rng, tmp_path):
    """What no browser draws: two of three channels of 16 bits, drawn by the server."""
    pixels = {"dtype": "uint16", "channels": 2, "select": [0, 2], "per_image": True}
    to_onnx(make(pixels, rng), tmp_path / "cells.onnx", class_names=("cat", "dog"))
    predict, image = Predictor(tmp_path / "cells.onnx"), 100 + 9 * picture(rng).astype("uint16")
    before = browser.run("location.href")
    with serving(predict.path, tmp_path / "log") as server:
        browser.send("Page.navigate", url=f"http://127.0.0.1:{server.http}/")
        browser.wait_for("document.getElementById('answer')?.textContent === 'Ready.'")
        said = browser.run("document.getElementById('takes').textContent")
        assert said == (
            "This model takes uint16, channels 0, 2 of a file. Each image is scaled from its own least to "
            "its own greatest number, so a decision depends on the whole image. Shown: 0 magenta, 2 green."
        )
        np.save(tmp_path / "cell.npy", image)
        probability, heatmap = predict(np.ascontiguousarray(image[..., [0, 2]]))
        said = drop(browser, (tmp_path / "cell.npy").read_bytes(), "cell.npy")
        assert said.endswith(f"Probability of dog: {probability:.4f}")
        shares = image[..., [0, 2]].astype("float64") - image[..., [0, 2]].min()
        shares = np.rint(255 * shares / shares.max())
        expected = shares[..., [0, 1, 0]]  # magenta is red and blue
        assert np.abs(shown(browser, "image") - expected).max() <= 1
        assert np.abs(shown(browser, "heatmap")[..., 0].astype(int) - pictures.grey(heatmap)).max() <= 1
        shown(browser, "overlay")
        (tmp_path / "page.png").write_bytes(base64.b64decode(browser.send("Page.captureScreenshot")["data"]))
        assert drop(browser, encoded(picture(rng))).startswith("cell.png: instances[0]: expected 16 bits")
        browser.send("Page.navigate", url=before)
        browser.wait_for("document.getElementById('answer')?.textContent === 'Ready.'")


def test_errors_are_said(browser, rng):
    assert drop(browser, b"<b>no image</b>", "text.png").startswith(
        "text.png: instances[0]: not an image file of a kind that is read (BMP, DICOM, JPEG"
    )
    assert browser.run("document.getElementById('result').hidden")
    assert drop(browser, encoded(picture(rng)[:4])).endswith("Received: 4 x 80")
    assert drop(browser, encoded(picture(rng))).startswith("cell.png: ")
    assert not browser.run("document.getElementById('result').hidden")


ENTER = """(() => {{
  const field = document.getElementById("token");
  field.value = "{token}";
  field.dispatchEvent(new Event("change"));
}})()"""
SAID = "document.getElementById('answer').textContent === '{text}'"


def test_the_page_asks_for_a_token(browser, predict, rng, tmp_path):
    """It is hidden as it is typed, sent with every request from then on, and nowhere kept."""
    browser.problems.clear()
    (tmp_path / "tokens").write_text("a-token-of-22-letters=\n")
    before = browser.run("location.href")
    with serving(predict[1], tmp_path / "log", "--token-file", tmp_path / "tokens") as server:
        for _ in range(2):  # it is forgotten when the page is loaded again
            browser.send("Page.navigate", url=f"http://127.0.0.1:{server.http}/")
            browser.wait_for(
                f"document.readyState === 'complete' && {SAID.format(text='The server asks for a token.')}"
            )
            assert browser.run("document.activeElement.type") == "password"
            (tmp_path / "page.png").write_bytes(
                base64.b64decode(browser.send("Page.captureScreenshot")["data"])
            )
            browser.run(ENTER.format(token="wröng"))
            browser.wait_for(SAID.format(text="The server does not know this token."))
            browser.run(ENTER.format(token=" a-token-of-22-letters= "))
            browser.wait_for(SAID.format(text="Ready."))
            assert browser.run("document.getElementById('door').hidden")
        assert drop(browser, encoded(picture(rng))).startswith("cell.png: ")
        assert browser.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert all("401" in problem["entry"]["text"] for problem in browser.problems)
    browser.problems.clear()
    browser.send("Page.navigate", url=before)
    browser.wait_for(f"document.readyState === 'complete' && {SAID.format(text='Ready.')}")


SEVERAL = {
    "classes": ([f"class {k}" if k else "a/b" for k in range(6)], False),
    "labels": ([f"label {k} with a name that is much longer than its place" for k in range(20)], True),
}
LISTED = """[...document.querySelectorAll("#classes label")].map((row) => [
  row.querySelector(".name").textContent, row.querySelector("output").textContent,
  parseFloat(row.querySelector(".bar span").style.width), row.querySelector(".name").matches(".called"),
  row.querySelector("input").checked])"""
CHOOSE_CLASS = """(async () => {{
  document.querySelector("#classes input[value='{number}']").click();
  while (document.getElementById("answer").textContent.endsWith("..."))
    await new Promise((wake) => setTimeout(wake, 20));
}})()"""


@pytest.fixture(scope="module", params=SEVERAL)
def several(request, browser, tmp_path_factory):
    """What runs a model of several classes or labels, when the browser shows the page of its server."""
    names, multilabel = SEVERAL[request.param]
    model = pn.PatchNet((None, None, 3), 5, filters=4, depth=2, classes=len(names), multilabel=multilabel)
    path = tmp_path_factory.mktemp("several") / "cells.onnx"
    pn.export.to_onnx(shake(model, np.random.default_rng(1)), path, class_names=names)
    with serving(path, path.with_name("log")) as server:
        before = browser.run("location.href")
        browser.problems.clear()
        browser.send("Page.navigate", url=f"http://127.0.0.1:{server.http}/")
        browser.wait_for("document.getElementById('answer')?.textContent === 'Ready.'")
        yield Predictor(path)
        browser.send("Page.navigate", url=before)
        browser.wait_for("document.getElementById('answer')?.textContent === 'Ready.'")


def test_several_classes(browser, several, rng, tmp_path):
    image, names = picture(rng), several.class_names
    prediction = several(image)
    q, order = prediction.probability, np.argsort(-prediction.probability, kind="stable")
    said = drop(browser, encoded(image))
    if several.contract.classes.exclusive:
        assert said == f"cell.png: {names[order[0]]}. Its probability: {q.max():.4f}"
    else:
        assert said == f"cell.png: {', '.join(prediction.names)}"
    listed = browser.run(LISTED)
    assert [(name, value) for name, value, *_ in listed] == [(names[k], f"{q[k]:.4f}") for k in order]
    np.testing.assert_allclose([width for _, _, width, *_ in listed], 100 * q[order], atol=0.01)
    assert {name for name, *_, called, _ in listed if called} == set(prediction.names)
    assert [checked for *_, checked in listed] == [True] + [False] * (len(names) - 1)

    for number in (order[0], order[-1], order[0]):
        browser.run(CHOOSE_CLASS.format(number=number))
        assert browser.run("document.getElementById('answer').textContent") == said
        heatmap = prediction.heatmap[..., number]
        assert np.abs(shown(browser, "heatmap")[..., 0].astype(int) - pictures.grey(heatmap)).max() <= 1
        assert browser.run("document.getElementById('one').textContent") == names[number]
        assert browser.run("document.getElementById('zero').textContent") == f"not {names[number]}"
    browser.run(CHOOSE_CLASS.format(number=0))
    stem = browser.run("document.getElementById('npy').download").removesuffix("_heatmap.npy")
    assert stem.startswith("cell_")
    assert not set(stem) & set("/ ")
    loaded = np.load(io.BytesIO(browser.download("npy", tmp_path / f"{stem}_heatmap.npy")))
    np.testing.assert_array_equal(loaded, prediction.heatmap[..., 0])

    shown(browser, "overlay")
    for width in (420, 1100):
        browser.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        assert browser.run("document.documentElement.scrollWidth") <= width
        screenshot = base64.b64decode(
            browser.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        )
        (tmp_path / f"page_{len(names)}_{width}.png").write_bytes(screenshot)
    browser.send("Emulation.clearDeviceMetricsOverride")
    assert not browser.problems
