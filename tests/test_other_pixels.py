"""Data sets of 16 bits, floats and any channels: what is found in the files, and what is made of it."""

import tracemalloc

import numpy as np
import pytest
import tifffile
import yaml

from patchnet_tf.config import FolderData, ManifestData, load_config
from patchnet_tf.contract import Pixels
from patchnet_tf.data import Examples, files, folder, list_files
from patchnet_tf.data.batches import Batches, enlarge
from patchnet_tf.data.check import check
from patchnet_tf.data.pixels import with_percentiles
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.evaluation.explain import explain
from patchnet_tf.evaluation.faithfulness import deletion
from patchnet_tf.reporting.report import write_report
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import train

from .small import save

SIZE = (20, 24)


def cells(rng, label):
    """A cell in two stains, 12 bits: the second is bright in a spot, in the second class."""
    stains = rng.integers(100, 900, (2, *SIZE)).astype("uint16")
    stains[0, 5:15, 5:15] += 2000
    if label:
        stains[1, 6:12, 8:14] += 2500
    return stains


def write_tiff(path, channels, names=("DAPI", "CENP-A")):
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": "CYX", "Channel": {"Name": list(names)}}
    tifffile.imwrite(path, channels, photometric="minisblack", metadata=metadata)


def write_npy(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, image)


