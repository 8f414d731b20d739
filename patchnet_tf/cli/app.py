"""The Typer application and the program that runs it.

Results go to stdout; progress, warnings and one-line errors to stderr. Exit codes: 0, all went well; 1, it
failed; 2, the input cannot be used; 130, interrupted.
"""

import functools
import os
import signal
import sys
import threading
import time

import typer

from . import exporting, inspecting, serving, studying, training
from .console import say

UsageError = typer.BadParameter.__mro__[1]  # of click or of typer's own copy of it, as the version has it

app = typer.Typer(
    name="patchnet",
    add_completion=False,
    rich_markup_mode="markdown",  # whose paragraphs are filled to the width of the terminal
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="PatchNet: image classification whose explanation is exact. A small network decides about each "
    "patch of an image; the image's class is the average of those decisions, their map is the explanation.",
    epilog="Start with `patchnet demo`: two minutes, no data needed.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data sets.")

for _command in (  # in the order of `patchnet --help`
    training.train,
    inspecting.evaluate,
    inspecting.explain,
    inspecting.report,
    exporting.export,
    exporting.verify,
    serving.serve,
    training.demo,
    studying.convergence,
    studying.tradeoff,
    studying.compare,
):
    app.command()(_command)
app.add_typer(data_app, name="data")
data_app.command("check")(inspecting.data_check)


def main() -> None:
    """Run the command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):  # which may be ASCII, as of a job without a locale
        stream.reconfigure(errors="backslashreplace")
    end_with_sigterm()
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        if message := error.format_message():  # empty where no command was given: help is shown instead
            say("error", message)
        code = 2
    sys.exit(code or 0)


@functools.cache
def end_with_sigterm(seconds: float = 5.0) -> None:
    """Let SIGTERM clean up what is half done and exit with 143, or only exit, where that takes longer.

    Python does nothing about a signal before the native code that runs, TensorFlow's or ONNX Runtime's,
    returns, which may be minutes later. But the signal's number is written to a file at once, and another
    thread reads it there.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(reading, 1) != bytes([signal.SIGTERM]):
            pass
        time.sleep(seconds)
        os._exit(143)

    threading.Thread(target=wait, daemon=True).start()
