"""SIGTERM ends a command soon, whatever it does."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import patchnet_tf as pn

from .conftest import shake

ROOT = Path(__file__).parents[1]
BEGUN = "print('begun', flush=True)"
NATIVE = f"""
import hashlib, threading
threading.Timer(0.5, lambda: {BEGUN}).start()  # by then the line below runs
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # some minutes of native code, as a large heatmap
"""
THREAD = f"""
import threading
threading.Thread(target=threading.Event().wait).start()  # Python waits for its end
{BEGUN}
threading.Event().wait()
"""
CLEANED = f"""
import time
try:
    {BEGUN}
    time.sleep(1000)
finally:
    print("cleaned", flush=True)
"""
SWALLOWED = f"""
import time
{BEGUN}
while True:
    try:
        time.sleep(1000)
    except BaseException:  # as code of others does that calls back
        pass
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = shake(pn.PatchNet((None, None, 1), 3, filters=2, depth=1), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("signals") / "cells.onnx"
    pn.export.to_onnx(model, path)
    return path


def start(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, command)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


@contextlib.contextmanager
def ended(process):
    """End a process that is not over by itself."""
    try:
        with process:
            yield
            process.kill()
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("code", "said"),
    [(NATIVE, ""), (THREAD, ""), (CLEANED, "cleaned\n"), (SWALLOWED, "")],
    ids=["native code", "a thread", "cleaning", "swallowed"],
)
def test_a_command_ends(code, said):
    prepare = "from patchnet_tf.cli.app import end_with_sigterm\nend_with_sigterm(0.5)\n"
    process = start("-c", prepare + code)
    with ended(process):
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert process.stdout.read() == said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_ends_while_it_starts(path, workers):
    """At the moment when it has said where it will answer; its workers are only being started then."""
    options = ["--port", 0, "--grpc-port", -1, "--workers", workers]
    process = start("-m", "patchnet_tf.cli", "serve", path, *options)
    with ended(process):
        assert process.stdout.readline().startswith("Serving cells: http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, 143)
        # Whoever holds the other end, as each worker does, is gone too.
        assert process.stdout.read() == ""
