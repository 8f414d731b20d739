import json

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import patchnet_tf as pn
from patchnet_tf.images import pictures
from patchnet_tf.training.callbacks import Convergence, HeatmapSnapshots


class Recorded(keras.utils.PyDataset):
    """Batches of four, shuffled by Keras."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 4

    def __getitem__(self, i):
        return self.x[4 * i : 4 * i + 4], self.y[4 * i : 4 * i + 4]


def fed(kind, x, y):
    """The arguments that feed `fit` in each of the ways it takes data."""
    match kind:
        case "arrays":
            return {"x": x, "y": y, "batch_size": 4}
        case "PyDataset":
            return {"x": Recorded(x, y)}
        case "tf.data":
            # Keras 3.15 warns of its own default, shuffle=True.
            return {"x": tf.data.Dataset.from_tensor_slices((x, y)).shuffle(8).batch(4), "shuffle": False}


def patchnet(metrics=("accuracy",)):
    keras.utils.set_random_seed(1)
    flip = keras.layers.RandomFlip("horizontal", seed=3)
    model = pn.PatchNet((12, 10, 1), 5, filters=4, depth=2, preprocessing=[flip])
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=list(metrics))
    return model


@pytest.fixture
def data(rng):
    """Bright images are class 1."""
    y = np.tile([0, 1], 4).astype("float32")[:, None]
    x = rng.uniform(0, 120, (8, 12, 10, 1)) + 130 * y[..., None, None]
    return x.astype("float32"), y


KINDS = ["arrays", "PyDataset", "tf.data"]


class Script:
    """Drives a callback by logs of our own; after epoch e the only weight is e + 1."""

    def __init__(self, callback):
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        self.callback = callback
        callback.set_model(self.model)

    def run(self, *logs, first=0):
        """Return the number of epochs that ran and the weight at the end."""
        self.model.stop_training = False
        self.callback.on_train_begin()
        ran = 0
        while ran < len(logs) and not self.model.stop_training:
            self.model.set_weights([np.full((1, 1), first + ran + 1.0)])
            self.callback.on_epoch_end(first + ran, logs[ran])
            ran += 1
        self.callback.on_train_end()
        return ran, float(self.model.get_weights()[0][0, 0])


def losses(*values, accuracy=0.5):
    return [{"val_loss": value, "accuracy": accuracy} for value in values]


def test_stops_when_validation_loss_has_not_improved_for_patience_epochs(capsys):
    callback = Convergence(patience=3)
    # 0.5 at the fourth epoch equals the best, which is no improvement.
    assert Script(callback).run(*losses(0.9, 0.5, 0.7, 0.5, 0.6, 0.4, 0.1)) == (5, 2)
    assert callback.reason == "validation loss has not improved for 3 epochs"
    assert capsys.readouterr().out == (
        "Converged after epoch 5: validation loss has not improved for 3 epochs. "
        "Restored the weights of epoch 2, val_loss 0.5.\n"
    )


@pytest.mark.parametrize("key", ["accuracy", "acc", "binary_accuracy"])
def test_stops_at_full_training_accuracy(key, capsys):
    logs = [{"val_loss": v, key: a} for v, a in ((0.3, 0.9), (0.2, 0.999), (0.4, 1.0), (0.1, 1.0))]
    callback = Convergence(patience=10)
    assert Script(callback).run(*logs) == (3, 2)
    assert callback.reason == "training accuracy is 100 %"
    assert capsys.readouterr().out.startswith("Converged after epoch 3: training accuracy is 100 %. Rest")


def test_full_training_accuracy_can_be_passed_over():
    logs = [{"val_loss": v, "accuracy": 1.0} for v in (0.3, 0.2, 0.4, 0.1)]
    callback = Convergence(patience=10, accuracy=False)
    assert Script(callback).run(*logs) == (4, 4)
    assert callback.reason is None


def test_the_best_weights_come_back_when_epochs_run_out(capsys):
    callback = Convergence(patience=10)
    assert Script(callback).run(*losses(0.9, 0.5, 0.7)) == (3, 2)
    assert callback.reason is None
    assert capsys.readouterr().out.startswith("Not converged. Restored the weights of epoch 2")


def test_verbose_0_prints_nothing(capsys):
    Script(Convergence(patience=1, verbose=0)).run(*losses(0.9, 0.95))
    assert capsys.readouterr().out == ""


def test_a_loss_of_nan_is_no_improvement():
    callback = Convergence(patience=2, verbose=0)
    assert Script(callback).run(*losses(np.nan, 0.5, np.nan, np.nan, 0.1)) == (4, 2)
    assert Script(callback).run(*losses(np.nan, np.nan, 0.1)) == (2, 2)  # nothing to restore
    assert callback.get_state()["best_val_loss"] is None


def test_a_callback_can_be_used_again():
    callback = Convergence(patience=2, verbose=0)
    script = Script(callback)
    script.run(*losses(0.1, 0.2, 0.3))
    assert script.run(*losses(0.9, 0.8)) == (2, 2)
    assert callback.reason is None


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_resumed_training_ends_as_an_uninterrupted_one(cut):
    logs = losses(0.9, 0.5, 0.7, 0.8, 0.6, 0.4)
    whole = Convergence(patience=3, verbose=0)
    expected = Script(whole).run(*logs)

    before = Convergence(patience=3, verbose=0)
    Script(before).run(*logs[:cut])
    state = json.loads(json.dumps(before.get_state(), allow_nan=False))
    after = Convergence(patience=3, verbose=0)
    after.set_state(state, before.best_weights)
    assert after.get_state() == state
    ran, weight = Script(after).run(*logs[cut:], first=cut)
    assert (cut + ran, weight) == expected
    assert after.get_state() == whole.get_state()


def test_resumed_without_best_weights_restores_only_a_better_epoch():
    state = {"best_val_loss": 0.5, "best_epoch": 1, "wait": 0, "reason": None}
    for logs, weight in ((losses(0.7, 0.8), 4), (losses(0.4, 0.8), 3)):
        callback = Convergence(patience=10, verbose=0)
        callback.set_state(state)
        assert Script(callback).run(*logs, first=2) == (2, weight)


def test_a_state_with_other_keys_is_refused():
    with pytest.raises(ValueError, match=r"best_val_loss.*Received: state="):
        Convergence().set_state({"wait": 3})


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, None])
def test_patience_is_a_positive_whole_number(bad):
    with pytest.raises(ValueError, match="Received: patience="):
        Convergence(patience=bad)


@pytest.mark.parametrize("kind", KINDS)
def test_convergence_in_fit(kind, data):
    model = patchnet()
    callback = Convergence(patience=200, verbose=0)
    history = model.fit(
        **fed(kind, *data), validation_data=data, epochs=60, callbacks=[callback], verbose=0
    ).history
    assert callback.reason == "training accuracy is 100 %"
    assert history["accuracy"][-1] == 1
    assert max(history["accuracy"][:-1], default=0) < 1
    best = min(history["val_loss"])
    assert callback.get_state()["best_val_loss"] == best
    assert model.evaluate(*data, verbose=0)[0] == pytest.approx(best, rel=1e-4)


def test_without_validation_data_accuracy_stops_and_the_last_weights_stay(data):
    model = patchnet()
    callback = Convergence(verbose=0)
    with pytest.warns(UserWarning, match="Pass `validation_data`") as caught:
        history = model.fit(*data, epochs=60, batch_size=4, callbacks=[callback], verbose=0).history
    assert len(caught) == 1
    assert callback.reason == "training accuracy is 100 %"
    assert callback.best_weights is None
    assert history["accuracy"][-1] == 1


def test_without_anything_to_watch_the_first_epoch_says_so(data):
    model = patchnet(metrics=())
    with pytest.raises(ValueError, match=r"validation_data.*Received: logs with loss"):
        model.fit(*data, epochs=3, callbacks=[Convergence()], verbose=0)
    model = patchnet()
    with pytest.raises(ValueError, match=r"accuracy=True.*Received: logs with accuracy, loss"):
        model.fit(*data, epochs=3, callbacks=[Convergence(accuracy=False)], verbose=0)


def names(directory):
    return sorted(path.name for path in directory.glob("*.png"))


@pytest.mark.parametrize("kind", KINDS)
def test_snapshots_change_nothing_in_training(kind, data, tmp_path):
    def history(*callbacks):
        model = patchnet()
        fit = model.fit(
            **fed(kind, *data), validation_data=data, epochs=3, callbacks=list(callbacks), verbose=0
        )
        return fit.history, model.get_weights()

    without, weights = history()
    drawn, drawn_weights = history(HeatmapSnapshots(data[0][:2], tmp_path, every=1))
    assert drawn == without
    for got, expected in zip(drawn_weights, weights, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert names(tmp_path) == [f"epoch_{epoch:04d}.png" for epoch in range(4)]


def test_snapshots_are_drawn_first_every_so_often_and_last(data, tmp_path):
    patchnet().fit(*data, epochs=5, callbacks=[HeatmapSnapshots(data[0][:1], tmp_path, 2)], verbose=0)
    assert names(tmp_path) == [f"epoch_{epoch:04d}.png" for epoch in (0, 2, 4, 5)]


def test_a_resumed_training_keeps_the_pictures_of_its_beginning(data, tmp_path):
    model = patchnet()
    model.fit(*data, epochs=2, callbacks=[HeatmapSnapshots(data[0][:1], tmp_path)], verbose=0)
    first = (tmp_path / "epoch_0000.png").read_bytes()
    callback = HeatmapSnapshots(data[0][:1], tmp_path)
    model.fit(*data, epochs=3, initial_epoch=2, callbacks=[callback], verbose=0)
    assert names(tmp_path) == [f"epoch_{epoch:04d}.png" for epoch in (0, 2, 3)]
    assert (tmp_path / "epoch_0000.png").read_bytes() == first


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_picture_shows_the_last_epoch_not_the_restored_weights(order, data, tmp_path):
    x, y = data
    model = patchnet()
    at_epoch = {}
    image = x[:1]
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: at_epoch.update({epoch + 1: model.get_weights()})
    )
    # Validation labels are turned around, so the loss there only rises.
    pair = [Convergence(patience=2, verbose=0), HeatmapSnapshots(image, tmp_path, 100)][::order]
    history = model.fit(x, y, validation_data=(x, 1 - y), epochs=50, callbacks=[keep, *pair], verbose=0)
    last = len(history.epoch)
    assert 1 < last < 50
    assert names(tmp_path) == ["epoch_0000.png", f"epoch_{last:04d}.png"]
    model.set_weights(at_epoch[last])
    expected = pictures.strip(
        image, pn.heatmap_model(model).predict(image, verbose=0), model.predict(image, verbose=0)
    )
    got = cv2.imread(str(tmp_path / f"epoch_{last:04d}.png"))[..., ::-1]
    np.testing.assert_allclose(got, expected, atol=1)


def test_tensorboard_gets_the_same_picture(data, tmp_path):
    callback = HeatmapSnapshots(data[0][:1], tmp_path / "maps", log_dir=tmp_path / "board")
    patchnet().fit(*data, epochs=1, callbacks=[callback], verbose=0)
    board = EventAccumulator(str(tmp_path / "board"), {"tensors": 0}).Reload()
    events = board.Tensors("heatmaps")
    assert [event.step for event in events] == [0, 1]
    for event in events:
        # A summary image is its width, its height and the encoded pictures.
        got = cv2.imdecode(np.frombuffer(event.tensor_proto.string_val[2], "uint8"), cv2.IMREAD_COLOR)
        expected = cv2.imread(str(tmp_path / "maps" / f"epoch_{event.step:04d}.png"))
        np.testing.assert_array_equal(got, expected)
    assert not (tmp_path / "maps" / "tensorboard").exists()


def test_tensorboard_is_below_the_directory_unless_told(data, tmp_path):
    callback = HeatmapSnapshots(data[0][:1], tmp_path)
    patchnet().fit(*data, epochs=1, callbacks=[callback], verbose=0)
    assert len(list((tmp_path / "tensorboard").glob("events.*"))) == 1


def test_images_of_different_sizes(rng, tmp_path):
    model = pn.PatchNet((None, None, 3), 5, filters=4, depth=2)
    model.compile("adam", "binary_crossentropy")
    images = [rng.integers(0, 256, (*size, 3), "uint8") for size in ((12, 10), (9, 20))]
    callback = HeatmapSnapshots(images, tmp_path, labels=[0, 1], class_names=("cat", "dog"))
    model.fit(images[0][None], np.zeros((1, 1)), callbacks=[callback], verbose=0)
    maps = pn.heatmap_model(model)
    expected = pictures.strip(
        images,
        [maps.predict(image[None], verbose=0)[0] for image in images],
        [model.predict(image[None], verbose=0)[0, 0] for image in images],
        [0, 1],
        class_names=("cat", "dog"),
    )
    np.testing.assert_allclose(cv2.imread(str(tmp_path / "epoch_0001.png"))[..., ::-1], expected, atol=1)


@pytest.mark.parametrize(
    ("images", "every"),
    [
        (np.zeros((0, 12, 10, 1)), 1),
        ([], 1),
        (np.zeros((12, 10, 1)), 1),
        (np.full((1, 12, 10, 1), np.nan), 1),
        (np.full((1, 12, 10, 1), 300), 1),
        (np.zeros((1, 12, 10, 1)), 0),
        (np.zeros((1, 12, 10, 1)), 1.5),
    ],
)
def test_snapshots_refuse_bad_arguments(images, every, tmp_path):
    with pytest.raises(ValueError, match="Received"):
        HeatmapSnapshots(images, tmp_path, every)


def test_snapshots_need_a_patchnet(data, tmp_path):
    model = keras.Sequential([keras.Input((12, 10, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="made by `PatchNet`"):
        model.fit(*data, callbacks=[HeatmapSnapshots(data[0][:1], tmp_path / "maps")], verbose=0)
    assert not (tmp_path / "maps").exists()
