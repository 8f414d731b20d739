"""What a command says: results to stdout; progress, warnings and one-line errors to stderr; the exit code."""

import contextlib
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import rich.table
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import PatchNetError, extra, printable

PLAIN_SECONDS = 15  # between two lines of progress where there is no terminal


@contextlib.contextmanager
def stderr_closed() -> Iterator[None]:
    """Drop what C++ code writes to stderr: TensorFlow greets there, whatever its log level is."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def heavy_imports(needed: str) -> Iterator[None]:
    """Import silently what takes seconds; say which extra to install where a package of it is missing.

    Imports of TensorFlow stand in such a block in each command, so that `--help` and errors in CONFIG are
    answered at once.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr_closed(), extra(needed):
        yield
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of the number of models
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"patchnet_tf\.")
    warnings.showwarning = lambda message, *where, **more: say("warning", str(message))


@contextlib.contextmanager
def one_line_errors(after_interrupt: str = "nothing was lost") -> Iterator[None]:
    """Turn what can go wrong into a line on stderr and the exit code."""
    try:
        yield
    except PatchNetError as error:
        for line in str(error).splitlines():
            say("error", line)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        say("interrupted", after_interrupt)
        raise typer.Exit(130) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say("error", f"{where}{error.strerror or error}")
        raise typer.Exit(1) from None
    except (ArithmeticError, MemoryError) as error:
        say("error", str(error) or "not enough memory")
        raise typer.Exit(1) from None
    except Exception as error:
        # TensorFlow has errors of its own for no memory, and for no room for TensorBoard's files.
        if not type(error).__module__.startswith("tensorflow."):
            raise
        say("error", re.sub(r"^\{\{.*?\}\} ", "", str(error).splitlines()[0]))
        raise typer.Exit(1) from None


def say(kind: str, message: str) -> None:
    """Print one line to stderr."""
    print(f"{kind}: {printable(' '.join(message.split()))}", file=sys.stderr)


class Table(rich.table.Table):
    """A table whose cells may hold names of files and classes."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add cells, which are printable texts or what Rich draws otherwise."""
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def show(table: Table) -> None:
    """Print a table to stdout, with nothing cut off, and its cells as they are: [red] is no colour."""
    for column in table.columns:
        column.overflow = "fold"
    Console(markup=False, emoji=False).print(table)


class Bars(Progress):
    """Progress bars with a line of text below them."""

    text = ""

    def get_renderables(self) -> Iterator[Any]:
        """Return what is drawn."""
        yield self.make_tasks_table(self.tasks)
        yield Text(self.text)


class Reporter:
    """Shows progress: bars on a terminal, otherwise a line now and then.

    An instance is a `patchnet_tf.progress.Progress`.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.1f} of {task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, Any] = {}
        self.first: dict[
            str, tuple[float, float]
        ] = {}  # when each task was first heard of, and how far it was
        self.printed = -PLAIN_SECONDS

    def __enter__(self) -> "Reporter":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def __call__(self, task: str, done: float, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of a task are done."""
        if self.console.is_terminal:
            if task not in self.tasks:
                self.tasks[task] = self.bars.add_task(task)
            self.bars.text = printable(note)
            self.bars.update(self.tasks[task], completed=done, total=total)
            return
        now = time.monotonic()
        began, start = self.first.setdefault(task, (now, done))
        if now - self.printed >= PLAIN_SECONDS or done == total:
            self.printed = now
            left = f"{(now - began) / (done - start) * (total - done):.0f} s left" if done > start else ""
            so_far = f"{done:.1f}" if done % 1 else f"{done:.0f}"
            print(
                "  ".join(filter(None, (task, f"{so_far} of {total}", left, printable(note)))),
                file=sys.stderr,
            )
