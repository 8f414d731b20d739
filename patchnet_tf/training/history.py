"""The epochs of a training and the file that holds them, history.csv; without Keras, for the report."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError, one_line
from ..files import replacing


class Row(NamedTuple):
    """One finished epoch, as in history.csv; `epoch` counts from 1."""

    epoch: int
    seconds: float
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float


def seconds_per_epoch(rows: Sequence[Row]) -> float:
    """Return the median: the first epoch compiles, and a machine has other things to do."""
    return statistics.median(row.seconds for row in rows)


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Write a history.csv."""
    lines = [",".join(map(str, row)) for row in [Row._fields, *rows]]
    with replacing(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_history(path: Path) -> list[Row]:
    """Read a history.csv; there are no epochs where there is none.

    Raises:
        InputError: the file is no history.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        if tuple(head) != Row._fields:
            raise ValueError("its columns are others")
        return [Row(int(row[0]), *map(float, row[1:])) for row in rows]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: not the history of a run ({one_line(error)})") from None
