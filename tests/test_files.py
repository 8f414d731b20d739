import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchnet_tf.config import load_config
from patchnet_tf.data.files import read_rows
from patchnet_tf.errors import InputError, TooLargeError
from patchnet_tf.files import SMALL, holding, read_small, staging, write_array

STAGE = """
import sys
from pathlib import Path
from patchnet_tf.files import staging
with staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("done")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_staged_is_removed_by_the_next(tmp_path):
    target = tmp_path / "model [1]"
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        process.stdout.readline()
        [other] = tmp_path.iterdir()
        with staging(target) as mine:  # the other one still works in its folder
            assert sorted(tmp_path.iterdir()) == sorted([mine, other])
        assert (other / "half").is_file()
        process.kill()
    with staging(target) as mine:
        assert list(tmp_path.iterdir()) == [mine]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_held_once(tmp_path):
    with holding(tmp_path) as held:
        assert held
        with pytest.raises(BlockingIOError), holding(tmp_path):
            pass
    with holding(tmp_path) as held:
        assert held


def test_an_array_that_finds_the_disk_full_says_so(tmp_path, monkeypatch):
    def full(file, array, **_):
        file.write(b"half")
        raise OSError("231424 requested and 27616 written")  # as numpy has it

    monkeypatch.setattr("numpy.save", full)
    with pytest.raises(OSError, match=r"No space left on device.*x\.npy"):
        write_array(tmp_path / "x.npy", np.zeros(3))
    assert not [*tmp_path.iterdir()]


def test_small_files(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"x" * SMALL)
    assert read_small(path) == b"x" * SMALL
    path.write_bytes(b"x" * (SMALL + 1))
    with pytest.raises(TooLargeError, match=f"small: expected at most {SMALL} bytes. Received: {SMALL + 1}"):
        read_small(path)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")


@pytest.mark.parametrize("read", [read_small, load_config, lambda path: list(read_rows(path, ["path"]))])
def test_pipes_and_devices_are_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(InputError, match=f"{path}: not a regular file"):
            read(Path(path))
