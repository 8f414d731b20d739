"""S at every pixel, exactly, without running S once for each pixel.

Neighbouring patches overlap almost entirely, but a plain fully convolutional S would answer something
else: each convolution of S pads *each patch* with zeros, so a feature near a patch's edge differs from
the same pixel's feature in the middle of another patch. It differs only near the edge, though. After k
convolutions a feature at row u of its patch knows of the top edge only if u < k, and of the bottom edge
only if u >= p - k; columns likewise. So the features of all patches after k convolutions are:

    centre   C[y, x]         far from every edge: one map that all patches share
    bands    T[t, u, x]      u < k rows below the top edge t, far from left and right: shared along x
             B[t, u, x]      the last k rows of the patches that start at row t
             L, R            the same for columns: T and B of the transposed image
    corners  [t, l, u, v]    k x k features of the patch that starts at row t, column l; four of them

which makes (2k + 1)^2 features per pixel instead of p^2. Each step below computes the next layer's
centre, bands and corners from those of the layer before, by convolutions whose zero padding is just the
patch's own. A corner grows by one row and one column, so its convolution reads one window of the
patch that starts in the corner and ends in the two bands and the centre; `windows` says where each
feature of such a window lies, so that one gather fetches it.

The derivation, its cost and measurements are in docs/dense-heatmap.md. Shapes: h x w patches of a tile,
Y x X pixels that they read, p patch size, s stride, F filters; t and l count patches, y and x pixels.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from .checks import PACKAGE, at_least_zero, check_positive
from .patchwise import EveryPatch, one_by_one

MEMORY = 1792  # MiB


@keras.saving.register_keras_serializable(package=PACKAGE)
class DenseMap(EveryPatch):
    """S on every patch, exactly: the same numbers as patch by patch, with all shared work done once.

    The image is walked in tiles, so memory stays within a budget whatever the image's size.

    Args:
        layer, filters, stride, classes: see `EveryPatch`; `layer` is a `PatchSubnet`.
        memory: for the features of one tile, in MiB. None, for an S without padding: the images are not
            walked, but convolved at once as in training, whatever memory that takes.

    Raises:
        ValueError: `memory` is not a positive whole number; it is None, and S pads.

    Example:
        >>> subnet = PatchSubnet(17, channels=1)
        >>> DenseMap(subnet)(keras.ops.zeros((1, 80, 80, 1))).shape
        TensorShape([1, 64, 64])
    """

    def __init__(
        self,
        layer: keras.Model,
        filters: bool = False,
        stride: int = 1,
        classes: Sequence[int] | None = None,
        memory: int | None = MEMORY,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, filters, stride, classes, **kwargs)
        walks = memory is not None or layer.padding == "same"
        self.memory = check_positive("memory", memory) if walks else None

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "memory": self.memory}

    def call(self, images: Any) -> Any:
        """Decide every patch of (B, H, W, C), tile by tile."""
        p, s = self.patch_size, self.stride
        if self.memory is None:
            return self.finish(Tile(self.layer, s, None, None).fully_convolutional(images))
        batch, height, width = ops.shape(images)[:3]
        rows, columns = (height - p) // s + 1, (width - p) // s + 1  # of patches
        side = tile_side(self.memory * 2**20, p, s, self.layer)
        (down, h), (across, w) = split(rows, side), split(columns, side)  # tiles, patches of each

        # Tiles are equal: the last ones may reach beyond the image, and what they add is cut off.
        Y, X = (h - 1) * s + p, (w - 1) * s + p
        below, right = (down * h - 1) * s + p - height, (across * w - 1) * s + p - width
        images = ops.pad(images, [[0, 0], [0, at_least_zero(below)], [0, at_least_zero(right)], [0, 0]])

        decide = Tile(self.layer, s, h, w)
        if not decide.padded and isinstance(down, int) and isinstance(across, int) and down * across == 1:
            # An ordinary convolutional network: the whole batch at once, as in training.
            return self.finish(decide.fully_convolutional(images))

        def decide_tile(n: Any) -> Any:
            row = n // across  # of tiles, of all images
            image, j = row // down, n - row * across
            start = [image, (row - image * down) * h * s, j * w * s, 0]
            pixels = ops.slice(images, start, [1, Y, X, images.shape[3]])
            return self.finish(decide(pixels))  # (h, w, ...)

        last = self.last_axes
        size = tuple(n if isinstance(n, int) else None for n in (h, w))
        tiles = one_by_one(decide_tile, batch * down * across, (*size, *last), self.result_dtype)
        return join(tiles, (down, across), (h, w), last)[:, :rows, :columns]

    def finish(self, readouts: Any) -> Any:
        """Make what pixels of the map hold of the outputs of S's linear models (..., F)."""
        return self.pixels(self.layer.finish(readouts, filters=self.filters))


