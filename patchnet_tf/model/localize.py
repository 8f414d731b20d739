"""The beginning of a ConvNet without padding: each of its outputs sees its receptive field and nothing else.

A padded network adds unit i of one branch to unit i of another; without padding the branches begin at
different pixels. So every map is built to begin where those who read it need it, counted in pixels of the
original: `origin` is the first pixel that its first unit sees. Where two readers need origins that the map's
stride cannot serve from one map (a pooled branch beside a strided one), it is built twice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from .checks import PACKAGE
from .geometry import Field, Pair, union
from .graph import Call
from .unpadded import NotLocalError, Step, can_fold, fold, normalization, without_padding


@dataclass(frozen=True)
class Look:
    """What one call's outputs see.

    Attributes:
        field: their receptive fields; None where they look further than a patch.
        step: the call as part of a local network.
        refused: (name of the layer that looks further, why); None where none does.
    """

    field: Field | None = None
    step: Step | None = None
    refused: tuple[str, str] | None = None


@keras.saving.register_keras_serializable(package=PACKAGE)
class Align(keras.layers.Layer):
    """Maps cut to one size: each from its start on, to the size of the smallest.

    Args:
        starts: (row, column) where each map begins.

    Call arguments:
        maps: a list of (B, H_i, W_i, C_i).

    Returns:
        A list of (B, H, W, C_i), H and W the smallest of H_i and W_i less the starts.

    Example:
        >>> [x.shape for x in Align([(0, 0), (1, 1)])([ops.zeros((1, 4, 4, 2)), ops.zeros((1, 6, 6, 3))])]
        [TensorShape([1, 4, 4, 2]), TensorShape([1, 4, 4, 3])]
    """

    def __init__(self, starts: Sequence[Pair], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.starts = [tuple(start) for start in starts]

    def call(self, maps: list) -> list:
        """Cut."""
        height, width = (
            least([ops.shape(x)[axis] - start[axis - 1] for x, start in zip(maps, self.starts, strict=True)])
            for axis in (1, 2)
        )
        return [
            x[:, top : top + height, left : left + width]
            for x, (top, left) in zip(maps, self.starts, strict=True)
        ]

    def compute_output_shape(self, input_shape: list) -> list:
        """The smallest size that is left, or None where one is unknown."""
        sizes = [
            [None if shape[axis] is None else shape[axis] - start[axis - 1] for axis in (1, 2)]
            for shape, start in zip(input_shape, self.starts, strict=True)
        ]
        height, width = (None if None in side else min(side) for side in zip(*sizes, strict=True))
        return [(shape[0], height, width, shape[3]) for shape in input_shape]

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "starts": self.starts}


def least(sizes: list) -> Any:
    """Return the smallest of some ints and scalar tensors."""
    if all(isinstance(size, int) for size in sizes):
        return min(sizes)
    return ops.min(ops.stack(sizes))


def look(calls: Sequence[Call]) -> list[Look]:
    """Work out what each call's outputs see."""
    looks = [Look(Field())]
    for call in calls[1:]:
        sources = [looks[source] for source in call.inputs]
        refused = next((source.refused for source in sources if source.refused), None)
        if refused is None:
            try:
                step, field = _step(call, [source.field for source in sources])
                looks.append(Look(field, step))
                continue
            except NotLocalError as error:
                refused = (call.name, str(error))
        looks.append(Look(refused=refused))
    return looks


def _step(call: Call, fields: list[Field]) -> tuple[Step, Field]:
    """Return a call as part of a local network, and what its outputs see."""
    step = without_padding(call)
    if any(len(shape) != 4 for shape in call.shapes):
        raise NotLocalError("its input is not a map of rows, columns and channels")
    if any(len({shape[axis] for shape in call.shapes}) > 1 for axis in (1, 2)):
        raise NotLocalError(f"its inputs differ in size, {[shape[1:3] for shape in call.shapes]}")
    try:
        return step, union(fields).through(step.window, step.stride, step.padding)
    except ValueError as error:
        raise NotLocalError(str(error)) from None


def separators(calls: Sequence[Call]) -> list[int]:
    """Return the calls that everything later goes through: no skip connection passes them by."""
    furthest, result = 0, []
    readers = [[] for _ in calls]
    for n, call in enumerate(calls):
        for source in call.inputs:
            readers[source].append(n)
    for n in range(len(calls)):
        if furthest <= n and n > 0:
            result.append(n)
        furthest = max([furthest, *readers[n]])
    return result


def up_to(calls: Sequence[Call], last: int) -> list[int]:
    """Return the calls that a call's result is computed from, itself included, in order."""
    needed = {last}
    for n in range(last, 0, -1):
        if n in needed:
            needed.update(calls[n].inputs)
    return sorted(needed | {0})


