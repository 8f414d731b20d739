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

from typing import Any

import keras
import numpy as np
from keras import ops

from .layers import PACKAGE, check_positive


class SubnetMap(keras.layers.Wrapper):
    """S on every p x p patch of an image: what the exact and the patchwise map have in common.

    Args:
        layer: S, made by `PatchSubnet`.
        filters: return the tanh outputs of the filters instead of the decisions.
        stride: distance of neighbouring patches in pixels.

    Call arguments:
        images: (B, H, W, C), padded and standardized; H and W, at least p, may be unknown.

    Returns:
        (B, (H - p) // stride + 1, (W - p) // stride + 1) decisions in (0, 1), or with `filters` a last
        axis of F values in [-1, 1].
    """

    def __init__(self, layer: keras.Model, filters: bool = False, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.filters = bool(filters)
        self.stride = check_positive("stride", stride)
        self.patch_size = layer.input_shape[1]
        self.features = layer.get_layer("readout").kernel.shape[-1]

    def build(self, input_shape: tuple) -> None:
        """Nothing to create: S has its weights."""

    def before_readout(self) -> list[keras.layers.Layer]:
        """Return S's layers from the first convolution to the linear filter models."""
        layers = self.layer.layers
        return layers[1 : layers.index(self.layer.get_layer("readout")) + 1]

    def finish(self, readouts: Any) -> Any:
        """Return what S makes of its filters' linear models: (..., F) to decisions (...), or tanh (..., F)."""
        for layer in self.layer.layers[len(self.before_readout()) + 1 :]:
            readouts = layer(readouts)
            if self.filters and layer.name == "tanh":
                return readouts
        return readouts[..., 0]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(B, H, W, C) to (B, rows, columns) or (B, rows, columns, F)."""
        p, s = self.patch_size, self.stride
        sizes = [None if size is None else (size - p) // s + 1 for size in input_shape[1:3]]
        return (input_shape[0], *sizes, *((self.features,) if self.filters else ()))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "filters": self.filters, "stride": self.stride}


@keras.saving.register_keras_serializable(package=PACKAGE)
class DenseMap(SubnetMap):
    """S on every patch, exactly: the same numbers as patch by patch, with all shared work done once.

    The image is walked in tiles, so memory stays within a budget whatever the image's size.

    Args:
        layer, filters, stride: see `SubnetMap`.
        memory: for the features of one tile, in MiB.

    Raises:
        ValueError: `memory` is not a positive whole number.

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
        memory: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, filters, stride, **kwargs)
        self.memory = check_positive("memory", memory)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "memory": self.memory}

    def call(self, images: Any) -> Any:
        """Decide every patch of (B, H, W, C), tile by tile."""
        p, s = self.patch_size, self.stride
        batch, height, width = ops.shape(images)[:3]
        rows, columns = (height - p) // s + 1, (width - p) // s + 1  # of patches
        side = tile_side(self.memory * 2**20, p, s, self.layer)
        (down, h), (across, w) = split(rows, side), split(columns, side)  # tiles, patches of each

        # Tiles are equal: the last ones may reach beyond the image, and what they add is cut off.
        Y, X = (h - 1) * s + p, (w - 1) * s + p
        below, right = (down * h - 1) * s + p - height, (across * w - 1) * s + p - width
        images = ops.pad(images, [[0, 0], [0, positive(below)], [0, positive(right)], [0, 0]])

        decide = Tile(self.layer, s, h, w)

        def decide_tile(n: Any) -> Any:
            image, i, j = n // (down * across), n // across % down, n % across
            start = [image, i * h * s, j * w * s, 0]
            pixels = ops.slice(images, start, [1, Y, X, images.shape[3]])
            return self.finish(decide(ops.reshape(pixels, (Y, X, images.shape[3]))))  # (h, w, ...)

        tiles = ops.map(decide_tile, ops.arange(batch * down * across))
        last = tuple(tiles.shape[3:])
        tiles = ops.reshape(tiles, (-1, down, across, h, w, *last))
        order = (0, 1, 3, 2, 4, *range(5, 5 + len(last)))
        tiles = ops.reshape(ops.transpose(tiles, order), (-1, down * h, across * w, *last))
        return tiles[:, :rows, :columns]


