import json
import os
from pathlib import Path

import numpy as np
import pytest

from patchnet_tf.config import Isic2017Data
from patchnet_tf.data import files, isic2017, list_files
from patchnet_tf.errors import InputError

from .small import save

SHARED = Path(os.environ.get("PATCHNET_IMAGES", Path(__file__).parents[2] / "shared" / "images")).parent
FEATURES = ("pigment_network", "negative_network", "milia_like_cyst", "streaks")
SIZE = (20, 24)


def load(root, **options):
    return files.read(list_files(Isic2017Data(kind="isic2017", path=str(root), **options)))


def superpixels(size=SIZE):
    """Colours (H, W, 3) of the superpixels 0, 1, 255, 256, 257 and 65536, in columns."""
    index = np.array([0, 1, 255, 256, 257, 65536])[np.arange(size[1]) * 6 // size[1]]
    colours = np.stack([index % 256, index // 256 % 256, index // 65536], -1).astype("uint8")
    return np.broadcast_to(colours, (*size, 3)).copy()


def features(count=65537, **of):
    """One list for each feature, with 1 for the superpixels that are named."""
    return {name: [int(k in of.get(name, ())) for k in range(count)] for name in FEATURES}


def challenge(root, parts=("Training", "Validation"), labels=(0, 1, 0, 1)):
    """Make a small challenge: image k of a part has the pixels 60 k, and the lesion is its left half."""
    for number, part in enumerate(parts):
        rows = ["image_id,melanoma,seborrheic_keratosis"]
        for k, label in enumerate(labels):
            name = f"ISIC_{number}00000{k}"
            rows.append(f"{name},{label:.1f},{1 - label:.1f}")
            save(root / f"ISIC-2017_{part}_Data" / f"{name}.jpg", np.full((*SIZE, 3), 60 * k % 256, "uint8"))
            mask = np.zeros(SIZE, "uint8")
            mask[:, : SIZE[1] // 2] = 255
            save(root / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{name}_segmentation.png", mask)
        (root / f"ISIC-2017_{part}_Part3_GroundTruth.csv").write_text("\n".join(rows) + "\n")
    return root


def annotate(root, of, part="Validation", number=1, k=1, colours=None):
    """Add part 2 for one image."""
    name = f"ISIC_{number}00000{k}"
    colours = superpixels() if colours is None else colours
    save(root / f"ISIC-2017_{part}_Data" / f"{name}_superpixels.png", colours)
    folder = root / f"ISIC-2017_{part}_Part2_GroundTruth"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_features.json").write_text(json.dumps(of))


def test_images_and_labels(tmp_path):
    data = load(challenge(tmp_path), size=None)
    assert data.class_names == ("benign", "melanoma")
    assert (data.masked, data.test) == (None, None)
    for examples in (data.train, data.val):
        assert examples.images.shape == (4, *SIZE, 3)
        assert examples.images.dtype == np.uint8
        assert examples.images[:, 0, 0, 0].tolist() == [0, 60, 120, 180]
        assert examples.labels.tolist() == [0, 1, 0, 1]


def test_size_is_192_x_256_by_default(tmp_path):
    data = load(challenge(tmp_path), mask="lesion")
    assert data.train.images.shape == (4, 192, 256, 3)
    assert data.masked.masks.shape == (2, 192, 256)
    assert (data.masked.masks == (np.arange(256) < 128)).all()


def test_test_split_is_optional(tmp_path):
    challenge(tmp_path, ("Training", "Validation", "Test_v2"), labels=(1, 0, 0))
    data = load(tmp_path, size=None)
    assert data.test.images.shape == (3, *SIZE, 3)
    assert data.test.labels.tolist() == [1, 0, 0]
    (tmp_path / "ISIC-2017_Test_v2_Part3_GroundTruth.csv").unlink()
    with pytest.raises(InputError, match=r"Test_v2_Part3_GroundTruth.csv: missing; fetch ISIC-2017_Test_v2_"):
        load(tmp_path)


def test_masks_are_those_of_validating_melanomas(tmp_path):
    masked = load(challenge(tmp_path), size=None, mask="lesion").masked
    assert masked.name == "lesion"
    assert masked.images[:, 0, 0, 0].tolist() == [60, 180]
    assert masked.labels.tolist() == [1, 1]
    assert (masked.masks == (np.arange(24) < 12)).all()


def test_features_are_the_union_over_superpixels(tmp_path):
    challenge(tmp_path)
    annotate(tmp_path, features(pigment_network=[1], streaks=[256], milia_like_cyst=[1, 65536]), k=1)
    annotate(tmp_path, features(), k=3)
    masked = load(tmp_path, size=None, mask="features").masked
    assert masked.name == "features"
    columns = [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    np.testing.assert_array_equal(masked.masks[0], np.broadcast_to(np.array(columns, bool), SIZE))
    assert not masked.masks[1].any()


def test_masks_keep_to_the_nearest_pixel(tmp_path):
    challenge(tmp_path, labels=(0, 1))
    mask = np.zeros(SIZE, "uint8")
    mask[7, 9] = 255
    save(tmp_path / "ISIC-2017_Validation_Part1_GroundTruth" / "ISIC_1000001_segmentation.png", mask)
    (double,) = load(tmp_path, size=(40, 48), mask="lesion").masked.masks
    np.testing.assert_array_equal(double, mask.repeat(2, 0).repeat(2, 1) > 0)


def edit(path, old, new):
    def change(root):
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


TRAIN, VAL = "ISIC-2017_Training_Part3_GroundTruth.csv", "ISIC-2017_Validation_Part3_GroundTruth.csv"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: root.rename(root.parent / "gone"),
            r"challenge: no such folder \(data.path\); https://chal",
        ),
        (
            lambda root: (root / TRAIN).unlink(),
            f"{TRAIN}: missing; fetch {TRAIN} from https://challenge.isic",
        ),
        (
            lambda root: (root / "ISIC-2017_Validation_Data").rename(root / "Validation"),
            "Validation_Data: missing; fetch ISIC-2017_Validation_Data.zip from https://challenge.isic-archive.com",
        ),
        (
            lambda root: (root / "ISIC-2017_Validation_Part1_GroundTruth").rename(root / "masks"),
            "Part1_GroundTruth: missing; fetch ISIC-2017_Validation_Part1_GroundTruth.zip from https://chall",
        ),
        (
            lambda root: (root / "ISIC-2017_Training_Data" / "ISIC_0000002.jpg").unlink(),
            f"{TRAIN} row 4: .*ISIC-2017_Training_Data/ISIC_0000002.jpg: no such file, but it is listed",
        ),
        (
            lambda root: (root / "ISIC-2017_Training_Data" / "ISIC_0000003.jpg").write_text("x"),
            f"{TRAIN} row 5: .*ISIC_0000003.jpg: not an image file",
        ),
        (edit(TRAIN, "1,1.0,", "1,,"), f"{TRAIN} row 3: ISIC_0000001: melanoma: .* 0 or 1. Received: ''"),
        (edit(VAL, "1,1.0,", "1,0.5,"), f"{VAL} row 3: ISIC_1000001: melanoma: .* 0 or 1. Received: '0.5'"),
        (edit(VAL, "3,1.0,0.0", "3"), f"{VAL} row 5: ISIC_1000003: melanoma: .* 0 or 1. Received: ''"),
        (
            edit(TRAIN, "ISIC_0000002", "ISIC_0000001"),
            f"{TRAIN} row 4: ISIC_0000001: this image_id is there already, in .*{TRAIN} row 3",
        ),
        (
            edit(VAL, "ISIC_1000002", "ISIC_0000001"),
            f"{VAL} row 4: ISIC_0000001: this image_id is there already, in .*{TRAIN} row 3",
        ),
        (edit(TRAIN, "melanoma", "MEL"), f"{TRAIN} row 1: expected the columns .*; melanoma missing"),
        (lambda root: (root / TRAIN).write_bytes(b""), f"{TRAIN} row 1: .*Received: nothing"),
        (lambda root: (root / TRAIN).write_bytes(b"\xff\xfe\n"), f"{TRAIN}: not a CSV file of UTF-8 text"),
        (
            lambda root: (root / VAL).write_text("image_id,melanoma\nISIC_1000000,0\nISIC_1000002,0\n"),
            rf"{VAL}: no image of class 1 \(melanoma\)",
        ),
        (
            lambda root: save(
                root / "ISIC-2017_Validation_Part1_GroundTruth" / "ISIC_1000003_segmentation.png",
                np.zeros((10, 12), "uint8"),
            ),
            rf"{VAL} row 5: .*ISIC_1000003_segmentation.png: a mask has the size of its image, \(20, 24\) "
            r"\(height, width\). Received: \(10, 12\)",
        ),
        (
            lambda root: (
                root / "ISIC-2017_Validation_Part1_GroundTruth" / "ISIC_1000003_segmentation.png"
            ).unlink(),
            f"{VAL} row 5: .*ISIC_1000003_segmentation.png: cannot be read",
        ),
    ],
)
def test_bad_challenge(tmp_path, spoil, message):
    root = challenge(tmp_path / "challenge")
    spoil(root)
    with pytest.raises(InputError, match=message) as caught:
        load(root, mask="lesion")
    assert "\n" not in str(caught.value)


JSON = "ISIC-2017_Validation_Part2_GroundTruth/ISIC_1000001_features.json"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: annotate(root, features(65536)),
            "ISIC_1000001_superpixels.png: superpixel 65536 is beyond the lists in "
            ".*ISIC_1000001_features.json, which have 65536 elements",
        ),
        (
            lambda root: annotate(root, features(), colours=superpixels((20, 12))),
            r"superpixels.png: a mask has the size of its image, \(20, 24\) .*Received: \(20, 12\)",
        ),
        (lambda root: (root / JSON).unlink(), f"{JSON}: cannot be read"),
        (lambda root: (root / JSON).write_text('{"streaks": [0,'), f"{JSON}: not JSON"),
        (
            lambda root: (root / JSON).write_text('{"streaks": [0]}'),
            f"{JSON}: expected lists named pigment_net",
        ),
        (lambda root: annotate(root, features() | {"streaks": [2]}), f"{JSON}: expected lists of 0 and 1"),
        (lambda root: annotate(root, features() | {"streaks": 1}), f"{JSON}: expected lists of 0 and 1"),
        (
            lambda root: annotate(root, features(3) | {"streaks": [0, 1]}),
            rf"{JSON}: expected lists of one length. Received: \[2, 3\]",
        ),
        (
            lambda root: (root / "ISIC-2017_Validation_Data" / "ISIC_1000001_superpixels.png").unlink(),
            "ISIC_1000001_superpixels.png: cannot be read",
        ),
    ],
)
def test_bad_features(tmp_path, spoil, message):
    challenge(tmp_path, labels=(0, 1))
    annotate(tmp_path, features())
    spoil(tmp_path)
    with pytest.raises(InputError, match=f"{VAL} row 3: .*{message}") as caught:
        load(tmp_path, mask="features")
    assert "\n" not in str(caught.value)


