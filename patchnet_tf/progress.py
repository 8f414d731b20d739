"""How a long task says how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Is told how far a task is: `done` of `total` steps, and a few words about the last one."""

    def __call__(self, task: str, done: float, total: int, note: str = "") -> None:
        """Show it."""
        ...


def silent(task: str, done: float, total: int, note: str = "") -> None:
    """Ignore progress."""
