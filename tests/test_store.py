"""Images on disk that are read when they are asked for: the same as from memory, whole or not there."""

import errno
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from patchnet_tf.config import FolderData, load_config
from patchnet_tf.data import files, load_dataset, store
from patchnet_tf.data.batches import Batches
from patchnet_tf.data.folder import list_files
from patchnet_tf.data.store import Stored, chunks
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.training.features import FeatureBatches, room
from patchnet_tf.training.recorder import digest
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import train

from .small import history, save

COUNT = 24  # of each split, of 48 x 48 x 3: both together are more than 1 * 2**16 bytes


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    """Count data.memory in units of 64 KiB, so that few images are enough."""
    monkeypatch.setattr(files, "MIB", 2**16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split in ("train", "val"):
        for k in range(COUNT):
            label = k % 2
            pixels = rng.integers(0, 100, (64, 96, 3), "uint8") + np.uint8(128 * label)
            save(root / split / "ab"[label] / f"{k}.png", pixels)
    for k in (1, 3, 21):
        save(root / "masks" / "val" / "b" / f"{k}__spot.png", rng.integers(0, 2, (64, 96), "uint8") * 255)
    return root


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "cells")


def section(root, where, **options):
    options = {"size": (48, 48), "memory": 1, "cache": str(where), "mask": "spot"} | options
    return FolderData(kind="folder", path=str(root), **options)


def read(root, where, **options):
    return files.read(list_files(section(root, where, **options)))


def test_the_file_holds_what_pillow_reads(folder, tmp_path):
    """NumPy opens it without this package, and of no image is there more than it says."""
    data = read(folder, tmp_path)
    (path,) = tmp_path.iterdir()
    records = np.load(path, mmap_mode="r", allow_pickle=False)
    assert len(records) == 2 * COUNT
    paths = [path for split in ("train", "val") for path in sorted((folder / split).glob("*/*"))]
    paths = sorted(paths, key=lambda path: (path.parts[-3:-1], path.name))
    for record, path in zip(records, paths, strict=True):
        image = Image.open(path)
        resized = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(record["image"], resized)
        assert record["note"]["size"].tolist() == [64, 96]
        assert (record["note"]["low"], record["note"]["high"]) == (np.min(image), np.max(image))
    assert isinstance(data.train.images, Stored)
    assert data.train.images.shape == data.val.images.shape == (COUNT, 48, 48, 3)
    np.testing.assert_array_equal(data.val.images[:], records["image"][COUNT:])


def test_numbers_choose_as_those_of_an_array_do(folder, tmp_path):
    images, stored = (read(folder, tmp_path, memory=m).val.images for m in (100, 1))
    assert isinstance(images, np.ndarray)
    for rows in (0, -1, slice(3, 9, 2), slice(None), [7, 3, 3], np.arange(5), slice(0, 0)):
        np.testing.assert_array_equal(stored[rows], images[rows])
        assert stored[rows].dtype == images.dtype
    np.testing.assert_array_equal(stored.part([5, 2])[[1]], images[[2]])
    np.testing.assert_array_equal(np.concatenate(list(chunks(stored))), images)
    np.testing.assert_array_equal(np.asarray(stored), images)
    with pytest.raises(IndexError):
        stored[COUNT]


def test_of_many_images_a_few_are_held(folder, tmp_path, monkeypatch):
    """Where all are walked over, one by one or in parts, as the digest of a training does."""
    train = read(folder, tmp_path).train
    monkeypatch.setattr(store, "CHUNK", 2 * 48 * 48 * 3)
    for walk in (lambda: [None for _ in train.images], lambda: digest(train)):
        tracemalloc.start()
        try:
            walk()
            assert tracemalloc.get_traced_memory()[1] < 6 * 48 * 48 * 3
        finally:
            tracemalloc.stop()