@pytest.fixture(scope="module")
def stained(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("stained"), np.random.default_rng(0)
    for split in ("train", "val"):
        for k in range(8):
            write_tiff(root / split / "mn"[k % 2] / f"{k}.ome.tif", cells(rng, k % 2))
    return root


def section(root, **options):
    return FolderData(kind="folder", path=str(root), **options)


def read(root, **options):
    return files.read(list_files(section(root, **options)))


def stored(root, split="train"):
    """The numbers in the files, (N, 2, H, W), by tifffile."""
    paths = [path for name in "mn" for path in sorted((root / split / name).iterdir())]
    return np.array([tifffile.imread(path) for path in paths])


def test_what_the_files_are(stained):
    data = read(stained)
    assert data.pixels == Pixels(dtype="uint16", channels=2)
    assert data.train.images.dtype == np.uint16
    np.testing.assert_array_equal(data.train.images, np.moveaxis(stored(stained), 1, -1))


@pytest.mark.parametrize("chosen", [["CENP-A"], [1], ["CENP-A", "DAPI"], [1, 0]])
def test_channels_are_chosen_by_name_or_number(chosen, stained):
    data = read(stained, channels=chosen)
    assert (data.pixels.select, data.pixels.channels) == (tuple(chosen), len(chosen))
    numbers = [1, 0][: len(chosen)]
    np.testing.assert_array_equal(data.train.images, np.moveaxis(stored(stained)[:, numbers], 1, -1))


def test_the_range(stained):
    """Of the dtype, as given, or percentiles of the training images; whole numbers stay whole ones."""
    assert read(stained, range="dtype").pixels.range == (0, 65535)
    assert read(stained, range=[50, 4095]).pixels.range == (50, 4095)
    found = read(stained, range="percentiles").pixels
    low, high = np.percentile(stored(stained), [0.1, 99.9])
    assert found.range == (int(np.floor(low)), int(np.ceil(high)))
    assert found.clip
    assert all(type(end) is int for end in found.range)
    assert read(stained, per_image=True).pixels.per_image


@pytest.mark.parametrize("memory", [2048, None])
def test_numbers_outside_the_range_are_counted_in_their_files(memory, stained, tmp_path, monkeypatch):
    """Also where the images were kept before the range was asked for."""
    options = {"range": [0, 3000], "cache": str(tmp_path)}
    if memory is None:
        monkeypatch.setattr(files, "MIB", 1)
        options["memory"] = 1
        read(stained, **options | {"range": "dtype"})
        assert len([*tmp_path.iterdir()]) == 1
    with pytest.raises(InputError) as caught:
        read(stained, **options)
    lines = str(caught.value).splitlines()
    for split in ("train", "val"):
        for k in range(8):
            path = stained / split / "mn"[k % 2] / f"{k}.ome.tif"
            numbers = tifffile.imread(path)
            outside = np.count_nonzero(numbers > 3000)
            told = [line for line in lines if line.startswith(f"{path}: ")]
            if outside:
                assert told == [
                    f"{path}: expected pixels in 0..3000. Received: {numbers.min()} to {numbers.max()}, "
                    f"{outside} of {numbers.size} outside"
                ]
            else:
                assert told == []
    assert read(stained, **options | {"clip": True}).pixels.clip


def test_images_in_a_file_are_the_same(stained, tmp_path, monkeypatch):
    options = {"range": "percentiles", "cache": str(tmp_path), "size": (16, 16), "memory": 1}
    from_memory = read(stained, **options)
    monkeypatch.setattr(files, "MIB", 1)
    for _ in range(2):
        from_file = read(stained, **options)
        assert from_file.pixels == from_memory.pixels
        np.testing.assert_array_equal(from_file.train.images[:], from_memory.train.images)
        assert from_file.train.images.dtype == np.uint16


def test_of_many_numbers_every_few_are_taken(stained, tmp_path, monkeypatch):
    from patchnet_tf.data import pixels

    monkeypatch.setattr(pixels, "MOST", 500)
    numbers = np.moveaxis(stored(stained), 1, -1).ravel()
    step = -(-numbers.size // 500)
    low, high = np.percentile(numbers[::step], [0.1, 99.9])
    monkeypatch.setattr(files, "chunks", lambda images: (images[k : k + 3] for k in range(0, 8, 3)))
    wanted = (int(np.floor(low)), int(np.ceil(high)))
    assert read(stained, range="percentiles").pixels.range == wanted
    assert check(config_of(tmp_path, stained, range="percentiles")).pixels.range == wanted


def test_what_differs_is_refused_by_name(stained, tmp_path):
    rng = np.random.default_rng(1)
    root = tmp_path / "mixed"
    for split in ("train", "val"):
        for name in "mn":
            write_tiff(root / split / name / "0.tif", cells(rng, 0))
    first = root / "train" / "m" / "0.tif"
    other = root / "train" / "n" / "1.tif"
    write_tiff(other, cells(rng, 0)[:1], ["DAPI"])
    with pytest.raises(InputError) as caught:
        read(root)
    assert str(caught.value) == (
        "Images of one data set must have the same channels; data.channels chooses some of all. "
        f"Received: {first} 2, {other} 1"
    )
    assert read(root, channels=[0]).pixels.channels == 1
    write_tiff(other, cells(rng, 0)[::-1], ["CENP-A", "DAPI"])
    with pytest.raises(InputError) as caught:
        read(root)
    assert str(caught.value) == (
        "Images of one data set must have the same channels; data.channels: [NAME, ...] chooses them "
        f"by name. Received: {first} DAPI, CENP-A; {other} CENP-A, DAPI"
    )
    assert read(root, channels=["DAPI", "CENP-A"]).pixels.channels == 2
    write_tiff(other, cells(rng, 0).astype("float32"))
    with pytest.raises(InputError) as caught:
        read(root)
    assert str(caught.value) == (
        "Images of one data set must have the same dtype; as float32, data.dtype reads all. "
        f"Received: {first} uint16, {other} float32"
    )
    assert read(root, dtype="float32", range=[0, 4095]).train.images.dtype == np.float32
    other.unlink()
    write_tiff(wrong := root / "val" / "n" / "1.tif", cells(rng, 0).astype("float32"))
    with pytest.raises(InputError, match=rf"{wrong}: expected 16 bits per channel"):
        read(root)


def test_floats_have_no_range_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in "ab":
            write_npy(tmp_path / split / name / "0.npy", rng.normal(size=(*SIZE, 1)).astype("float32"))
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert str(caught.value) == (
        "data.range: expected [low, high] or percentiles, or data.per_image: true, as these numbers have no "
        f"range of their own. Received: null, float32 in {tmp_path / 'train' / 'a' / '0.npy'}"
    )
    low, high = np.percentile([np.load(p) for p in tmp_path.glob("train/*/*")], [0.1, 99.9])
    assert read(tmp_path, range="percentiles").pixels.range == pytest.approx((low, high))
    flat = np.zeros((*SIZE, 1), "float32")
    for name in "ab":
        write_npy(tmp_path / "train" / name / "0.npy", flat)
    with pytest.raises(InputError, match=r"data\.range: .* 0\.1 % and 99\.9 % are both 0\.0"):
        read(tmp_path, range="percentiles")
    flat[3, 4] = np.nan
    write_npy(wrong := tmp_path / "val" / "b" / "0.npy", flat)
    with pytest.raises(
        InputError, match=rf"{wrong}: expected finite pixels. Received: NaN or infinity in 1 of"
    ):
        read(tmp_path, range=[0, 1], clip=True)


def test_what_does_not_agree(stained):
    with pytest.raises(
        InputError, match=r"data\.range: expected a range within 0\.\.65535.*Received: \(-1, 5\)"
    ):
        read(stained, range=[-1, 5])
    with pytest.raises(
        InputError, match=r"0\.ome\.tif: expected a channel 'Cy5'. Received: 2 channel\(s\): DAPI"
    ):
        read(stained, channels=["Cy5"])


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_a_channel_is_the_mask(kind, stained, tmp_path):
    options = {"channels": ["DAPI"], "mask_channel": "CENP-A", "mask_threshold": 1500}
    if kind == "folder":
        data = read(stained, **options)
    else:
        rows = [f"{path},{path.parts[-2]},{path.parts[-3]}" for path in sorted(stained.glob("*/*/*"))]
        (tmp_path / "list.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
        path = str(tmp_path / "list.csv")
        manifest = ManifestData(kind="manifest", path=path, classes=["m", "n"], **options)
        data = files.read(list_files(manifest))
    of_class = data.masked
    assert data.class_names == ("m", "n")
    assert of_class.name == "CENP_A"
    spots = stored(stained, "val")[4:, 1] > 1500  # of class 1, n
    assert 0 < spots.mean() < 1
    np.testing.assert_array_equal(of_class.masks, spots)
    assert of_class.labels.tolist() == [1] * 4
    assert of_class.images.shape[-1] == 1


def test_masks_from_two_places_are_refused(stained, tmp_path):
    import shutil

    root = shutil.copytree(stained, tmp_path / "cells")
    save(root / "masks" / "val" / "n" / "1.ome__spot.png", np.full(SIZE, 255, "uint8"))
    options = {"mask": "spot", "mask_channel": 1, "mask_threshold": 9}
    listing = list_files(section(root, **options))
    assert any(entry.masks for entry in listing.entries)
    with pytest.raises(InputError, match=r"data\.mask_channel: expected null, as images have masks in other"):
        files.read(listing)


def test_zoom_of_any_channels_is_that_of_each(rng):
    """As of a few channels; whole numbers and floats."""
    for dtype in ("uint8", "uint16", "float32"):
        image = rng.integers(0, 256, (9, 11, 6)).astype(dtype)
        larger = enlarge(image, 1.7)
        assert larger.dtype == image.dtype
        for part in (slice(4), slice(4, 6)):
            np.testing.assert_array_equal(larger[..., part], enlarge(image[..., part], 1.7))


def test_batches_keep_the_dtype(rng):
    images = rng.integers(0, 4096, (5, 6, 7, 2), "uint16")
    pixels = Pixels(dtype="uint16", channels=2)
    batches = Batches(Examples(images, np.arange(5) % 2), 3, 0, flips=True, zoom=1.4, pixels=pixels)
    assert batches[0][0].dtype == np.uint16
    small = Pixels(dtype="uint16", channels=2, range=(0, 100))
    with pytest.raises(InputError, match=r"expected pixels in 0\.\.100"):
        Batches(Examples(images, np.arange(5) % 2), 3, pixels=small)


@pytest.mark.parametrize("pixels", [None, Pixels(dtype="uint16", channels=1, range=(100, 4095))])
def test_deletion_leaves_what_is_black(pixels, rng):
    """Zero, or the lower end of the range; each image's own least number where that is its range."""
    images = rng.integers(200, 256, (2, 4, 5, 1)).astype("float32")
    seen = []

    def model(batch):
        seen.append(batch.copy())
        return np.full(len(batch), 0.5)

    maps = rng.random((2, 4, 5))
    deletion(model, images, maps, steps=4, pixels=pixels)
    assert (seen[0][-1] == (100 if pixels else 0)).all()
    own = Pixels(dtype="uint16", channels=1, per_image=True)
    seen.clear()
    deletion(model, images, maps, steps=4, pixels=own)
    assert [batch[-1].max() for batch in seen] == [image.min() for image in images]


def config_of(folder, root, training=None, **data):
    path = folder / "cells.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "cells",
                "data": {"kind": "folder", "path": str(root), **data},
                "model": {"patch_size": 8, "stride": 4, "subnet": {"filters": 4, "depth": 2}},
                "training": training or {"epochs": 2, "zoom": 1.2, "snapshot_every": 2, "seed": 1},
            }
        )
    )
    return load_config(path)


