"""A server as its users start it: the command in a process of its own, real sockets."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Served:
    """A running `patchnet serve`.

    Attributes:
        http, grpc: its ports.
        process: the process.
    """

    def __init__(self, model, log, *options, command=()):
        command = [*command, sys.executable, "-m", "patchnet_tf.cli", "serve", str(model), "--name", "cells"]
        if "--port" not in options:
            command += ["--port", "0"]
        if "--grpc-port" not in options:
            command += ["--grpc-port", "0"]
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, *map(str, options)],
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        [serving] = self.wait_for("serving")
        self.http, self.grpc = serving["http"][1], serving["grpc"]

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http}/v1/models/cells"

    def lines(self, message=None):
        """Return the log's lines, or those with one message."""
        found = []
        for line in self._log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if message in (None, line["message"])]

    def wait_for(self, message, count=1, seconds=60):
        """Return the first `count` lines of the log with a message, when they are there."""
        end = time.monotonic() + seconds
        while len(found := self.lines(message)) < count:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        return found[:count]

    def stop(self, sign=signal.SIGTERM):
        """Send a signal and return the exit code."""
        self.process.send_signal(sign)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(model, log, *options, command=()):
    """Serve a model until the end of the block, by a command that runs another, such as `nice`, if any."""
    served = Served(model, log, *options, command=command)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.stop()