def test_batches_are_the_same(folder, tmp_path):
    both = [
        Batches(read(folder, tmp_path, memory=m).train, 5, 3, flips=True, zoom=1.5, balanced=True)
        for m in (100, 1)
    ]
    for epoch in range(2):
        for batches in both:
            batches.epoch = epoch
        for k in range(len(both[0])):
            for one, other in zip(both[0][k], both[1][k], strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.fixture
def config(folder, tmp_path):
    (tmp_path / "small.yaml").write_text(
        f"""
name: small
data: {{kind: folder, path: {folder}, size: [48, 48], mask: spot, cache: cache}}
model: {{patch_size: 8, subnet: {{filters: 2, depth: 1}}}}
training: {{epochs: 2, learning_rate: 1e-3, flips: true, zoom: 1.2, seed: 1, stop_when_accurate: false}}
"""
    )
    return lambda *overrides: load_config(tmp_path / "small.yaml", overrides)


def test_training_is_the_same_to_the_bit(config, tmp_path):
    """History, weights and figures, also where the run was cut off; and either may go on with the other."""
    runs = [tmp_path / "memory", tmp_path / "file"]
    train(config(), runs[0])
    assert not (tmp_path / "cache").exists()
    train(config("training.epochs=1", "data.memory=1"), runs[1])
    train(config("data.memory=1"), runs[1], resume=True)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert history(runs[0]) == history(runs[1])
    for one, other in zip(*(open_run(run)[1].get_weights() for run in runs), strict=True):
        np.testing.assert_array_equal(one, other)
    digests = [digest(load_dataset(config(f"data.memory={m}")).train) for m in (100, 1)]
    assert digests[0] == digests[1]
    measured = [evaluate(run) for run in runs]
    assert measured[0] == measured[1]
    pictures = [(run / "heatmaps" / "spot.png").read_bytes() for run in runs]
    assert pictures[0] == pictures[1]


def test_a_whole_file_is_used_again_and_a_stale_one_is_not(copied, tmp_path, monkeypatch):
    cache, changed = tmp_path / "cache", copied / "train" / "a" / "0.png"
    before = read(copied, cache).train.images
    (path,) = cache.iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(files, "read_image", lambda *_: pytest.fail("an image was decoded"))
        again = read(copied, cache, mask=None).train.images
        np.testing.assert_array_equal(again[:], before[:])
        assert isinstance(read(copied, cache, mask=None, memory=100).train.images, np.ndarray)
    stamp = changed.stat().st_mtime_ns
    save(changed, np.full((64, 96, 3), 7, "uint8"))
    os.utime(changed, ns=(stamp + 1, stamp + 1))
    now = read(copied, cache).train.images
    assert (now[0] == 7).all()
    assert not (before[0] == 7).all()  # it is open, so whoever reads it goes on
    assert path not in [*cache.iterdir()]
    assert len([*cache.iterdir()]) == 1
    read(copied, cache, size=(40, 48))  # another size is another data set, and the first one stays
    assert len([*cache.iterdir()]) == 2


@pytest.mark.parametrize("damage", ["pixel", "cut", "empty", "other"])
def test_a_damaged_file_is_noticed_and_made_again(damage, folder, tmp_path):
    before = read(folder, tmp_path).train.images[:]
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    wrong = {"pixel": content, "cut": content[:-1], "empty": b"", "other": b"\x93NUMPY\x01\x00\x04\x00{}  "}
    path.write_bytes(wrong[damage])
    with pytest.warns(UserWarning, match=rf"{path.name}: .*damaged.*; it is made again"):
        again = read(folder, tmp_path).train.images
    np.testing.assert_array_equal(again[:], before)
    assert [*tmp_path.iterdir()] == [path]


def test_damage_while_it_is_open_is_an_error(folder, tmp_path):
    images = read(folder, tmp_path).train.images
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    images[1]
    with pytest.raises(InputError, match=rf"{path}: image 0 in it is damaged; delete the file"):
        images[0]
    os.truncate(path, path.stat().st_size // 4)
    with pytest.raises(InputError, match="cut off while it was read"):
        images[COUNT - 1]


def test_a_reading_that_was_cut_off_leaves_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "STEP", 10)

    def cut(task, done, total, note=""):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.read(list_files(section(folder, tmp_path / "cache")), cut)
    assert [*tmp_path.iterdir()] == []


def test_a_bad_image_leaves_nothing(copied, tmp_path):
    save(copied / "val" / "b" / "1.png", np.zeros((64, 96), "uint8"))
    content = (copied / "val" / "a" / "2.png").read_bytes()
    (copied / "val" / "a" / "2.png").write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"2\.png: damaged or truncated"):
        read(copied, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_full_disk_is_told_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 2**18))
    with pytest.raises(
        OSError, match=r"No space left on device \(0 MiB needed, 0 free\); data\.cache"
    ) as caught:
        read(folder, tmp_path / "cache")
    assert caught.value.filename.startswith(str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_fills_is_named(folder, tmp_path, monkeypatch):
    """Writing ends in the middle, by a limit of the system."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, before[1]))
    try:
        with pytest.raises(OSError, match=r"data\.cache chooses another folder") as caught:
            read(folder, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename.startswith(str(tmp_path / "cache"))
    assert [*tmp_path.rglob("*")] == []


def test_features_that_do_not_fit_on_the_disk_name_it(tmp_path, monkeypatch):
    """Before they are computed: through a memory map, a full disk ends the process."""
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("no such call on this system")

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"left on device \(4 MiB needed\)") as caught:
        room((1024, 1024), tmp_path, 1)
    assert caught.value.filename == str(tmp_path)


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"Not a directory; data\.cache chooses another folder"):
        read(folder, tmp_path / "file" / "cache")


def test_a_file_that_vanishes(copied, tmp_path):
    listing = list_files(section(copied, tmp_path / "cache"))
    (copied / "train" / "a" / "0.png").unlink()
    with pytest.raises(InputError, match=r"a/0\.png: cannot be read \(No such file or directory\)"):
        files.read(listing)


def test_where_it_lies_by_default(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    read(folder, "x", cache=None)
    (path,) = (tmp_path / "patchnet-tf").iterdir()
    assert path.name.startswith(f"{folder.name}-")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    read(folder, "x", cache=None)
    assert [p.name for p in (tmp_path / ".cache" / "patchnet-tf").iterdir()] == [path.name]


def test_features_of_a_frozen_network_come_from_the_file_too(folder, tmp_path):
    data = [read(folder, tmp_path, memory=m).train for m in (100, 1)]

    class Sums:
        def predict_on_batch(self, images):
            return images.astype("float32").cumsum(axis=2)[:, ::40, ::40].reshape(len(images), -1)

    for batches in (both := [FeatureBatches(examples, 4, 0, flips=True) for examples in data]):
        batches.compute(Sums(), tmp_path, 100, lambda *told: None)
    np.testing.assert_array_equal(both[0].features, both[1].features)


def test_a_config_keeps_the_folder_of_the_cache(tmp_path, folder, monkeypatch):
    config = tmp_path / "a.yaml"
    config.write_text(
        f"name: a\ndata: {{kind: folder, path: {folder}, cache: kept}}\nmodel: {{patch_size: 9}}\n"
    )
    assert load_config(config).data.cache == str(tmp_path / "kept")
    monkeypatch.chdir(folder)
    assert load_config(config, ["data.cache=here"]).data.cache == str(folder / "here")
    assert load_dataset(load_config(config)).train.images.shape == (COUNT, 64, 96, 3)