def after(value: Any) -> Any:
    """A context whose operations wait until `value` is there."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.control_dependencies([value])
    return contextlib.nullcontext()


def split(count: Any, side: int) -> tuple[Any, Any]:
    """Return the number of equal tiles of at most `side` that hold `count`, and the size of each."""
    tiles = (count + side - 1) // side
    return tiles, (count + tiles - 1) // tiles


def join(tiles: Any, counts: tuple, size: tuple, last: tuple[int, ...]) -> Any:
    """Put tiles, (B * down * across, h, w, *last), together: (B, down * h, across * w, *last)."""
    (down, across), (h, w) = counts, size
    tiles = ops.reshape(tiles, (-1, down, across, h, w, *last))
    tiles = ops.transpose(tiles, (0, 1, 3, 2, 4, *range(5, 5 + len(last))))
    return ops.reshape(tiles, (-1, down * h, across * w, *last))


def tile_side(memory: int, p: int, s: int, subnet: keras.Model) -> int:
    """Return the largest number of patches along a tile's side whose features fit in `memory` bytes."""
    depth = subnet.depth
    cell = 4 * subnet.filters  # bytes of one feature vector
    q, units = min(depth, (p - 1) // 2), subnet.output_shape[-1]
    padded = subnet.padding == "same"

    def size(side: int) -> float:
        pixels = side * s + p
        if not padded:
            features = 3 * pixels**2
        else:
            # One corner at a time, its window and its next layer; or whole patches, from all four corners.
            patch = 2 * q**2 + (q + 1) ** 2 if q == depth else 4 * q**2 + 3 * p**2
            bands = 4 * q * (q + 1) // 2  # of all layers: the corners come after them
            features = side**2 * patch + side * pixels * bands + (q + 2) * pixels**2
        # Of several classes: logits, limited logits, exponentials, and the decisions.
        decisions = 4 * 4 * units * side**2 if units > 1 else 0
        return 1.25 * (cell * features + decisions)  # a quarter for what allocators hold beside it

    side = 1
    while size(side + 1) <= memory:
        side += 1
    return side


def convolve(maps: Any, kernel: Any, bias: Any, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
    """3 x 3 convolution and ReLU of (N, height, width, c) with zeros before and after rows and columns."""
    pads = [[0, 0], rows, columns, [0, 0]]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Padding inside the convolution: its kernels skip the products with zeros.
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(maps, kernel, 1, pads), bias))
    return ops.relu(ops.conv(ops.pad(maps, pads), kernel, padding="valid") + bias)