def test_check_says_what_the_pixels_are(stained, tmp_path):
    report = check(config_of(tmp_path, stained, range=[0, 4095]))
    assert (report.errors, report.pixels) == ([], Pixels(dtype="uint16", channels=2, range=(0, 4095)))
    numbers = np.concatenate([stored(stained), stored(stained, "val")])
    assert report.ends == (numbers.min(), numbers.max())
    assert report.sheet.dtype == np.uint8
    assert report.sheet.std() > 20
    dark = check(config_of(tmp_path, stained, range=[0, 65535]))
    assert sum("nearly empty" in line for line in dark.warnings) == 0


def test_check_looks_between_the_percentiles(tmp_path):
    """Those of the training images, resized, one of which shows next to nothing between them."""
    rng, root = np.random.default_rng(0), tmp_path / "x"
    images = {}
    for split in ("train", "val"):
        for name in "ab":
            for k in range(2):
                image = rng.integers(1000, 2000 + 9000 * (split == "val"), (8, 9, 1)).astype("uint16")
                if (split, name, k) == ("train", "b", 1):
                    image = 1000 + image % 2
                images[split, name, k] = image
                write_npy(root / split / name / f"{k}.npy", image)
    rules = {"range": "percentiles", "size": [4, 5]}
    report = check(config_of(tmp_path, root, **rules))
    low, high = report.pixels.range
    assert (low, high) == read(root, **rules).pixels.range
    assert 1000 <= low < high < 2000
    flat = f"{root}/train/b/1.npy (train, b): nearly empty"
    assert [line.partition(",")[0] for line in report.warnings] == [flat.partition(",")[0]]
    by_numbers = check(config_of(tmp_path, root, range=[low, high], clip=True, size=[4, 5]))
    np.testing.assert_array_equal(report.sheet, by_numbers.sheet)
    assert report.warnings == by_numbers.warnings


