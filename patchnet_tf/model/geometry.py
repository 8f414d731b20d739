"""Which pixels the units of a feature map see.

Unit (i, j) of a map sees the pixels of rows start[0] + i * stride[0] and the size[0] - 1 below, columns
likewise: its receptive field. Rows and columns are counted in the image, so `start` is negative where a
network pads.
"""

from collections.abc import Iterable
from dataclasses import dataclass

Pair = tuple[int, int]  # of rows and of columns


@dataclass(frozen=True)
class Field:
    """The receptive fields of a map's units.

    Attributes:
        size: rows and columns that a unit sees.
        stride: distance of neighbouring units' fields.
        start: the first pixel that unit (0, 0) sees.

    Example:
        >>> Field().through(window=(3, 3), stride=(2, 2), padding=(1, 1)).through((3, 3), (1, 1), (0, 0))
        Field(size=(7, 7), stride=(2, 2), start=(-1, -1))
    """

    size: Pair = (1, 1)
    stride: Pair = (1, 1)
    start: Pair = (0, 0)

    def through(self, window: Pair, stride: Pair, padding: Pair) -> "Field":
        """Return the fields after an operation on windows of units.

        Args:
            window: units that it reads, from the first to the last, dilation included.
            stride: distance of its windows.
            padding: units of zeros before the first one; negative where units are cut off.
        """
        return Field(
            tuple(r + (w - 1) * s for r, w, s in zip(self.size, window, self.stride, strict=True)),
            tuple(s * t for s, t in zip(self.stride, stride, strict=True)),
            tuple(a - p * s for a, p, s in zip(self.start, padding, self.stride, strict=True)),
        )


def union(fields: Iterable[Field]) -> Field:
    """Return what a unit sees that combines the units of the same number of several maps.

    Raises:
        ValueError: the strides differ.

    Example:
        >>> union([Field((3, 3), (1, 1), (-1, -1)), Field()])
        Field(size=(3, 3), stride=(1, 1), start=(-1, -1))
    """
    fields = list(fields)
    if len({field.stride for field in fields}) > 1:
        raise ValueError(f"the strides of its inputs differ, {[field.stride for field in fields]}")
    starts = [min(field.start[axis] for field in fields) for axis in (0, 1)]
    ends = [max(field.start[axis] + field.size[axis] for field in fields) for axis in (0, 1)]
    size = tuple(end - start for start, end in zip(starts, ends, strict=True))
    return Field(size, fields[0].stride, tuple(starts))


def same_padding(size: int | None, window: int, stride: int) -> int:
    """Return the zeros that "same" puts before the first of `size` units; unknown sizes divide by the stride.

    >>> same_padding(224, 3, 2), same_padding(225, 3, 2)
    (0, 1)
    """
    remainder = 0 if size is None else size % stride
    return max(window - (remainder or stride), 0) // 2
