import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchnet_tf.data import Examples
from patchnet_tf.data.batches import Batches
from patchnet_tf.errors import InputError
from patchnet_tf.training.distribution import ProcessGroup, Shard, join_group

from .small import image_folder

ROOT = Path(__file__).parents[1]
needs_jax = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")


def examples(count):
    return Examples(np.arange(count, dtype="uint8").reshape(count, 1, 1, 1), np.arange(count) % 2)


def shards(count, devices, processes, seed=None, batch_size=4):
    """What all processes get: [[(images, labels or more) of each batch] of each process]."""
    batches = Batches(examples(count), batch_size, seed)
    groups = [ProcessGroup(devices, rank, processes) for rank in range(processes)]
    sharded = [group.shard(batches) for group in groups]
    return [[shard[k] for k in range(len(shard))] for shard in sharded]


@pytest.mark.parametrize("processes", [1, 2])
def test_validation_shards_are_all_images(processes):
    """9 images on 4 devices: 4, 4 and 1 with 3 of weight 0. The weights sum up to 12, as the images do."""
    parts = shards(9, 4, processes)
    assert all(len(batch) == 3 for shard in parts for batch in shard)
    assert {len(x) for shard in parts for batch in shard for x in batch} == {4 // processes}
    images, labels, weights = (
        np.concatenate(
            [batch[k].ravel() for batch_of_all in zip(*parts, strict=True) for batch in batch_of_all]
        )
        for k in range(3)
    )
    np.testing.assert_array_equal(labels, images % 2)
    assert images[weights > 0].tolist() == list(range(9))
    np.testing.assert_allclose(weights[weights > 0], 12 / 9, rtol=1e-6)
    # What Keras makes of it: the mean of each batch, and the mean of those by their sizes.
    losses = np.sin(images.astype("float64"))
    kept = [np.mean(part) for part in np.split(losses * weights, 3)]
    assert np.mean(kept) == pytest.approx(np.mean(np.sin(np.arange(9))))


def test_no_weights_where_none_are_needed():
    parts = shards(8, 2, 2)
    assert [len(batch) for shard in parts for batch in shard] == [2] * 4
    assert [batch[0].ravel().tolist() for batch in parts[0]] == [[0, 1], [4, 5]]
    assert [batch[0].ravel().tolist() for batch in parts[1]] == [[2, 3], [6, 7]]


@pytest.mark.parametrize(("count", "sizes"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 4]), (11, [4, 4, 2])])
def test_training_leaves_out_what_does_not_divide(count, sizes):
    whole = Batches(examples(count), 4, seed=0)
    parts = shards(count, 2, 2, seed=0)
    assert [[len(images) for images, _ in shard] for shard in parts] == [[size // 2 for size in sizes]] * 2
    for k, size in enumerate(sizes):
        together = np.concatenate([shard[k][0] for shard in parts])
        np.testing.assert_array_equal(together, whole[k][0][:size])


def test_one_device_gets_the_batches_as_they_are():
    batches = Batches(examples(3), 4)
    assert ProcessGroup().shard(batches) is batches


def test_what_cannot_be_sharded():
    with pytest.raises(InputError, match=r"training.batch_size: expected a multiple of 3.*Received: 4"):
        Shard(Batches(examples(9), 4, seed=0), ProcessGroup(3))
    with pytest.raises(InputError, match="at least 4 training images"):
        Shard(Batches(examples(3), 4, seed=0), ProcessGroup(4))


def test_alone():
    group = join_group(None)
    assert (group.devices, group.rank, group.size, group.is_main) == (1, 0, 1, True)
    assert group.on_main(lambda: b"done") == b"done"


def test_the_wrong_backend():
    with pytest.raises(InputError, match=r"data_parallel needs .*KERAS_BACKEND=jax. Received: Keras on tens"):
        join_group("data_parallel")


TRAIN = """
import json, sys
from patchnet_tf.training.train import train as train_run
from patchnet_tf.config import load_config
from patchnet_tf.errors import InputError

def train(folder, *options, **more):
    trained = train_run(load_config(sys.argv[1], options), folder, **more)
    return [[row.loss, row.accuracy, row.val_loss, row.val_accuracy] for row in trained.rows]

def refusal(*arguments):
    try:
        train(*arguments)
    except InputError as error:
        return str(error)

"""


def start(script, config, **variables):
    """Start Python in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KERAS_")}
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN + script, config],
        env={**kept, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    """Wait for a process, and return what it has printed last, read as JSON."""
    try:
        out, err = process.communicate(timeout=540)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def config(tmp_path):
    """8 training images, and 7 to validate on, which two devices cannot share evenly."""
    image_folder(tmp_path / "images", counts=(4, 4))
    (tmp_path / "images" / "val" / "dog" / "3.png").unlink()
    path = tmp_path / "small.yaml"
    path.write_text(
        "name: small\n"
        "data: {kind: folder, path: images}\n"
        "model: {patch_size: 7, subnet: {filters: 3, depth: 1}}\n"
        "training: {epochs: 2, learning_rate: 1e-3, zoom: 1.2, seed: 1, stop_when_accurate: false}\n"
    )
    return path


def test_mirrored(config, tmp_path):
    """Two devices take the steps of one; what two devices cannot do is refused."""
    script = """
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
mirrored = "training.distribution=mirrored"
print(json.dumps({
    "one": train("one"),
    "two": train("two", mirrored, "training.epochs=1") and train("two", mirrored, resume=True),
    "refused": [
        refusal("three", mirrored, "training.batch_size=3"),
        refusal("three", mirrored, "training.snapshot_every=1"),
    ],
}))
"""
    os.makedirs(tmp_path / "runs")
    trained = result(start(f"import os; os.chdir({str(tmp_path / 'runs')!r})" + script, config))
    assert len(trained["one"]) == 2
    np.testing.assert_allclose(trained["two"], trained["one"], atol=1e-5)
    assert "multiple of 2, the number of devices. Received: 3" in trained["refused"][0]
    assert "snapshot_every: expected null" in trained["refused"][1]
    assert sorted(f.name for f in (tmp_path / "runs").iterdir()) == ["one", "two"]


@needs_jax
def test_jax_on_two_devices_of_one_process(config, tmp_path):
    script = f"""
import os, keras

parallel = "training.distribution=data_parallel"
folder = {str(tmp_path)!r}
one = train(folder + "/one", "training.snapshot_every=2")
two = train(folder + "/two", parallel, "training.epochs=1") and train(folder + "/two", parallel, resume=True)
refused = [refusal(folder + "/three", "training.distribution=mirrored")]
os.environ["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = "127.0.0.1:1234"  # and not how many, nor which this is
refused.append(refusal(folder + "/three", parallel))
print(json.dumps([keras.backend.backend(), one, two, refused]))
"""
    variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "KERAS_BACKEND": "jax"}
    backend, one, two, refused = result(start(script, config, **variables))
    assert backend == "jax"
    np.testing.assert_allclose(two, one, atol=1e-6)
    assert "mirrored needs the environment variable KERAS_BACKEND=tensorflow" in refused[0]
    assert "the processes did not find each other by KERAS_DISTRIBUTION_JOB_ADDRESSES" in refused[1]
    names = {f.name for f in (tmp_path / "two").iterdir()}
    assert names == {
        "config.yaml",
        "checkpoint.npz",
        "history.csv",
        "identity.json",
        "model.keras",
    }  # no TensorBoard
    assert (tmp_path / "one" / "heatmaps" / "epoch_0002.png").is_file()


@needs_jax
@pytest.mark.slow
def test_jax_in_two_processes(config, tmp_path):
    """The losses are those of one process, also after a resumption; only the first one writes."""
    together = f"""
parallel = "training.distribution=data_parallel"
folder = {str(tmp_path)!r} + "/process" + __import__("os").environ["KERAS_DISTRIBUTION_PROCESS_ID"]
train(folder, parallel, "training.epochs=1")
two = train(folder, parallel, resume=True)
print(json.dumps([two, refusal(folder, parallel)]))
"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables = {
        "KERAS_BACKEND": "jax",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    }
    processes = [start(together, config, **variables, KERAS_DISTRIBUTION_PROCESS_ID=str(k)) for k in (0, 1)]
    alone = start(f"print(json.dumps(train({str(tmp_path / 'alone')!r})))", config, KERAS_BACKEND="jax")
    expected = result(alone)
    assert len(expected) == 2
    for process in processes:
        losses, refused = result(process)
        np.testing.assert_allclose(losses, expected, atol=1e-6)
        assert "process0: holds a run already" in refused
    assert (tmp_path / "process0" / "model.keras").is_file()
    assert not (tmp_path / "process1").exists()
