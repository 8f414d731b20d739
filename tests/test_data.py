from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from patchnet_tf.config import Data, FolderData, SquaresData, TexturesData, by_kind
from patchnet_tf.data import check_images, files, list_files, squares, textures
from patchnet_tf.data.sources import LISTED, MADE
from patchnet_tf.errors import InputError

from .small import image_folder, save

SHARED = Path(__file__).parents[2] / "shared" / "images"


def folder_data(root, **options):
    return FolderData(kind="folder", path=str(root), **options)


def load(data):
    return files.read(list_files(data))


def test_folder(tmp_path):
    image_folder(tmp_path, counts=(2, 3))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / ".0.png").write_text("not an image either")
    data = load(folder_data(tmp_path))
    assert data.class_names == ("cat", "dog")
    assert data.masked is None
    for examples in (data.train, data.val):
        assert examples.images.shape == (5, 20, 24, 1)
        assert examples.images.dtype == np.uint8
        assert examples.labels.tolist() == [0, 0, 1, 1, 1]
        assert examples.images[:, 0, 0, 0].tolist() == [0, 1, 128, 129, 130]


def test_folder_classes_can_be_chosen_and_turned_round(tmp_path):
    image_folder(tmp_path)
    for split in ("train", "val"):
        save(tmp_path / split / "bird" / "0.png", np.zeros((20, 24), "uint8"))
    assert load(folder_data(tmp_path)).class_names == ("bird", "cat", "dog")
    data = load(folder_data(tmp_path, classes=("dog", "cat")))
    assert data.class_names == ("dog", "cat")
    assert data.val.images[:, 0, 0, 0].tolist() == [128, 129, 130, 0, 1, 2]
    with pytest.raises(InputError, match=r"folders dog, cat, cow; cow missing. Received: bird, cat, dog"):
        load(folder_data(tmp_path, classes=("dog", "cat", "cow")))
    with pytest.raises(InputError, match=r"expected the class folders dog and cow. Received: bird, cat, dog"):
        load(folder_data(tmp_path, classes=("dog", "cow")))


def test_channels_follow_the_training_images(tmp_path):
    image_folder(tmp_path)
    assert load(folder_data(tmp_path, channels=3)).train.images.shape[-1] == 3
    colour = np.zeros((20, 24, 3), "uint8")
    colour[..., 1] = 200
    save(tmp_path / "train" / "cat" / "0.png", colour)
    images = load(folder_data(tmp_path)).train.images
    np.testing.assert_array_equal(images[0], colour)
    assert (images[1] == images[1][..., :1]).all()  # a grey file
    grey = load(folder_data(tmp_path, channels=1)).train.images
    assert abs(int(grey[0, 0, 0, 0]) - 0.587 * 200) <= 1  # the luma of green


def test_sizes(tmp_path):
    image_folder(tmp_path)
    other = save(tmp_path / "train" / "dog" / "1.png", np.full((30, 10), 77, "uint8"))
    message = rf"set data.size.*Received: {tmp_path}/train/cat/0.png 20 x 24, {other} 30 x 10"
    with pytest.raises(InputError, match=message):
        load(folder_data(tmp_path))
    images = load(folder_data(tmp_path, size=(12, 16))).train.images
    assert images.shape == (6, 12, 16, 1)
    assert (images[4] == 77).all()


def test_train_and_val_of_different_sizes(tmp_path):
    image_folder(tmp_path / "a")
    image_folder(tmp_path / "b", size=(22, 24))
    (tmp_path / "a" / "val").rename(tmp_path / "old")
    (tmp_path / "b" / "val").rename(tmp_path / "a" / "val")
    with pytest.raises(InputError, match=r"train/cat/0.png 20 x 24, .*val/cat/0.png 22 x 24"):
        load(folder_data(tmp_path / "a"))


def test_masks(tmp_path):
    image_folder(tmp_path)
    mask = np.zeros((20, 24), "uint8")
    mask[:10] = 255
    save(tmp_path / "masks" / "val" / "dog" / "1__spots.png", mask)
    masked = load(folder_data(tmp_path, mask="spots")).masked
    assert masked.name == "spots"
    assert masked.images[:, 0, 0, 0].tolist() == [129]
    np.testing.assert_array_equal(masked.masks, mask[None] > 0)
    assert masked.labels.tolist() == [1]
    half = load(folder_data(tmp_path, mask="spots", size=(10, 12))).masked
    np.testing.assert_array_equal(half.masks, mask[None, ::2, ::2] > 0)
    with pytest.raises(
        InputError, match=r"no mask of the kind 'lesion' \(data.mask\), such as 0__lesion.png"
    ):
        load(folder_data(tmp_path, mask="lesion"))
    save(tmp_path / "masks" / "val" / "dog" / "2__spots.png", mask[:5])
    with pytest.raises(InputError, match=r"2__spots.png: a mask has the size.*Received: \(5, 24\)"):
        load(folder_data(tmp_path, mask="spots"))


