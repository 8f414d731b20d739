import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchnet_tf.cli import studying
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.model.patchnet import PatchNet
from patchnet_tf.studies import convergence
from patchnet_tf.studies.convergence import closed_form, fit, measure, patch_images

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "configs" / "convergence.yaml"
QUICK = ["model.filters=4", "model.depth=2", "training.learning_rate=3e-3", "training.epochs=10"]


def loss(a, b, p0, p1):
    """The cross-entropy of one image of each class, written out patch by patch."""
    with np.errstate(divide="ignore"):
        return -np.log(1 - p0) - np.log(sum([p0] * a + [p1] * b) / (a + b))


@given(a=st.integers(1, 40), b=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_closed_form_is_where_the_loss_is_smallest(a, b):
    p0, p1 = np.meshgrid(np.linspace(0, 0.999, 1000), np.linspace(0.01, 1, 100), indexing="ij")
    best = np.unravel_index(np.argmin(loss(a, b, p0, p1)), p0.shape)
    assert p1[best] == 1
    assert p0[best] == pytest.approx(closed_form(a, b), abs=0.001)


def test_closed_form_of_the_papers_examples():
    assert closed_form(48, 16) == closed_form(3, 1) == pytest.approx(1 / 3)
    assert closed_form(16, 48) == 0


def test_patch_images():
    black, white = patch_images(3, 4, patch_size=2)[..., 0]
    assert not black.any()
    rows = ["111111", "111111", "110000", "110000", "000000", "000000"]
    np.testing.assert_array_equal(white, [[255 * int(c) for c in row] for row in rows])


def test_measure_counts_the_patches_that_touch_the_square(rng):
    """Against patches cut by hand: rows and columns 32 to 95 of 128, and 4 pixels of padding at each side."""
    image = load_dataset(load_config(PAPERS)).train.images[1]
    model = PatchNet((None, None, 1), 17, filters=2, depth=1)
    found = measure(model, image)
    assert (found.a, found.b) == (48, 16)

    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    cut = [padded[17 * i : 17 * i + 17, 17 * j : 17 * j + 17] for i in range(8) for j in range(8)]
    q = np.array(
        [model.predict_on_batch(patch[None])[0, 0] for patch in cut]
    )  # one patch is all of its image
    white = np.array([patch.any() for patch in cut])
    assert found.p0 == pytest.approx(q[~white].mean(), abs=1e-6)
    assert found.p1 == pytest.approx(q[white].mean(), abs=1e-6)
    assert found.p1_range == pytest.approx((q[white].min(), q[white].max()), abs=1e-6)


@pytest.mark.parametrize("white", [1, 6, 10])
def test_training_ends_at_the_closed_form(white):
    images = patch_images(4, white, patch_size=6)
    found = measure(fit(images, steps=300, learning_rate=1e-2, patch_size=6, filters=4, depth=2), images[1])
    assert (found.a, found.b) == (16 - white, white)
    assert found.p0 == pytest.approx(closed_form(16 - white, white), abs=0.02)
    assert found.p1 == pytest.approx(1, abs=0.02)


def test_pictures_and_figures(tmp_path, monkeypatch):
    """A quick S on small images; the sweep at one ratio."""
    monkeypatch.setattr(convergence, "WHITE", (8,))
    monkeypatch.setattr(convergence, "SMALL_STEPS", 20)
    monkeypatch.setattr(convergence, "SMALL", {"patch_size": 4, "filters": 4, "depth": 2})
    config = load_config(PAPERS, [*QUICK, "model.patch_size=16", "data.size=60", "data.square=32"])
    found = convergence.converge(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "convergence.json").read_text())
    assert written == json.loads(json.dumps(found))
    assert (written["square"]["a"], written["square"]["b"]) == (12, 4)  # 4 x 4 patches of 16 pixels
    assert written["square"]["closed_form"] == {"p0": pytest.approx(1 / 3), "p1": 1}
    assert written["square"]["paper"] == {"p0": 0.333, "p1": 0.982}
    assert [(point["a"], point["b"]) for point in written["sweep"]] == [(8, 8)]
    for name in ("heatmap", "sweep"):
        picture = cv2.imread(str(tmp_path / "run" / f"{name}.png"))
        assert picture.shape[0] > 400
        assert 2 < picture.std() < 200
    # Finished, so measured again and not trained again.
    before = (tmp_path / "run" / "history.csv").read_text()
    again = convergence.converge(config, tmp_path / "run", with_sweep=False)
    assert again == {key: found[key] for key in ("square", "four_patches")}
    assert (tmp_path / "run" / "history.csv").read_text() == before


def test_command(patchnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = studying.packaged
    monkeypatch.setattr(studying, "packaged", lambda name, overrides: packaged(name, [*QUICK, *overrides]))
    code, out, err = patchnet("convergence", "--steps", "2", "--no-sweep")
    assert code == 0, err
    assert {"48", "16", "0.3333", "0.333", "0.982"} <= set(out.split())
    assert "Pictures and figures: runs/convergence" in out
    assert len(Path("runs/convergence/history.csv").read_text().splitlines()) == 3
    code, out, err = patchnet("convergence", "--steps", "0")
    assert (code, out) == (2, "")
    assert "--steps" in err
    code, out, err = patchnet("convergence", "--out", PAPERS)
    assert (code, out) == (2, "")
    assert err == f"error: {PAPERS}: not a folder\n"


@pytest.mark.slow
def test_command_in_full(patchnet, tmp_path):
    """The paper's S in full; the tolerance is that of the paper's own figures."""
    code, out, err = patchnet("convergence", "--no-sweep", "--out", tmp_path / "run")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "convergence.json").read_text())
    assert "sweep" not in found
    for point in found.values():
        assert point["p0"] == pytest.approx(1 / 3, abs=0.002)
        assert point["p1"] == pytest.approx(1, abs=0.02)
    assert "0.3333" in out
    assert "0.982" in out
