"""The `patchnet` command."""


def main() -> None:
    """Run it."""
    from . import commands

    commands.main()