def test_masks_of_several_classes(tmp_path):
    """Of each class; a row belongs to the map of the image's class."""
    image_folder(tmp_path)
    for split in ("train", "val"):
        for k in range(2):
            save(tmp_path / split / "ant" / f"{k}.png", np.full((20, 24), 30 + k, "uint8"))
    marked = {}
    for k, (name, stem) in enumerate([("ant", 1), ("cat", 0), ("dog", 2)]):
        marked[name] = np.zeros((20, 24), "uint8")
        marked[name][k:, : 5 + k] = 255
        save(tmp_path / "masks" / "val" / name / f"{stem}__spots.png", marked[name])
    data = load(folder_data(tmp_path, mask="spots"))
    assert (data.classes.names, data.classes.exclusive) == (("ant", "cat", "dog"), True)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert data.train.labels.dtype == np.uint8
    assert data.masked.images[:, 0, 0, 0].tolist() == [31, 0, 130]
    assert data.masked.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(data.masked.masks, np.stack([*marked.values()]) > 0)


def test_many_classes(tmp_path):
    """More than 256 need uint16; more than 1000 are refused."""
    for k in range(257):
        for split in ("train", "val"):
            save(tmp_path / split / f"{k:04}" / "0.png", np.full((2, 3), k % 256, "uint8"))
    labels = load(folder_data(tmp_path)).val.labels
    assert labels.dtype == np.uint16
    assert labels.tolist() == list(range(257))
    for k in range(257, 1001):
        (tmp_path / "train" / f"{k:04}").mkdir()
    with pytest.raises(InputError, match=r"train: expected at most 1000 class folders.*Received: 1001"):
        load(folder_data(tmp_path))


def test_masks_keep_to_the_nearest_pixel(tmp_path):
    image_folder(tmp_path)
    mask = np.zeros((20, 24), "uint8")
    mask[3, 5] = 255
    save(tmp_path / "masks" / "val" / "dog" / "1__spots.png", mask)
    double = load(folder_data(tmp_path, mask="spots", size=(40, 48))).masked
    np.testing.assert_array_equal(double.masks, mask[None].repeat(2, 1).repeat(2, 2) > 0)


def test_test_split_is_optional(tmp_path):
    image_folder(tmp_path)
    save(tmp_path / "test" / "unsorted.png", NOISE)
    assert load(folder_data(tmp_path)).test is None
    save(tmp_path / "test" / "dog" / "0.png", np.full((20, 24), 9, "uint8"))
    with pytest.raises(InputError, match=r"test: expected the class folders cat and dog. Received: dog"):
        load(folder_data(tmp_path))
    save(tmp_path / "test" / "cat" / "0.png", np.full((20, 24), 7, "uint8"))
    test = load(folder_data(tmp_path)).test
    assert test.images[:, 0, 0, 0].tolist() == [7, 9]
    assert test.labels.tolist() == [0, 1]


def test_all_complaints_at_once(tmp_path):
    image_folder(tmp_path)
    for name in ("train/cat/1.png", "val/dog/0.png", "val/dog/2.png"):
        (tmp_path / name).write_text("hello")
    save(tmp_path / "train" / "dog" / "0.png", np.zeros((30, 10), "uint8"))
    with pytest.raises(InputError) as caught:
        load(folder_data(tmp_path))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines if "not an image file" in line] == [
        f"{tmp_path}/train/cat/1.png", f"{tmp_path}/val/dog/0.png", f"{tmp_path}/val/dog/2.png"
    ]  # fmt: skip
    assert sum("set data.size" in line for line in lines) == 1
    assert len(lines) == 4