def positive(size: Any) -> Any:
    """Return max(size, 0) of an int or a scalar tensor."""
    return max(size, 0) if isinstance(size, int) else ops.maximum(size, 0)


def split(count: Any, side: int) -> tuple[Any, Any]:
    """Return the number of equal tiles of at most `side` that hold `count`, and the size of each."""
    tiles = (count + side - 1) // side
    return tiles, (count + tiles - 1) // tiles


def tile_side(memory: int, p: int, s: int, subnet: keras.Model) -> int:
    """Return the largest number of patches along a tile's side whose features fit in `memory` bytes."""
    q = len(convolutions(subnet)) if subnet.get_layer("conv1").padding == "same" else 0
    cell = 4 * subnet.get_layer("readout").kernel.shape[-1]  # bytes of one feature vector

    def size(side: int) -> int:
        pixels = side * s + p
        corners = 4 * side**2 * (q**2 + min(p, q + 1) ** 2)
        bands = 4 * side * pixels * 3 * q
        return cell * (corners + bands + 4 * pixels**2)

    side = 1
    while size(side + 1) <= memory:
        side += 1
    return side


def convolutions(subnet: keras.Model) -> list[keras.layers.Conv2D]:
    """Return S's convolutions, first to last."""
    return [layer for layer in subnet.layers if isinstance(layer, keras.layers.Conv2D)]


def convolve(maps: Any, kernel: Any, bias: Any, rows: tuple[int, int], columns: tuple[int, int]) -> Any:
    """3 x 3 convolution and ReLU of (N, height, width, c) with zeros before and after rows and columns."""
    pads = [[0, 0], rows, columns, [0, 0]]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Padding inside the convolution: its kernels skip the products with zeros.
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(maps, kernel, 1, pads), bias))
    return ops.relu(ops.conv(ops.pad(maps, pads), kernel, padding="valid") + bias)


def read_out(maps: Any, kernel: Any, stride: int = 1) -> Any:
    """Sum of (N, height, width, F) times (kh, kw, F) over every window: (N, rows, columns, F)."""
    return ops.depthwise_conv(maps, kernel[..., None], stride, "valid")


