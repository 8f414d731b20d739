import errno
import subprocess
import sys

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import features

from patchnet_tf.images import pictures


def ink(picture):
    """Where a picture is dark: its text."""
    return (picture < 100).all(-1)


def test_grey_is_the_rounded_decision_whatever_the_map():
    np.testing.assert_array_equal(pictures.grey([[0, 0.25, 0.5, 1]]), [[0, 64, 128, 255]])
    np.testing.assert_array_equal(pictures.grey(np.full((2, 3), 0.4, "float16")), np.full((2, 3), 102))
    np.testing.assert_array_equal(pictures.grey([[-1e-7, 1 + 1e-7]]), [[0, 255]])
    assert pictures.grey([[0.1]]).dtype == np.uint8


@pytest.mark.parametrize(
    "bad", [np.zeros(3), np.zeros((2, 2, 1)), np.zeros((0, 2)), [[np.nan]], [[1.01]], [[-0.01]], [[np.inf]]]
)
def test_grey_refuses_what_is_no_heatmap(bad):
    with pytest.raises(ValueError, match="Received"):
        pictures.grey(bad)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_overlay_of_undecided_is_the_image_in_grey(channels, dtype, rng):
    image = rng.integers(0, 256, (5, 7, channels)).astype(dtype)
    drawn = pictures.overlay(image, np.full((5, 7), 0.5))
    weights = [1] if channels == 1 else [0.299, 0.587, 0.114]
    expected = np.repeat((image @ weights)[..., None], 3, axis=2)
    assert (drawn.dtype, drawn.shape) == (np.uint8, (5, 7, 3))
    np.testing.assert_allclose(drawn, expected, atol=1)


@pytest.mark.parametrize("pixel", [0, 100, 255])
def test_overlay_is_red_for_1_blue_for_0_and_stronger_the_surer(pixel):
    q = np.array([[0, 0.25, 0.5, 0.75, 1]])
    drawn = pictures.overlay(np.full((1, 5, 1), pixel), q)[0].astype(int)
    redder = drawn[:, 0] - drawn[:, 2]
    assert (np.diff(redder) > 0).all()
    assert redder[2] == 0


def test_overlay_lets_the_image_through(rng):
    image = rng.integers(0, 256, (20, 20, 1), "uint8")
    for q in (0.0, 1.0):
        drawn = pictures.overlay(image, np.full((20, 20), q)).mean(-1)
        assert np.corrcoef(drawn.ravel(), image.ravel())[0, 1] > 0.99


def test_overlay_names_both_sizes():
    with pytest.raises(ValueError, match=r"Received: image \(4, 5\), heatmap \(5, 4\)"):
        pictures.overlay(np.zeros((4, 5, 1)), np.zeros((5, 4)))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4)),
        np.zeros((4, 4, 2)),
        np.zeros((0, 4, 1)),
        np.full((4, 4, 1), np.nan),
        np.full((4, 4, 1), 256),
        np.full((4, 4, 1), -1.0),
    ],
)
def test_overlay_refuses_what_is_no_image(bad):
    with pytest.raises(ValueError, match="Received"):
        pictures.overlay(bad, np.zeros((4, 4)))


def test_legend_holds_the_colours_of_the_maps():
    picture = pictures.legend(colours="both")
    pixels = picture.reshape(-1, 3)
    for q in (0, 1):
        color = pictures.overlay(np.full((1, 1, 1), 192), [[q]])[0, 0]
        assert (pixels == color).all(-1).any()
    assert (pixels == 0).all(-1).any()  # the grey bar's black


def test_grey_is_called_undecided_only_where_it_is(rng):
    image, heatmap = rng.integers(0, 256, (150, 150, 3), "uint8"), rng.random((150, 150))
    word = pictures.written("0.5  undecided", pictures.LINE)
    for normalized in (False, True):
        drawn = [
            pictures.with_legend(image, normalized=normalized),
            pictures.strip([image], [heatmap], [0.5], normalized=normalized),
        ]
        assert [contains(picture, word) for picture in drawn] == [not normalized] * 2


@pytest.mark.parametrize("size", [(40, 40), (40, 300), (300, 41), (1500, 2500)])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_with_legend_keeps_the_picture_and_clips_no_text(size, channels, rng):
    picture = rng.integers(0, 256, (*size, *channels), "uint8")
    drawn = pictures.with_legend(picture, ("human", "W" * 60))
    height, width = size
    expected = picture if channels else np.repeat(picture[..., None], 3, axis=2)
    np.testing.assert_array_equal(drawn[:height, :width], expected)
    legend = ink(drawn[height:])
    assert legend.any()
    # Text that was clipped would touch the border.
    assert not legend[[0, -1]].any()
    assert not legend[:, [0, -1]].any()


