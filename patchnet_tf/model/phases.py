"""A local network at every pixel, exactly, with all work that patches share done once.

A layer of stride 2 computes every second window. Patches that start one pixel apart need the others too: so
the layer runs at stride 1, and its map is split into the 2 x 2 maps of every second unit, the *phases*, which
go on side by side as a larger batch. Each phase is what the network itself would compute for the image
shifted by as many pixels; at the end the phases are interleaved into one map. No unit is computed twice, and
all layers stay the plain layers that they are: no dilation, no loop. At a multiple of the network's own
stride there is only one phase, and nothing is split.

Shapes: B images, H x W pixels, p patch size; g the distance in pixels of computed patches, q * q phases.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .checks import PACKAGE, at_least_zero, check_positive
from .dense import join, split
from .graph import Call, list_calls, run_calls
from .localize import Align
from .patchwise import EveryPatch, one_by_one


@keras.saving.register_keras_serializable(package=PACKAGE)
class PhaseMap(EveryPatch):
    """A local network on every `stride`-th patch of an image, exactly as patch by patch.

    Args:
        layer, filters, stride, classes: see `EveryPatch`; `layer` is what `local_network` returned. Its
            weights are shared. A stride that is a multiple of its own costs least.
        memory: for the features of one tile, in MiB; a larger image is walked in tiles. None: all of it at
            once, a plain graph of convolutions without a loop.
        logits: return what the decisions are made from, before `Decision`.

    Raises:
        ValueError: `memory` is not a positive whole number.

    Example:
        >>> S = local_network("efficientnet_lite0", patch_size=35)
        >>> PhaseMap(S, stride=4)(keras.ops.zeros((1, 64, 64, 3))).shape
        TensorShape([1, 8, 8])
    """

    def __init__(
        self,
        layer: keras.Model,
        filters: bool = False,
        stride: int = 1,
        classes: Sequence[int] | None = None,
        memory: int | None = None,
        logits: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(layer, filters, stride, classes, **kwargs)
        self.memory = None if memory is None else check_positive("memory", memory)
        self.logits = bool(logits)
        self.calls = list_calls(layer.body)
        self.strides = strides(self.calls)
        self.grid = grid(self.stride, layer.stride, self.strides)
        self.phases = layer.stride // self.grid  # along each side
        self.kept, self.splits, self.unsplit = plan(self.calls, self.strides, self.grid)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Decide every patch of (B, H, W, C)."""
        p, s = self.patch_size, self.stride
        height, width = ops.shape(images)[1:3]
        rows, columns = (height - p) // s + 1, (width - p) // s + 1  # of patches
        side = math.inf if self.memory is None else self.tile_side()
        if isinstance(rows, int) and isinstance(columns, int):
            fits = max(rows, columns) <= side
        else:
            fits = self.memory is None
        return self.decide(images, training) if fits else self.in_tiles(images, rows, columns, side, training)

    def decide(self, images: Any, training: bool | None = None) -> Any:
        """Decide every patch at once."""
        p, g, q = self.patch_size, self.grid, self.phases
        rows, columns = ((size - p) // g + 1 for size in ops.shape(images)[1:3])
        if q > 1:  # as many rows and columns of patches as make all phases equal
            pads = [
                at_least_zero(((count + q - 1) // q * q - 1) * g + p - size)
                for count, size in zip((rows, columns), ops.shape(images)[1:3], strict=True)
            ]
            images = ops.pad(images, [[0, 0], [0, pads[0]], [0, pads[1]], [0, 0]])
        x = self.finish(run_calls(self.calls, images, self.at_grid), training)  # (B * q * q, h, w, ...)
        x = interleave(x, q // self.unsplit)[:, :rows, :columns]
        step = self.stride // g
        return x[:, ::step, ::step] if step > 1 else x

    def finish(self, features: Any, training: bool | None = None) -> Any:
        """Make of features (..., F) what pixels of the map hold, float32."""
        x = ops.cast(self.layer.head(features, training=training), "float32")
        return self.pixels(x if self.logits else self.layer.decision(x))

    def at_grid(self, n: int, results: list) -> Any:
        """Make call n, a strided one on all windows that the grid needs, and split what it returns."""
        call, keep = self.calls[n], self.kept.get(n)
        x = call.apply(results) if keep is None else at_stride(call.operation, results[call.inputs[0]], keep)
        return split_phases(x, *self.splits[n]) if n in self.splits else x

    def in_tiles(self, images: Any, rows: Any, columns: Any, side: int, training: bool | None) -> Any:
        """Decide every patch, tile by tile, each of at most side x side patches."""
        p, s = self.patch_size, self.stride
        batch, height, width = ops.shape(images)[:3]
        (down, h), (across, w) = split(rows, side), split(columns, side)  # tiles, patches of each
        # Tiles are equal: the last ones may reach beyond the image, and what they add is cut off.
        below, right = (down * h - 1) * s + p - height, (across * w - 1) * s + p - width
        images = ops.pad(images, [[0, 0], [0, at_least_zero(below)], [0, at_least_zero(right)], [0, 0]])
        size = [(h - 1) * s + p, (w - 1) * s + p]

        def decide_tile(n: Any) -> Any:
            row = n // across  # of tiles, of all images
            image, j = row // down, n - row * across
            start = [image, (row - image * down) * h * s, j * w * s, 0]
            return self.decide(ops.slice(images, start, [1, *size, images.shape[3]]), training)[0]

        last = self.last_axes
        shape = (*(n if isinstance(n, int) else None for n in (h, w)), *last)
        tiles = one_by_one(decide_tile, batch * down * across, shape, "float32")
        return join(tiles, (down, across), (h, w), last)[:, :rows, :columns]

    def tile_side(self) -> int:
        """Return the largest number of patches along a tile's side whose features fit in the memory."""
        widths = {0: self.layer.channels} | {
            n: call.shapes[0][-1] / min(self.strides[call.inputs[0]], self.grid) ** 2
            for n, call in enumerate(self.calls[1:], 1)
        }
        if self.units > 1:
            widths[len(self.calls)] = self.units / self.grid**2
        # Of the widest map: what a layer reads, what it returns, the phases of that, and a skip connection.
        pixels = self.memory * 2**20 / (4 * 4 * max(widths.values()))
        return max(1, (math.isqrt(int(pixels)) - self.patch_size) // self.stride)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "memory": self.memory, "logits": self.logits}


def strides(calls: list[Call]) -> list[int]:
    """Return the distance in pixels of the units that each call of a local network returns."""
    result = [1]
    for call in calls[1:]:
        result.append(result[call.inputs[0]] * getattr(call.operation, "strides", (1, 1))[0])
    return result


def grid(stride: int, own: int, strides: list[int]) -> int:
    """Return the largest distance at which to compute the network's maps: it divides `stride` and `own`.

    All maps' strides must divide it or be multiples of it, so that branches split into the same phases.
    """
    g = math.gcd(stride, own)
    return g if all(s % g == 0 or g % s == 0 for s in strides) else 1


def plan(calls: list[Call], strides: list[int], grid: int) -> tuple[dict, dict, int]:
    """Plan at what stride to run the strided calls, and after which calls to split maps into phases.

    What a strided call returns is split later if that is cheaper: layers that work on each unit alone do not
    mind that phases are still one map, so it is split where it has the fewest channels, or never.

    Returns:
        By the number of the call: the strides, and the arguments (t, q) of `split_phases`; and t of the
        phases that are still one map at the end.
    """
    readers: list[list[int]] = [[] for _ in calls]
    for n, call in enumerate(calls):
        for source in call.inputs:
            readers[source].append(n)
    kept, splits, unsplit = {}, {}, 1
    for n, call in enumerate(calls[1:], 1):
        before, after = strides[call.inputs[0]], strides[n]
        if before == after:
            continue
        whole = math.gcd(before, grid), math.gcd(after, grid)
        kept[n] = whole[1] // whole[0]
        t = after // before // kept[n]
        chain = [n]
        while len(readers[chain[-1]]) == 1 and on_each_unit(calls[readers[chain[-1]][0]]):
            chain += readers[chain[-1]]
        if chain[-1] == len(calls) - 1:
            unsplit = t
        elif t > 1:
            width = {m: calls[readers[m][0]].shapes[0][-1] for m in chain}
            splits[min(chain, key=width.get)] = t, before // whole[0]
    return kept, splits, unsplit


def on_each_unit(call: Call) -> bool:
    """Whether a call does to each unit of one map what it does to any, wherever it is."""
    layer = call.operation
    size = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", (1, 1))
    stays = tuple(size) == tuple(getattr(layer, "strides", (1, 1))) == (1, 1)
    return len(call.inputs) == 1 and stays and not isinstance(layer, (keras.layers.Cropping2D, Align))


def at_stride(layer: Any, x: Any, stride: int) -> Any:
    """Apply a strided layer without padding at another stride than its own."""
    x = ops.cast(x, layer.compute_dtype)
    options = {"strides": stride, "padding": "valid"}
    if isinstance(layer, keras.layers.MaxPooling2D):
        return ops.max_pool(x, layer.pool_size, **options)
    if isinstance(layer, keras.layers.AveragePooling2D):
        return ops.average_pool(x, layer.pool_size, **options)
    options["dilation_rate"] = layer.dilation_rate

    def weights(w: Any) -> Any:
        return ops.cast(w, layer.compute_dtype)

    if isinstance(layer, keras.layers.SeparableConv2D):
        kernels = weights(layer.depthwise_kernel), weights(layer.pointwise_kernel)
        x = ops.separable_conv(x, *kernels, **options)
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        x = ops.depthwise_conv(x, weights(layer.kernel), **options)
    else:
        x = ops.conv(x, weights(layer.kernel), **options)
    return layer.activation(x + weights(layer.bias))


def split_phases(x: Any, t: int, q: int) -> Any:
    """Split a map into the t * t maps of every t-th unit, in the batch.

    Args:
        x: (B * q * q, h, w, C), phases already there.
        t: how many along each side.
        q: how many along each side there are.

    Returns:
        (B * (t * q) ** 2, h // t, w // t, C); phase j of the new ones is i + q * k, of unit k of phase i.
    """
    if t == 1:
        return x
    height, width = (size // t for size in ops.shape(x)[1:3])
    channels = x.shape[-1]
    x = ops.reshape(x[:, : height * t, : width * t], (-1, q, q, height, t, width, t, channels))
    x = ops.transpose(x, (0, 4, 1, 6, 2, 3, 5, 7))  # (B, t, q, t, q, height, width, C)
    return ops.reshape(x, (-1, height, width, channels))


def interleave(x: Any, q: int) -> Any:
    """Put q * q phases, (B * q * q, h, w, ...), together: (B, h * q, w * q, ...)."""
    if q == 1:
        return x
    height, width = ops.shape(x)[1:3]
    last = x.shape[3:]
    x = ops.reshape(x, (-1, q, q, height, width, *last))
    x = ops.transpose(x, (0, 3, 1, 4, 2, *range(5, 5 + len(last))))
    return ops.reshape(x, (-1, height * q, width * q, *last))
