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


def test_strip_says_what_draws_several_classes():
    maps = np.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"`class_strip` more.* Received: probabilities of shape \(2, 3\)"):
        pictures.strip(maps, maps, np.full((2, 3), 1 / 3))


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


def test_class_overlay_has_the_colour_of_the_winner_and_is_clear_where_all_are_equal():
    image = np.full((1, 3, 1), 100, "uint8")
    heatmap = [[[1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [0, 1 / 3, 2 / 3]]]
    clear, certain, half = pictures.class_overlay(image, heatmap)[0]
    np.testing.assert_array_equal(clear, [100, 100, 100])
    blue, green = pictures.COLOURS[1:3]
    np.testing.assert_array_equal(certain, np.rint(0.35 * 100 + 0.65 * blue))
    np.testing.assert_array_equal(half, np.rint((1 - 0.65 / 2) * 100 + 0.65 / 2 * green))


def test_class_overlay_of_labels_is_clear_below_the_thresholds():
    image = np.full((1, 4, 1), 100, "uint8")
    heatmap = [[[0.5, 0.2], [0.75, 0.2], [0.6, 0.8], [0.4, 0.3]]]
    drawn = pictures.class_overlay(image, heatmap, thresholds=[0.5, 0.25])[0]
    orange, blue = pictures.COLOURS[:2]
    np.testing.assert_array_equal(drawn[0], [100] * 3)
    np.testing.assert_array_equal(drawn[1], np.rint((1 - 0.65 / 2) * 100 + 0.65 / 2 * orange))
    share = 0.65 * 0.55 / 0.75
    np.testing.assert_array_equal(drawn[2], np.rint((1 - share) * 100 + share * blue))
    share = 0.65 * 0.05 / 0.75  # the first is higher, but not above its threshold
    np.testing.assert_array_equal(drawn[3], np.rint((1 - share) * 100 + share * blue))


def test_a_label_whose_threshold_is_1_has_no_colour():
    drawn = pictures.class_overlay(np.full((1, 1, 1), 100), [[[1.0, 0.2]]], thresholds=[1, 0.5])
    np.testing.assert_array_equal(drawn, np.full((1, 1, 3), 100))


def test_of_many_classes_the_most_probable_have_colours():
    q = np.arange(20) / 20
    assert pictures.with_colours(20, q) == tuple(range(12, 20))
    assert pictures.with_colours(20, q, first=[3]) == (3, *range(13, 20))
    assert pictures.with_colours(8, np.arange(8)) == tuple(range(8))
    image, heatmap = np.full((1, 2, 1), 100, "uint8"), np.zeros((1, 2, 20))
    heatmap[0, 0, 19] = heatmap[0, 1, 0] = 1
    drawn = pictures.class_overlay(image, heatmap, coloured=pictures.with_colours(20, q))[0]
    np.testing.assert_array_equal(drawn[0], np.rint(0.35 * 100 + 0.65 * pictures.COLOURS[7]))
    np.testing.assert_array_equal(drawn[1], np.rint(0.35 * 100 + 0.65 * pictures.OTHERS))


def simulated_luminance_and_hue(colours):
    """Colours as people without red or without green cones see them (Vienot et al. 1999), linear RGB."""
    linear = (np.asarray(colours) / 255.0) ** 2.2
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    without_red = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    without_green = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    for cones in (without_red, without_green):
        seen = np.clip(linear @ (np.linalg.inv(to_lms) @ cones @ to_lms).T, 0, 1)
        yield 255 * seen ** (1 / 2.2)


def test_colours_differ_for_people_with_colour_blindness():
    for seen in simulated_luminance_and_hue(pictures.COLOURS):
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)
        assert distances[~np.eye(len(seen), dtype=bool)].min() > 25


