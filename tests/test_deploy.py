"""The files of serving/deploy, read as the servers read them, and requests as TF Serving gets them."""

import base64
import concurrent.futures
import contextlib
import importlib.util
import io
import json
import socket
import subprocess
import sys
import threading
import time
from importlib import resources

import grpc
import numpy as np
import pytest
import tensorflow as tf
import urllib3
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

import patchnet_tf as pn
from patchnet_tf.errors import InputError
from patchnet_tf.serving import Client
from patchnet_tf.serving.client import Grpc, ServerError

from .conftest import shake
from .serving import serving
from .test_validation import encoded


def deployed(name):
    return resources.files("patchnet_tf.serving.deploy").joinpath(name).read_text(encoding="utf-8")


def test_models_config():
    read = text_format.Parse(deployed("models.config"), model_server_config_pb2.ModelServerConfig())
    [config] = read.model_config_list.config
    assert (config.name, config.model_platform) == ("cells", "tensorflow")
    assert config.base_path == "/models/cells"
    assert config.model_version_policy.latest.num_versions == 2
    assert dict(config.version_labels) == {"stable": 1}


def messages(definition):
    """Return classes of messages that tensorflow-serving-api lacks, from the names and types of their fields.

    Text is parsed by these alone. They are those of TF Serving's monitoring_config.proto and
    session_bundle_config.proto.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="checked.proto",
        package="checked",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for message, fields in definition.items():
        described = file.message_type.add(name=message)
        for number, (name, kind) in enumerate(fields.items(), 1):
            many = kind.startswith("repeated ")
            kind = kind.removeprefix("repeated ")
            added = described.field.add(name=name, number=number)
            added.label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            if kind[0].isupper() or "." in kind:
                added.type, added.type_name = field.TYPE_MESSAGE, kind if "." in kind else f".checked.{kind}"
            else:
                added.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"checked.{name}"))
        for name in definition
    }


def test_monitoring():
    known = messages(
        {
            "PrometheusConfig": {"enable": "bool", "path": "string"},
            "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
        }
    )
    read = text_format.Parse(deployed("monitoring.txt"), known["MonitoringConfig"]())
    assert read.prometheus_config.enable
    assert read.prometheus_config.path.startswith("/")


def test_batching():
    number, text = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"
    known = messages(
        {
            "BatchingParameters": {
                "max_batch_size": number,
                "batch_timeout_micros": number,
                "max_enqueued_batches": number,
                "num_batch_threads": number,
                "thread_pool_name": text,
                "allowed_batch_sizes": "repeated int64",
                "pad_variable_length_inputs": "bool",
            }
        }
    )
    read = text_format.Parse(deployed("batching.txt"), known["BatchingParameters"]())
    sizes = list(read.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == read.max_batch_size.value  # else the server does not start
    assert read.max_enqueued_batches.value > 0
    assert read.batch_timeout_micros.value > 0
    assert read.num_batch_threads.value > 0
    assert not read.pad_variable_length_inputs  # padding changes heatmaps


def test_compose():
    read = yaml.safe_load(deployed("compose.yaml"))
    assert read["services"].keys() == {"cpu", "gpu", "patchnet"}  # of the last: tests/test_operators.py
    for name, service in [(name, read["services"][name]) for name in ("cpu", "gpu")]:
        assert service["image"].startswith("tensorflow/serving:2.")
        assert service["image"].endswith("-gpu") == (name == "gpu")
        flags = dict(flag.removeprefix("--").partition("=")[::2] for flag in service["command"])
        assert ("enable_batching" in flags) == ("batching_parameters_file" in flags) == (name == "gpu")
        for flag, value in flags.items():
            if flag.endswith("_file"):
                assert deployed(value.removeprefix("/config/"))
        assert {volume.rsplit(":", 2)[1] for volume in service["volumes"]} == {"/models", "/config"}


KSERVE = """
import json, kserve
models = {name: model for name, model in vars(kserve).items() if hasattr(model, "attribute_map")}
print(json.dumps({name: [model.attribute_map, model.openapi_types] for name, model in models.items()}))
"""


def test_inference_service():
    """Every field is one that KServe knows, by its own client's models.

    They are asked in a process of their own: KServe's messages have the names of those of our server's.
    """
    if not importlib.util.find_spec("kserve"):
        pytest.skip("needs kserve")
    done = subprocess.run([sys.executable, "-c", KSERVE], capture_output=True, text=True, check=True)
    models = json.loads(done.stdout)
    read = yaml.safe_load(deployed("inference-service.yaml"))

    def check(value, kind):
        if kind.startswith("list["):
            return [check(item, kind[5:-1]) for item in value]
        if kind not in models:
            return value
        attributes, types = models[kind]
        names = {json_name: name for name, json_name in attributes.items()}
        assert value.keys() <= names.keys(), (kind, value.keys() - names.keys())
        return {key: check(item, types[names[key]]) for key, item in value.items()}

    check(read, "V1beta1InferenceService")
    predictor = read["spec"]["predictor"]
    assert 1 <= predictor["minReplicas"] < predictor["maxReplicas"]
    assert predictor["model"]["modelFormat"]["name"] == "tensorflow"
    compose = yaml.safe_load(deployed("compose.yaml"))
    assert compose["services"]["cpu"]["image"] == f"tensorflow/serving:{predictor['model']['runtimeVersion']}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and the folder of its SavedModel."""
    model = shake(pn.PatchNet((None, None, 3), 5, filters=4, depth=2), np.random.default_rng(0))
    folder = tmp_path_factory.mktemp("deploy") / "cells"
    return model, pn.export.to_saved_model(model, folder).path