def test_text_grows_with_the_picture():
    heights = [pictures.with_legend(np.zeros((9, width), "uint8")).shape[0] for width in (100, 1000, 4000)]
    assert heights[0] == heights[1] < heights[2] / 3


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("Mu\u0308ller", "Müller"),
        ("a\nb", "a?b"),
        ("\udcff", "?"),
        (1, "1"),
        ("x" * 50, "x" * 29 + "..."),
    ],
)
def test_class_names_on_one_line(name, plain):
    drawn, expected = (pictures.legend(("0", text)) for text in (name, plain))
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("word", ["Müller", "ﬁn", "мышь", "Ωμέγα", "été", "čšž"])
def test_words_of_other_scripts_are_drawn(word):
    """Matplotlib draws the same letters with the same font."""
    figure = Figure(figsize=(3, 1), dpi=100)
    figure.text(0.05, 0.5, word, fontsize=36, family="DejaVu Sans")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()

    def letters(picture):
        """Cut out the ink, as 16 x 48 shares."""
        dark = np.asarray(picture)[..., :3].mean(-1) < 128
        rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
        cut = dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cv2.resize(cut.astype("float32"), (48, 16), interpolation=cv2.INTER_AREA)

    drawn, expected = letters(pictures.written(word, 77)), letters(canvas.buffer_rgba())
    assert np.corrcoef(drawn.ravel(), expected.ravel())[0, 1] > 0.9


def test_letters_of_arabic_are_joined():
    if not features.check("raqm"):
        pytest.skip("this Pillow was built without Raqm")

    def islands(text):
        return cv2.connectedComponents(ink(pictures.written(text, 100)).astype("uint8"))[0] - 1

    assert islands("سمس") == 1
    assert islands("س م س") == 3


def test_a_font_of_the_system_draws_what_dejavu_has_not(tmp_path, monkeypatch):
    """A font whose only letters are two squares, of 1 and of 1/2 em."""
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    monkeypatch.setattr(pictures, "font_for", pictures.font_for.__wrapped__)
    box, other = (pictures.written(letter, 200) for letter in "猫犬")
    assert ink(box).any()
    np.testing.assert_array_equal(box, other)  # the box of a letter that no font has
    fontManager.addfont(squares(tmp_path / "squares.ttf", {"猫": 1000, "犬": 500}))
    cat, dog = (pictures.written(letter, 200) for letter in "猫犬")
    np.testing.assert_allclose([ink(cat).sum(), ink(dog).sum()], [130**2, 65**2], rtol=0.05)


def squares(path, sides):
    """Write a font with a square for each letter, of so many thousandths of an em."""
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *(f"s{side}" for side in sides.values())])
    font.setupCharacterMap({ord(letter): f"s{side}" for letter, side in sides.items()})
    glyphs = {}
    for name, side in [(".notdef", 10), *((f"s{side}", side) for side in sides.values())]:
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, side), (side, side), (side, 0)):
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics({name: (1000, 0) for name in glyphs})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2(usWeightClass=400)
    font.setupPost()
    font.save(path)
    return path


@pytest.mark.parametrize("bad", ["01", ("0",), ("0", "1", "2")])
def test_class_names_are_two(bad):
    with pytest.raises(ValueError, match="Received: class_names="):
        pictures.legend(bad)


def contains(page, part):
    """Whether `part` stands somewhere on the page, pixel by pixel."""
    differences = cv2.matchTemplate(page, part, cv2.TM_SQDIFF)
    y, x = np.unravel_index(differences.argmin(), differences.shape)
    return np.array_equal(page[y : y + part.shape[0], x : x + part.shape[1]], part)


def test_strip_shows_each_picture_enlarged_by_a_whole_number(rng):
    images = [rng.integers(0, 256, shape, "uint8") for shape in ((40, 40, 1), (30, 70, 3), (150, 20, 3))]
    maps = [rng.random(image.shape[:2]) for image in images]
    masks = [q > 0.7 for q in maps]
    page = pictures.strip(images, maps, [[0.9], [0.1], [0.5]], [1, 0, 0], masks)
    assert (page.dtype, page.shape[2]) == (np.uint8, 3)
    for image, q, mask, factor in zip(images, maps, masks, (4, 2, 1), strict=True):
        for picture in (
            image,
            pictures.grey(q)[..., None],
            pictures.overlay(image, q),
            mask[..., None] * 255,
        ):
            part = np.broadcast_to(picture, (*image.shape[:2], 3)).astype("uint8")
            assert contains(page, np.kron(part, np.ones((factor, factor, 1), "uint8")))
    assert not ink(page)[[0, -1]].any()
    assert not ink(page)[:, [0, -1]].any()


def test_strip_writes_probability_and_label(rng):
    image, q = rng.integers(0, 256, (40, 40, 1), "uint8"), rng.random((40, 40))
    page = pictures.strip([image], [q], [0.25], [1], class_names=("cat", "dog"))
    assert contains(page, pictures.written("P(dog) = 0.250   label: dog", pictures.LINE))
    plain = pictures.strip([image], [q], [0.25], class_names=("cat", "dog"))
    assert contains(plain, pictures.written("P(dog) = 0.250", pictures.LINE))
    assert ink(plain).sum() < ink(page).sum()


