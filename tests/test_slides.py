"""Slides: read by level and region, and explained tile by tile."""

import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tifffile

import patchnet_tf as pn
from patchnet_tf.contract import Contract, Pixels
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation import slides as walking
from patchnet_tf.evaluation.slides import explain_slide
from patchnet_tf.images.slides import OpenSlideSlide, TiffSlide, covered, is_slide, open_slide, tissue
from patchnet_tf.model.preprocessing import ShadesOfGray

GREY = Pixels(channels=1)
RGB = Pixels(channels=3)


def pyramid(path, image, levels=3, **metadata):
    """Write an OME-TIFF, or another TIFF, of tiles whose levels are every second pixel."""
    ome = path.name.endswith(".ome.tif")
    options = {"tile": (32, 48), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=ome) as file:
        for level in range(levels):
            place = {"subfiletype": min(level, 1)}
            if ome and level == 0:
                place = {"subifds": levels - 1, "metadata": {"axes": "YXS", **metadata}}
            elif not ome:
                place |= {"metadata": None}
            file.write(image[:: 2**level, :: 2**level], **options, **place)
    return path


@pytest.fixture
def image(rng):
    """Coloured tissue on the left half of white glass."""
    image = np.full((200, 300, 3), 255, "uint8")
    image[:, :150] = rng.integers(0, 256, (200, 150, 3), "uint8")
    image[:, :150, 0] = 255  # saturated
    return image


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(walking, "TILE", 128)


@pytest.mark.parametrize(("name", "kind"), [("s.ome.tif", TiffSlide), ("s.tif", OpenSlideSlide)])
def test_regions_are_those_of_the_level(tmp_path, image, name, kind):
    slide = open_slide(pyramid(tmp_path / name, image))
    assert isinstance(slide, kind)
    assert slide.sizes == [(200, 300), (100, 150), (50, 75)]
    for level, top, left, height, width in ((0, 0, 0, 200, 300), (0, 31, 47, 35, 50), (1, 90, 3, 10, 147)):
        region = slide.region(level, top, left, height, width, RGB)
        whole = image[:: 2**level, :: 2**level]
        np.testing.assert_array_equal(region, whole[top : top + height, left : left + width])
    assert slide.region(2, 0, 0, 50, 75, GREY).shape == (50, 75, 1)
    slide.close()


def test_channels_in_planes(tmp_path, rng):
    planes = rng.integers(0, 2**16, (3, 70, 90), "uint16")
    with tifffile.TiffWriter(tmp_path / "s.ome.tif", ome=True) as file:
        file.write(planes, tile=(32, 32), photometric="minisblack", metadata={"axes": "CYX"})
    slide = open_slide(tmp_path / "s.ome.tif")
    pixels = Pixels(dtype="uint16", channels=3)
    np.testing.assert_array_equal(
        slide.region(0, 5, 6, 40, 50, pixels), planes[:, 5:45, 6:56].transpose(1, 2, 0)
    )
    with pytest.raises(InputError, match=r"expected 3 channel\(s\) of uint8. Received: 3 of uint16"):
        slide.region(0, 0, 0, 4, 4, RGB)
    slide.close()


def test_levels_and_resolutions(tmp_path, image):
    path = pyramid(tmp_path / "s.ome.tif", image, PhysicalSizeX=0.25, PhysicalSizeY=0.25)
    slide = open_slide(path)
    assert [slide.choose(level, None) for level in (0, 2)] == [0, 2]
    assert [slide.choose(None, mpp) for mpp in (0.26, 0.5, 1)] == [0, 1, 2]
    levels = r"0 \(200 x 300, 0.25 µm\), 1 \(100 x 150, 0.5 µm\), 2 \(50 x 75, 1 µm\)"
    for level, mpp, message in (
        (None, None, f"--level or --mpp, of {levels}. Received: neither"),
        (0, 0.25, f"--level or --mpp, of {levels}. Received: both"),
        (3, None, f"expected a level of {levels}. Received: 3"),
        (None, 0.7, f"within 10% of {levels}. Received: --mpp 0.7"),
    ):
        with pytest.raises(InputError, match=message):
            slide.choose(level, mpp)
    slide.close()
    slide = open_slide(pyramid(tmp_path / "u.ome.tif", image))
    with pytest.raises(InputError, match="does not say how large its pixels are, so choose a level of 0"):
        slide.choose(None, 0.5)
    slide.close()


def test_thumbnails_are_means(tmp_path, image):
    slide = open_slide(pyramid(tmp_path / "s.ome.tif", image, levels=1))
    means = image.reshape(50, 4, 75, 4, 3).mean((1, 3))
    np.testing.assert_allclose(slide.thumbnail(75), means, atol=0.51)
    slide.close()


