"""Pixels of other kinds than 8 bits: what `Pixels` says of them, and how they are checked and shown."""

import io
import json
import re
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from patchnet_tf.contract import MOST_CHANNELS, Contract, Pixels
from patchnet_tf.errors import InputError, UnfitError
from patchnet_tf.images.pixels import COLOURS, check_images, displayed, in_words, resized
from patchnet_tf.images.reading import decode, head, read_image

from .test_validation import chunk

rng = np.random.default_rng(0)
DEEP = Pixels(dtype="uint16", range=(100, 4095), channels=2, select=("DAPI", 3), frame="middle")


def test_pixels_of_8_bits_are_written_as_ever():
    assert Pixels(channels=3).model_dump_json() == '{"dtype":"uint8","range":[0,255],"channels":3}'
    assert Pixels(channels=3).model_dump() == {"dtype": "uint8", "range": (0, 255), "channels": 3}


def test_pixels_round_trip():
    written = json.loads(DEEP.model_dump_json())
    assert written == {
        "dtype": "uint16",
        "range": [100, 4095],
        "channels": 2,
        "select": ["DAPI", 3],
        "frame": "middle",
    }
    for pixels in (DEEP, Pixels(dtype="float32", range=(-1000.0, 400.5), channels=1, clip=True, window=True)):
        assert Pixels.model_validate_json(pixels.model_dump_json()) == pixels
        assert Pixels.model_validate(pixels.model_dump()) == pixels
        contract = Contract(classes={"names": ["cat", "dog"]}, pixels=pixels, smallest=(17, 17))
        assert Contract.from_json(contract.to_json()) == contract
        assert contract.image.dtype == pixels.dtype


def test_range_of_a_dtype():
    assert Pixels(dtype="uint16", channels=1).range == (0, 65535)
    assert Pixels(dtype="float32", channels=1).range == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"range": (5, 5)}, "from a lower to a higher"),
        ({"range": (5.0, 4.0)}, "from a lower to a higher"),
        ({"range": (0, float("inf"))}, "finite"),
        ({"range": (0, float("nan"))}, "finite"),
        ({"range": (0, 256)}, "within 0..255"),
        ({"dtype": "uint16", "range": (-1, 10)}, "within 0..65535"),
        ({"dtype": "uint16", "range": (0, 65536)}, "within 0..65535"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"channels": 17}, "less than or equal to 16"),
        ({"select": (0, 1)}, "expected 1 of the channels"),
        ({"channels": 2, "select": (1, 1)}, "one name twice"),
        ({"select": (-1,)}, "greater than or equal to 0"),
        ({"frame": -1}, "greater than or equal to 0"),
        ({"frame": "last"}, "middle"),
        ({"clip": 1}, "boolean"),
        ({"colour": True}, "Extra inputs"),
    ],
)
def test_pixels_that_cannot_be(changed, message):
    with pytest.raises(ValidationError, match=message):
        Pixels(**{"channels": 1} | changed)


def test_check_images_against_pixels():
    deep = Pixels(dtype="uint16", range=(0, 4095), channels=2)
    images = rng.integers(0, 4096, (2, 5, 6, 2), "uint16")
    assert check_images(images, pixels=deep) is images
    with pytest.raises(UnfitError, match=r"^scans: expected 1 channel\(s\)"):
        check_images(images, pixels=Pixels(channels=1), what="scans")
    images[0, 0, 0] = 4096, 5000
    message = r"^scans: expected pixels in 0..4095. Received: 0 to 5000, 2 of 120 outside$"
    images[1, 1, 1] = 0
    with pytest.raises(UnfitError, match=message):
        check_images(images, pixels=deep, what="scans")
    for taken in ({"clip": True}, {"per_image": True}):
        assert check_images(images, pixels=deep.model_copy(update=taken)) is images
    odd = images.astype("float32")
    odd[0, 1, :, 0] = np.nan
    with pytest.raises(UnfitError, match=r"^scans: expected finite.*NaN or infinity in 6 of 120$"):
        check_images(odd, pixels=deep.model_copy(update={"clip": True}), what="scans")


def test_an_image_that_can_be_shown_is_shown_itself():
    for channels in (1, 3):
        image = rng.integers(0, 256, (4, 5, channels), "uint8")
        assert displayed(image, Pixels(channels=channels)) is image


def test_displayed():
    deep = Pixels(dtype="uint16", range=(100, 4095), channels=1)
    image = np.array([[[0], [100], [4095], [65535], [2097]]], "uint16")
    assert displayed(image, deep)[0, :, 0].tolist() == [0, 0, 255, 255, 127]
    own = deep.model_copy(update={"per_image": True})
    assert displayed(image, own)[0, :, 0].tolist() == [0, 0, 16, 255, 8]
    assert (displayed(np.full((2, 2, 1), 7, "uint16"), own) == 0).all()
    two = displayed(np.eye(2, dtype="float32")[None], Pixels(dtype="float32", channels=2))
    assert two.tolist() == [[[255, 0, 255], [0, 255, 0]]]
    both = displayed(np.ones((1, 1, 2), "float32"), Pixels(dtype="float32", channels=2))
    assert both.tolist() == [[[255, 255, 255]]]
    assert displayed(np.zeros((4, 5, 16), "float32"), Pixels(dtype="float32", channels=16)).shape == (4, 5, 3)