class Builder:
    """Builds the local network that ends with one call.

    Args:
        calls: of the original network.
        looks: what they see.
        last: the call to end with, which must be local.
    """

    def __init__(self, calls: Sequence[Call], looks: Sequence[Look], last: int) -> None:
        self.calls, self.looks, self.last = calls, looks, last
        self.numbers = up_to(calls, last)
        self.folded = self.find_folds()
        self.origins = self.find_origins()
        self.layers: dict[int, Any] = {}  # by the id of the original
        self.names: Counter = Counter()

    def build(self, name: str) -> keras.Model:
        """Return the network, (B, H, W, C) to (B, (H - p) // s + 1, (W - p) // s + 1, F)."""
        image = keras.Input((None, None, self.calls[0].shapes[0][-1]), name="pixels")
        self.maps = {(0, self.key(0, origin)): image for origin in self.origins[0].values()}
        for n in self.numbers[1:]:
            for key, origin in self.origins[n].items():
                self.maps[n, key] = self.make(n, origin)
        return keras.Model(
            image, self.maps[self.last, self.key(self.last, self.looks[self.last].field.start)], name=name
        )

    def find_folds(self) -> dict[int, int]:
        """Return which batch normalization becomes part of which convolution."""
        readers = Counter(source for n in self.numbers for source in self.calls[n].inputs)
        uses = Counter(id(self.calls[n].operation) for n in self.numbers)
        folds = {}
        for n in self.numbers[1:]:
            call, source = self.calls[n], self.calls[n].inputs[0]
            before = self.calls[source].operation
            if (
                type(call.operation) is keras.layers.BatchNormalization
                and can_fold(before)
                and readers[source] == 1
                and uses[id(before)] == uses[id(call.operation)] == 1
            ):
                folds[source] = n
        return folds

    def key(self, n: int, origin: Pair) -> Pair:
        """Which of the maps of a call begins at `origin` or can be cropped to."""
        return tuple(a % s for a, s in zip(origin, self.looks[n].field.stride, strict=True))

    def find_origins(self) -> list[dict[Pair, Pair]]:
        """Return for each call the origins to build it at, by `key`."""
        origins: list[dict[Pair, Pair]] = [{} for _ in self.calls]

        def need(n: int, origin: Pair) -> None:
            before = origins[n].setdefault(self.key(n, origin), origin)
            origins[n][self.key(n, origin)] = tuple(map(min, before, origin))

        need(self.last, self.looks[self.last].field.start)
        for n in reversed(self.numbers[1:]):
            for origin in origins[n].values():
                for source, there in self.sources(n, origin):
                    need(source, there)
        return origins

    def sources(self, n: int, origin: Pair) -> list[tuple[int, Pair]]:
        """Return the calls whose maps call `n` reads, and the origins that it needs them at."""
        call = self.calls[n]
        fields = [self.looks[source].field for source in call.inputs]
        start = union(fields).start
        return [
            (source, tuple(o + a - b for o, a, b in zip(origin, field.start, start, strict=True)))
            for source, field in zip(call.inputs, fields, strict=True)
        ]

    def make(self, n: int, origin: Pair) -> Any:
        """Build one call's map that begins at `origin`."""
        inputs = self.aligned(n, origin)
        call, step = self.calls[n], self.looks[n].step
        if step.make is None or n in self.folded.values():
            return inputs[0]
        layer = self.layers.get(id(call.operation))
        if layer is None:
            layer = step.make()
            if n in self.folded:
                fold(layer, *normalization(self.calls[self.folded[n]].operation))
            layer.name = self.unique(call.name)
            self.layers[id(call.operation)] = layer
        if isinstance(layer, keras.layers.Layer):
            return layer(inputs if len(inputs) > 1 else inputs[0])
        return call.apply(dict(zip(call.inputs, inputs, strict=True)), layer)

    def aligned(self, n: int, origin: Pair) -> list:
        """Return the maps that call `n` reads, cropped so that their units belong together."""
        fields = [self.looks[source].field for source in self.calls[n].inputs]
        whole = union(fields)
        maps, starts, ends = [], [], []
        for (source, there), field in zip(self.sources(n, origin), fields, strict=True):
            key = self.key(source, there)
            base = self.origins[source][key]
            maps.append(self.maps[source, key])
            starts.append(tuple((o - b) // s for o, b, s in zip(there, base, field.stride, strict=True)))
            ends.append(
                tuple(
                    (b + size - a - r) / s
                    for b, size, a, r, s in zip(
                        whole.start, whole.size, field.start, field.size, field.stride, strict=True
                    )
                )
            )
        if all(end.is_integer() for pair in ends for end in pair):
            return [self.cropped(n, *crop) for crop in zip(maps, starts, ends, strict=True)]
        return Align(starts, name=self.unique(f"{self.calls[n].name}_align"))(maps)

    def cropped(self, n: int, x: Any, start: Pair, end: Pair) -> Any:
        """Crop a map that call `n` reads."""
        crops = tuple((int(a), int(b)) for a, b in zip(start, end, strict=True))
        if crops == ((0, 0), (0, 0)):
            return x
        return keras.layers.Cropping2D(crops, name=self.unique(f"{self.calls[n].name}_crop"))(x)

    def unique(self, name: str) -> str:
        """Return a layer name that is not used yet."""
        name = name.replace("/", "_")
        self.names[name] += 1
        return name if self.names[name] == 1 else self.unique(f"{name}_{self.names[name]}")
