"""Maps as OME-TIFF, GeoJSON and DICOM: read back by those formats' own libraries."""

import dataclasses
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import highdicom
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.data import get_testdata_file
from scipy import ndimage

from patchnet_tf.contract import Contract
from patchnet_tf.errors import InputError, MissingExtraError
from patchnet_tf.evaluation.explain import explain
from patchnet_tf.images import pictures
from patchnet_tf.images.maps import WRITERS, Map, Wanted, writers_of
from patchnet_tf.images.maps.geojson import features
from patchnet_tf.images.maps.ome_tiff import TILE, halved
from patchnet_tf.images.maps.outlines import outlines
from patchnet_tf.images.scale import pixel_size

from .small import save

NAMES = {1: ["cat", "dog"], 3: ["cat", "dog", "hen"]}


def make_map(heatmap, tmp_path, *, exclusive=True, thresholds=None, source=None, size=None):
    """A map of two classes, or of as many as the last axis has."""
    classes = 1 if heatmap.ndim == 2 else heatmap.shape[2]
    fields = {} if thresholds is None else {"thresholds": thresholds}
    contract = Contract(
        classes={"names": NAMES[classes], "exclusive": exclusive},
        pixels={"channels": 1},
        smallest=[1, 1],
        **fields,
    )
    overlay = pictures.rgb(np.zeros(heatmap.shape[:2], "uint8"))
    path = source or tmp_path / "x.png"
    return Map(
        path, "x", contract, heatmap.astype("float32"), (0.5,) * classes, size or heatmap.shape[:2], overlay
    )


def rasterized(polygon, size):
    """A polygon's pixels, by Pillow on a grid of 4 x 4 points in each pixel."""
    picture = Image.new("L", (4 * size[1], 4 * size[0]))
    draw = ImageDraw.Draw(picture)
    for k, ring in enumerate(polygon):
        # Pillow draws the outline too: what is right of and below a line belongs to the pixel before it.
        draw.polygon([(4 * x, 4 * y) for x, y in ring], fill=int(k == 0))
    return np.asarray(picture)[2::4, 2::4] > 0  # away from every line


def area(ring):
    x, y = np.array(ring, "float64").T
    return np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
def test_outlines_fill_to_their_regions(rng, share):
    for size in [(1, 1), (7, 9), (30, 41)]:
        labels, count = ndimage.label(rng.random(size) < share)
        regions = outlines(labels)
        assert len(regions) == count
        for number, rings in enumerate(regions, 1):
            polygon = [ring[:, ::-1].tolist() for ring in rings]
            np.testing.assert_array_equal(rasterized(polygon, size), labels == number)
            areas = [area(ring) for ring in polygon]
            assert areas[0] > 0
            assert all(hole < 0 for hole in areas[1:])
            assert sum(areas) == np.sum(labels == number)
            for ring in polygon:  # closed, never through a corner twice, and no corner without a turn
                assert ring[0] == ring[-1]
                assert len({*map(tuple, ring)}) == len(ring) - 1
                steps = np.diff(np.array([*ring, ring[1]]), axis=0) != 0
                assert (steps.sum(axis=1) == 1).all()
                assert (steps[1:] != steps[:-1]).all()


