import cv2
import numpy as np
import pytest

from patchnet_tf.config import load_config
from patchnet_tf.data.check import check
from patchnet_tf.data.sheet import SHOWN, THUMBNAIL, contact_sheet, thumbnail
from patchnet_tf.images.pictures import RED

from .small import SMALL, image_folder, save
from .test_isic2017 import TRAIN, VAL, challenge


@pytest.fixture
def look(tmp_path):
    """Check a data section, whose path is `images` in the temporary folder."""

    def look(section="{kind: folder, path: images}", **options):
        path = tmp_path / "my.yaml"
        path.write_text(f"name: my\ndata: {section}\nmodel: {{patch_size: 8}}\n")
        return check(load_config(path), **options)

    return look


def test_a_clean_folder(look, tmp_path):
    image_folder(tmp_path / "images", counts=(3, 5))
    mask = np.zeros((20, 24), "uint8")
    mask[:4] = 255
    for split in ("train", "val"):
        save(tmp_path / "images" / "masks" / split / "dog" / "1__spots.png", mask)
    report = look("{kind: folder, path: images, mask: spots}")
    assert (report.errors, report.warnings) == ([], [])
    assert report.class_names == ("cat", "dog")
    assert report.counts == {("train", 0): 3, ("train", 1): 5, ("val", 0): 3, ("val", 1): 5}
    assert report.sizes == {(20, 24): 16}
    assert report.masks == 2
    assert report.sheet.dtype == np.uint8


def test_what_is_passed_over(look, tmp_path):
    root = image_folder(tmp_path / "images")
    pixels = np.eye(20, 24, dtype="uint8") * 255
    save(root / "train" / "cat" / "more" / "deep" / "1.png", pixels)
    save(root / "train" / "cat" / ".hidden" / "1.png", pixels)
    (root / "val" / "dog" / "notes").mkdir()
    for name in ("1__spots", "7__spots", "7__others"):
        save(root / "masks" / "val" / "dog" / f"{name}.png", pixels)
    report = look("{kind: folder, path: images, mask: spots}")
    assert report.errors == []
    assert report.warnings == [
        f"{root}/train/cat/more: a subfolder of a class; its images are not read",
        f"{root}/masks/val/dog/7__spots.png: no image has this mask",
    ]


def test_everything_is_found_at_once(look, tmp_path):
    root = image_folder(tmp_path / "images", counts=(4, 4))
    (root / "train" / "cat" / "1.png").write_bytes(b"\x89PNG")
    (root / "val" / "dog" / "0.png").write_bytes(b"")
    cv2.imwrite(str(root / "val" / "cat" / "leak.bmp"), cv2.imread(str(root / "train" / "cat" / "0.png"), 0))
    (root / "train" / "dog" / "again.png").write_bytes((root / "train" / "dog" / "3.png").read_bytes())
    (root / "val" / "dog" / "both.png").write_bytes((root / "val" / "cat" / "1.png").read_bytes())
    save(root / "train" / "cat" / "2.png", np.full((20, 24), 77, "uint8"))
    save(root / "train" / "dog" / "2.png", np.random.default_rng(1).integers(0, 256, (10, 12), "uint8"))
    save(root / "masks" / "train" / "dog" / "1__spots.png", np.zeros((20, 23), "uint8"))
    save(root / "masks" / "val" / "dog" / "1__spots.png", np.zeros((20, 24), "uint8"))
    save(root / "masks" / "val" / "dog" / "2__spots.png", np.eye(20, 24, dtype="uint8"))
    report = look("{kind: folder, path: images, mask: spots}")
    wanted = [
        "train/cat/1.png: not an image file",
        "val/dog/0.png: empty file",
        "Images of one data set must have one size; set data.size",
        "val/dog/2__spots.png: expected black (0) and white (255). Received: pixels up to 1",
        "train/dog/1__spots.png: a mask has the size of its image, (20, 24)",
        "val/cat/leak.bmp (val, cat); a leak between splits",
        "val/dog/both.png (val, dog); it cannot be of both classes",
    ]
    assert [sum(text in line for line in report.errors) for text in wanted] == [1] * 7
    assert len(report.errors) == 7
    assert any(f"{root}/train/cat/0.png (train, cat), " in line for line in report.errors)
    wanted = [
        f"the same image: {root}/train/dog/3.png (train, dog), {root}/train/dog/again.png (train, dog)",
        f"{root}/train/cat/2.png (train, cat): nearly empty, the deviation of its grey levels is 0.0",
        f"{root}/val/dog/1.png (val, dog): its mask is empty",
    ]
    assert report.warnings == wanted
    assert report.counts == {("train", 0): 3, ("train", 1): 5, ("val", 0): 5, ("val", 1): 4}
    assert report.sizes == {(20, 24): 16, (10, 12): 1}
    resized = look("{kind: folder, path: images, mask: spots, size: [20, 24]}")
    assert resized.errors == [line for line in report.errors if "data.size" not in line]


