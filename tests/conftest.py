"""What all tests share."""

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def policy():
    """Set a dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def shake(model, rng):
    """Give every weight, biases too, a random value that keeps tanh and sigmoid away from their ends."""
    model.set_weights(
        [
            rng.normal(0, 0.1, w.shape) if w.ndim == 1 else w + rng.normal(0, 0.1, w.shape) * w.std()
            for w in model.get_weights()
        ]
    )
    return model
