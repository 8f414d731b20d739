"""The server for two minutes under all that clients do, by `benchmarks.soak`."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tritonclient", reason="needs the extra serve")


@pytest.mark.slow
def test_every_answer_is_right():
    """It ends with 0 where each answer was equal to the bit and each refusal one that is documented."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--minutes", "2"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counted = dict(
        line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line[:5] in ("equal", "left ")
    )
    assert {what.strip() for what in counted} == {"equal v1", "equal v2", "left"}
    assert all(int(count) > 10 for count in counted.values())