def test_what_is_missing_does_not_hide_the_rest(look, tmp_path):
    root = challenge(tmp_path / "images")
    (root / VAL).unlink()
    (root / TRAIN).write_text((root / TRAIN).read_text().replace("1,1.0,", "1,2.0,"))
    (root / "ISIC-2017_Training_Data" / "ISIC_0000002.jpg").write_text("x")
    report = look("{kind: isic2017, path: images}")
    assert [f"{TRAIN} row 3" in line for line in report.errors] == [True, False, False]
    assert f"{VAL}: missing; fetch" in report.errors[1]
    assert f"{TRAIN} row 4: " in report.errors[2]
    assert "ISIC_0000002.jpg: not an image file" in report.errors[2]
    assert report.counts == {("train", 0): 1, ("train", 1): 1}


def test_missing_masks_do_not_hide_the_images(look, tmp_path):
    (challenge(tmp_path / "images") / "ISIC-2017_Validation_Part1_GroundTruth").rename(tmp_path / "masks")
    report = look("{kind: isic2017, path: images, mask: lesion}")
    assert "fetch ISIC-2017_Validation_Part1_GroundTruth.zip" in report.errors[0]
    assert ["leak" in line for line in report.errors[1:]] == [True] * 4  # the images of both splits are alike
    assert report.counts["val", 1] == 2


def test_every_complaint_is_told(look, tmp_path):
    for path in image_folder(tmp_path / "images", counts=(9, 9)).rglob("*.png"):
        path.write_text("hello")
    report = look()
    assert len(report.errors) == 36
    assert report.sheet is None


def test_nothing_there(look, tmp_path):
    report = look()
    assert report.errors == [f"{tmp_path}/images: no such folder (data.path)"]
    assert (report.counts, report.sheet) == ({}, None)


def test_data_that_is_made(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    report = check(load_config(tmp_path / "small.yaml"))
    assert report.errors == []
    assert report.counts == {("train", 0): 8, ("train", 1): 8, ("val", 0): 4, ("val", 1): 4}


def test_made_data_may_be_the_same_in_both_splits(tmp_path):
    text = "name: a\ndata: {kind: squares, size: 16, square: 4}\nmodel: {patch_size: 4}\n"
    (tmp_path / "squares.yaml").write_text(text)
    report = check(load_config(tmp_path / "squares.yaml"))
    assert report.errors == []
    assert sum("a leak between splits" in line for line in report.warnings) == 2


def test_the_sheet_shows_evenly_spaced_images(look, tmp_path):
    """Image k of class 0 is one grey level, so its thumbnail tells its number."""
    for split in ("train", "val"):
        for k in range(70):
            save(tmp_path / "images" / split / "a" / f"{k:02}.png", np.full((4, 4), 100 + k, "uint8"))
        save(tmp_path / "images" / split / "b" / "0.png", np.zeros((4, 4), "uint8"))
    levels, counts = np.unique(look().sheet[..., 0], return_counts=True)
    large = {int(v): int(n) for v, n in zip(levels, counts, strict=True) if n >= 2 * THUMBNAIL**2}
    numbers = sorted(level - 100 for level in large if 100 <= level < 170)
    assert len(numbers) == SHOWN
    assert (numbers[0], numbers[-1]) == (0, 69)
    assert set(np.diff(numbers)) == {3}


def test_thumbnail_with_the_outline_of_a_mask():
    mask = np.zeros((56, 112), bool)
    mask[10:20, 30:50] = True
    small = thumbnail(np.zeros((56, 112, 1), "uint8"), mask)
    inside = mask.copy()
    inside[11:19, 31:49] = False
    np.testing.assert_array_equal(small, np.where(inside[..., None], RED, 0))
    assert thumbnail(np.zeros((1000, 500, 3), "uint8"), None).shape == (THUMBNAIL, THUMBNAIL // 2, 3)
    assert thumbnail(np.zeros((2, 1, 3), "uint8"), None).shape == (THUMBNAIL, THUMBNAIL // 2, 3)


def test_no_sheet_of_nothing():
    assert contact_sheet([], ("a", "b")) is None
