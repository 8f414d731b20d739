"""Exported files in other people's runtimes."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import patchnet_tf as pn
from patchnet_tf.cli import exporting
from patchnet_tf.contract import Contract
from patchnet_tf.errors import InputError
from patchnet_tf.export import RUNTIMES, to_onnx
from patchnet_tf.export.runtimes import Trial, try_vectors
from patchnet_tf.serving import Predictor

from .conftest import shake

CONTRACT = Contract(classes={"names": ["cat", "dog"]}, pixels={"channels": 1}, smallest=[1, 1])


def mean_file(path):
    """A file whose heatmap is the image, and whose probability is the mean pixel."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["heatmap"]),
        helper.make_node("ReduceMean", ["heatmap", "axes"], ["probability"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", 2, 3, 1])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["b"]),
            helper.make_tensor_value_info("heatmap", TensorProto.FLOAT, ["b", 2, 3]),
        ],
        [
            helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 2, 3]),
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture
def files(tmp_path):
    """Such a file, and test vectors of one image and of two."""
    path, vectors = tmp_path / "model.onnx", tmp_path / "model.test_vectors.json"
    mean_file(path)
    images = [np.array([[[[1], [2], [3]], [[4], [5], [9]]]]), np.arange(12).reshape(2, 2, 3, 1)]
    batches = [
        {"image": x.tolist(), "probability": x.mean((1, 2, 3)).tolist(), "heatmap": x[..., 0].tolist()}
        for x in images
    ]
    vectors.write_text(json.dumps(batches))
    return path, vectors


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_right_and_wrong_answers(name, files):
    if name == "openvino":
        pytest.importorskip("openvino")
    path, vectors = files
    version, trials = try_vectors(RUNTIMES[name], path, vectors, CONTRACT)
    assert version.lower().replace(" ", "").startswith(name)
    assert [trial.shape for trial in trials] == [(1, 2, 3, 1), (2, 2, 3, 1), (3, 2, 3, 1)]
    assert all(trial.right(1e-6) and not trial.said for trial in trials)
    batches = json.loads(vectors.read_text())
    batches[1]["heatmap"][0][1][2] += 0.25
    batches[1]["probability"] = [[2.5], [8.5]]
    vectors.write_text(json.dumps(batches))
    _, [first, second, _] = try_vectors(RUNTIMES[name], path, vectors, CONTRACT)
    assert first.right(1e-6)
    assert not second.right(0.3)
    assert second.differences == {"probability": np.inf, "heatmap": 0.25}


def test_no_answer_is_not_right():
    assert not Trial((1, 2, 3, 1), {}).right(1)


def test_a_refused_file(files):
    path, vectors = files
    path.write_bytes(b"no model")
    name, trials = try_vectors(RUNTIMES["onnxruntime"], path, vectors, CONTRACT)
    assert name == "onnxruntime"
    assert len(trials) == 3
    assert all("INVALID_PROTOBUF" in trial.said and not trial.right(1) for trial in trials)


def test_what_cannot_be_tried(files, monkeypatch):
    path, vectors = files
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match="openvino: not installed; pip install openvino brings it"):
        try_vectors(RUNTIMES["openvino"], path, vectors, CONTRACT)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="npm install onnxruntime-node"):
        try_vectors(RUNTIMES["node"], path, vectors, CONTRACT)
    with pytest.raises(InputError, match=r"node: runs \.onnx files\. Received: .*served"):
        try_vectors(RUNTIMES["node"], path.with_name("served"), vectors, CONTRACT)
    vectors.write_text("{}[")
    with pytest.raises(InputError, match="not the test vectors"):
        try_vectors(RUNTIMES["onnxruntime"], path, vectors, CONTRACT)
    vectors.unlink()
    with pytest.raises(InputError, match=r"no test vectors of model\.onnx"):
        try_vectors(RUNTIMES["onnxruntime"], path, vectors, CONTRACT)


def test_the_command_knows_all_runtimes():
    assert tuple(RUNTIMES) == exporting.RUNTIMES


PADDED = {"input_shape": (None, None, 3), "patch_size": 7, "filters": 8, "depth": 2}
KINDS = {
    "padded": (PADDED, {}),
    "padded, of one shape": (PADDED, {"size": (19, 22), "batch": 2}),
    "unpadded": ({**PADDED, "padding": "valid"}, {}),
    "unpadded, of one shape": ({**PADDED, "padding": "valid"}, {"size": (19, 22), "batch": 2}),
    "labels": ({**PADDED, "classes": 3, "multilabel": True, "pooling": "lse"}, {"size": (9, 9), "batch": 1}),
}
# OpenCV 5 has no free sizes for convolutions on their own, and says so.
REFUSED = {("opencv", "unpadded")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_real_files_in_all_runtimes(kind, tmp_path, rng):
    """Those that are installed: packages of npm in the folder that the tests run in."""
    arguments, shape = KINDS[kind]
    path = to_onnx(shake(pn.PatchNet(**arguments), rng), tmp_path / "model.onnx", **shape).path
    contract, tried = Predictor(path).contract, []
    for name, runtime in RUNTIMES.items():
        if runtime.suffix != path.suffix:
            continue
        try:
            _, trials = try_vectors(runtime, path, path.with_suffix(".test_vectors.json"), contract)
        except InputError as error:
            if "not installed" not in str(error):
                raise
            continue
        tried.append(name)
        for trial in trials:
            assert trial.right(1e-4) == ((name, kind) not in REFUSED), (name, trial)
    assert "onnxruntime" in tried


@pytest.mark.slow
def test_the_simplifier_takes_plain_graphs(tmp_path, rng):
    """onnxsim ends with a segmentation fault on a graph with an If, so it runs in a process of its own."""
    pytest.importorskip("onnxsim")
    path = tmp_path / "model.onnx"
    to_onnx(shake(pn.PatchNet(**PADDED), rng), path, size=(19, 22), batch=2)
    script = "import onnx, onnxsim, sys; model, good = onnxsim.simplify(onnx.load(sys.argv[1])); assert good"
    subprocess.run([sys.executable, "-c", script, path], check=True)
