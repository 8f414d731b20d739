import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.files import holding
from patchnet_tf.training.run import open_run
from patchnet_tf.training.train import ended, train

from .small import SMALL, history

ROOT = Path(__file__).parents[1]


def test_run_folder(run, small):
    assert {f.name for f in run.iterdir()} == {
        "config.yaml",
        "checkpoint.npz",
        "history.csv",
        "identity.json",
        "model.keras",
        "tensorboard",
    }
    config = load_config(run / "config.yaml")
    assert config == load_config(small)
    rows = np.array(history(run), float)
    assert rows[:, 0].tolist() == [1, 2, 3, 4]
    assert np.isfinite(rows).all()
    # The model has the weights of the epoch with the lowest validation loss.
    data = load_dataset(config)
    model = pn.load_model(run / "model.keras")
    q = model.predict(data.val.images, verbose=0)[:, 0].astype("float64")
    loss = -np.mean(np.where(data.val.labels == 1, np.log(q), np.log(1 - q)))
    assert loss == pytest.approx(rows[:, 3].min(), abs=1e-5)


def test_kill_in_the_middle_of_an_epoch_and_resume(run, small, tmp_path):
    kill_in_epoch_3 = """
import os, signal, sys
from patchnet_tf.config import load_config
from patchnet_tf.training.train import train

def kill(task, done, total, note=""):
    if done > 2.4:
        os.kill(os.getpid(), signal.SIGKILL)

train(load_config(sys.argv[1]), sys.argv[2], progress=kill)
"""
    folder = tmp_path / "cut"
    killed = subprocess.run(
        [sys.executable, "-c", kill_in_epoch_3, small, folder], cwd=ROOT, capture_output=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(history(folder)) == 2
    with pytest.raises(InputError, match="has not finished"):
        evaluate(folder)
    with pytest.raises(InputError, match="--resume continues it"):
        train(load_config(small), folder)

    seen = []
    trained = train(
        load_config(small), folder, resume=True, progress=lambda task, done, *_: seen.append(done)
    )
    assert 2 < seen[0] < 3
    assert [row.epoch for row in trained.rows] == [1, 2, 3, 4]
    # Another process, and yet the very same losses as the run that nothing interrupted.
    assert history(folder) == history(run)


def test_two_trainings_in_one_folder(run, small, tmp_path):
    """One that is killed holds its folder no longer: see the test above."""
    with holding(run), pytest.raises(InputError, match="another training writes there; choose another --out"):
        train(load_config(small), run, resume=True)
    (tmp_path / "new").mkdir()
    with holding(tmp_path / "new"), pytest.raises(InputError, match="another training writes there"):
        train(load_config(small), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_resume_a_finished_run_with_more_epochs(small, tmp_path):
    folder = tmp_path / "more"
    first = train(load_config(small, ["training.epochs=1"]), folder)
    assert first.reason == "the only epoch is done"
    again = train(load_config(small, ["training.epochs=1"]), folder, resume=True)
    assert again == first
    more = train(load_config(small, ["training.epochs=2"]), folder, resume=True)
    assert more.rows[0] == first.rows[0]
    assert len(more.rows) == 2
    with pytest.raises(InputError, match=r"another model.subnet.depth, training.seed; choose another --out"):
        train(load_config(small, ["model.subnet.depth=3", "training.seed=5"]), folder, resume=True)


def test_resume_with_all_augmentation(small, tmp_path):
    """Two epochs at once are those of one epoch and its resumption."""
    options = ["training.rotations=true", "training.zoom=1.2", "training.balanced=true"]
    for folder, epochs in (("once", 2), ("twice", 1), ("twice", 2)):
        config = load_config(small, [*options, f"training.epochs={epochs}"])
        train(config, tmp_path / folder, resume=True)
    assert history(tmp_path / "once") == history(tmp_path / "twice")
    plain = load_config(small, ["training.epochs=1"])
    train(plain, tmp_path / "plain")
    assert history(tmp_path / "plain")[0] != history(tmp_path / "once")[0]


def test_convergence_ends_a_run_for_good(small, tmp_path):
    """A learning rate of almost nothing never improves enough to last."""
    overrides = ["training.patience=1", "training.learning_rate=1e-30"]
    config = load_config(small, overrides)
    trained = train(config, tmp_path / "stuck")
    assert trained.reason == "validation loss has not improved for 1 epochs"
    assert [row.epoch for row in trained.rows] == [1, 2]
    assert trained.best.epoch == 1
    assert train(config, tmp_path / "stuck", resume=True) == trained


def test_folders_that_are_no_runs(small, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").touch()
    with pytest.raises(InputError, match=r"full: not empty, and not a run"):
        train(load_config(small), tmp_path / "full", resume=True)
    with pytest.raises(InputError, match=r"precious.txt: not a folder"):
        train(load_config(small), tmp_path / "full" / "precious.txt")
    for folder in (tmp_path / "full", tmp_path / "none"):
        with pytest.raises(InputError, match="not a run folder"):
            evaluate(folder)


def test_damaged_runs(run, small, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.yaml").write_text(SMALL)
    (folder / "model.keras").write_text("no zip")
    with pytest.raises(InputError, match=r"model.keras: not a model .*damaged or truncated") as caught:
        evaluate(folder)
    assert "\n" not in str(caught.value)
    (folder / "config.yaml").write_text(
        SMALL.replace("kind: textures,", "kind: textures, classes: [brick, gravel],")
    )
    checkpoint = folder / "checkpoint.npz"
    whole = (run / "checkpoint.npz").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - b for b in whole[middle : middle + 9]) + whole[middle + 9 :]
    for content in (b"no archive", b"", whole[:middle], flipped):
        checkpoint.write_bytes(content)
        with pytest.raises(InputError) as caught:
            train(load_config(small), folder, resume=True)
        assert str(caught.value) == f"{checkpoint}: not the checkpoint of this run, or damaged"


def test_a_run_that_has_ended_is_only_read(small, tmp_path):
    config, folder = load_config(small, ["training.epochs=2"]), tmp_path / "run"
    data = load_dataset(config)
    assert ended(config, folder, data) is None
    first = train(config, folder)
    assert history(folder) == history_of(first)
    stamp = (folder / "model.keras").stat().st_mtime_ns
    assert ended(config, folder, data) == first
    assert ended(load_config(small, ["training.epochs=1"]), folder, data) == first
    assert (folder / "model.keras").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match=r"another training.seed"):
        ended(load_config(small, ["training.seed=9"]), folder, data)
    longer = load_config(small, ["training.epochs=3"])
    assert ended(longer, folder, data) is None
    more = train(longer, folder, resume=True)
    assert more.rows[:2] == first.rows
    assert len(more.rows) == 3
    assert (folder / "model.keras").stat().st_mtime_ns > stamp


def history_of(trained):
    return [[str(v) for k, v in enumerate(row) if k != 1] for row in trained.rows]


def test_more_epochs_take_the_old_model_away(small, tmp_path):
    """A run that goes on and is cut off has not finished."""
    train(load_config(small, ["training.epochs=1"]), tmp_path)

    def cut(task, done, total, note=""):
        if done > 1.4:
            raise KeyboardInterrupt

    config = load_config(small, ["training.epochs=2"])
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path, resume=True, progress=cut)
    with pytest.raises(InputError, match="has not finished"):
        open_run(tmp_path)
    assert len(train(config, tmp_path, resume=True).rows) == 2


def test_divergence(small, tmp_path):
    config = load_config(small, ["training.learning_rate=1e38"])
    with pytest.raises(FloatingPointError, match=r"try a smaller training.learning_rate"):
        train(config, tmp_path / "wild")
    # No epoch was finished, so other settings may have the folder.
    assert {f.name for f in (tmp_path / "wild").iterdir()} == {"config.yaml", "tensorboard"}
    trained = train(load_config(small, ["training.epochs=1"]), tmp_path / "wild")
    assert len(trained.rows) == 1
    with pytest.raises(InputError, match="holds a run already"):
        train(config, tmp_path / "wild")


def test_a_persons_config_is_not_replaced(small, tmp_path):
    (tmp_path / "config.yaml").write_text(f"# Mine.\n{SMALL}")
    with pytest.raises(InputError, match="holds a run already"):
        train(load_config(small), tmp_path)
    assert (tmp_path / "config.yaml").read_text().startswith("# Mine.")


def test_no_space_left(run, small, tmp_path, monkeypatch):
    """The disk is full in the middle of a checkpoint: the last one stays, and no part of the new one."""
    savez, saved = np.savez, []

    def full(file, **arrays):
        saved.append(len(arrays["history"]))
        if len(saved) == 3:
            file.write(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="No space left"):
            train(load_config(small), tmp_path / "full")
    assert {f.name for f in (tmp_path / "full").iterdir()} == {
        "config.yaml",
        "checkpoint.npz",
        "history.csv",
        "tensorboard",
    }
    train(load_config(small), tmp_path / "full", resume=True)
    assert history(tmp_path / "full") == history(run)