class TfServing(
    prediction_service_pb2_grpc.PredictionServiceServicer, model_service_pb2_grpc.ModelServiceServicer
):
    """What TF Serving does with a request: its signature, applied to its tensors."""

    def __init__(self, path):
        self.path, self.loaded = path, tf.saved_model.load(str(path))
        self.refuse = self.delay = 0

    def Predict(self, request, context):
        self.check(request, context)
        signature = self.loaded.signatures[request.model_spec.signature_name]
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        try:
            outputs = signature(**inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response

    def GetModelStatus(self, request, context):
        self.check(request, context)
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=1, state=30)
        response.model_version_status.add(version=2, state=20)
        return response

    def GetModelMetadata(self, request, context):
        self.check(request, context)
        assert request.metadata_field == ["signature_def"]
        graph = saved_model_pb2.SavedModel.FromString(
            (self.path / "saved_model.pb").read_bytes()
        ).meta_graphs[0]
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=graph.signature_def)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def check(self, request, context):
        time.sleep(self.delay)
        if self.refuse:
            self.refuse -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
        if request.model_spec.name != "cells" or request.model_spec.version.value not in (0, 1):
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}"
            )


@pytest.fixture(scope="module")
def server(saved):
    """TF Serving's two services on a real socket."""
    servicer = TfServing(saved[1])
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    servicer.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer
    server.stop(0).wait()


def test_grpc_client(saved, server, rng):
    model, _ = saved
    client = Client(f"grpc://127.0.0.1:{server.port}/v1/models/cells")
    images = rng.integers(0, 256, (3, 9, 12, 3), "uint8")
    expected_q = model.predict(images, verbose=0)[:, 0]
    expected_maps = pn.heatmap_model(model, method="patchwise").predict(images, verbose=0)
    q, maps = client(images)
    assert q.dtype == maps.dtype == np.float32
    np.testing.assert_allclose(q, expected_q, atol=1e-5)
    np.testing.assert_allclose(maps, expected_maps, atol=1e-5)
    np.testing.assert_allclose(client.probability(images), expected_q, atol=1e-5)
    for one in (client(images[1]), client(encoded(images[1]))):
        assert isinstance(one.probability, float)
        assert one.probability == pytest.approx(expected_q[1], abs=1e-5)
        np.testing.assert_allclose(one.heatmap, expected_maps[1], atol=1e-5)
    assert client.probability(images[1]) == pytest.approx(expected_q[1], abs=1e-5)
    assert [tuple(version) for version in client.status()] == [(1, "AVAILABLE"), (2, "LOADING")]
    assert client.metadata() == {
        "serving_default": {"inputs": ["image"], "outputs": ["heatmap", "probability"]},
        "probability": {"inputs": ["image"], "outputs": ["probability"]},
        "heatmap": {"inputs": ["image"], "outputs": ["heatmap"]},
        "image_bytes": {"inputs": ["image_bytes"], "outputs": ["heatmap", "probability"]},
    }


