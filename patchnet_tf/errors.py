"""The errors that are for the person who made them; whoever catches them knows what to do with each kind."""

import contextlib
import unicodedata
from collections.abc import Iterator


class PatchNetError(Exception):
    """What all errors of this package have in common.

    Attributes:
        exit_code: what the command line ends with.
    """

    exit_code = 1


class InputError(PatchNetError, ValueError):
    """What a person gave cannot be used. Each line of the message is one complaint."""

    exit_code = 2


class TooLargeError(InputError):
    """More bytes, pixels or images than the limits allow."""


class FormatError(InputError):
    """A file of a kind that is not read."""


class UnfitError(InputError):
    """What was given can be read, but the model cannot take it."""


class MissingExtraError(PatchNetError, ImportError):
    """A package that an extra of this one brings is not installed."""

    exit_code = 2


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Say what to install where the imports of this block need an extra that is missing.

    Raises:
        MissingExtraError: a package that is not this one could not be imported.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ImportError as error:
        if (error.name or "").split(".")[0] == "patchnet_tf":
            raise
        raise MissingExtraError(f'needs more packages: pip install "patchnet-tf[{name}]" ({error})') from None


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def printable(text: object) -> str:
    r"""Return a text, such as a file's name, as a terminal, a page and a picture can show it.

    Names of files are bytes: those that are no text, and control characters, which would move a terminal's
    cursor or break a line, are written as escapes.

    Example:
        >>> printable("cell\x1b[2J\udcff.png")
        'cell\\x1b[2J\\xff.png'
    """
    shown = str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in shown
    )
