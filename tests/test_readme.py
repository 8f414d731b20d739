import os
import re
import runpy
import subprocess
import sys
import unittest.mock
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run(script, folder):
    """Run a script by itself in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_fit_script(tmp_path):
    """The script runs as printed, in a folder of its own, and what follows goes on from there."""
    script, pretrained, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert script.count("\n") < 20
    assert pretrained.count("\n") <= 8
    run(script + pretrained, tmp_path)
    assert (tmp_path / "heatmaps.png").is_file()
    assert (tmp_path / "model.keras").is_file()


def test_script_of_three_classes(tmp_path):
    """It runs as printed, and its maps find the three photographs."""
    script = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[2]
    assert script.count("\n") < 20
    check = """
truth = np.repeat(range(3), 64)  # of each column
assert np.mean(maps[0].argmax(-1) == truth) > 2 / 3  # chance: 1 / 3
assert np.abs(maps.sum(-1) - 1).max() < 1e-5
"""
    run(script + check, tmp_path)
    assert (tmp_path / "classes.png").is_file()


def test_dependency_table():
    """Every dependency has its row, which names its extras."""
    table = README.split("## Dependencies")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w, ]*?) ?\| ([\w, -]+) \|", table, re.MULTILINE)
    listed = {
        (extra, name) for extras, names in rows for extra in extras.split(", ") for name in names.split(", ")
    }
    needed = {(extra, name) for extra, names in requirements().items() for name in names}
    for_tests = {name for extra, name in listed if extra == "test"}
    needed = {(extra, name) for extra, name in needed if extra != "test" or name in for_tests}
    assert needed == listed - {("extra", "package"), ("", "tensorflow-addons")}


def test_extras():
    """The tests need all that anybody needs; who runs an exported file needs nothing of TensorFlow."""
    needed = requirements()
    tools = {
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "build",
        "setuptools",
        "kserve",
        "trustme",
        "atheris",
    }
    every = set().union(*(names for extra, names in needed.items() if extra not in ("", "test")))
    assert needed["test"] == every | tools
    light = {
        "numpy",
        "pillow",
        "simplejpeg",
        "pydantic",
        "pyyaml",
        "typer",
        "rich",
        "urllib3",
        "onnxruntime-gpu",
    }
    assert needed[""] == light


def requirements():
    """Return the names of the packages that setup.py gives each extra, and the base, ""."""
    given = {}
    with unittest.mock.patch("setuptools.setup", lambda **settings: given.update(settings)):
        runpy.run_path(str(ROOT / "setup.py"))
    lists = {"": given["install_requires"], **given["extras_require"]}
    return {extra: {re.match(r"[\w-]+", line)[0] for line in lines} for extra, lines in lists.items()}


def test_links():
    """Files that the README points to exist."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
