"""The recipes of docs/images.md, run as they stand there, but for one epoch, with files made here."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from patchnet_tf.contract import Pixels
from patchnet_tf.images.reading import read_image
from patchnet_tf.serving import Predictor

from .test_dicom import made

pytestmark = pytest.mark.slow
PAGE = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")


def recipe(title):
    """Return a section's configuration, commands and Python."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return [re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1] for kind in ("yaml", "sh", "python")]


@pytest.fixture
def follow(patchnet, tmp_path, monkeypatch):
    """Write a recipe's configuration, and run its commands, with one epoch; return what they print."""
    monkeypatch.chdir(tmp_path)

    def follow(configuration, commands):
        name = yaml.safe_load(configuration)["name"]
        Path(f"{name}.yaml").write_text(configuration)
        printed = []
        for line in commands.splitlines():
            arguments = [
                str(name)
                for word in shlex.split(line)[1:]
                for name in (sorted(Path().glob(word)) if "*" in word else [word])
            ]
            if arguments[0] == "train":
                arguments += ["--set", "training.epochs=1"]
            code, out, err = patchnet(*arguments)
            assert code == 0, (line, out, err)
            printed.append(out)
        return printed

    return follow


def test_microscope(follow, rng):
    configuration, commands, script = recipe("A microscope")
    for split in ("train", "val"):
        for number, line in enumerate(("3t3", "u2os")):
            folder = Path("cells", split, line)
            folder.mkdir(parents=True)
            for k in range(3):
                stack = rng.integers(100, 500 + 400 * number, (3, 3, 24, 28), "uint16")
                stack[1, 2, 4:9, 5:12] = 3000
                exec(
                    script.replace('"cell.ome.tif"', "path"),
                    {"stack": stack, "path": folder / f"{k}.ome.tif"},
                )
    follow(configuration, commands)
    predict = Predictor("cells.onnx")
    pixels = predict.contract.pixels
    values = [
        tifffile.imread(path)[1, :2] for path in sorted(Path("cells", "train").rglob("*.tif"))
    ]  # of the middle plane
    assert pixels.select == ("DAPI", "tubulin")
    assert (pixels.dtype, pixels.frame, pixels.clip) == ("uint16", "middle", True)
    np.testing.assert_allclose(pixels.range, np.percentile(values, (0.1, 99.9)), atol=1)
    image = read_image(folder / "0.ome.tif", pixels)
    np.testing.assert_array_equal(image, np.moveaxis(tifffile.imread(folder / "0.ome.tif")[1, :2], 0, -1))
    assert predict(image).heatmap.shape == (24, 28)
    assert len([*Path("maps").rglob("*_heatmap.png")]) == 6


def test_clinic(follow, rng):
    configuration, commands, script = recipe("A clinic")
    for split in ("train", "val"):
        for number, finding in enumerate(("none", "nodule")):
            folder = Path("slices", split, finding)
            folder.mkdir(parents=True)
            for k in range(3):
                stored = rng.integers(0, 1500 + 2000 * number, (70, 66), "uint16")
                (folder / f"{k}.dcm").write_bytes(made(stored, RescaleSlope=1, RescaleIntercept=-1024))
    Path("slice.dcm").write_bytes((folder / "0.dcm").read_bytes())
    follow(configuration, commands)
    answered = {}
    exec(script, answered)
    assert answered["predict"].contract.pixels == Pixels(
        dtype="float32", range=(-1000, 1000), channels=1, clip=True
    )
    assert answered["heatmap"].shape == (70, 66)
