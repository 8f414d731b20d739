"""Draw docs/border-states.png, the picture of dense-heatmap.md: `python docs/border_states.py`."""

from pathlib import Path

import cv2
import numpy as np

P, CELL = 17, 14
CENTRE, ROWS, COLUMNS, CORNER, ZERO = (
    (225, 225, 225),
    (158, 202, 225),
    (161, 217, 155),
    (253, 174, 107),
    (255, 255, 255),
)
INK, PAGE, FRAME = 40, 255, 120


def colour(u: int, v: int, p: int, k: int) -> tuple[int, int, int]:
    """Return the colour of row u, column v of a p x p patch after k convolutions."""
    row, column = u < k or u >= p - k, v < k or v >= p - k
    return CORNER if row and column else ROWS if row else COLUMNS if column else CENTRE


def draw(page: np.ndarray, left: int, top: int, cells: np.ndarray, cell: int) -> None:
    """Draw cells, (rows, columns, 3), as framed squares with `cell` pixels a side."""
    for i, row in enumerate(cells.tolist()):
        for j, fill in enumerate(row):
            corner = (left + j * cell, top + i * cell)
            opposite = (corner[0] + cell, corner[1] + cell)
            cv2.rectangle(page, corner, opposite, fill, cv2.FILLED)
            cv2.rectangle(page, corner, opposite, (FRAME,) * 3, 1)
            if tuple(fill) == ZERO:
                write(page, "0", corner[0] + cell // 2 - 5, corner[1] + cell // 2 + 5)


def write(page: np.ndarray, text: str, x: int, y: int) -> None:
    """Write a line of text; (x, y) is the left end of its base line."""
    cv2.putText(page, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (INK,) * 3, 1, cv2.LINE_AA)


def main() -> None:
    """Draw all of it."""
    page = np.full((560, 1060, 3), PAGE, "uint8")
    for column, k in enumerate((1, 3, 5, 7)):
        left = 20 + column * (P * CELL + 22)
        write(page, f"after {k} convolution{'s' * (k > 1)}: {2 * k + 1} x {2 * k + 1} states", left, 24)
        patch = np.array([[colour(u, v, P, k) for v in range(P)] for u in range(P)])
        draw(page, left, 36, patch, CELL)

    cell, top = 34, 340
    write(page, "a top-left corner grows from 2 x 2 to 3 x 3 features:", 20, top - 14)
    window = np.array([[colour(u, v, P, 2) for v in range(4)] for u in range(4)])
    window = np.pad(window, ((1, 0), (1, 0), (0, 0)), constant_values=ZERO[0])
    draw(page, 20, top, window, cell)
    write(page, "one gathered window of 4 x 4,", 20, top + 5 * cell + 20)
    write(page, "zeros on the patch's own two edges", 20, top + 5 * cell + 38)
    cv2.arrowedLine(page, (220, top + 85), (330, top + 85), (INK,) * 3, 1, cv2.LINE_AA, tipLength=0.1)
    write(page, "3 x 3 conv.", 230, top + 75)
    draw(page, 350, top + cell, np.full((3, 3, 3), CORNER), cell)
    write(page, "the next layer's corner", 350, top + 5 * cell + 20)

    for i, (fill, text) in enumerate(
        [
            (CENTRE, "centre: one map of the image, shared by all patches"),
            (ROWS, "top and bottom bands: shared by patches of the same rows"),
            (COLUMNS, "left and right bands: shared by patches of the same columns"),
            (CORNER, "corners: of one patch alone"),
            (ZERO, "the zero padding of a convolution"),
        ]
    ):
        draw(page, 560, top + i * 34, np.array([[fill]]), 22)
        write(page, text, 594, top + i * 34 + 16)
    path = Path(__file__).with_name("border-states.png")
    cv2.imwrite(str(path), page[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
