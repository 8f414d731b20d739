"""Where an image is like those of training, as servers and clients pass it on."""

import json

import grpc
import keras
import numpy as np
import pytest
import urllib3

import patchnet_tf as pn
from patchnet_tf.contract import Contract
from patchnet_tf.model.familiar import fit_familiarity
from patchnet_tf.serving import Client, Predictor

from .serving import serving
from .test_familiar import local
from .test_server import v2
from .test_validation import encoded

pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="needs the extra serve")


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    keras.utils.set_random_seed(3)
    images = np.random.default_rng(3).normal(100, 20, (12, 22, 18, 1)).clip(0, 255).astype("uint8")
    model = pn.PatchNet((None, None, 1), subnet=local(), border="reflect", familiarity=True)
    fit_familiarity(model, images, share=0.05)
    path = tmp_path_factory.mktemp("familiar") / "cells.onnx"
    pn.export.to_onnx(model, path)
    return Predictor(path)


@pytest.fixture(scope="module")
def served(predict):
    with serving(predict.path, predict.path.with_name("log")) as server:
        yield server


@pytest.fixture(scope="module")
def images():
    """Two images, half of each unlike training."""
    images = np.random.default_rng(4).normal(100, 20, (2, 22, 30, 1)).clip(0, 255).astype("uint8")
    images[:, :, 15:] = 0
    return images


def test_client(served, predict, images):
    client, expected = Client(served.url), predict(images)
    assert 0 < expected.familiar.mean() < 1
    for image, familiar in ((images, expected.familiar), (images[0], expected.familiar[0])):
        answer = client(image)
        assert answer.familiar.dtype == bool
        np.testing.assert_array_equal(answer.familiar, familiar)
        np.testing.assert_array_equal(answer.heatmap, predict(image).heatmap)
    np.testing.assert_array_equal(client(encoded(images[0, ..., 0])).familiar, expected.familiar[0])
    assert client.metadata()["serving_default"]["outputs"] == ["familiar", "heatmap", "probability"]
    assert client.contract == predict.contract


def test_v1(served, predict, images):
    answer = urllib3.request("POST", served.url + ":predict", json={"instances": images.tolist()}).json()
    expected = predict(images)
    assert [row["familiar"] for row in answer["predictions"]] == expected.familiar.tolist()
    for signature in ("probability", "heatmap"):
        said = {"instances": images.tolist(), "signature_name": signature}
        answer = urllib3.request("POST", served.url + ":predict", json=said).json()
        np.testing.assert_array_equal(np.float32(answer["predictions"]), getattr(expected, signature))
    outputs = urllib3.request("GET", served.url + "/metadata").json()["metadata"]["signature_def"]
    described = outputs["signature_def"]["serving_default"]["outputs"]["familiar"]
    assert described["dtype"] == "DT_BOOL"
    assert [dim["size"] for dim in described["tensor_shape"]["dim"]] == ["-1"] * 3


def test_v2(served, predict, images):
    at, expected = f"http://127.0.0.1:{served.http}", predict(images).familiar
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(images.shape)}
    tensor["parameters"] = {"binary_data_size": images.size}
    for binary in (False, True):
        wanted = {"outputs": [{"name": "familiar"}], "parameters": {"binary_data_output": binary}}
        method, path, body, headers = v2([tensor], binary=images.tobytes(), **wanted)
        answer = urllib3.request(method, at + path, body=body, headers=headers)
        length = int(answer.headers.get("inference-header-content-length", len(answer.data)))
        [output] = json.loads(answer.data[:length])["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("familiar", "BOOL", [2, 22, 30])
        if binary:
            assert answer.data[length:] == expected.tobytes()
        else:
            assert output["data"] == expected.ravel().tolist()
    said = urllib3.request("GET", f"{at}/v2/models/cells").json()["outputs"]
    assert said[2] == {"name": "familiar", "datatype": "BOOL", "shape": [-1, -1, -1]}


def test_grpc(served, predict, images):
    request = pb.ModelInferRequest(model_name="cells", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        reply = pb.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=60))
    assert [output.name for output in reply.outputs] == ["probability", "heatmap", "familiar"]
    assert [output.datatype for output in reply.outputs] == ["FP32", "FP32", "BOOL"]
    assert reply.raw_output_contents[2] == predict(images).familiar.tobytes()


def test_signatures():
    fields = {"classes": {"names": ["cat", "dog"]}, "pixels": {"channels": 3}, "smallest": [17, 17]}
    three = ("probability", "heatmap", "familiar")
    assert Contract(**fields, familiar=True).signatures == {
        "serving_default": three,
        "probability": three[:1],
        "heatmap": three[1:2],
        "image_bytes": three,
    }
    assert Contract(**fields).signatures["serving_default"] == three[:2]


def test_what_tf_serving_sends():
    """As bytes, or as numbers, of which one may stand for all."""
    tensorflow = pytest.importorskip("tensorflow")
    from patchnet_tf.serving.client import array

    for truth in (np.array([[True, False, True]]), np.float32([[0.25, 0.5]]), np.ones((2, 3), bool)):
        made = array(tensorflow.make_tensor_proto(truth))
        assert made.dtype == truth.dtype
        np.testing.assert_array_equal(made, truth)
    numbers = tensorflow.make_tensor_proto([True, False])
    numbers.tensor_content = b""
    numbers.bool_val[:] = [True, False]
    assert array(numbers).tolist() == [True, False]