def test_each_channel_has_a_colour_that_the_page_knows():
    page = (Path(__file__).parents[1] / "serving" / "page" / "page.js").read_text()
    assert re.findall(r'"(\w+)"', re.search(r"COLOURS = \[(.*?)\]", page, re.DOTALL)[1]) == [*COLOURS]
    deep = Pixels(dtype="uint16", channels=MOST_CHANNELS)
    alone = displayed(65535 * np.eye(MOST_CHANNELS, dtype="uint16")[None], deep)[0]
    assert alone.tolist() == [[*colour] for colour in COLOURS.values()]
    assert len(set(COLOURS.values())) == MOST_CHANNELS


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_resized(dtype, channels):
    image = (rng.random((12, 10, channels)) * (255 if dtype == "uint8" else 60000)).astype(dtype)
    small = resized(image, (6, 5))
    assert small.shape == (6, 5, channels)
    assert small.dtype == dtype
    for k in range(channels):
        plane = Image.fromarray(image[..., k].astype("float32")).resize((5, 6), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(plane) - small[..., k]).max() <= {"uint8": 1, "uint16": 0.5}.get(dtype, 0)
    assert resized(image, (12, 10)) is image


def test_head_and_channels_of_8_bits(tmp_path):
    image = rng.integers(0, 256, (7, 5, 3), "uint8")
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "b.png")
    assert head(tmp_path / "a.png") == ("uint8", 3, ("red", "green", "blue"), (7, 5))
    assert head(tmp_path / "b.png") == ("uint8", 1, (), (7, 5))
    for chosen in ((1, "red"), ("green", 0)):
        picked = read_image(tmp_path / "a.png", Pixels(channels=2, select=chosen))
        np.testing.assert_array_equal(picked, image[..., [1, 0]])
    as_float = read_image(tmp_path / "a.png", Pixels(dtype="float32", range=(0, 255), channels=3))
    assert as_float.dtype == "float32"
    np.testing.assert_array_equal(as_float, image)
    for pixels, message in (
        (Pixels(channels=2), "expected 2 channel.*Received: 3 .red, green, blue"),
        (Pixels(channels=1, select=(3,)), "expected a channel 3. Received: 3 channel"),
        (Pixels(channels=1, select=("DAPI",)), "expected a channel 'DAPI'. Received: 3"),
        (Pixels(dtype="uint16", channels=3), "expected 16 bits per channel.*Received: 8 bits"),
        (Pixels(dtype="float32", channels=3), r"expected pixels in 0.0..1.0. Received: \d"),
        (Pixels(channels=3, frame=2), "expected a frame 2, counted from 0. Received: 1"),
    ):
        with pytest.raises(InputError, match=f"a.png: {message}"):
            read_image(tmp_path / "a.png", pixels)


def test_frames_of_8_bits(tmp_path):
    images = rng.integers(0, 256, (3, 6, 5, 3), "uint8")
    first, *others = (Image.fromarray(image) for image in images)
    first.save(tmp_path / "a.png", save_all=True, append_images=others)
    for frame, number in ((0, 0), (2, 2), ("middle", 1)):
        image = read_image(tmp_path / "a.png", Pixels(channels=3, frame=frame))
        np.testing.assert_array_equal(image, images[number])


def write_png(path, image):
    """Write an image of 16 bits with OpenCV, whose colours are blue, green, red."""
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(image.shape[2], [0])
    path.write_bytes(cv2.imencode(".png", image[..., order])[1].tobytes())
    return path