def test_a_photograph_is_no_mask(tmp_path):
    for name in ("astronaut", "camera", "coins", "cell"):
        photograph = getattr(skimage.data, name)()
        path = save(tmp_path / "a.png", photograph)
        with pytest.raises(InputError, match=r"a.png: expected black .*Received: \d+% of the pixels grey"):
            files.read_mask(path, photograph.shape[:2])
    ys, xs = np.mgrid[:128, :128]
    disc = (ys - 64) ** 2 + (xs - 64) ** 2 < 900
    for options in ({"quality": 30}, {"quality": 95}):
        path = save(tmp_path / "a.jpg", (255 * disc).astype("uint8"), **options)
        assert np.mean(files.read_mask(path, disc.shape) != disc) < 0.01


def test_progress_of_many_images(tmp_path):
    image_folder(tmp_path, size=(2, 3), counts=(60, 50))
    told = []
    files.read(list_files(folder_data(tmp_path)), lambda *told_now: told.append(told_now))
    assert told == [("reading images", 100, 220), ("reading images", 200, 220), ("reading images", 220, 220)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: root.rename(root.parent / "gone"), "no such folder"),
        (lambda root: (root / "val").rename(root / "test"), "val: no such folder"),
        (
            lambda root: (root / "train" / "dog").rename(root / "dog"),
            "at least two class folders. Received: cat",
        ),
        (lambda root: (root / "val" / "dog").rename(root / "val" / "cow"), "cat, dog and cat, cow"),
        (lambda root: [f.unlink() for f in (root / "train" / "cat").iterdir()], "train/cat: no images"),
        (
            lambda root: [f.rename(f.with_suffix(".HEIC")) for f in (root / "train" / "cat").iterdir()],
            r"train/cat: no images \(.bmp, .*\). Received: \d+ of .heic$",
        ),
        (lambda root: (root / "val" / "dog" / "1.png").write_bytes(b""), "val/dog/1.png: empty file"),
    ],
)
def test_bad_folder(tmp_path, spoil, message):
    spoil(image_folder(tmp_path / "images"))
    with pytest.raises(InputError, match=message) as caught:
        load(folder_data(tmp_path / "images"))
    assert "\n" not in str(caught.value)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), "uint8")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def damaged(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif"])
def test_truncated_image(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", NOISE)
    assert files.read_image(path, 3).shape == (40, 50, 3)
    cut(path)
    with pytest.raises(InputError, match=rf"a.{suffix}: ") as caught:
        files.read_image(path, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "a.png: empty file"),
        (lambda path: path.write_text("hello"), "a.png: not an image file"),
        (lambda path: path.mkdir(), r"a.png: cannot be read \(Is a directory\)"),
        (lambda path: None, r"a.png: cannot be read \(No such file"),
        (lambda path: damaged(save(path, NOISE)), r"a.png: damaged or truncated"),
        (lambda path: save(path, NOISE[..., 0].astype("uint16")), "a.png: expected 8 bits per channel"),
        (lambda path: save(path, np.dstack([NOISE, NOISE[..., 0]])), "a.png: expected an opaque image"),
        (
            lambda path: Image.fromarray(NOISE).save(
                path, save_all=True, append_images=[Image.fromarray(255 - NOISE)]
            ),
            r"a.png: expected one image. Received: several frames",
        ),
    ],
)
def test_bad_image(tmp_path, make, message):
    make(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        files.read_image(tmp_path / "a.png", 3)


def test_images_are_read_as_they_look(tmp_path):
    np.testing.assert_array_equal(files.read_image(save(tmp_path / "a.png", NOISE), 3), NOISE)
    opaque = np.dstack([NOISE, np.full((40, 50), 255, "uint8")])
    np.testing.assert_array_equal(files.read_image(save(tmp_path / "b.png", opaque), 3), NOISE)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees to the right
    turned = save(tmp_path / "c.png", NOISE, exif=exif)
    np.testing.assert_array_equal(files.read_image(turned, 3), np.rot90(NOISE, -1))


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (
            np.zeros((20, 20, 1)),
            {},
            r"shape \(count, height, width, channels\). Received: float64, shape=\(20, 20, 1\)",
        ),
        (np.zeros((0, 20, 20, 1)), {}, "Received"),
        (np.array([["a"]]), {}, "expected numbers"),
        (np.zeros((1, 20, 20, 2)), {}, r"expected 1 or 3 channel\(s\)"),
        (np.zeros((1, 20, 20, 1)), {"channels": 3}, r"expected 3 channel\(s\)"),
        (np.zeros((1, 20, 16, 1)), {"smallest": (17, 17)}, "at least 17 x 17 pixels.*Received: 20 x 16"),
        (np.full((1, 4, 4, 1), np.nan), {}, "Received: NaN or infinity"),
        (np.full((1, 4, 4, 1), np.inf), {}, "Received: NaN or infinity"),
        (np.full((1, 4, 4, 1), 256), {}, r"expected pixels in 0..255. Received: 256 to 256"),
        (np.full((1, 4, 4, 1), -0.5), {}, r"expected pixels in 0..255. Received: -0.5 to -0.5"),
    ],
)
def test_check_images(images, options, message):
    with pytest.raises(InputError, match=f"^photos: .*{message}"):
        check_images(images, what="photos", **options)


