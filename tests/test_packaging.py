"""The wheel, installed where there is no checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from .small import SMALL

ROOT = Path(__file__).parents[1]
SHIPPED = [
    "patchnet_tf",
    "export",
    "serving",
    "configs",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]

# An environment with the base dependencies alone: what an extra brings, and the base not, cannot be imported.
BASE = """
import importlib.metadata, re, sys

class Refuse:
    def find_spec(self, name, *where):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def plain(name):
    return name.lower().replace("_", "-")

lines = importlib.metadata.requires("patchnet-tf")
base, extras = ({plain(re.match(r"[\\w-]+", line)[0]) for line in lines if ("extra ==" in line) == extra}
                for extra in (False, True))
extras |= {"protobuf", "grpcio", "h5py"}  # which others bring
refused = {module for module, brought in importlib.metadata.packages_distributions().items()
           if set(map(plain, brought)) & extras - base}
assert {"tensorflow", "keras", "cv2", "matplotlib", "mahotas", "tf2onnx", "tensorflow_serving"} <= refused
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Make an environment with the wheel, and dependencies from this one; the folder of both."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "source").mkdir()
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    python = folder / "env" / "bin" / "python"
    run(
        folder,
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "wheel",
        folder / "source",
    )
    shutil.rmtree(folder / "source")
    run(folder, sys.executable, "-m", "venv", "--without-pip", folder / "env")
    [packages] = (folder / "env" / "lib").glob("*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    [wheel] = (folder / "wheel").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    run(folder, *pip, "--ignore-installed", wheel)
    names = ("patchnet_tf", "patchnet_tf.configs", "patchnet_tf.export", "patchnet_tf.serving")
    script = f"from importlib.util import find_spec\nfor name in {names}: print(find_spec(name).origin)"
    for path in run(folder, python, "-c", script).splitlines():
        assert Path(path).is_relative_to(packages)
    return folder


@pytest.fixture(scope="module")
def demo(installed):
    """What `patchnet demo` prints, with a demo that is over in seconds."""
    [path] = installed.glob("env/lib/*/site-packages/patchnet_tf/configs/demo.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(SMALL) | {"name": "demo"}))
    return run(installed, "env/bin/patchnet", "demo")


def run(folder, *command, code=0):
    """Run a command in the folder, without what would lead it to the checkout; return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_demo(demo, installed):
    assert "Look at runs/demo/heatmaps/collages.png" in demo
    for name in ("metrics.json", "report.html", "heatmaps/collages.png", "export/demo.onnx"):
        assert (installed / "runs" / "demo" / name).is_file()


def test_export(demo, installed):
    printed = run(installed, "env/bin/patchnet", "export", "runs/demo", "--out", "small")
    assert "Exported small.onnx" in printed
    assert (installed / "small.onnx").is_file()


def test_serve(demo, installed):
    command = ["env/bin/patchnet", "serve", "runs/demo/export/demo.onnx", "--port", "0", "--grpc-port", "-1"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(
        command, cwd=installed, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            url = re.search(r"http://\S+/", server.stdout.readline())[0]
            with urllib.request.urlopen(f"{url}v2/health/ready") as answer:
                assert json.load(answer)["ready"] is True
            with urllib.request.urlopen(url) as answer:
                assert b"<html" in answer.read()
        finally:
            server.terminate()
        assert server.wait(60) == 0


def test_base_dependencies_run_an_exported_file(demo, installed):
    script = """
import numpy as np
import patchnet_tf
from patchnet_tf.config import load_config
from patchnet_tf.serving import Client, Predictor
prediction = Predictor("runs/demo/export/demo.onnx")(np.zeros((20, 30, 1), "uint8"))
assert prediction.heatmap.shape == (20, 30)
assert load_config("runs/demo/config.yaml").name == "demo"
try:
    patchnet_tf.PatchNet
except ImportError as error:
    print(error)
"""
    printed = run(installed, "env/bin/python", "-c", BASE + script)
    assert printed == "needs more packages: pip install \"patchnet-tf[train]\" (No module named 'keras')\n"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "runs/demo/config.yaml", "--out", "new"], "train"),
        (["report", "runs/demo"], "train"),
        (["export", "runs/demo"], "train"),
        (["serve", "runs/demo/export/demo.onnx"], "serve"),
    ],
)
def test_what_is_missing_is_one_line(demo, installed, arguments, extra):
    script = f"sys.argv = {['patchnet', *arguments]}\nfrom patchnet_tf.cli import main\nmain()"
    error = run(installed, "env/bin/python", "-c", BASE + script, code=2)
    assert re.fullmatch(rf'error: needs more packages: pip install "patchnet-tf\[{extra}\]" \(.*\)\n', error)


@pytest.mark.parametrize("name", ["tests", "setup", "benchmarks", "docs", "configs.configs"])
def test_the_checkout_is_no_part_of_the_package(name):
    code = f"import patchnet_tf.{name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert f"No module named 'patchnet_tf.{name}'" in done.stderr