def take(table: Any, index: Any) -> Any:
    """Rows of `table`: (n, ...) at any integer `index`, none negative, to (*index.shape, ...)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(table, index)  # without the graph nodes that mend negative indices
    return ops.take(table, index, axis=0)


def read_out(maps: Any, kernel: Any, stride: int = 1) -> Any:
    """Sum of (N, height, width, F) times (kh, kw, F) over every window: (N, rows, columns, F)."""
    return ops.depthwise_conv(maps, ops.expand_dims(kernel, -1), stride, "valid")


class Tile:
    """S's linear filter models on the h x w patches of a tile.

    What does not depend on the pixels, the weights and where to gather from, is prepared once.

    Args:
        subnet: S.
        stride: s.
        h, w: patches of the tile, ints or scalar tensors; of no use where S does not pad.
    """

    def __init__(self, subnet: keras.Model, stride: int, h: Any, w: Any) -> None:
        layers, readout = subnet.convolutions, subnet.readout
        dtype = subnet.compute_dtype
        self.kernels = [ops.cast(layer.kernel, dtype) for layer in layers]
        self.biases = [ops.cast(layer.bias, dtype) for layer in layers]
        self.readout, self.bias = ops.cast(readout.kernel, dtype), ops.cast(readout.bias, dtype)
        self.padded = subnet.padding == "same"
        self.p, self.s, self.h, self.w = subnet.patch_size, stride, h, w
        # Layers with room for two edges and a centre; after them, each patch by itself (p < 2 * depth + 1).
        self.shared = min(len(layers), (self.p - 1) // 2) if self.padded else 0
        if self.padded:
            self.flipped = [ops.transpose(kernel, (1, 0, 2, 3)) for kernel in self.kernels]
            self.rows, self.columns = self.centre_rows(h), self.centre_rows(w)
            self.index = self.window_index()

    def __call__(self, image: Any) -> Any:
        """(1, Y, X, C) standardized pixels to (h, w, F), before the tanh."""
        if not self.padded:
            return ops.squeeze(self.fully_convolutional(image), 0)
        centre, bands = image, dict.fromkeys(BANDS)
        upright = ops.squeeze(centre, 0)  # (Y, X, c)
        tables = [flat({**bands, CENTRE: upright})]  # after 0, 1, 2, .. convolutions
        for k in range(1, self.shared + 1):
            centre, bands = self.grow(k, centre, upright, bands)
            upright = ops.squeeze(centre, 0)
            tables.append(flat({**bands, CENTRE: upright}))
        if self.shared < len(self.kernels):
            corners = flat({corner: self.corner(tables, *corner) for corner in CORNERS})
            return self.finish_patches([*corners.values(), *tables[-1].values()])
        # One corner after another: the four at once would hold twice the memory.
        total = self.read_regions(centre, bands)
        for corner in CORNERS:
            with after(total):
                features = self.corner(tables, *corner)
            read = read_out(features, self.readout[self.part(corner)])  # (h * w, 1, 1, F)
            total += ops.reshape(read, (self.h, self.w, -1))
        return total + self.bias

    def grow(self, k: int, centre: Any, upright: Any, bands: dict) -> tuple[Any, dict]:
        """Centre and bands after k convolutions from those after k - 1."""
        kernel, bias = self.kernels[k - 1], self.biases[k - 1]
        lying = ops.transpose(upright, (1, 0, 2))  # bands of columns are those of rows, lying on their side
        bands = {
            (row, column): grow_band(row, upright, self.rows[k, row], bands[row, column], kernel, bias)
            if row
            else grow_band(
                column, lying, self.columns[k, column], bands[row, column], self.flipped[k - 1], bias
            )
            for row, column in BANDS
        }
        return convolve(centre, kernel, bias, (1, 1), (1, 1)), bands

    def corner(self, tables: list, row: str, column: str) -> Any:
        """The features next to two edges after all shared convolutions: (h * w, k, k, F)."""
        features = None
        for k in range(1, self.shared + 1):
            below = {**flat({(row, column): features}), **tables[k - 1]}
            window = self.window([below[key] for key in neighbours(row, column)], (k, row, column))
            features = convolve(window, self.kernels[k - 1], self.biases[k - 1], PADS[row], PADS[column])
        return features

    def finish_patches(self, segments: list) -> Any:
        """Put every patch together, (h * w, p, p, c), and do the rest of S on each."""
        patches = self.window(segments, "patch")
        for kernel, bias in zip(self.kernels[self.shared :], self.biases[self.shared :], strict=True):
            patches = convolve(patches, kernel, bias, (1, 1), (1, 1))
        return ops.reshape(read_out(patches, self.readout), (self.h, self.w, -1)) + self.bias

    def read_regions(self, centre: Any, bands: dict) -> Any:
        """The linear models' sums over the centre and the bands of each patch: (h, w, F)."""
        q, s = self.shared, self.s

        def read_bands(pair: list, turn: tuple) -> Any:  # (patches along the edge, patches across it, F)
            kernels = {band: ops.transpose(self.readout[self.part(band)], turn) for band in pair}
            return ops.squeeze(sum(read_out(bands[b][:, :, q:-q], kernels[b], s) for b in pair), 1)

        middle = ops.squeeze(read_out(centre[:, q:-q, q:-q], self.readout[self.part(CENTRE)], s), 0)
        upright, lying = read_bands(BANDS[:2], (0, 1, 2)), read_bands(BANDS[2:], (1, 0, 2))
        return middle + upright + ops.transpose(lying, (1, 0, 2))

    def part(self, region: tuple) -> tuple[slice, slice]:
        """Rows and columns of the patch that make up a region."""
        p, q = self.p, self.shared
        slices = {"start": slice(q), None: slice(q, p - q), "end": slice(p - q, p)}
        return slices[region[0]], slices[region[1]]

    def fully_convolutional(self, images: Any) -> Any:
        """S without padding, where all patches share everything: (B, Y, X, C) to (B, h, w, F)."""
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            images = convolve(images, kernel, bias, (0, 0), (0, 0))
        return read_out(images, self.readout, self.s) + self.bias

    def window(self, segments: list, key: Any) -> Any:
        """Fetch one window of every patch, (h * w, side, side, c), from segments of shape (n, c)."""
        index, side = self.index[key]
        table = ops.concatenate([segment for segment in segments if segment is not None], axis=0)
        return ops.reshape(take(table, index), (-1, side, side, table.shape[-1]))

    def centre_rows(self, n: Any) -> dict:
        """The two rows of the centre that each band of n patches needs to grow: {(k, edge): (n, 2)}."""
        first = {}  # counted in the patch
        for k in range(1, self.shared + 1):
            first |= {(k, "start"): k - 1, (k, "end"): self.p - k - 1}
        offsets = np.array([[row, row + 1] for row in first.values()], "int32").reshape(-1)
        return split_up((ops.arange(n, dtype="int32") * self.s)[:, None] + offsets, dict.fromkeys(first, 2))

    def window_index(self) -> dict:
        """Where in the table each window lies: {(k, row edge, column edge) or "patch": ((h, w, n), side)}."""
        p, h, w = self.p, self.h, self.w
        Y, X = (h - 1) * self.s + p, (w - 1) * self.s + p
        places, sides = {}, {}
        for k in range(1, self.shared + 1):
            ends = {"start": range(k + 1), "end": range(p - k - 1, p)}
            for row, column in CORNERS:
                segments = neighbours(row, column)
                places[k, row, column] = windows(p, k - 1, self.s, ends[row], ends[column], segments)
                sides[k, row, column] = k + 1
        if self.shared < len(self.kernels):
            segments = [*CORNERS, *BANDS, CENTRE]
            places["patch"] = windows(p, self.shared, self.s, range(p), range(p), segments)
            sides["patch"] = p
        units = ops.stack([ops.cast(u, "int32") for u in (1, w, X, Y, h * w, h * X, w * Y)])
        factors = np.concatenate(list(places.values()))  # (n, 3, 7)
        base, down, across = ops.unstack(ops.sum(factors * units, axis=-1), axis=-1)  # (n,) each
        top, left = ops.arange(h, dtype="int32"), ops.arange(w, dtype="int32")
        index = base + top[:, None, None] * down + left[None, :, None] * across
        index = split_up(index, {key: len(place) for key, place in places.items()})
        return {key: (index[key], sides[key]) for key in places}