def test_png_of_16_bits(tmp_path):
    image = rng.integers(0, 65536, (7, 5, 4), "uint16")
    image[..., 3] = 65535
    for chosen in ([0], [0, 1, 2], [0, 1, 2, 3]):
        path = write_png(tmp_path / "a.png", image[..., chosen])
        channels = min(len(chosen), 3)
        assert head(path) == (
            "uint16",
            channels,
            ("red", "green", "blue")[: channels if channels > 1 else 0],
            (7, 5),
        )
        read = read_image(path, Pixels(dtype="uint16", channels=channels))
        assert read.dtype == "uint16"
        np.testing.assert_array_equal(read, image[..., :channels])
    grey = read_image(path, Pixels(dtype="uint16", channels=1))[..., 0]
    assert np.abs(grey - image[..., :3] @ np.array([0.299, 0.587, 0.114])).max() <= 0.6
    np.testing.assert_array_equal(
        read_image(path, Pixels(dtype="uint16", channels=1, select=("blue",))), image[..., 2:3]
    )
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image[..., [0, 3]])))
    np.testing.assert_array_equal(read_image(path, Pixels(dtype="uint16", channels=1)), image[..., :1])
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image[..., :2])))
    with pytest.raises(InputError, match=r"a.png: expected an opaque image"):
        read_image(path, Pixels(dtype="uint16", channels=1))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_with_more_in_its_head(tmp_path, channels):
    image = rng.integers(1, 65536, (7, 5, channels), "uint16")
    path, pixels = tmp_path / "a.png", Pixels(dtype="uint16", channels=channels)
    whole = write_png(path, image).read_bytes()
    clear = chunk(b"tRNS", bytes(2 * channels))  # black is transparent, and there is none
    path.write_bytes(whole[:33] + clear + whole[33:])
    np.testing.assert_array_equal(read_image(path, pixels), image)
    path.write_bytes(whole[:33] + chunk(b"tRNS", image[3, 2].astype(">u2").tobytes()) + whole[33:])
    with pytest.raises(InputError, match=r"a.png: expected an opaque image"):
        read_image(path, pixels)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path.write_bytes(whole[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + whole[33:])
        eight = Image.fromarray((image >> 8).astype("uint8").squeeze())
        eight.save(tmp_path / "b.png", exif=exif)
        np.testing.assert_array_equal(read_image(path, pixels) >> 8, read_image(tmp_path / "b.png", channels))


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("u1", "uint8"),
        (">u2", "uint16"),
        ("i2", "float32"),
        ("f2", "float32"),
        ("f4", "float32"),
        ("<f8", "float32"),
    ],
)
def test_npy(tmp_path, stored, read):
    image = (100 * rng.random((7, 5, 2))).astype(stored)
    path, pixels = tmp_path / "a.npy", Pixels(dtype=read, range=(0, 200), channels=2)
    for array in (image, np.asfortranarray(image)):
        np.save(path, array)
        assert head(path) == (read, 2, (), (7, 5))
        assert read_image(path, pixels).dtype == read
        np.testing.assert_array_equal(read_image(path, pixels), image.astype(read))
    np.save(path, image[..., 0])
    np.testing.assert_array_equal(
        read_image(path, pixels.model_copy(update={"channels": 1})), image[..., :1].astype(read)
    )


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), "int64"), "floats. Received: int64"),
        (np.zeros((3, 4), "complex64"), "floats. Received: complex64"),
        (np.zeros((3, 4), bool), "floats. Received: bool"),
        (np.zeros(3), r"height, width\) or .* Received: shape=\(3,\)"),
        (np.zeros((3, 4, 17)), r"at most 16 channels. Received: shape=\(3, 4, 17\)"),
        (np.zeros((0, 4)), r"Received: shape=\(0, 4, 1\)"),
        (np.full((3, 4), np.nan), "Received: NaN or infinity in 12 of 12"),
        (np.full((3, 4), 1e300), "Received: NaN or infinity in 12 of 12"),
        (np.array([[{}]]), "Received: object"),
        (np.zeros((3, 4), "u1,u2"), "expected numbers"),
    ],
)
def test_bad_npy(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=f"a.npy: .*{message}"):
        read_image(tmp_path / "a.npy", Pixels(dtype="float32", channels=1))


def test_npy_says_its_size_before_it_is_read():
    file = io.BytesIO()
    says = {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)}
    np.lib.format.write_array_header_1_0(file, says)
    with pytest.raises(InputError, match="at most 67108864 pixels"):
        decode(file.getvalue(), Pixels(dtype="float32", channels=1))
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, says | {"shape": (30, 20)})
    for rest in (2399, 2401):
        with pytest.raises(InputError, match="truncated, or longer than its head says; expected 2400 bytes"):
            decode(file.getvalue() + bytes(rest), Pixels(dtype="float32", channels=1))


def test_pixels_in_words():
    """The colours are those in which `displayed` shows each channel alone."""
    pixels = Pixels(dtype="float32", range=(-1.5, 2), channels=4, clip=True)
    shown = "0 magenta, 1 green, 2 blue, 3 yellow"
    expected = f"float32, 4 channels. Numbers from -1.5 to 2; others become these ends. Shown: {shown}."
    assert in_words(pixels) == expected
    for k, colour in enumerate([(255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 0)]):
        image = np.full((1, 1, 4), -1.5, "float32")
        image[..., k] = 2
        assert tuple(displayed(image, pixels)[0, 0]) == colour
    named = Pixels(channels=3, select=("DAPI", "GFP", "CENPA"))
    assert in_words(named).endswith("Numbers from 0 to 255. Shown: DAPI red, GFP green, CENPA blue.")
    assert in_words(Pixels(channels=3)) == "uint8, 3 channels. Numbers from 0 to 255."
