import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def test_fit_script(tmp_path):
    """The script runs as printed, in a folder of its own."""
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert script.count("\n") < 20
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "heatmaps.png").is_file()
    assert (tmp_path / "model.keras").is_file()


def test_dependency_table():
    """Every dependency of setup.py has its row."""
    table = README.split("## Dependencies")[1].split("\n## ")[0]
    rows = {name for row in re.findall(r"^\| ([\w, -]+) \|", table, re.MULTILINE) for name in row.split(", ")}
    needed = set(re.findall(r'"([\w-]+)>=', SETUP.split("install_requires")[1]))
    assert needed == rows - {"package", "tensorflow-addons"}


def test_links():
    """Files that the README points to exist."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