def split_up(x: Any, sizes: dict) -> dict:
    """Cut the last axis of `x` into parts of the given sizes, under the same keys."""
    if len(sizes) == 1:
        return dict.fromkeys(sizes, x)
    cuts = np.cumsum(list(sizes.values()))[:-1].tolist()
    return dict(zip(sizes, ops.split(x, cuts, axis=-1), strict=True)) if sizes else {}


def grow_band(edge: str, centre: Any, rows: Any, band: Any, kernel: Any, bias: Any) -> Any:
    """The next layer's k rows along one edge, (n, k, X, F).

    Columns within k of the tile's frame are wrong; no patch reads its bands there.

    Args:
        edge: "start" or "end".
        centre: (Y, X, c).
        rows: (n, 2), the centre's two rows next to each band.
        band: (n, k - 1, X, c), or None for k = 1.
        kernel, bias: of the convolution.
    """
    window = take(centre, rows)  # (n, 2, X, c)
    if band is not None:
        window = ops.concatenate([band, window] if edge == "start" else [window, band], axis=1)
    return convolve(window, kernel, bias, PADS[edge], (1, 1))


# (row edge, column edge), None for far from both.
CORNERS = [("start", "start"), ("start", "end"), ("end", "start"), ("end", "end")]
BANDS = [("start", None), ("end", None), (None, "start"), (None, "end")]
CENTRE = (None, None)
# The zeros of the patch itself, before and after, where a window touches its edge.
PADS = {"start": (1, 0), "end": (0, 1)}


