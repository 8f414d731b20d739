"""Several classes and labels: decisions, pooling, maps and training, against numpy and patch by patch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import patchnet_tf as pn
from patchnet_tf.model.dense import tile_side
from patchnet_tf.model.frozen import split_frozen
from patchnet_tf.model.heatmaps import METHODS, Drawing
from patchnet_tf.model.layers import Decision, ExclusiveDecision
from patchnet_tf.model.losses import loss_and_metrics
from patchnet_tf.model.pooling import LogMeanExp, MeanPooling, TopMean

from . import reference
from .conftest import shake

SMALL = {"filters": 4, "depth": 2}
KINDS = {
    "three": ({"classes": 3}, reference.classes),
    "two labels": ({"classes": 2, "multilabel": True}, reference.labels),
    "four labels": ({"classes": 4, "multilabel": True}, reference.labels),
}


def network(**options):
    """A small network of our own, made local: patches of 9 every 2 pixels."""
    image = x = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    x = keras.layers.Conv2D(5, 4, activation="relu", name="last")(x)
    return pn.local_network(keras.Model(image, x), layer="last", hidden=3, **options)


def of_patches(S, image):
    """S on each patch of an image (H, W, C), by itself: (rows, columns, units)."""
    windows = np.lib.stride_tricks.sliding_window_view(image, S.input_shape[1:])[:, :, 0]
    q = S.predict(windows.reshape(-1, *S.input_shape[1:]), verbose=0)
    return q.reshape(*windows.shape[:2], -1)


@given(z=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2))
@settings(deadline=None, max_examples=60)
def test_softmax_of_two_logits_is_the_sigmoid_of_their_difference(z):
    q = np.asarray(ExclusiveDecision()(np.array([z], "float32")))
    expected = np.asarray(Decision()(np.float32(z[1]) - np.float32(z[0])))
    np.testing.assert_allclose(q[0], [1 - expected, expected], atol=1e-6)


def test_softmax_by_hand(rng):
    z = rng.normal(0, 3, (5, 4)).astype("float32")
    powers = np.exp(z.astype("float64"))
    np.testing.assert_allclose(ExclusiveDecision()(z), powers / powers.sum(-1, keepdims=True), atol=1e-6)
    for logits in ([1e4, -1e4, 0, 0], [-1e4] * 3 + [1e4], [60000.0] * 4):
        q = np.asarray(ExclusiveDecision()(tf.constant([logits], "float16")))
        assert q.dtype == "float32"
        assert q.sum() == pytest.approx(1)
        assert q.min() > 1e-6  # e^-13 and less than 1 beside it


@pytest.mark.parametrize("classes", [3, 10, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_average_of_saturated_decisions_keeps_its_gradient(classes, dtype):
    """All patches equally sure and wrong: d loss / d logit is -1 / P at the class, 1 / P at the winner."""
    z = np.zeros((1, 64, classes), dtype)
    z[..., 1] = 1e4
    z = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(z)
        q = MeanPooling()(ExclusiveDecision()(z))
        loss = keras.losses.categorical_crossentropy(np.eye(classes)[[2]], q)
    gradient = tape.gradient(loss, z).numpy()[0] * 64
    np.testing.assert_allclose(gradient[:, 1:3], [[1, -1]] * 64, atol=0.15)
    np.testing.assert_allclose(np.delete(gradient, (1, 2), axis=1), 0, atol=0.01)


@settings(deadline=None, max_examples=40)
@given(r=st.floats(0.5, 100), count=st.integers(1, 30), spread=st.floats(0, 6), seed=st.integers(0, 99))
def test_pooling_of_two_exclusive_classes_is_that_of_one_decision(r, count, spread, seed):
    rng = np.random.default_rng(seed)
    q = np.asarray(Decision()(rng.uniform(-2 * spread, 2 * spread, (3, count, 1)).astype("float32")))
    both = np.concatenate([1 - q, q], axis=2)
    for one, two in (
        (LogMeanExp(r), LogMeanExp(r, exclusive=True)),
        (TopMean(min(r, 1.0)), TopMean(min(r, 1.0), exclusive=True)),
        (MeanPooling(), MeanPooling()),
    ):
        # 1 - Q is rounded to 6e-8, which is 3 % of the smallest Q: the logits, and they alone, feel it.
        atol = 1e-6 if spread < 2 else 1e-3
        np.testing.assert_allclose(two(both)[:, 1:], one(q), atol=atol)


@settings(deadline=None, max_examples=30)
@given(r=st.floats(0.01, 100), count=st.integers(1, 30), seed=st.integers(0, 99))
def test_lse_of_exclusive_classes_by_hand(r, count, seed):
    """(1/r) log mean exp(r log(q_k / q_0)), then softmax, in float64."""
    q = np.random.default_rng(seed).dirichlet([1.0] * 4, (2, count)).astype("float32")
    z = np.log(q.astype("float64") / q[..., :1])
    top = z.max(axis=1, keepdims=True)
    powers = np.exp(top[:, 0] + np.log(np.exp(r * (z - top)).mean(axis=1)) / r)
    powers = np.maximum(powers, powers.max(axis=1, keepdims=True) * np.exp(-13))
    np.testing.assert_allclose(
        LogMeanExp(r, exclusive=True)(q), powers / powers.sum(axis=1, keepdims=True), atol=2e-5
    )


@settings(deadline=None, max_examples=30)
@given(percent=st.integers(1, 100), count=st.integers(1, 30), seed=st.integers(0, 99), known=st.booleans())
def test_topk_of_exclusive_classes_by_hand(percent, count, seed, known):
    """The mean over the patches that are lowest in class 0, whether their number is known or not."""
    q = np.random.default_rng(seed).dirichlet([1.0] * 3, (2, count)).astype("float32")
    k = -(-percent * count // 100)
    expected = [image[np.argsort(image[:, 0], kind="stable")[:k]].mean(axis=0) for image in q]
    layer = TopMean(percent / 100, exclusive=True)
    if not known:
        layer = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 3))])
    np.testing.assert_allclose(layer(q), expected, atol=1e-6)


@pytest.mark.parametrize("layer", [LogMeanExp(4.0), TopMean(0.3)])
def test_labels_are_pooled_one_by_one(layer, rng):
    q = rng.random((2, 7, 3), "float32")
    each = [np.asarray(layer(q[..., k : k + 1])) for k in range(3)]
    np.testing.assert_allclose(layer(q), np.concatenate(each, axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("p", "stride"), [(5, 1), (6, 3), (9, 2)])
def test_decisions_and_maps_are_those_of_numpy(kind, padding, p, stride, rng):
    options, decide = KINDS[kind]
    model = pn.PatchNet((None, None, 2), p, stride=stride, padding=padding, **SMALL, **options)
    shake(model, rng)
    image = rng.integers(0, 256, (11, 14, 2), "uint8")

    expected = reference.decisions(model.get_weights(), image, p, stride, padding=padding, decide=decide)
    assert model.output_shape == (None, model.classes)
    got = model.predict(image[None], verbose=0)[0]
    np.testing.assert_allclose(got, expected.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(
        model.decisions(image[None])[0], expected.reshape(-1, model.classes), atol=1e-5
    )

    expected = reference.decisions(model.get_weights(), image, p, 1, padding=padding, decide=decide)
    for drawn, truth in (("centered", expected), ("averaged", reference.cover_mean(expected, p))):
        maps = pn.heatmap_model(model, kind=drawn, stride=stride)
        got = maps.predict(image[None], verbose=0)
        np.testing.assert_allclose(got[0], truth[::stride, ::stride], atol=1e-5)
        assert maps.compute_output_shape((1, 11, 14, 2)) == got.shape
        assert model.multilabel or np.abs(got.sum(axis=-1) - 1).max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_maps_of_a_local_network_are_patch_by_patch(kind, stride, rng):
    S = network(**KINDS[kind][0])
    images = rng.normal(size=(2, 22, 19, 3)).astype("float32")
    expected = np.array([of_patches(S, image)[::stride, ::stride] for image in images])
    tiled = S.every_patch(stride=stride, memory=1)
    tiled.tile_side = lambda: 4
    for maps in (S.every_patch(stride=stride), tiled):
        np.testing.assert_allclose(maps(images), expected, atol=1e-5)
    chosen = S.every_patch(stride=stride, classes=[1])(images)
    np.testing.assert_allclose(chosen, expected[..., 1:2], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["centered", "averaged"])
def test_maps_of_chosen_classes(method, kind, tmp_path, rng):
    model = shake(pn.PatchNet((None, None, 1), 6, classes=4, **SMALL), rng)
    image = rng.integers(0, 256, (1, 13, 12, 1), "uint8")
    whole = pn.heatmap_model(model, method=method, kind=kind).predict(image, verbose=0)
    some = pn.heatmap_model(model, method=method, kind=kind, classes=[3, 1])
    np.testing.assert_allclose(some.predict(image, verbose=0), whole[..., [3, 1]], atol=1e-6)
    assert some.output_shape == (None, None, None, 2)
    some.save(tmp_path / "some.keras")
    again = pn.load_model(tmp_path / "some.keras")
    np.testing.assert_array_equal(again.predict(image, verbose=0), some.predict(image, verbose=0))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"classes": 3}, {"classes": [3]}),
        ({"classes": 3}, {"classes": [-1]}),
        ({"classes": 3}, {"classes": [1, 1]}),
        ({"classes": 3}, {"classes": []}),
        ({"classes": 3}, {"classes": 1}),
        ({"classes": 3}, {"classes": [0], "kind": "filters"}),
        ({}, {"classes": [0]}),
    ],
)
def test_classes_that_cannot_be_drawn(options, wanted):
    with pytest.raises(ValueError, match=r"`classes` are different numbers.*Received"):
        pn.heatmap_model(pn.PatchNet((20, 20, 1), 6, **SMALL, **options), **wanted)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_tiles_and_strips_do_not_show(padding, monkeypatch, rng):
    monkeypatch.setattr("patchnet_tf.model.heatmaps.STRIP_ROWS", 5)
    monkeypatch.setattr("patchnet_tf.model.dense.tile_side", lambda *_: 4)
    model = shake(pn.PatchNet((None, None, 1), 6, padding=padding, classes=3, **SMALL), rng)
    image = rng.integers(0, 256, (13, 9, 1), "uint8")
    decide = reference.classes
    expected = reference.decisions(model.get_weights(), image, 6, 1, padding=padding, decide=decide)
    maps = pn.heatmap_model(model)
    np.testing.assert_allclose(maps.predict(image[None], verbose=0)[0], expected, atol=1e-5)
    np.testing.assert_allclose(Drawing(maps)(image), expected, atol=1e-5)


def test_many_classes_make_smaller_tiles():
    two, many = (pn.PatchSubnet(9, 1, classes=k, **SMALL) for k in (2, 1000))
    sides = [tile_side(2**24, 9, 1, S) for S in (two, many)]
    assert 1 <= sides[1] < sides[0]
    S = network(), network(classes=1000)
    assert S[1].every_patch(memory=4).tile_side() < S[0].every_patch(memory=4).tile_side()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["mean", "lse", "topk"])
def test_it_comes_back_from_a_file(kind, pooling, tmp_path, rng):
    model = pn.PatchNet((None, None, 1), 6, pooling=pooling, **SMALL, **KINDS[kind][0])
    shake(model, rng).save(tmp_path / "model.keras")
    loaded = pn.load_model(tmp_path / "model.keras")
    assert (loaded.classes, loaded.multilabel) == (model.classes, model.multilabel)
    images = rng.integers(0, 256, (2, 20, 17, 1), "uint8")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


def test_configurations_from_before_there_were_several_classes():
    model = pn.PatchNet((20, 20, 1), 6, **SMALL)
    config = {k: v for k, v in model.get_config().items() if k not in ("classes", "multilabel")}
    assert pn.PatchNet.from_config(config).output_shape == (None, 1)
    for S in (model.subnet, network()):
        config = {k: v for k, v in S.get_config().items() if k not in ("classes", "multilabel")}
        assert type(S).from_config(config).output_shape == (None, 1)


def test_a_given_S_says_what_it_decides_about(tmp_path, rng):
    model = pn.PatchNet((None, None, 3), subnet=network(classes=3))
    assert (model.classes, model.multilabel, model.binary) == (3, False, False)
    assert pn.PatchNet((None, None, 3), subnet=network(classes=2, multilabel=True)).multilabel

    patch = x = keras.Input((6, 6, 1))
    x = keras.layers.Dense(5, activation="softmax")(keras.layers.Flatten()(x))
    S = keras.Model(patch, x)
    model = pn.PatchNet((None, None, 1), subnet=S, classes=5)
    model.save(tmp_path / "model.keras")
    loaded = pn.load_model(tmp_path / "model.keras")
    image = rng.integers(0, 256, (1, 13, 15, 1), "uint8")
    patches = reference.same_patches(image[0] / 255, 6, 6)
    expected = S.predict((patches.reshape(-1, 6, 6, 1) - 0.5) / 0.25, verbose=0).mean(axis=0)
    np.testing.assert_allclose(loaded.predict(image, verbose=0)[0], expected, atol=1e-5)
    assert pn.heatmap_model(loaded).predict(image, verbose=0).shape == (1, 13, 15, 5)
    assert pn.PatchNet((None, None, 1), subnet=S, classes=5, multilabel=True).multilabel

    for subnet, options in (
        (S, {}),
        (S, {"classes": 4}),
        (network(classes=3), {"classes": 2}),
        (network(classes=3), {"multilabel": True}),
    ):
        with pytest.raises(ValueError, match=r"`subnet` must be one to decisions \(None, \d\).*Received"):
            pn.PatchNet((None, None, subnet.input_shape[3]), subnet=subnet, **options)


@pytest.mark.parametrize("classes", [1, 0, 1001, 2.0, "3", True])
def test_bad_numbers_of_classes(classes):
    for make in (pn.PatchSubnet, lambda p, **options: pn.PatchNet((20, 20, 3), p, **options)):
        for multilabel in (False, True):
            with pytest.raises(ValueError, match=r"`classes` must be.*Received"):
                make(6, classes=classes, multilabel=multilabel)


def test_the_parts_of_a_frozen_network_are_the_whole(rng):
    for options, _ in KINDS.values():
        model = pn.PatchNet((None, None, 3), subnet=network(**options), pooling="lse")
        first, rest = split_frozen(model)
        images = rng.integers(0, 256, (2, 21, 24, 3), "uint8")
        got = rest.predict(first.predict(images, verbose=0), verbose=0)
        np.testing.assert_allclose(got, model.predict(images, verbose=0), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("pooling", ["mean", "lse", "topk"])
def test_training_recovers_from_a_sure_and_wrong_start(pooling, dtype, policy, rng):
    """All decisions saturated at class 1, the truth being 2: dL/db is (0, 1, -1) in exact arithmetic."""
    policy(dtype)
    model = pn.PatchNet((20, 20, 1), 6, pooling=pooling, classes=3, **SMALL)
    weights = model.get_weights()
    weights[-1][:] = (0, 60, 0)
    model.set_weights(weights)
    images = rng.uniform(0, 255, (4, 20, 20, 1)).astype("float32")
    with tf.GradientTape() as tape:
        q = model(images, training=True)
        loss = tf.reduce_mean(keras.losses.categorical_crossentropy(np.eye(3)[[2] * 4], q))
    gradient = tape.gradient(loss, model.subnet.unit.bias.value)
    np.testing.assert_allclose(gradient, [0, 1, -1], atol=0.15)
    assert model.with_dtype("mixed_float16").predict(images, verbose=0).shape == (4, 3)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_loss_and_accuracy_by_hand(kind, rng):
    options = KINDS[kind][0] if kind else {}
    model = shake(pn.PatchNet((12, 12, 1), 6, **SMALL, **options), rng)
    model.compile("sgd", **loss_and_metrics(model))
    images = rng.integers(0, 256, (6, 12, 12, 1), "uint8")
    q = model.predict(images, verbose=0).astype("float64")
    if model.binary or model.multilabel:
        targets = rng.integers(0, 2, q.shape).astype("float32")
        loss = -np.log(np.where(targets == 1, q, 1 - q)).mean()
        accuracy = ((q > 0.5) == targets).mean()
    else:
        labels = rng.integers(0, 3, 6)
        targets = np.eye(3, dtype="float32")[labels]
        loss = -np.log(q[np.arange(6), labels]).mean()
        accuracy = (q.argmax(axis=1) == labels).mean()
    logs = model.evaluate(images, targets, verbose=0, return_dict=True)
    assert logs == {"loss": pytest.approx(loss, abs=1e-5), "accuracy": pytest.approx(accuracy, abs=1e-6)}
    assert set(model.fit(images, targets, verbose=0).history) == {"loss", "accuracy"}
