import cv2
import numpy as np
import pytest

from patchnet_tf.config import load_config
from patchnet_tf.data.check import TOLD, check
from patchnet_tf.data.sheet import CLASSES, SHOWN, THUMBNAIL, chosen, contact_sheet, thumbnail
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
    save(root / "masks" / "val" / "cow" / "1__spots.png", pixels)
    report = look("{kind: folder, path: images, mask: spots}")
    assert report.errors == []
    assert report.warnings == [
        f"{root}/train/cat/more: a subfolder of a class; its images are not read",
        f"{root}/masks/val/cow: masks of no class; the classes are cat, dog",
        f"{root}/masks/val/dog/7__spots.png: no image has this mask",
    ]


def test_files_without_the_suffix_of_an_image(look, tmp_path):
    """One line for each class folder; what is hidden or a file manager's own is not told."""
    root = image_folder(tmp_path / "images")
    for name in ("IM0001", "IM0002", "a.IMA", "b.ima", "c.ima", "list.txt", ".hidden", "Thumbs.db"):
        (root / "train" / "cat" / name).write_bytes(b"x")
    for name in (".DS_Store", "desktop.ini"):
        (root / "val" / "cat" / name).write_bytes(b"x")
    for k in range(10, 22):
        (root / "val" / "dog" / f"1.2.840.{k}").write_bytes(b"x")
    report = look()
    assert report.errors == []
    told = "file(s) without the suffix of an image, not read"
    assert report.warnings == [
        f"{root}/train/cat: 6 {told} (3 of .ima, 2 of no suffix, 1 of .txt); DICOM files need .dcm",
        f"{root}/val/dog: 12 {told} ({', '.join(f'1 of .{k}' for k in range(10, 20))} and 2 more); "
        "DICOM files need .dcm",
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


def blotches(seed, size=(20, 24)):
    small = np.random.default_rng(seed).integers(0, 256, (5, 6), "uint8")
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def class_folders(root, names, counts=(5, 2)):
    """Different blotches; image k of class number n of train has the seed 1000 n + k."""
    for number, name in enumerate(names):
        for split, count in zip(("train", "val"), counts, strict=True):
            for k in range(count):
                pixels = blotches(1000 * number + k + 500 * (split == "val"))
                save(root / split / name / f"{k}.png", pixels)
    return root


def test_several_classes(look, tmp_path):
    root = class_folders(tmp_path / "images", "abc")
    save(root / "masks" / "val" / "a" / "1__spots.png", np.eye(20, 24, dtype="uint8") * 255)
    save(root / "masks" / "val" / "c" / "0__spots.png", np.zeros((20, 24), "uint8"))
    (root / "train" / "c" / "4.png").write_bytes((root / "train" / "a" / "4.png").read_bytes())
    for k, name in enumerate("abc"):
        copied = (root / "train" / name / "0.png").read_bytes()
        (root / "val" / "b" / f"again{k}.png").write_bytes(copied)
    report = look("{kind: folder, path: images, mask: spots}")
    assert report.images == {"train": 15, "val": 9}
    assert report.counts["train", 2] == 5
    assert report.counts["val", 1] == 5
    assert report.leaks == {1: 3}
    assert report.masks == 2
    assert sum("a leak between splits" in line for line in report.errors) == 3
    assert sum("it cannot be of several classes" in line for line in report.errors) == 1
    assert len(report.errors) == 4
    assert report.warnings == [f"{root}/val/c/0.png (val, c): its mask is empty"]


def test_images_that_look_the_same(look, tmp_path):
    root = class_folders(tmp_path / "images", "abc")
    mirrored = blotches(1001)[:, ::-1]
    save(root / "val" / "b" / "mirrored.png", np.ascontiguousarray(mirrored))
    larger = cv2.resize(blotches(3), (48, 40), interpolation=cv2.INTER_CUBIC)
    save(root / "train" / "a" / "larger.png", larger)
    report = look("{kind: folder, path: images, size: [20, 24]}")
    assert report.errors == []
    between, within = report.warnings
    assert between.startswith(
        f"{root}/val/b/mirrored.png (val, b) looks like {root}/train/b/1.png (train, b), "
    )
    assert "a leak between splits if" in between
    assert within.startswith("train: 2 images look like another one")
    assert {f"{root}/train/a/3.png", f"{root}/train/a/larger.png"} < set(within.replace(",", " ").split())


def test_many_that_look_the_same_are_counted(look, tmp_path):
    root = class_folders(tmp_path / "images", "ab", counts=(13, 1))
    for name, number in (("a", 0), ("b", 1)):
        for k in range(13):
            turned = np.ascontiguousarray(blotches(1000 * number + k)[::-1])
            save(root / "val" / name / f"turned{k}.png", turned)
    lines = look().warnings
    assert len(lines) == TOLD + 1
    assert lines[-1].startswith("26 images look like one of another split")
    assert lines[-1].endswith("by class a 13, b 13")


def test_no_search_among_too_many(look, tmp_path, monkeypatch):
    monkeypatch.setattr("patchnet_tf.data.check.MOST", 10)
    class_folders(tmp_path / "images", "abc")
    assert look().warnings == [
        "images that look the same are not looked for among more than 10. Received: 21"
    ]


def test_several_labels(look, tmp_path):
    """An image counts at each of its labels, and is shown there; so are images without one."""
    rows = ["path,split,labels,masks"]
    labels = ["a", "a;b", "", "b;c", "c"]
    for split in ("train", "val"):
        for k, text in enumerate(labels):
            save(tmp_path / "images" / split / f"{k}.png", blotches(k + 100 * (split == "val")))
            rows.append(f"{split}/{k}.png,{split},{text},{'b:m.png;c:m.png' if k == 3 else ''}")
    save(tmp_path / "images" / "m.png", np.zeros((20, 24), "uint8"))
    (tmp_path / "images" / "list.csv").write_text("\n".join(rows))
    section = "{kind: manifest, path: images/list.csv, classes: [a, b, c], multilabel: true}"
    report = look(section)
    assert report.errors == []
    assert report.images == {"train": 5, "val": 5}
    assert report.counts == {(split, k): 2 for split in ("train", "val") for k in range(3)}
    assert report.masks == 4
    of_image = f"{tmp_path}/images/train/3.png (train, b, c): its mask of"
    assert [line for line in report.warnings if "train" in line] == [
        f"{of_image} b is empty",
        f"{of_image} c is empty",
    ]
    copied = (tmp_path / "images" / "train" / "2.png").read_bytes()
    (tmp_path / "images" / "train" / "4.png").write_bytes(copied)
    (line,) = look(section).errors
    assert "2.png (train, no label), " in line
    assert line.endswith("it cannot have different labels")


@pytest.mark.parametrize(
    ("classes", "images", "shown_classes", "shown"),
    [(2, 30, 2, 24), (4, 30, 4, 24), (5, 30, 5, 8), (1000, 9, CLASSES, 8)],
)
def test_a_sheet_is_bounded(classes, images, shown_classes, shown):
    """Of many classes evenly spaced ones, of each a row; classes 0 and the last are among them."""
    kinds = [("train", (k,)) for k in range(classes) for _ in range(images)]
    numbers = chosen(kinds, classes)
    of_class = {kinds[number][1][0] for number in numbers}
    assert (len(of_class), len(numbers)) == (shown_classes, shown_classes * shown)
    assert {0, classes - 1} <= of_class


def test_images_without_a_label_are_shown():
    kinds = [("train", (0,))] * 3 + [("train", ())] * 3 + [("val", (1, 0))]
    assert chosen(kinds, 2) == set(range(7))