def neighbours(row: str, column: str) -> list[tuple]:
    """The regions that a corner grows into, itself first and the centre last."""
    return [(row, column), (row, None), (None, column), CENTRE]


def flat(regions: dict) -> dict:
    """Features of regions (..., c) as rows of a table, (n, c); None stays."""
    return {
        key: features if features is None else ops.reshape(features, (-1, features.shape[-1]))
        for key, features in regions.items()
    }


def windows(p: int, q: int, s: int, rows: range, columns: range, segments: list) -> np.ndarray:
    """Where the features of a window of a patch lie in a table of features after q layers.

    The table holds the segments one after the other: corners (h, w, q, q), bands of rows (h, q, X),
    bands of columns (w, q, Y), the centre (Y, X). Feature (u, v) of patch (t, l) is in its row
    base + t * down + l * across, and each of the three is linear in the sizes of the tile.

    Args:
        p, q, s: patch size, layers done, stride.
        rows, columns: of the window, counted in the patch.
        segments: (row edge, column edge) of each segment of the table, in order, the centre last.

    Returns:
        (rows * columns, 3, 7): base, down and across, each as factors of the units
        (1, w, X, Y, h * w, h * X, w * Y).
    """
    one, w, X, Y, hw, hX, wY = np.eye(7, dtype="int32")
    sizes = [q * q * hw if row and column else q * hX if row else q * wY for row, column in segments]
    starts = dict(zip(segments, np.cumsum([0 * one, *sizes[:-1]], axis=0), strict=True))

    def place(u: int, v: int) -> list:
        (row, d), (column, e) = near_edge(u, p, q), near_edge(v, p, q)
        start = starts[row, column]
        if row and column:
            return [start + (d * q + e) * one, q * q * w, q * q * one]
        if row:
            return [start + d * X + v * one, q * X, s * one]
        if column:
            return [start + e * Y + u * one, s * one, q * Y]
        return [start + u * X + v * one, s * X, s * one]

    return np.array([place(u, v) for u in rows for v in columns], "int32")


def near_edge(u: int, p: int, q: int) -> tuple[str | None, int]:
    """Which edge of the patch row u knows of after q layers, and its number among the q rows that do."""
    if u < q:
        return "start", u
    return ("end", u - (p - q)) if u >= p - q else (None, u)