def test_grpc_errors(server, rng):
    url = f"grpc://127.0.0.1:{server.port}/v1/models/cells"
    image = rng.integers(0, 256, (9, 12, 3), "uint8")
    with pytest.raises(ServerError, match=r"at least 5 x 5 pixels.*INVALID_ARGUMENT"):
        Client(url)(image[:4])
    with pytest.raises(ServerError, match=r"Servable not found.*NOT_FOUND"):
        Client(f"{url}/versions/7").status()
    with pytest.raises(ServerError, match="Servable not found"):
        Client(url.replace("cells", "dogs"))(image)
    server.refuse = 2
    assert 0 < Client(url, retries=2)(image).probability < 1
    server.refuse = 2
    with pytest.raises(ServerError, match=r"loading \(status UNAVAILABLE\)"):
        Client(url, retries=1)(image)
    server.refuse = 0
    server.delay = 2
    with pytest.raises(TimeoutError, match=r"no answer in 0.2 s"):
        Client(url, timeout=0.2)(image)
    server.delay = 0


@pytest.mark.parametrize("signature", ["serving_default", "probability", "heatmap", "image_bytes"])
def test_requests_are_those_of_tf_serving(saved, rng, signature):
    """What the client writes is read with TensorFlow's own code, over the wire."""
    image = rng.integers(0, 256, (2, 9, 12, 3), "uint8")
    name, value = ("image_bytes", [encoded(image[0])]) if signature == "image_bytes" else ("image", image)
    client = Client("grpc://localhost/v1/models/cells/versions/3")
    assert isinstance(client._transport, Grpc)
    wire = client._transport.request(signature, name, value).SerializeToString()
    request = predict_pb2.PredictRequest.FromString(wire)
    spec = request.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("cells", 3, signature)
    [(key, tensor)] = request.inputs.items()
    assert key == name
    read = tf.make_ndarray(tensor)
    np.testing.assert_array_equal(read, np.array(value, object) if signature == "image_bytes" else image)


class Rest:
    """A server that answers as TF Serving's documentation of its REST API says."""

    def __init__(self, monkeypatch, *answers):
        self.asked, answers = [], list(answers)
        self.headers = {}

        def request(pool, method, url, body=None, **options):
            self.asked.append((method, url, json.loads(body) if body else None))
            status, content = answers.pop(0)
            if isinstance(status, Exception):
                raise status
            body = io.BytesIO(json.dumps(content).encode())
            return urllib3.HTTPResponse(
                body, status=status, headers=self.headers, preload_content=options["preload_content"]
            )

        monkeypatch.setattr(urllib3.PoolManager, "request", request)


def test_rest_client(monkeypatch):
    """What is sent, to the letter of the API, and what is made of the answers."""
    image = np.arange(12, dtype="uint8").reshape(2, 2, 3)
    rest = Rest(
        monkeypatch,
        (200, {"outputs": {"probability": [0.25], "heatmap": [[[0.5, 1], [0, 0.125]]]}}),
        (200, {"outputs": [0.25]}),
        (200, {"outputs": {"probability": [0.25], "heatmap": [[[0.5]]]}}),
        (200, {"model_version_status": [{"version": "3", "state": "AVAILABLE", "status": {}}]}),
    )
    client = Client("http://host:99/v1/models/cells/versions/3:predict")
    probability, heatmap = client(image)
    assert probability == 0.25
    np.testing.assert_array_equal(heatmap, [[0.5, 1], [0, 0.125]])
    assert client.probability(image[None]).tolist() == [0.25]
    client(b"file")
    assert client.status() == [(3, "AVAILABLE")]
    url = "http://host:99/v1/models/cells/versions/3"
    pixels = {"image": [image.tolist()]}
    encoded_file = {"image_bytes": [{"b64": base64.b64encode(b"file").decode()}]}
    assert rest.asked == [
        ("POST", url + ":predict", {"signature_name": "serving_default", "inputs": pixels}),
        ("POST", url + ":predict", {"signature_name": "probability", "inputs": pixels}),
        ("POST", url + ":predict", {"signature_name": "image_bytes", "inputs": encoded_file}),
        ("GET", url, None),
    ]


def test_what_is_asked_again(monkeypatch):
    image = np.zeros((2, 2, 3), "uint8")
    good = (200, {"outputs": [0.25]})
    busy = (503, {"error": "not now"})
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    closed = urllib3.exceptions.ProtocolError("Connection aborted.")
    late = urllib3.exceptions.ReadTimeoutError(None, "", "late")
    for answers, outcome, asked in (
        ([busy, busy, good], None, 3),
        ([(closed, None), good], None, 2),
        ([busy] * 4, r"http://host:8501/v1/models/cells: not now \(status 503\)", 4),
        ([(closed, None)] * 4, "cannot be reached", 4),
        ([(400, {"error": "bad image"})], r"bad image \(status 400\)", 1),
        ([(500, {})], "status 500", 1),
        ([(200, ["not", "TF Serving"])], "not an answer of such a server", 1),
        ([(late, None)], "no answer in 60 s", 1),
    ):
        rest = Rest(monkeypatch, *answers)
        client = Client("http://host/v1/models/cells")
        if outcome is None:
            assert client.probability(image) == 0.25
        else:
            with pytest.raises((ServerError, TimeoutError), match=outcome):
                client.probability(image)
        assert len(rest.asked) == asked


