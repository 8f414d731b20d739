"""What all tests share."""

import logging
import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # before TensorFlow is imported: workers share the cores
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, "1")

import keras
import numpy as np
import pytest

from patchnet_tf.cli import app
from patchnet_tf.config import load_config
from patchnet_tf.training.train import train

from .small import SMALL


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A configuration that trains in seconds."""
    path = tmp_path_factory.mktemp("configs") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run of four epochs that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(load_config(small), folder)
    return folder


@pytest.fixture(autouse=True)
def _logs():
    """Undo what `patchnet export`, run in this process, silences for its own."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def policy():
    """Set a dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def patchnet(monkeypatch, capsys):
    """Run the command in this process; return its exit code, stdout and stderr."""

    def patchnet(*arguments):
        monkeypatch.setattr(sys, "argv", ["patchnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            app.main()
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return patchnet


def shake(model, rng):
    """Give every weight, biases too, a random value that keeps tanh and sigmoid away from their ends."""
    model.set_weights(
        [
            rng.normal(0, 0.1, w.shape) if w.ndim == 1 else w + rng.normal(0, 0.1, w.shape) * w.std()
            for w in model.get_weights()
        ]
    )
    return model