def test_check_of_percentiles_that_are_the_same(tmp_path):
    for split in ("train", "val"):
        for name in "ab":
            write_npy(tmp_path / "x" / split / name / "0.npy", np.full((*SIZE, 1), 7, "uint16"))
    report = check(config_of(tmp_path, tmp_path / "x", range="percentiles"))
    assert report.errors == [
        "data.range: expected training images whose percentiles differ. Received: 0.1 % and 99.9 % are both 7"
    ]
    for path in tmp_path.glob("x/train/*/0.npy"):
        path.write_bytes(b"")
    report = check(config_of(tmp_path, tmp_path / "x", range="percentiles"))
    assert report.pixels is None
    assert [line.partition(": ")[2] for line in report.errors[:2]] == ["empty file"] * 2


def test_percentiles_hold_no_more_numbers_than_they_take(monkeypatch):
    monkeypatch.setattr("patchnet_tf.data.pixels.MOST", 1000)
    images = (np.arange(k, k + 2**16, dtype="float32") for k in range(64))  # 16 MiB together
    tracemalloc.start()
    found = with_percentiles(Pixels(dtype="float32", channels=1, clip=True), images, 64 * 2**16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21
    assert found.range == pytest.approx((0.001 * 2**16, 0.999 * 2**16), rel=0.6)


@pytest.mark.parametrize("wrong", ["dtype", "range"])
def test_check_stops_where_the_kind_of_pixels_is_wrong(wrong, stained, tmp_path, patchnet):
    """Nothing follows from rules that nobody gave: one error, no pixels, and the sheet stays."""
    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for name in "mn":
            stains = cells(rng, 0)
            if wrong == "range":
                stains = stains.astype("float32")
            write_tiff(tmp_path / "x" / split / name / "0.tif", stains)
            write_tiff(tmp_path / "x" / split / name / "1.tif", np.stack([stains[0]] * 2))
    if wrong == "dtype":
        write_tiff(tmp_path / "x" / "train" / "n" / "2.tif", cells(rng, 0).astype("float32"))
    config = config_of(tmp_path, tmp_path / "x", channels=["CENP-A"])
    report = check(config)
    (error,) = report.errors
    told = "Images of one data set must have the same dtype" if wrong == "dtype" else "data.range: expected"
    assert error.startswith(told)
    assert (report.warnings, report.pixels, report.sheet, report.images) == ([], None, None, {})
    (sheet := tmp_path / "cells-contact-sheet.png").write_text("from before")
    code, out, err = patchnet("data", "check", tmp_path / "cells.yaml", "--out", tmp_path)
    assert (code, err.count("error: ")) == (2, 1)
    assert "Pixels: " not in out
    assert "Images looked at: none" in out
    assert sheet.read_text() == "from before"


def test_microscopy_from_end_to_end(stained, tmp_path, patchnet):
    """OME-TIFF of 16 bits and two channels: train, evaluate, explain, report."""
    config = config_of(
        tmp_path,
        stained,
        range="percentiles",
        channels=["DAPI", "CENP-A"],
        mask_channel=1,
        mask_threshold=1500,
    )
    run = tmp_path / "run"
    first = train(config, run)
    kept = load_config(run / "config.yaml").data
    low, high = np.percentile(stored(stained), [0.1, 99.9])
    assert (kept.dtype, kept.range, kept.clip) == ("uint16", (np.floor(low), np.ceil(high)), True)
    assert train(config, run, resume=True).rows == first.rows
    model = open_run(run)[1]
    assert model.pixels.range == kept.range
    assert (run / "heatmaps" / "epoch_0002.png").is_file()
    measured = evaluate(run)
    assert measured.localization["auroc"].images == 4
    image = stained / "val" / "n" / "1.ome.tif"
    (explained,) = explain(run, [image], tmp_path / "maps")
    numbers = np.moveaxis(tifffile.imread(image), 0, -1)[None]
    assert explained.probability == pytest.approx(float(model.predict(numbers, verbose=0)[0, 0]), abs=1e-6)
    assert (tmp_path / "maps" / "1.ome_overlay.png").is_file()
    write_report(run)
    assert "0 image" not in (run / "report.html").read_text()
    code, out, _ = patchnet("data", "check", tmp_path / "cells.yaml", "--out", tmp_path)
    numbers = np.concatenate([stored(stained), stored(stained, "val")])
    assert code == 0
    low, high = kept.range
    assert (
        f"Pixels: uint16, 2 channel(s) (DAPI, CENP-A), range {low} to {high}, percentiles of the training "
        f"images, clipped; there are {numbers.min()} to {numbers.max()}\n"
    ) in out


def test_floats_from_end_to_end(tmp_path):
    """.npy of float32, some negative: train, evaluate, explain, report."""
    rng, root = np.random.default_rng(0), tmp_path / "heights"
    for split in ("train", "val"):
        for k in range(6):
            image = rng.normal(-3 + 2 * (k % 2), 1, (*SIZE, 1)).astype("float32")
            write_npy(root / split / "ab"[k % 2] / f"{k}.npy", image)
    run = tmp_path / "run"
    train(config_of(tmp_path, root, {"epochs": 1}, range=[-10, 10]), run)
    assert evaluate(run).validation["loss"].images == 6
    explained = explain(run, sorted(root.glob("val/*/*.npy"))[::3], tmp_path / "maps")
    model = open_run(run)[1]
    for each in explained:
        q = model.predict(np.load(each.path)[None], verbose=0)[0, 0]
        assert each.probability == pytest.approx(float(q), abs=1e-6)
    write_report(run)
    outside = np.full((*SIZE, 1), 11, "float32")
    write_npy(root / "far.npy", outside)
    with pytest.raises(InputError, match=r"far\.npy: expected pixels in -10\.\.10"):
        explain(run, [root / "far.npy"], tmp_path / "maps")


def test_folders_that_cannot_be_read_are_all_told(stained, monkeypatch):
    closed = {stained / "train" / "n", stained / "val" / "m"}
    within = folder.within

    def refusing(path):
        if path in closed:
            raise InputError(f"{path}: cannot be read (Permission denied)")
        return within(path)

    monkeypatch.setattr(folder, "within", refusing)
    listing = list_files(section(stained))
    assert sorted(listing.complaints) == sorted(
        f"{path}: cannot be read (Permission denied)" for path in closed
    )
    assert len(listing.entries) == 8