def test_side_by_side_shows_every_map_and_its_probability(rng):
    images = rng.integers(0, 256, (2, 40, 64, 1), "uint8")
    maps = {name: rng.random((2, 40, 64)) for name in ("p = 3", "p = 5")}
    masks = rng.random((2, 40, 64)) < 0.3
    decided = {"p = 3": [[0.1], [0.2]], "p = 5": [[0.3], [0.4]]}
    page = pictures.side_by_side(images, maps, decided, [1, 0], masks, ("cat", "dog"))

    def place(part):
        """Where the part, enlarged twice, stands on the page."""
        part = np.repeat(np.kron(part, np.ones((2, 2), "uint8"))[..., None], 3, axis=2)
        assert contains(page, part)
        differences = cv2.matchTemplate(page, part, cv2.TM_SQDIFF)
        return np.unravel_index(differences.argmin(), differences.shape)

    rows = [
        [
            place(part)
            for part in (
                images[i, ..., 0],
                masks[i] * np.uint8(255),
                *(pictures.grey(m[i]) for m in maps.values()),
            )
        ]
        for i in (0, 1)
    ]
    assert [len({y for y, _ in row}) for row in rows] == [1, 1]
    assert rows[0][0][0] < rows[1][0][0]
    for row in rows:
        assert [x for _, x in row] == sorted(x for _, x in rows[0])
    line = pictures.LINE
    for text in (
        "mask",
        "p = 3",
        "p = 5",
        "label: dog",
        "label: cat",
        *(f"P(dog) = 0.{k}00" for k in (1, 2, 3, 4)),
    ):
        assert contains(page, pictures.written(text, line))
    assert contains(page, pictures.legend(("cat", "dog"), colours="grey", line=line))
    without = pictures.side_by_side(images, maps, decided)
    assert not contains(without, pictures.written("mask", line))
    assert without.shape[1] < page.shape[1]


def test_side_by_side_refuses_what_does_not_fit():
    images, maps = np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4))
    for bad in (
        {"maps": maps[:1]},
        {"decided": [0.5]},
        {"labels": [1]},
        {"masks": maps[:1] > 0},
        {"images": []},
    ):
        given = {"images": images, "maps": maps, "decided": [0.5, 0.5]} | bad
        with pytest.raises(ValueError, match="as many of each"):
            pictures.side_by_side(
                given["images"],
                {"a": given["maps"]},
                {"a": given["decided"]},
                given.get("labels"),
                given.get("masks"),
            )


def test_strip_refuses_what_does_not_fit():
    image, q, mask = np.zeros((4, 4, 1)), np.zeros((4, 4)), np.zeros((4, 4), bool)
    good = {"images": [image], "heatmaps": [q], "probabilities": [0.5], "labels": [1], "masks": [mask]}
    pictures.strip(**good)
    for bad in (
        {"heatmaps": [q, q]},
        {"images": [], "heatmaps": [], "probabilities": [], "labels": [], "masks": []},
        {"probabilities": [1.5]},
        {"probabilities": [np.nan]},
        {"labels": [2]},
        {"labels": [0, 1]},
        {"masks": []},
        {"masks": [mask[1:]]},
        {"heatmaps": [q[1:]]},
    ):
        with pytest.raises(ValueError, match="Received"):
            pictures.strip(**{**good, **bad})


@pytest.mark.parametrize("channels", [(), (3,)])
def test_save_png_keeps_every_pixel(channels, rng, tmp_path):
    picture = rng.integers(0, 256, (5, 7, *channels), "uint8")
    for _ in range(2):  # the second replaces the first
        pictures.save_png(picture, tmp_path / "a.png")
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read[..., ::-1] if channels else read, picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_save_png_errors(tmp_path):
    picture = np.zeros((3, 3), "uint8")
    with pytest.raises(FileNotFoundError, match=r"nowhere.a\.png"):
        pictures.save_png(picture, tmp_path / "nowhere" / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file.a\.png"):
        pictures.save_png(picture, tmp_path / "file" / "a.png")
    with pytest.raises(ValueError, match="Received: path="):
        pictures.save_png(picture, tmp_path / "a.jpg")
    for bad in (picture.astype(float), picture[0], picture[:0], np.zeros((3, 3, 4), "uint8")):
        with pytest.raises(ValueError, match="Received"):
            pictures.save_png(bad, tmp_path / "a.png")


def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    picture = np.zeros((3, 3), "uint8")
    pictures.save_png(picture, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()

    def half_written(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", half_written)
    with pytest.raises(OSError, match=r"No space left on device.*a\.png"):
        pictures.save_png(picture + 1, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_pictures_need_no_tensorflow():
    heavy = "('tensorflow', 'keras')"
    code = f"import sys, patchnet_tf.images.pictures; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