def test_check_images_warns_of_0_to_1(rng):
    with pytest.warns(UserWarning, match=r"photos: .*are they 0..1"):
        check_images(rng.random((1, 4, 4, 1)), what="photos")
    for images in (
        np.zeros((1, 4, 4, 1)),
        rng.uniform(0, 255, (1, 4, 4, 3)),
        np.full((1, 4, 4, 1), 2, "uint8"),
    ):
        assert check_images(images) is images


def test_textures_halves_are_disjoint(monkeypatch):
    """Photographs whose pixels tell the half and the texture."""

    def photograph(value):
        return lambda: np.where(np.arange(512) < 256, value, value + 100)[None].repeat(512, 0).astype("uint8")

    monkeypatch.setattr(skimage.data, "brick", photograph(10))
    monkeypatch.setattr(skimage.data, "gravel", photograph(20))
    data = textures.load(TexturesData(kind="textures", size=200, train=5, val=4, collages=7), seed=0)
    assert data.class_names == ("brick", "gravel")
    assert data.train.images.shape == (10, 200, 200, 1)
    np.testing.assert_array_equal(data.train.images[:, :, :, 0].std(axis=(1, 2)), 0)
    assert data.train.images[:, 0, 0, 0].tolist() == [10] * 5 + [20] * 5
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert set(np.unique(data.val.images[:4])) == {110}
    assert set(np.unique(data.val.images[4:])) == {120}
    assert data.masked.images.shape == (7, 128, 128, 1)
    np.testing.assert_array_equal(data.masked.images[..., 0], np.where(data.masked.masks, 120, 110))
    assert all(0.2 < mask.mean() < 0.8 for mask in data.masked.masks)


def test_textures_follow_from_the_seed():
    data = TexturesData(kind="textures", train=2, val=2, collages=2)
    first, again, other = (textures.load(data, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.images, again.train.images)
    np.testing.assert_array_equal(first.masked.images, again.masked.images)
    assert not np.array_equal(first.train.images, other.train.images)


def test_squares():
    data = squares.load(SquaresData(kind="squares", size=7, square=3))
    image = np.zeros((7, 7), "uint8")
    image[2:5, 2:5] = 255
    np.testing.assert_array_equal(data.train.images[..., 0], [np.zeros((7, 7)), image])
    assert data.train.labels.tolist() == [0, 1]
    np.testing.assert_array_equal(data.masked.masks, image[None] == 255)
    # The paper's: rows and columns 32 to 95 of 128 are white.
    paper = squares.load(SquaresData(kind="squares")).val.images[1, ..., 0]
    assert paper.shape == (128, 128)
    assert set(np.unique(paper[32:96, 32:96])) == {255}
    assert paper.sum() == 255 * 64 * 64
    with pytest.raises(InputError, match=r"at most data.size, 7. Received: data.square=8"):
        squares.load(SquaresData(kind="squares", size=7, square=8))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the images beside the checkout")
def test_real_images():
    data = load(folder_data(SHARED / "nuclei_3t3_u2os", mask="chromocentre"))
    assert data.train.images.shape == (260, 128, 128, 1)
    assert data.val.images.shape == (90, 128, 128, 1)
    assert data.class_names == ("0", "1")
    assert 0 < data.masked.masks.mean() < 0.2
    assert (data.masked.images[data.masked.masks].mean()) > data.masked.images.mean()  # bright spots
    skin = load(folder_data(SHARED / "skin_isic2017", size=(48, 64)))
    assert skin.train.images.shape == (120, 48, 64, 3)


def test_every_kind_of_a_configuration_has_a_source():
    assert not LISTED.keys() & MADE.keys()
    assert LISTED.keys() | MADE.keys() == by_kind(Data).keys()