class Tile:
    """S's linear filter models on the h x w patches of a tile.

    Args:
        subnet: S.
        stride: s.
        h, w: patches of the tile, ints or scalar tensors.
    """

    def __init__(self, subnet: keras.Model, stride: int, h: Any, w: Any) -> None:
        layers = convolutions(subnet)
        readout = subnet.get_layer("readout")
        dtype = layers[0].compute_dtype
        self.kernels = [ops.cast(layer.kernel, dtype) for layer in layers]
        self.biases = [ops.cast(layer.bias, dtype) for layer in layers]
        self.readout, self.bias = ops.cast(readout.kernel, dtype), ops.cast(readout.bias, dtype)
        self.padded = layers[0].padding == "same"
        self.p, self.s, self.h, self.w = subnet.input_shape[1], stride, h, w
        self.Y, self.X = (h - 1) * stride + self.p, (w - 1) * stride + self.p
        # Layers with room for two edges and a centre; after them, each patch by itself (p < 2 * depth + 1).
        self.shared = min(len(layers), (self.p - 1) // 2) if self.padded else 0
        if self.padded:
            self.indices = self.gather_indices()

    def __call__(self, image: Any) -> Any:
        """(Y, X, C) standardized pixels to (h, w, F), before the tanh."""
        if not self.padded:
            return self.fully_convolutional(image)
        centre, corners = image, dict.fromkeys(CORNERS)
        bands = dict.fromkeys(BANDS)
        for k in range(1, self.shared + 1):
            kernel, bias = self.kernels[k - 1], self.biases[k - 1]
            flipped, transposed = ops.transpose(kernel, (1, 0, 2, 3)), ops.transpose(centre, (1, 0, 2))
            new_corners = {
                corner: self.grow_corner(k, corner, corners, bands, centre, kernel, bias)
                for corner in CORNERS
            }
            bands = {
                (row, column): self.grow_band(k, row, self.h, centre, bands[row, column], kernel, bias)
                if row
                else self.grow_band(k, column, self.w, transposed, bands[row, column], flipped, bias)
                for row, column in BANDS
            }
            centre = convolve(centre[None], kernel, bias, (1, 1), (1, 1))[0]
            corners = new_corners
        if self.shared < len(self.kernels):
            return self.finish_patches(corners, bands, centre)
        return self.read_regions(corners, bands, centre)

    def grow_band(self, k: int, end: str, n: Any, centre: Any, band: Any, kernel: Any, bias: Any) -> Any:
        """The k rows next to one edge: (n, k - 1, X, c) and two rows of the centre to (n, k, X, F).

        Columns within k of the tile's frame are wrong; no patch reads its bands there.
        """
        first = k - 1 if end == "start" else self.p - k - 1  # of the centre's two rows, in the patch
        rows = ops.arange(n)[:, None] * self.s + np.array([first, first + 1], "int32")
        window = ops.take(centre, rows, axis=0)  # (n, 2, X, c)
        if band is not None:
            window = ops.concatenate([band, window] if end == "start" else [window, band], axis=1)
        return convolve(window, kernel, bias, PADS[end], (1, 1))

    def grow_corner(
        self, k: int, corner: tuple, corners: dict, bands: dict, centre: Any, kernel: Any, bias: Any
    ) -> Any:
        """k x k features next to two edges, of every patch: (h * w, k, k, F)."""
        row, column = corner
        segments = [corners[corner], bands[row, None], bands[None, column], centre]
        window = self.gather(segments, self.indices[k, corner], k + 1)
        return convolve(window, kernel, bias, PADS[row], PADS[column])

    def finish_patches(self, corners: dict, bands: dict, centre: Any) -> Any:
        """Put every patch together, (h * w, p, p, c), and do the rest of S on each."""
        segments = [*corners.values(), *bands.values(), centre]
        patches = self.gather(segments, self.indices["patch"], self.p)
        for kernel, bias in zip(self.kernels[self.shared :], self.biases[self.shared :], strict=True):
            patches = convolve(patches, kernel, bias, (1, 1), (1, 1))
        return ops.reshape(read_out(patches, self.readout), (self.h, self.w, -1)) + self.bias

    def read_regions(self, corners: dict, bands: dict, centre: Any) -> Any:
        """Read the linear models out region by region, and add up: (h, w, F)."""
        p, q, s = self.p, self.shared, self.s
        region = {"start": slice(q), None: slice(q, p - q), "end": slice(p - q, p)}
        total = read_out(centre[None, q:-q, q:-q], self.readout[region[None], region[None]], s)[0] + self.bias
        for (row, column), band in bands.items():
            weights = self.readout[region[row], region[column]]
            if row:
                total += read_out(band[:, :, q:-q], weights, s)[:, 0]  # (h, 1, w, F)
            else:
                weights = ops.transpose(weights, (1, 0, 2))
                total += ops.transpose(read_out(band[:, :, q:-q], weights, s)[:, 0], (1, 0, 2))
        sums = [
            read_out(features, self.readout[region[row], region[column]])
            for (row, column), features in corners.items()
        ]
        return total + ops.reshape(sum(sums), (self.h, self.w, -1))

    def fully_convolutional(self, image: Any) -> Any:
        """S without padding: all patches share everything."""
        maps = image[None]
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            maps = convolve(maps, kernel, bias, (0, 0), (0, 0))
        return read_out(maps, self.readout, self.s)[0] + self.bias

    def gather(self, segments: list, index: Any, side: int) -> Any:
        """Fetch a window of every patch: (h * w, side, side, c) from features in any shape (..., c)."""
        channels = segments[-1].shape[-1]
        tables = [ops.reshape(segment, (-1, channels)) for segment in segments if segment is not None]
        window = ops.take(ops.concatenate(tables, axis=0), index, axis=0)  # (h, w, side * side, c)
        return ops.reshape(window, (-1, side, side, channels))

    def gather_indices(self) -> dict:
        """Where the features of each window lie, for every patch: {(k, corner) or "patch": (h, w, n)}."""
        p, h, w, Y, X = self.p, self.h, self.w, self.Y, self.X
        sides = {}
        for k in range(1, self.shared + 1):
            for row, column in CORNERS:
                ends = {"start": range(k + 1), "end": range(p - k - 1, p)}
                segments = [(row, column), (row, None), (None, column), (None, None)]
                sides[k, (row, column)] = windows(p, k - 1, self.s, ends[row], ends[column], segments)
        if self.shared < len(self.kernels):
            segments = [*CORNERS, *BANDS, (None, None)]
            sides["patch"] = windows(p, self.shared, self.s, range(p), range(p), segments)
        if not sides:
            return {}
        units = ops.stack([ops.cast(u, "int32") for u in (1, w, X, Y, h * w, h * X, w * Y)])
        table = np.concatenate(list(sides.values()))  # (n, 3, 7)
        base, down, across = ops.unstack(ops.sum(table * units, axis=-1), axis=-1)  # (n,) each
        t, l = ops.arange(h)[:, None, None], ops.arange(w)[None, :, None]
        index = base + t * down + l * across  # (h, w, n)
        cuts = np.cumsum([len(v) for v in sides.values()])[:-1].tolist()
        parts = ops.split(index, cuts, axis=-1) if cuts else [index]
        return dict(zip(sides, parts, strict=True))


CORNERS = [("start", "start"), ("start", "end"), ("end", "start"), ("end", "end")]  # of rows, of columns
BANDS = [("start", None), ("end", None), (None, "start"), (None, "end")]
PADS = {"start": (1, 0), "end": (0, 1)}


def windows(p: int, q: int, s: int, rows: range, columns: range, segments: list) -> np.ndarray:
    """Where the features of a window of a patch lie in a table of the features after q layers.

    The table holds the segments one after the other: corners (h, w, q, q), bands of rows (h, q, X),
    bands of columns (w, q, Y), the centre (Y, X). Feature (u, v) of patch (t, l) is in its row
    base + t * down + l * across, where each of the three is linear in the sizes of the tile.

    Args:
        p, q, s: patch size, layers done, stride.
        rows, columns: of the window, counted in the patch.
        segments: (row edge, column edge) of each segment of the table, each "start", "end" or None.

    Returns:
        (rows * columns, 3, 7): base, down and across, each as factors of the units
        (1, w, X, Y, h * w, h * X, w * Y).
    """
    one, w, X, Y, hw, hX, wY = np.eye(7, dtype="int32")
    sizes = [q * q * hw if r and c else q * hX if r else q * wY for r, c in segments]
    starts = dict(zip(segments, np.cumsum([0 * one, *sizes[:-1]], axis=0), strict=True))

    def place(u: int, v: int) -> list:
        row, d = edge(u, p, q)
        column, e = edge(v, p, q)
        base = starts[row, column]
        if row and column:
            return [base + (d * q + e) * one, q * q * w, q * q * one]
        if row:
            return [base + d * X + v * one, q * X, s * one]
        if column:
            return [base + e * Y + u * one, s * one, q * Y]
        return [base + u * X + v * one, s * X, s * one]

    return np.array([place(u, v) for u in rows for v in columns], "int32")


def edge(u: int, p: int, q: int) -> tuple[str | None, int]:
    """Which edge of the patch row u feels after q layers, and its number among the q rows that do."""
    if u < q:
        return "start", u
    return ("end", u - (p - q)) if u >= p - q else (None, u)
