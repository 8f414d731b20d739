"""Outlines of regions along the edges of their pixels."""

import numpy as np

STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # right, down, left, up


def outlines(labels: np.ndarray) -> list[list[np.ndarray]]:
    """Return the outline of each region, and those of its holes.

    Args:
        labels: (H, W) of whole numbers: 0 outside, and 1, 2, ... in 4-connected regions, as
            `scipy.ndimage.label` returns them.

    Returns:
        For each region, in the order of the numbers, its rings: first the outer one, whose area is positive
        in (x, y), then those of holes, whose area is negative. A ring is (N + 1, 2), (row, column) of the
        corners of pixels where it turns, the last the same as the first. Rings of a region do not cross; two
        may touch at a corner.

    Example:
        >>> outlines(numpy.array([[1]]))
        [[array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]])]]
    """
    starts, steps, numbers = edges(np.pad(labels, 1))
    following = successors(starts, steps, numbers, labels.shape[1] + 2)
    turns = np.empty(len(steps), bool)
    turns[following] = steps[following] != steps
    regions: list[list[np.ndarray]] = [[] for _ in range(int(labels.max(initial=0)))]
    ahead, unseen = following.tolist(), bytearray(b"\1") * len(steps)
    for first in range(len(ahead)):
        ring, edge = [], first
        while unseen[edge]:
            unseen[edge] = 0
            ring.append(edge)
            edge = ahead[edge]
        if ring:
            chosen = np.array(ring)
            corners = starts[chosen[turns[chosen]]]
            corners = np.concatenate([corners, corners[:1]])
            y, x = corners.T
            outer = np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0
            regions[numbers[first] - 1].insert(0 if outer else len(regions[numbers[first] - 1]), corners)
    return regions


def edges(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the edges between regions and what is outside: starts (E, 2), steps (E,) and numbers (E,).

    The region lies at the right of who goes along an edge.
    """
    inside = padded[1:-1, 1:-1]
    beyond = padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2]  # above, right, ...
    corners = (0, 0), (0, 1), (1, 1), (1, 0)  # of a pixel, where the edge at each of its sides starts
    parts = []
    for step, (other, corner) in enumerate(zip(beyond, corners, strict=True)):
        at = np.argwhere((inside > 0) & (other != inside))
        parts.append((at + corner, np.full(len(at), step), inside[tuple(at.T)]))
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


def successors(starts: np.ndarray, steps: np.ndarray, numbers: np.ndarray, width: int) -> np.ndarray:
    """Return for each edge which one follows.

    Where two pixels of a region touch at a corner alone, the way goes on to the other pixel, so that a ring
    never meets itself; otherwise it stays with its own.
    """
    keys = (starts[:, 0] * width + starts[:, 1]) * 4 + steps
    order = np.argsort(keys)
    ends = starts + STEPS[steps]
    following = np.full(len(keys), -1)
    for turn in (-1, 0, 1):  # to the left, to another pixel; straight on; to the right, around the same one
        wanted = (ends[:, 0] * width + ends[:, 1]) * 4 + (steps + turn) % 4
        at = order[np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)] if len(keys) else order
        fits = (following < 0) & (keys[at] == wanted) & (numbers[at] == numbers)
        following[fits] = at[fits]
    return following
