"""Training on the features of a frozen network: the same as training through the network."""

import keras
import numpy as np
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.data import Examples, load_dataset
from patchnet_tf.data.batches import Batches
from patchnet_tf.errors import InputError
from patchnet_tf.model.frozen import split_frozen
from patchnet_tf.progress import silent
from patchnet_tf.training import train as training
from patchnet_tf.training.build import build
from patchnet_tf.training.features import FeatureBatches
from patchnet_tf.training.run import open_run

LOCAL = """
name: local
data: {kind: textures, size: 40, train: 6, val: 4, collages: 2, collage_size: 48}
model: {patch_size: 19, border: reflect, pooling: lse, subnet: {kind: pretrained, weights: null, hidden: 8}}
training: {epochs: 3, learning_rate: 1e-2, flips: true, seed: 1, stop_when_accurate: false}
"""


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "local.yaml"
    path.write_text(LOCAL)
    return path


def network(**options):
    """A small network of our own, made local: patches of 7 every 2 pixels."""
    image = x = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    x = keras.layers.Conv2D(5, 3, activation="relu", name="last")(x)
    return pn.local_network(keras.Model(image, x), layer="last", hidden=3, **options)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 4, "crop": (15, 18)}, {"border": "reflect", "pooling": "lse"}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_two_parts_are_the_whole(options, channels, rng):
    model = pn.PatchNet((None, None, channels), subnet=network(), **options)
    first, rest = split_frozen(model)
    images = rng.integers(0, 256, (3, 21, 24, channels), "uint8")
    np.testing.assert_allclose(
        rest.predict(first.predict(images, verbose=0), verbose=0), model.predict(images, verbose=0), atol=1e-6
    )
    assert [w.path for w in rest.trainable_weights] == [w.path for w in model.trainable_weights]


def test_what_is_not_frozen_is_not_split():
    S = network()
    assert split_frozen(pn.PatchNet((None, None, 3), subnet=S, stride=3)) is None  # not on S's grid
    S.body.trainable = True
    assert split_frozen(pn.PatchNet((None, None, 3), subnet=S)) is None
    assert split_frozen(pn.PatchNet((None, None, 3), 7, filters=2, depth=1)) is None


@pytest.mark.parametrize(
    "options", [{}, {"flips": True}, {"rotations": True}, {"flips": True, "balanced": True}]
)
@pytest.mark.parametrize("memory", [1024, 1e-4])
def test_features_of_the_batches(options, memory, rng, tmp_path):
    """In every epoch they are those of the images that `Batches` gives, from memory or from a file."""
    examples = Examples(rng.integers(0, 256, (11, 12, 15, 1), "uint8"), np.array([0] * 4 + [1] * 7))
    first, _ = split_frozen(pn.PatchNet((None, None, 1), subnet=network()))
    batches, features = (kind(examples, 4, 3, **options) for kind in (Batches, FeatureBatches))
    told = []
    features.compute(first, tmp_path, memory, lambda task, done, total: told.append((done, total)))
    assert isinstance(features.features, np.memmap) == (memory < 1)
    assert list(tmp_path.iterdir()) == []
    assert told[-1] == (len(features.ways) * 11,) * 2
    for epoch in range(3):
        batches.epoch = features.epoch = epoch
        assert len(features) == len(batches)
        for k in range(len(batches)):
            (images, labels), (given, same_labels) = batches[k], features[k]
            np.testing.assert_allclose(given, first.predict(images, verbose=0), atol=1e-5)
            np.testing.assert_array_equal(same_labels, labels)


def test_the_history_is_that_of_the_whole_model(local, tmp_path, monkeypatch):
    """And the whole model has what the head has learned."""
    kept = training.train(load_config(local), tmp_path / "kept")
    monkeypatch.setattr(training, "frozen_network", lambda *arguments: None)
    whole = training.train(load_config(local), tmp_path / "whole")
    for a, b in zip(kept.rows, whole.rows, strict=True):
        np.testing.assert_allclose(a[2:], b[2:], atol=1e-3)
    (_, a), (_, b) = open_run(tmp_path / "kept"), open_run(tmp_path / "whole")
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_a_run_that_was_cut_off_goes_on(local, tmp_path):
    straight = training.train(load_config(local), tmp_path / "straight")
    training.train(load_config(local, ["training.epochs=1"]), tmp_path / "twice")
    resumed = training.train(load_config(local), tmp_path / "twice", resume=True)
    assert [row[2:] for row in resumed.rows] == [row[2:] for row in straight.rows]
    (_, a), (_, b) = open_run(tmp_path / "straight"), open_run(tmp_path / "twice")
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("tuned", [False, True])
def test_fine_tuning_trains_the_network_and_freezing_does_not(tuned, local, tmp_path):
    changes = [
        f"model.subnet.fine_tune={str(tuned).lower()}",
        "training.epochs=1",
        "model.subnet.dropout=0.5",
    ]
    config = load_config(local, [*changes, "training.weight_decay=0.01"])
    keras.utils.set_random_seed(1)
    before = build(config, load_dataset(config)).subnet.body
    training.train(config, tmp_path / "run")
    after = open_run(tmp_path / "run")[1].subnet.body
    same = [np.array_equal(a, b) for a, b in zip(before.get_weights(), after.get_weights(), strict=True)]
    statistics = [w.path.endswith(("moving_mean", "moving_variance")) for w in after.weights]
    assert all(same) or tuned
    assert not any(s for s, statistic in zip(same, statistics, strict=True) if not statistic) or not tuned
    assert all(s for s, statistic in zip(same, statistics, strict=True) if statistic)  # frozen in both


def test_snapshots_are_drawn_by_the_whole_model(local, tmp_path):
    config = load_config(local, ["training.epochs=1", "training.snapshot_every=1"])
    training.train(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run" / "heatmaps").iterdir()} >= {
        "epoch_0000.png",
        "epoch_0001.png",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.patch_size=24", "model: patch_size: the nearest that this network has is 19. Received: 24"),
        ("model.patch_size=2", "model: The smallest patch"),
        ("model.subnet.network=nonet", "model: A network is"),
        ("model.subnet.weights=no.pth", "no.pth"),
        ("model.subnet.hidden=-1", "model.subnet.hidden: expected a whole number from 0"),
        ("model.subnet.depth=3", "model.subnet.depth: unknown key"),
    ],
)
def test_bad_configurations_are_one_line(change, message, local):
    def make():
        config = load_config(local, [change])
        build(config, load_dataset(config, silent))

    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
