"""Inputs that nobody thought of: five minutes of fuzzing by `tests.fuzz`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="needs atheris, which has no packages for some machines")
pytest.importorskip("tritonclient", reason="needs the extra serve")
SECONDS = 60


@pytest.mark.slow
@pytest.mark.parametrize("target", ["decoder", "v1", "v2", "v2_binary", "config"])
def test_nothing_but_documented_errors(target, tmp_path):
    """Each door for a minute; a file with what was found, if anything, stays in the test's folder."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, str(SECONDS), f"-artifact_prefix={tmp_path}/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout[-5000:]
    runs = [line for line in done.stdout.splitlines() if line.startswith("stat::number_of_executed_units:")]
    assert int(runs[0].split()[-1]) > 1000  # it did run
