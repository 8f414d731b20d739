import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import patchnet_tf as pn
from patchnet_tf.model.pooling import LogMeanExp, MeanPooling, TopMean, make_pooling
from patchnet_tf.studies.convergence import fit, measure, patch_images

SMALL = {"filters": 4, "depth": 2}


@settings(deadline=None, max_examples=40)
@given(r=st.floats(0.01, 100), count=st.integers(1, 50), spread=st.floats(0, 12), seed=st.integers(0, 99))
def test_lse_by_hand(r, count, spread, seed):
    """(1/r) log mean exp(r z) in float64, between the mean and the largest of the logits."""
    z = np.random.default_rng(seed).uniform(-spread, spread, (2, count, 1))
    q = (1 / (1 + np.exp(-z))).astype("float32")
    z = np.log(q.astype("float64") / (1 - q.astype("float64")))
    top = z.max(axis=1, keepdims=True)
    pooled = top[:, 0] + np.log(np.exp(r * (z - top)).mean(axis=1)) / r
    np.testing.assert_allclose(LogMeanExp(r)(q), 1 / (1 + np.exp(-pooled)), atol=2e-5)
    assert (pooled >= z.mean(axis=1) - 1e-9).all()
    assert (pooled <= z.max(axis=1) + 1e-9).all()


def test_mean_by_hand(rng):
    q = rng.random((3, 7, 1), "float32")
    np.testing.assert_allclose(MeanPooling()(q), q.mean(axis=1), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(percent=st.integers(1, 100), count=st.integers(1, 50), seed=st.integers(0, 99), known=st.booleans())
def test_topk_by_hand(percent, count, seed, known):
    """The mean of the highest, whether the number of patches is known beforehand or not."""
    q, share = np.random.default_rng(seed).random((3, count, 1), "float32"), percent / 100
    k = -(-percent * count // 100)
    expected = np.sort(q, axis=1)[:, count - k :].mean(axis=1)
    layer = TopMean(share)
    if not known:
        layer = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 1))])
    np.testing.assert_allclose(layer(q), expected, atol=1e-6)


@pytest.mark.parametrize(("share", "p0"), [(0.5, 1 / 3), (0.125, 0.0)])
def test_topk_converges_to_its_closed_form(share, p0):
    """2 of 16 patches are white: n = 8 gives (8 - 4) / 12, n = 2 the zero."""
    images = patch_images(4, 2, 8)
    small = {"patch_size": 8, "filters": 8, "depth": 3}
    model = fit(images, steps=300, learning_rate=1e-2, pooling="topk", share=share, **small)
    decisions = measure(model, images[1])
    assert decisions.p0 == pytest.approx(p0, abs=0.02)
    assert decisions.p1 == pytest.approx(1, abs=0.02)


def test_certain_decisions_stay_finite():
    for r in (0.01, 4.0, 100.0):
        pooled = np.asarray(
            LogMeanExp(r)(np.array([[[0.0], [1.0]], [[1.0], [1.0]], [[0.0], [0.0]]], "float32"))
        )
        assert np.isfinite(pooled).all()
        assert pooled[2, 0] < 0.01 < 0.99 < pooled[1, 0]


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("pooling", ["mean", "lse", "topk"])
def test_fit_recovers_from_a_sure_and_wrong_start(pooling, dtype, policy, rng):
    """All decisions saturated at the wrong class: dL/db is 1 in exact arithmetic."""
    policy(dtype)
    model = pn.PatchNet((20, 20, 1), 6, pooling=pooling, **SMALL)
    weights = model.get_weights()
    weights[-1][:] = 60
    model.set_weights(weights)
    images = rng.uniform(0, 255, (4, 20, 20, 1)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            keras.losses.binary_crossentropy(np.zeros((4, 1)), model(images, training=True))
        )
    assert float(tape.gradient(loss, model.subnet.unit.bias.value)[0]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("r", [0.5, 8.0])
def test_G_pools_the_decisions_that_it_shows(r, rng):
    model = pn.PatchNet((20, 23, 1), 6, stride=3, pooling="lse", sharpness=r, **SMALL)
    images = rng.uniform(0, 255, (2, 20, 23, 1)).astype("float32")
    q = np.asarray(model.decisions(images), "float64")
    z = np.log(q / (1 - q))
    expected = 1 / (1 + np.exp(-np.log(np.exp(r * z).mean(axis=1)) / r))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)


def test_pooling_comes_back_from_a_file(tmp_path, rng):
    model = pn.PatchNet((None, None, 1), 6, pooling="lse", sharpness=2.5, **SMALL)
    model.save(tmp_path / "model.keras")
    loaded = pn.load_model(tmp_path / "model.keras")
    assert loaded.pooling.sharpness == 2.5
    images = rng.uniform(0, 255, (2, 20, 20, 1)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


@pytest.mark.parametrize(
    "bad",
    [
        ("max", 4.0, 0.1),
        ("lse", 0.0, 0.1),
        ("lse", 101.0, 0.1),
        ("lse", float("nan"), 0.1),
        ("lse", "4", 0.1),
        ("topk", 4.0, 0.0),
        ("topk", 4.0, 1.1),
        ("topk", 4.0, None),
    ],
)
def test_bad_pooling(bad):
    with pytest.raises(ValueError, match="Received"):
        make_pooling(*bad)
