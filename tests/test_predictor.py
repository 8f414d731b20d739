import concurrent.futures
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tensorflow as tf

import patchnet_tf as pn
from patchnet_tf.contract import KEY, Contract
from patchnet_tf.serving import Predictor, digest

from .conftest import shake


@pytest.fixture(scope="module")
def trained():
    arguments = {"patch_size": 5, "crop": (7, 8), "filters": 4, "depth": 2}
    return shake(pn.PatchNet((None, None, 1), **arguments), np.random.default_rng(0))


@pytest.fixture(scope="module")
def path(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("predictor") / "model.onnx"
    pn.export.to_onnx(trained, path, class_names=("cat", "dog"))
    return path


def test_prediction_is_the_models(trained, path, rng):
    images = rng.integers(0, 256, (3, 12, 11, 1), "uint8")
    predict = Predictor(path)
    expected_q = trained.predict(images, verbose=0)[:, 0]
    expected_maps = pn.heatmap_model(trained, method="patchwise").predict(images, verbose=0)
    q, maps = predict(images)
    np.testing.assert_allclose(q, expected_q, atol=1e-5)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-5)
    np.testing.assert_array_equal(predict.probability(images), q)
    one = predict(images[1])
    assert isinstance(one.probability, float)
    assert one.probability == predict.probability(images[1]) == pytest.approx(expected_q[1], abs=1e-5)
    np.testing.assert_allclose(one.heatmap, expected_maps[1], atol=1e-5)
    assert one.heatmap.shape == (12, 11)


def test_attributes(path):
    predict = Predictor(path)
    assert predict.contract == Contract(
        classes={"names": ["cat", "dog"]}, pixels={"channels": 1}, smallest=(7, 8)
    )
    assert predict.path == path
    assert predict.class_names == ("cat", "dog")
    assert predict.smallest == (7, 8)
    assert predict.input_shape == (None, None, None, 1)
    assert predict.metadata["patch_size"] == "5"
    assert predict.provider == "CPUExecutionProvider"


def test_threads_share_a_predictor(path, rng):
    predict = Predictor(path, threads=1)
    images = [rng.integers(0, 256, (9 + k % 5, 14 - k % 3, 1), "uint8") for k in range(24)]
    expected = [predict(image) for image in images]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for got, alone in zip(pool.map(predict, images), expected, strict=True):
            assert got.probability == alone.probability
            np.testing.assert_array_equal(got.heatmap, alone.heatmap)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((9, 9, 3), "uint8"), r"1 channel\(s\)"),
        (np.zeros((9, 9), "uint8"), "numpy array of uint8"),
        (np.zeros((9, 9, 1), "float32"), "numpy array of uint8"),
        ([[[0]]], "numpy array of uint8"),
        (np.zeros((6, 9, 1), "uint8"), "at least 7 x 8"),
        (np.zeros((9, 7, 1), "uint8"), "at least 7 x 8"),
        (np.zeros((0, 9, 9, 1), "uint8"), r"\(count, height, width, channels\)"),
    ],
)
def test_bad_images(path, image, message):
    predict = Predictor(path)
    for call in (predict, predict.probability):
        with pytest.raises(ValueError, match=rf"{message}.*Received"):
            call(image)


def test_bad_files(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file"):
        Predictor(tmp_path / "model.onnx")
    copied = shutil.copytree(path.parent, tmp_path / "copy") / "model.onnx"
    copied.write_bytes(copied.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"altered or truncated.*Received"):
        Predictor(copied)
    (copied.parent / "MANIFEST.json").unlink()
    with pytest.raises(ValueError, match=r"cannot load it|altered or truncated since"):
        Predictor(copied)


def test_cuda_runs_or_is_said_not_to_be_there(path):
    if tf.config.list_physical_devices("GPU"):
        assert Predictor(path, device="cuda").provider == "CUDAExecutionProvider"
        return
    with pytest.raises(RuntimeError, match=r"CUDA cannot be had.*Received.*CPUExecutionProvider"):
        Predictor(path, device="cuda")
    assert Predictor(path, device="cuda", allow_fallback=True).provider == "CPUExecutionProvider"


@pytest.mark.parametrize(
    "wrong", [{"device": "tpu"}, {"device": ["cpu"]}, {"threads": -1}, {"threads": None}, {"threads": 1.5}]
)
def test_bad_arguments(path, wrong):
    with pytest.raises(ValueError, match=rf"`{next(iter(wrong))}` must be.*Received"):
        Predictor(path, **wrong)


@pytest.mark.parametrize("text", [None, "cat, dog", "7"])
def test_what_a_file_says_of_itself_is_damaged(path, tmp_path, text):
    loaded = onnx.load(path)
    [entry] = [entry for entry in loaded.metadata_props if entry.key == KEY]
    if text is None:
        loaded.metadata_props.remove(entry)
    else:
        entry.value = text
    onnx.save(loaded, tmp_path / "other.onnx")
    digest.seal(tmp_path / "other.onnx")
    message = "older version.*export it again" if text is None else "not the contract of a model"
    with pytest.raises(ValueError, match=rf"other\.onnx: .*{message}"):
        Predictor(tmp_path / "other.onnx")


def test_serving_loads_no_tensorflow():
    code = (
        "import sys; from patchnet_tf.serving import Client, Predictor; Client('http://host/v1/models/cells')\n"
        "heavy = {'tensorflow', 'keras', 'tf2onnx', 'onnx', 'kserve', 'yaml', 'patchnet_tf.config'}\n"
        "sys.exit(bool(heavy & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_probability_does_without_the_heatmap(path, rng):
    """What is fed for it makes ONNX Runtime's heatmap empty."""
    predict, fed = Predictor(path), []
    session = predict._session
    predict._session = SimpleNamespace(
        run=lambda names, feeds, options: fed.append(feeds) or session.run(names, feeds)
    )
    image = rng.integers(0, 256, (12, 11, 1), "uint8")
    for ask, shape in ((predict.probability, (0, 0, 0)), (predict, (1, 12, 11))):
        ask(image)
        assert session.run(["heatmap"], fed.pop())[0].shape == shape
