"""The errors that are for the person who made them; whoever catches them knows what to do with each kind."""


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


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