def test_geojson_has_regions_above_the_threshold(tmp_path):
    heatmap = np.full((6, 8), 0.25)
    heatmap[1:5, 1:6] = 0.75
    heatmap[2:4, 2:4] = 0.5  # a hole: not above
    heatmap[1, 5] = 1
    heatmap[5, 7] = 0.625
    WRITERS["geojson"].write(make_map(heatmap, tmp_path, size=(12, 24)), tmp_path)
    found = json.loads((tmp_path / "x_regions.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    ring, single = found["features"]
    assert ring["geometry"] == {
        "type": "Polygon",
        "coordinates": [
            [[3, 2], [18, 2], [18, 10], [3, 10], [3, 2]],
            [[6, 8], [12, 8], [12, 4], [6, 4], [6, 8]],
        ],
    }
    properties = ring["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": "dog", "color": pictures.RED.tolist()}
    assert properties["measurements"] == {"mean probability": 0.7656, "max probability": 1}
    assert single["geometry"]["coordinates"] == [[[21, 10], [24, 10], [24, 12], [21, 12], [21, 10]]]
    assert ring["id"] != single["id"]


def test_geojson_of_several_classes_has_the_winner_and_of_labels_each(tmp_path, rng):
    heatmap = rng.dirichlet([1, 1, 1], (9, 11)).astype("float32")
    for exclusive, thresholds in ((True, None), (False, (0.2, 0.5, 0.9))):
        drawn = make_map(heatmap, tmp_path, exclusive=exclusive, thresholds=thresholds)
        WRITERS["geojson"].write(drawn, tmp_path)
        features = json.loads((tmp_path / "x_regions.geojson").read_text())["features"]
        for k, name in enumerate(NAMES[3]):
            mine = [f for f in features if f["properties"]["classification"]["name"] == name]
            where = sum(rasterized(f["geometry"]["coordinates"], (9, 11)).astype(int) for f in mine)
            expected = heatmap.argmax(2) == k if exclusive else heatmap[..., k] > thresholds[k]
            np.testing.assert_array_equal(where, expected)


def test_no_region_is_an_empty_collection(tmp_path):
    WRITERS["geojson"].write(make_map(np.zeros((3, 4)), tmp_path), tmp_path)
    assert json.loads((tmp_path / "x_regions.geojson").read_text())["features"] == []


def test_ome_tiff_has_values_levels_and_names(tmp_path, rng):
    height, width = 2 * TILE + 5, 700
    heatmap = rng.dirichlet([1, 1, 1], (height, width)).astype("float32")
    WRITERS["ome-tiff"].write(make_map(heatmap, tmp_path), tmp_path)
    with tifffile.TiffFile(tmp_path / "x_heatmap.ome.tif") as file:
        assert file.is_ome
        assert file.series[0].axes == "CYX"
        levels = [level.asarray() for level in file.series[0].levels]
        assert file.pages[0].tile == (TILE, TILE)
        pixels = next(
            e for e in ElementTree.fromstring(file.ome_metadata).iter() if e.tag.endswith("}Pixels")
        )
        assert [e.get("Name") for e in pixels if e.tag.endswith("}Channel")] == NAMES[3]
        assert pixels.get("PhysicalSizeX") is None
    np.testing.assert_array_equal(levels[0], heatmap.transpose(2, 0, 1))
    assert [level.shape for level in levels] == [(3, 1029, 700), (3, 515, 350), (3, 258, 175)]
    even = heatmap[:1028].reshape(514, 2, 350, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    np.testing.assert_allclose(levels[1][:, :514], even, rtol=1e-6)
    last = heatmap[1028].reshape(350, 2, 3).mean(1).T  # a row without another
    np.testing.assert_allclose(levels[1][:, 514], last, rtol=1e-6)


def test_ome_tiff_keeps_the_size_of_pixels(tmp_path):
    source = tmp_path / "cell.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(source, np.zeros((8, 8), "uint8"), metadata=metadata)
    assert pixel_size(source) == (0.5, 0.25)
    drawn = make_map(np.zeros((4, 2)), tmp_path, source=source, size=(8, 8))
    WRITERS["ome-tiff"].write(drawn, tmp_path)
    assert pixel_size(tmp_path / "x_heatmap.ome.tif") == (1, 1)


def test_pixel_sizes(tmp_path):
    zeros = np.zeros((4, 4), "uint8")
    tifffile.imwrite(tmp_path / "imagej.tif", zeros, imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    assert pixel_size(tmp_path / "imagej.tif") == (0.5, 0.25)
    tifffile.imwrite(tmp_path / "dots.tif", zeros, resolution=(300, 300), resolutionunit=2)
    Image.fromarray(zeros).save(tmp_path / "x.png", dpi=(72, 72))
    (tmp_path / "text").write_text("none")
    assert [pixel_size(tmp_path / name) for name in ("dots.tif", "x.png", "text", "gone")] == [None] * 4


def test_means_leave_out_what_is_not_known():
    planes = np.array([[np.nan, 1, np.nan], [3, np.nan, np.nan]], "float32")[..., None]
    np.testing.assert_array_equal(halved(planes)[..., 0], np.array([[2, np.nan]], "float32"))


@pytest.mark.parametrize("names", [[], ["png", "png"], ["png", "svg"]])
def test_unknown_formats_are_refused(names):
    with pytest.raises(InputError, match="--to: expected some of png, npy, ome-tiff, geojson"):
        writers_of(names)


def test_a_map_without_a_threshold_has_no_regions(tmp_path):
    with pytest.raises(InputError, match=r"x\.png: geojson is of values above a threshold.*take png"):
        WRITERS["geojson"].check(Wanted(tmp_path / "x.png", scaled=True, resized=False))


def test_a_missing_package_is_told_before_anything_is_drawn(tmp_path, monkeypatch):
    for package, writer, name in (
        ("tifffile", "ome-tiff", "microscopy"),
        ("highdicom", "dicom", "dicom"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"patchnet-tf\[{name}\]"):
            WRITERS[writer].check(Wanted(tmp_path / "x.png", scaled=False, resized=False))


CT = get_testdata_file("CT_small.dcm")  # 128 x 128, with a frame of reference
COLOUR = get_testdata_file("examples_rgb_color.dcm")  # 240 x 320, without


def patient(data):
    return [data.get(name) for name in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate")]


@pytest.mark.parametrize("classes", [1, 3])
def test_dicom_lies_on_its_source(tmp_path, rng, classes):
    source = dcmread(CT)
    size = source.Rows, source.Columns
    heatmap = rng.random(size) if classes == 1 else rng.dirichlet([1] * classes, size)
    result = make_map(heatmap.astype("float32"), tmp_path, source=Path(CT))
    WRITERS["dicom"].check(Wanted(Path(CT), scaled=False, resized=False))
    WRITERS["dicom"].write(result, tmp_path)

    overlay = dcmread(tmp_path / "x_overlay.dcm")
    np.testing.assert_array_equal(overlay.pixel_array, result.overlay)
    values = highdicom.Image.from_dataset(dcmread(tmp_path / "x_map.dcm"))
    regions = highdicom.seg.segread(tmp_path / "x_regions.dcm")
    for data in (overlay, values, regions):
        assert patient(data) == patient(source)
        assert data.SeriesInstanceUID != source.SeriesInstanceUID
    assert len({data.SeriesInstanceUID for data in (overlay, values, regions)}) == 3

    np.testing.assert_array_equal(
        values.pixel_array.reshape(classes, *size), result.planes.transpose(2, 0, 1)
    )
    assert values.pixel_array.dtype == "float32"
    assert [segment.SegmentLabel for segment in regions.SegmentSequence] == list(result.names)
    found = regions.get_pixels_by_source_instance(
        [source.SOPInstanceUID], segment_numbers=range(1, classes + 1), assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found[0] > 0, result.found())
    for data in (values, regions):
        assert data.FrameOfReferenceUID == source.FrameOfReferenceUID
        shared = data.SharedFunctionalGroupsSequence[0]
        assert shared.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
        assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
        for frame in data.PerFrameFunctionalGroupsSequence:
            assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient


@pytest.mark.parametrize(
    ("source", "size", "scaled", "resized", "reason"),
    [
        (COLOUR, (240, 320), False, False, "without FrameOfReferenceUID, ImagePositionPatient"),
        (CT, (128, 128), True, False, "a baseline's map is scaled for each image"),
        (CT, (64, 64), False, True, "the map has another size than the file"),
    ],
)
def test_dicom_without_a_place_is_an_overlay(tmp_path, source, size, scaled, resized, reason):
    with pytest.warns(UserWarning, match=rf"dcm: {reason}.*the overlay alone.* take ome-tiff"):
        WRITERS["dicom"].check(Wanted(Path(source), scaled=scaled, resized=resized))
    data = dcmread(source)
    result = make_map(np.ones(size), tmp_path, source=Path(source), size=(data.Rows, data.Columns))
    WRITERS["dicom"].write(dataclasses.replace(result, scaled=scaled), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x_overlay.dcm"]
    assert patient(dcmread(tmp_path / "x_overlay.dcm")) == patient(data)


def test_dicom_of_no_region_is_without_a_segmentation(tmp_path):
    WRITERS["dicom"].write(make_map(np.zeros((128, 128)), tmp_path, source=Path(CT)), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x_map.dcm", "x_overlay.dcm"]


def test_what_is_no_dicom_is_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png: dicom is written for DICOM files.*take png or ome-tiff"):
        WRITERS["dicom"].check(Wanted(tmp_path / "x.png", scaled=False, resized=False))


def test_explain_writes_what_is_wanted(run, rng, tmp_path):
    image = save(tmp_path / "x.png", rng.integers(0, 256, (30, 41), "uint8"))
    (explained,) = explain(run, [image], tmp_path / "out", to=["npy", "ome-tiff", "geojson"])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["x_heatmap.npy", "x_heatmap.ome.tif", "x_regions.geojson"]
    heatmap = np.load(tmp_path / "out" / "x_heatmap.npy")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "x_heatmap.ome.tif"), heatmap)
    features = json.loads((tmp_path / "out" / "x_regions.geojson").read_text())["features"]
    where = sum(rasterized(f["geometry"]["coordinates"], (30, 41)).astype(int) for f in features)
    np.testing.assert_array_equal(where, heatmap > 0.5)
    assert explained.stem == "x"


def test_explain_refuses_a_format_before_anything_is_written(run, rng, tmp_path, patchnet):
    images = [save(tmp_path / name, rng.integers(0, 256, (30, 41), "uint8")) for name in ("x.png", "y.png")]
    for to, message in (
        ("png,dicom", f"error: {images[0]}: dicom is written for DICOM files"),
        ("png,svg", "error: --to: expected some of png, npy, ome-tiff, geojson, dicom, each once"),
        (",", "error: --to: expected some of"),
    ):
        code, _, err = patchnet("explain", run, *images, "--out", tmp_path / "out", "--to", to)
        assert code == 2
        assert err.startswith(message)
        assert not (tmp_path / "out").exists()


def test_explain_writes_dicom_of_the_source(run, tmp_path):
    image = Path(COLOUR)  # 8 bits
    with pytest.warns(UserWarning, match="the overlay alone is written"):
        explain(run, [image], tmp_path, to=["dicom"])
    assert dcmread(tmp_path / "examples_rgb_color_overlay.dcm").PatientID == dcmread(image).PatientID


def test_small_regions_can_be_left_out():
    found = np.zeros((6, 9, 1), bool)
    found[1:3, 1:4] = found[4, 5:8] = found[0, 8] = True  # of 6, 3 and 1 pixels
    planes = found.astype("float32") / 2
    for least, count in ((1, 3), (3, 2), (4, 1), (7, 0)):
        regions = [*features(planes, found, ("dog",), np.zeros((1, 3), int), (1, 1), least)]
        assert len(regions) == count
        assert all(r["properties"]["measurements"]["mean probability"] == 0.5 for r in regions)