def test_ten_complaints_and_a_count(tmp_path):
    challenge(tmp_path, labels=(0, 1) * 7)
    for path in (tmp_path / "ISIC-2017_Training_Data").iterdir():
        path.unlink()
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    lines = str(caught.value).splitlines()
    assert [f"row {k}:" in line for k, line in enumerate(lines[:10], 2)] == [True] * 10
    assert lines[10:] == ["and 4 more; `patchnet data check` lists them all"]


def test_index_of_a_colour(tmp_path):
    """The challenge's formula, on one pixel."""
    pixel = save(tmp_path / "a.png", np.array([[[3, 2, 1]]], "uint8"))
    index = 3 + 256 * 2 + 65536 * 1
    (tmp_path / "a.json").write_text(json.dumps(features(index + 1, negative_network=[index])))
    assert isic2017.read_features(pixel, tmp_path / "a.json", (1, 1)).tolist() == [[True]]


@pytest.mark.skipif(not (SHARED / "isic2017").is_dir(), reason="needs ISIC 2017 beside the checkout")
def test_real_list():
    """The figures that the challenge states: 2000 images to train on with 374 melanomas, 150 with 30."""
    listing = list_files(Isic2017Data(kind="isic2017", path=str(SHARED / "isic2017"), mask="lesion"))
    assert listing.complaints == []
    for split, images, melanomas in (("train", 2000, 374), ("val", 150, 30)):
        labels = [entry.classes[0] for entry in listing.entries if entry.split == split]
        assert (len(labels), sum(labels)) == (images, melanomas)
        assert sum(len(entry.masks) for entry in listing.entries if entry.split == split) == melanomas
    listing.entries = listing.entries[:20] + listing.entries[-50:]
    data = files.read(listing)
    assert data.train.images.shape == (20, 192, 256, 3)
    assert 0.01 < data.masked.masks.mean() < 0.9
    lesions = data.masked.images[data.masked.masks]
    assert lesions.mean() < data.masked.images[~data.masked.masks].mean()  # darker than the skin
