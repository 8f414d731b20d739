import re

import numpy as np
import pytest

from patchnet_tf.evaluation import metrics
from patchnet_tf.reporting import plots


def shades(picture, rows=slice(None), columns=slice(None)):
    """The grey levels that fill at least one part in a thousand of a picture, without its white."""
    part = picture[rows, columns]
    level, count = np.unique(part[(part == part[..., :1]).all(axis=2)][:, 0], return_counts=True)
    return set(level[count > part[..., 0].size / 1000]) - {255}


def test_decisions_have_the_grey_of_heatmaps(rng):
    """0.2, 0.4 and 0.8 stand for one grey each, in the patches and in the map."""
    image = np.full((12, 12, 1), 255, "uint8")
    grid = np.array([[0.2, 0.4], [0.8, 0.8]])
    heatmap = np.kron(grid, np.ones((6, 6)))
    picture = plots.decisions(image, grid, heatmap, patch_size=6, title="title", marks={0: "0", 1: "1"})
    assert picture.dtype == np.uint8
    width = picture.shape[1]
    for third in (slice(width // 3, 2 * width // 3), slice(2 * width // 3, 7 * width // 8)):
        assert {51, 102, 204} <= shades(picture, columns=third)


def test_patches_stick_out_of_the_image():
    """One patch of 20 pixels about a white image of 10: half of a line through the middle is white."""
    image = np.full((10, 10, 1), 255, "uint8")
    picture = plots.decisions(
        image, np.array([[0.5]]), np.full((10, 10), 0.5), patch_size=20, title="", marks={0: "0"}
    )
    left = picture[:, : picture.shape[1] // 3, 0]
    columns = np.flatnonzero((left < 10).sum(axis=0) > 100)  # of the first panel, without text
    inside = left[picture.shape[0] // 2, columns[0] : columns[-1] + 1]
    assert (inside > 245).mean() == pytest.approx(0.5, abs=0.05)


def blue(picture):
    """Rows and columns of the pixels in the blue of markers."""
    return np.argwhere(np.abs(picture.astype(int) - (5, 113, 176)).max(axis=2) < 30)


def test_convergence_places_points_by_their_values():
    def centre(x, y):
        curve = {"curve": ([0, 1], [0, 1])}
        picture = plots.convergence(curve, {"points": ([x], [y])}, title="title")
        found = blue(picture)
        return np.median(found[found[:, 1] < 0.55 * picture.shape[1]], axis=0)  # not the legend at the right

    low, high, right = centre(0.1, 0.1), centre(0.1, 0.9), centre(0.3, 0.1)
    assert high[0] < low[0] - 100
    assert high[1] == pytest.approx(low[1], abs=2)
    assert right[1] > low[1] + 50
    assert right[0] == pytest.approx(low[0], abs=2)


def test_poolings_place_points_by_their_values():
    def centres(p0, loss):
        curves = {"mean": ([0, 1], [0, 1], [0, 1]), "lse": ([], [], [])}
        picture = plots.poolings(curves, {"mean": ([], [], []), "lse": ([0.2], [p0], [loss])}, title="title")
        found = blue(picture)
        left = found[:, 1] < picture.shape[1] / 2
        beside = ~left & (found[:, 1] < 0.75 * picture.shape[1])  # not the legend at the right
        return np.median(found[left], axis=0), np.median(found[beside], axis=0)

    (low, right_high), (high, right_low) = centres(0.1, 0.9), centres(0.9, 0.1)
    assert high[0] < low[0] - 100
    assert right_high[0] < right_low[0] - 100
    assert high[1] == pytest.approx(low[1], abs=2)
    assert right_high[0] == pytest.approx(high[0], abs=2)


def test_by_patch_size_has_a_chart_for_each_figure_and_leaves_gaps():
    one = {"loss": [(0.4, 0.3, 0.5), (0.2, None, None)]}
    two = {**one, "accuracy": [(0.9, 0.8, 1.0), (None, None, None)]}
    single, double = (plots.by_patch_size([5, 9], f, shares=("accuracy",), title="t") for f in (one, two))
    assert double.shape[0] > 1.5 * single.shape[0]
    assert double.shape[1] == single.shape[1]

    def markers(picture):
        return (picture.max(axis=2) < 60).sum(axis=1).max()

    assert markers(double) > 100  # an axis, at least: not blank
    # A value that is there is drawn, one that is not is not.
    full = plots.by_patch_size([5, 9], {**one, "accuracy": [(0.9, 0.8, 1.0), (0.7, 0.6, 0.8)]}, title="t")
    assert (full < 60).sum() > (double < 60).sum()


def test_reliability_draws_a_point_for_each_bin_that_has_images():
    bins = metrics.calibration([0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1], bins=5)
    svg = plots.reliability(bins, xlabel="sure", ylabel="right")
    assert svg.startswith("<svg")
    assert re.findall(">(sure|right|count)<", svg) == ["right", "sure", "count"]
    line = re.search(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path[^>]*--blue', svg)
    x1, y1, x2, y2 = map(float, line.groups())
    diagonal = re.search(r'<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \n" clip-path[^>]*curr', svg)
    left, zero, right, one = map(float, diagonal.groups())
    assert [(x - left) / (right - left) for x in (x1, x2)] == pytest.approx([0.1, 0.9], abs=1e-3)
    assert [(y - zero) / (one - zero) for y in (y1, y2)] == pytest.approx([0.5, 1.0], abs=1e-3)


@pytest.mark.parametrize("classes", [2, 20, 47])
def test_confusion_is_darkest_where_all_of_a_row_are(classes):
    counts = 9 * np.roll(np.eye(classes, dtype=int), 1, axis=1)
    picture = plots.confusion(counts, [f"a $x_{k}$ with a long name" for k in range(classes)], title="t")
    dark = np.array([8, 48, 107])  # the end of Blues
    rows, columns = np.nonzero((picture == dark).all(2))
    assert len(rows) > 50 * classes
    assert np.corrcoef(rows, columns)[0, 1] > 0.5 or classes == 2
    with pytest.raises(ValueError, match="needs a name"):
        plots.confusion(counts, ["a"], title="t")