def test_class_strip_shows_the_predicted_map_then_the_true_one_in_the_grey_of_q(rng):
    images = rng.integers(0, 256, (2, 64, 128, 1), "uint8")
    maps = rng.dirichlet(np.ones(5), (2, 64, 128))
    q = [[0.1, 0.2, 0.4, 0.05, 0.25], [0.5, 0.1, 0.2, 0.15, 0.05]]
    strip = pictures.class_strip(images, maps, q, [1, 0], most=3)
    for of_image, chosen in ((0, (2, 1, 4)), (1, (0, 2, 3))):
        places = [place(strip, pictures.grey(maps[of_image][..., k])) for k in chosen]
        assert [x for _, x in places] == sorted(x for _, x in places)
        assert len({y for y, _ in places}) == 1
    assert place(strip, images[0][..., 0])
    assert place(strip, pictures.class_overlay(images[0], maps[0]))
    assert place(strip, pictures.grey(maps[0][..., 0])) is None
    strip = pictures.class_strip(images, maps, q, classes=[3])
    assert place(strip, pictures.grey(maps[0][..., 3]))
    assert place(strip, pictures.grey(maps[1][..., 3]))


def place(page, picture):
    """Where a picture stands on a page, (y, x), or None."""
    picture = np.stack([picture] * 3, -1) if picture.ndim == 2 else picture
    h, w = picture.shape[:2]
    starts = np.argwhere((page[: -h + 1, : -w + 1] == picture[0, 0]).all(-1))
    return next(((y, x) for y, x in starts if np.array_equal(page[y : y + h, x : x + w], picture)), None)


@pytest.mark.parametrize("classes", [2, 6, 20])
def test_legends_of_classes_stay_narrow(classes):
    names = [f"a surface with many scratches, number {k}" for k in range(classes)]
    drawn = pictures.class_legend(names, width=500)
    assert drawn.shape[1] <= 500
    assert drawn.shape[0] <= 20 * (min(classes, 9) + 3)
    for colour in pictures.COLOURS[: min(classes, 8)]:
        assert (drawn == colour).all(-1).sum() > 50
    assert ((drawn == pictures.OTHERS).all(-1).sum() > 50) == (classes > 8)


def test_a_tiny_overlay_is_enlarged_above_its_legend(rng):
    overlay = pictures.class_overlay(np.zeros((8, 16, 1)), rng.dirichlet(np.ones(3), (8, 16)))
    drawn = pictures.with_class_legend(overlay, ("a", "b", "c"))
    np.testing.assert_array_equal(drawn[:64, :128], overlay.repeat(8, 0).repeat(8, 1))


def test_class_strip_of_labels_marks_those_that_are_true(rng):
    images, maps = np.zeros((2, 16, 16, 1)), rng.random((2, 16, 16, 4))
    q = [[0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6]]
    drawn = pictures.class_strip(images, maps, q, [[1, 0, 0, 1], [0, 0, 0, 0]], thresholds=[0.5] * 4)
    for text in ("class 0, class 3", "class 0 0.100 ✓", "class 3 0.400 ✓", "class 1 0.200"):
        assert contains(drawn, pictures.written(text, pictures.LINE))
    for text in ("no label", "class 0 0.900", "class 3 0.600"):
        assert contains(drawn, pictures.written(text, pictures.LINE))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heatmaps": np.zeros((2, 4, 4))}, "three axes"),
        ({"heatmaps": np.full((2, 4, 4, 3), 2.0)}, "in \\[0, 1\\]"),
        ({"probabilities": np.zeros((2, 4))}, "one for each map"),
        ({"probabilities": np.full((2, 3), np.nan)}, "one for each map"),
        ({"labels": [0, 3]}, "numbers of classes"),
        ({"labels": [0]}, "as many of each"),
        ({"class_names": ("a", "b")}, "3 names"),
        ({"classes": [3]}, "numbers below 3"),
        ({"classes": []}, "numbers below 3"),
        ({"thresholds": [0.5]}, "3 numbers"),
    ],
)
def test_class_strip_refuses_what_does_not_fit(changes, message):
    fits = {
        "images": np.zeros((2, 4, 4, 1)),
        "heatmaps": np.full((2, 4, 4, 3), 0.3),
        "probabilities": np.zeros((2, 3)),
    }
    with pytest.raises(ValueError, match=message):
        pictures.class_strip(**fits | changes)


def test_coloured_classes_are_few_and_different():
    for coloured in ([0, 0], [3], range(9)):
        with pytest.raises(ValueError, match="up to 8 different"):
            pictures.class_legend(("a", "b", "c"), coloured=coloured)