def test_tissue_is_where_colour_is(image, rng):
    mask = tissue(image)
    assert mask[:, :145].mean() > 0.99
    assert not mask[:, 155:].any()
    assert tissue(np.full((20, 30, 3), 255, "uint8")).all()
    assert tissue(rng.integers(0, 256, (20, 30, 1), "uint8")).all()
    assert covered(mask, (400, 600), 128) == [(r, c) for r in range(4) for c in range(3)]
    single = np.zeros((50, 75), bool)
    single[12, 25] = True  # of pixels 48 to 51 and 100 to 103
    assert covered(single, (200, 300), 50) == [(0, 2), (1, 2)]


def test_is_slide(tmp_path, image, monkeypatch):
    assert is_slide("a/B.SVS")
    assert not is_slide("a.tif")
    path = pyramid(tmp_path / "s.ome.tif", image)
    assert not is_slide(path)
    (tmp_path / "t.tif").write_text("none")
    assert not is_slide(tmp_path / "t.tif")
    monkeypatch.setattr("patchnet_tf.images.slides.MAX_PIXELS", 200 * 300 - 1)
    assert is_slide(path)
    zeros = iter(np.zeros((4096, 256, 256), "uint8"))  # more than are even opened
    options = {"shape": (16384, 16384), "dtype": "uint8", "tile": (256, 256), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "l.ome.tif", zeros, **options)
    assert is_slide(tmp_path / "l.ome.tif")


@pytest.mark.parametrize("level", [0, 1])
def test_map_is_that_of_the_whole_level(run, tmp_path, image, small_tiles, level):
    path = pyramid(tmp_path / "s.ome.tif", image, PhysicalSizeX=0.5, PhysicalSizeY=0.5)
    told = []
    found = explain_slide(
        run, path, tmp_path / "out", level=level, everywhere=True, to=["ome-tiff", "geojson", "png"],
        progress=lambda task, done, total, note="": told.append((task, done, total)),
    )  # fmt: skip
    model = pn.load_model(run / "model.keras")
    slide = open_slide(path)
    whole = slide.region(level, 0, 0, *slide.sizes[level], GREY)
    slide.close()
    expected = pn.heatmap_model(model).predict(whole[None], verbose=0)[0]
    with tifffile.TiffFile(tmp_path / "out" / "s_heatmap.ome.tif") as file:
        np.testing.assert_allclose(file.asarray(), expected, atol=1e-6)
        assert f'PhysicalSizeX="{0.5 * 2**level}"' in file.ome_metadata
    assert found.probability == pytest.approx(expected.mean(), abs=1e-5)
    count = (2 * 3, 1 * 2)[level]
    assert ("tiles", count, count) in told
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written == ["s_heatmap.ome.tif", "s_overview.png", "s_regions.geojson"]
    corners = [
        corner
        for feature in json.loads((tmp_path / "out" / "s_regions.geojson").read_text())["features"]
        for ring in feature["geometry"]["coordinates"]
        for corner in ring
    ]
    if corners:  # in pixels of the first level
        assert np.max(corners) <= 300
        assert not np.any(np.array(corners) % 2**level)


def test_glass_is_passed_over(run, tmp_path, image, small_tiles):
    explain_slide(run, pyramid(tmp_path / "s.ome.tif", image), tmp_path, level=0, to=["ome-tiff"])
    heatmap = tifffile.imread(tmp_path / "s_heatmap.ome.tif")
    assert np.isfinite(heatmap[:, :256]).all()
    assert np.isnan(heatmap[:, 256:]).all()


def test_finished_tiles_are_kept(run, tmp_path, image, small_tiles):
    path, out = pyramid(tmp_path / "s.ome.tif", image), tmp_path / "out"
    options = {"level": 0, "everywhere": True, "to": ["ome-tiff"]}

    def stop(task, done, total, note=""):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain_slide(run, path, out, **options, progress=stop)
    tile = out / "s_unfinished" / "0-0.npy"
    assert len([*tile.parent.glob("*.npy")]) == 2
    np.save(tile, np.full((128, 128, 1), 0.125, "float32"))  # to be seen again
    shutil.copytree(out, tmp_path / "other")

    told = []
    explain_slide(run, path, out, **options, progress=lambda task, done, *_, **__: told.append((task, done)))
    assert told[0] == ("tiles", 2)
    heatmap = tifffile.imread(out / "s_heatmap.ome.tif")
    assert (heatmap[:128, :128] == 0.125).all()
    assert not tile.parent.exists()

    explain_slide(run, path, tmp_path / "other", **{**options, "level": 1})  # of another plan
    assert not (tifffile.imread(tmp_path / "other" / "s_heatmap.ome.tif")[:128, :128] == 0.125).any()


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from(run, tmp_path, image, small_tiles):
    path, out = pyramid(tmp_path / "s.ome.tif", image), tmp_path / "out"
    script = (
        "import os, sys, signal\n"
        "from patchnet_tf.evaluation import slides\n"
        "slides.TILE = 128\n"
        "def stop(task, done, total, note=''):\n"
        "    if done == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "slides.explain_slide(*sys.argv[1:], level=0, everywhere=True, progress=stop)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, run, path, out], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(p.name for p in out.iterdir()) == ["s_unfinished"]
    assert len([*(out / "s_unfinished").glob("[0-9]*.npy")]) == 3
    told = []
    explain_slide(run, path, out, level=0, everywhere=True, progress=lambda *a: told.append(a[:2]))
    assert told[0] == ("tiles", 3)
    assert sorted(p.name for p in out.iterdir()) == ["s_heatmap.ome.tif", "s_overview.png"]