def test_the_server_says_when_to_ask_again(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    rest = Rest(monkeypatch, (503, {"error": "not now"}), (200, {"outputs": [0.25]}))
    rest.headers = {"retry-after": "7"}
    assert Client("http://host/v1/models/cells").probability(np.zeros((2, 2, 3), "uint8")) == 0.25
    assert len(slept) == 1
    assert 7 <= slept[0] <= 10.5


def test_a_timeout_is_that_of_the_whole_answer():
    """A server that sends a byte now and then."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")
                for _ in range(99):
                    connection.sendall(b" ")
                    time.sleep(0.1)

        thread = threading.Thread(target=drip)
        thread.start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}/v1/models/cells", timeout=0.5)
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"no answer in 0.5 s"):
            client.status()
        assert time.monotonic() - began < 4
        thread.join()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_files_may_be_any_bytes(monkeypatch, kind):
    rest = Rest(monkeypatch, (200, {"outputs": {"probability": [0.25], "heatmap": [[[0.5]]]}}))
    assert Client("http://host/v1/models/cells")(kind(b"file")).probability == 0.25
    [(_, _, body)] = rest.asked
    assert body["inputs"] == {"image_bytes": [{"b64": base64.b64encode(b"file").decode()}]}


def test_bad_numbers():
    for wrong in ({"retries": -1}, {"retries": 1.5}, {"timeout": 0}, {"timeout": -1}):
        with pytest.raises(ValueError, match=rf"`{next(iter(wrong))}` must be.*Received"):
            Client("http://host/v1/models/cells", **wrong)


def test_passwords_are_sent_and_never_shown(monkeypatch):
    sent = []

    def request(pool, method, url, headers=None, **options):
        sent.append((url, headers.get("authorization")))
        raise urllib3.exceptions.ProtocolError("Connection aborted.")

    monkeypatch.setattr(urllib3.PoolManager, "request", request)
    client = Client("http://anna:s%40cret@host/v1/models/cells", retries=0)
    with pytest.raises(ServerError, match="cannot be reached") as caught:
        client.status()
    assert sent == [
        ("http://host:8501/v1/models/cells", "Basic " + base64.b64encode(b"anna:s@cret").decode())
    ]
    with pytest.raises(ValueError, match="`url` must be") as refused:
        Client("http://anna:s%40cret@host/cells")
    assert "cret" not in str(caught.value) + str(refused.value)


def test_what_is_not_sent():
    for url in (
        "localhost:8501",
        "http://host/cells",
        "ftp://host/v1/models/cells",
        "http://host/v1/models/a?b=c",
    ):
        with pytest.raises(ValueError, match=r"`url` must be.*Received"):
            Client(url)
    client = Client("http://localhost:1/v1/models/cells", retries=0)
    for image in (np.zeros((2, 2, 3)), np.zeros((2, 2), "uint8"), "image.png", None):
        with pytest.raises(InputError, match=r"numpy array of uint8.*Received"):
            client(image)
    with pytest.raises(ServerError, match="cannot be reached"):
        client.status()


def test_patchnet_serve_runs_a_saved_model(saved, rng, tmp_path):
    """With TensorFlow's last bits."""
    pytest.importorskip("tritonclient")
    model, version = saved
    image = rng.integers(0, 256, (9, 12, 3), "uint8")
    expected = pn.heatmap_model(model, method="patchwise").predict(image[None], verbose=0)[0]
    with serving(version.parent, tmp_path / "log") as server:
        [loaded] = server.lines("version loaded")
        assert loaded["runtime"].startswith("TensorFlow")
        client = Client(server.url)
        probability, heatmap = client(image)
        assert probability == pytest.approx(model.predict(image[None], verbose=0)[0, 0], abs=1e-5)
        assert client.probability(image) == pytest.approx(probability, abs=1e-6)
        np.testing.assert_allclose(heatmap, expected, atol=1e-5)
