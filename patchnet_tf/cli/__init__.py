"""The `patchnet` command."""


def main() -> None:
    """Run it."""
    from . import app

    app.main()