def test_a_full_disk_loses_no_tile(run, tmp_path, image, small_tiles, monkeypatch):
    path, out = pyramid(tmp_path / "s.ome.tif", image), tmp_path / "out"

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(walking.Tiles, "rows", full)
        with pytest.raises(OSError, match="No space left"):
            explain_slide(run, path, out, level=0, to=["ome-tiff"])
    assert [p.name for p in out.iterdir()] == ["s_unfinished"]
    told = []
    explain_slide(run, path, out, level=0, to=["ome-tiff"], progress=lambda *a: told.append(a))
    assert told[0][1] == told[0][2]  # all of them


def test_bad_slides_are_refused_before_anything_is_written(run, tmp_path, image, patchnet):
    good = pyramid(tmp_path / "s.ome.tif", image)
    content = good.read_bytes()
    (tmp_path / "cut.ome.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "head.ome.tif").write_bytes(content[:100])
    (tmp_path / "text.svs").write_text("no slide")
    pyramid(tmp_path / "tiny.ome.tif", image[:5, :5], levels=1)
    for arguments, message in (
        (["cut.ome.tif", "--level", 0], "truncated"),
        (["head.ome.tif", "--level", 0], "head.ome.tif: "),
        (["text.svs", "--level", 0], "text.svs: not a slide that OpenSlide reads"),
        (["gone.svs", "--level", 0], "gone.svs: cannot be read (No such file"),
        (["s.ome.tif", "--level", 9], "s.ome.tif: expected a level of 0 (200 x 300)"),
        (["s.ome.tif", "--mpp", 0.5], "does not say how large its pixels are"),
        (["text.svs"], "text.svs: not a slide"),
        (["tiny.ome.tif", "--level", 0], "expected at least 8 x 8 pixels"),
        (["s.ome.tif", "--level", 0, "--to", "npy"], "--to: expected of a slide some of png, ome-tiff"),
        (["s.ome.tif", "--level", 0, "--resize"], "--resize: not of slides"),
    ):
        code, _, err = patchnet(
            "explain", run, tmp_path / arguments[0], *arguments[1:], "--out", tmp_path / "o"
        )
        assert code == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "o").exists()


def test_the_command_explains_slides(run, tmp_path, image, patchnet):
    path = pyramid(tmp_path / "s.ome.tif", image)
    code, out, _ = patchnet("explain", run, path, "--level", 1, "--out", tmp_path / "maps")
    assert code == 0
    assert "mean of class 1" in out
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["s_heatmap.ome.tif", "s_overview.png"]


@pytest.mark.parametrize("exclusive", [True, False])
def test_several_classes_of_a_slide(tmp_path, image, monkeypatch, small_tiles, exclusive):
    model = pn.PatchNet(
        (None, None, 3), patch_size=5, filters=2, depth=1, classes=3, multilabel=not exclusive
    )
    contract = Contract(
        classes={"names": ["a", "b", "c"], "exclusive": exclusive}, pixels={"channels": 3}, smallest=[5, 5]
    )
    (tmp_path / "model.keras").write_bytes(b"")
    monkeypatch.setattr(walking, "open_run", lambda folder: (None, model))
    monkeypatch.setattr(walking, "contract_of", lambda *_: contract)
    path = pyramid(tmp_path / "s.ome.tif", image)
    found = explain_slide(
        tmp_path, path, tmp_path, level=1, everywhere=True, to=["ome-tiff", "png", "geojson"]
    )
    expected = pn.heatmap_model(model).predict(image[None, ::2, ::2], verbose=0)[0]
    heatmap = tifffile.imread(tmp_path / "s_heatmap.ome.tif")
    np.testing.assert_allclose(heatmap, expected.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(found.probabilities, expected.mean((0, 1), "float64"), atol=1e-6)
    assert (tmp_path / "s_overview.png").exists()


def test_models_that_look_at_whole_images_are_refused():
    for model, received in (
        (pn.PatchNet((None, None, 3), patch_size=5, preprocessing=[ShadesOfGray()]), "shades_of_gray"),
        (pn.PatchNet((None, None, 3), patch_size=5, pixels=Pixels(channels=3, per_image=True)), "per_image"),
        (keras.Sequential(), "a run of a baseline"),
    ):
        with pytest.raises(InputError, match=f"s.svs: a slide is explained .* Received: {received}"):
            walking.check_model(model, "s.svs")
