"""Three and more classes, and labels: exported files, predictors, protocols, server and client."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
import urllib3

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.contract import Contract
from patchnet_tf.errors import InputError, TooLargeError
from patchnet_tf.evaluation.results import Run
from patchnet_tf.export import VerificationError, to_onnx, to_saved_model, verify
from patchnet_tf.serving import Client, Predictor, protocols
from patchnet_tf.serving.batcher import Batcher
from patchnet_tf.serving.protocols import Limits
from patchnet_tf.serving.saved_model import SavedModelPredictor
from patchnet_tf.serving.versions import Version
from patchnet_tf.training.run import write_identity

from .conftest import shake
from .serving import serving
from .test_local_export import network
from .test_server import b64, tensor
from .test_validation import encoded

KINDS = {
    "three classes": (("cat", "dog", "cow"), False),
    "four labels": (("red", "green", "blue", "grey"), True),
    "two labels": (("red", "green"), True),
}
SIZES = [(15, 15), (24, 17)]


def paper(kind, **more):
    names, multilabel = KINDS[kind]
    arguments = {"filters": 4, "depth": 2, "classes": len(names), "multilabel": multilabel, **more}
    return shake(pn.PatchNet((None, None, 3), 5, **arguments), np.random.default_rng(0))


def local(kind, **more):
    names, multilabel = KINDS[kind]
    base = network(np.random.default_rng(0))
    subnet = pn.local_network(base, "last", hidden=4, classes=len(names), multilabel=multilabel)
    return pn.PatchNet((None, None, 3), subnet=subnet, **more)


MODELS = {
    "paper's S, classes": (paper, "three classes", {}),
    "paper's S, labels": (paper, "four labels", {"pooling": "topk", "share": 0.3}),
    "local network, classes": (local, "three classes", {"pooling": "lse", "border": "reflect"}),
    "local network, labels": (local, "four labels", {}),
}


@pytest.mark.parametrize("model", MODELS)
def test_keras_onnx_and_saved_model_agree(model, rng, tmp_path):
    make, kind, more = MODELS[model]
    names, multilabel = KINDS[kind]
    model = make(kind, **more)
    to_onnx(model, tmp_path / "model.onnx", class_names=names)
    folder = to_saved_model(model, tmp_path / "served", class_names=names).path
    maps = pn.heatmap_model(model, method="patchwise")
    for predict in (Predictor(tmp_path / "model.onnx"), SavedModelPredictor(folder)):
        assert predict.contract == Contract(
            classes={"names": names, "exclusive": not multilabel},
            pixels={"channels": 3},
            smallest=model.smallest_image,
        )
        for size in SIZES:
            images = rng.integers(0, 256, (2, *size, 3), "uint8")
            q, heatmap = predict(images)
            assert heatmap.shape == (2, *size, len(names))
            np.testing.assert_allclose(q, model.predict(images, verbose=0), rtol=0, atol=1e-5)
            expected = maps.predict(images, verbose=0)
            assert np.ptp(expected, axis=(0, 1, 2)).min() > 0.005
            np.testing.assert_allclose(heatmap, expected, rtol=0, atol=1e-5)
            np.testing.assert_array_equal(predict.probability(images), q)
            if not multilabel:
                np.testing.assert_allclose(heatmap.sum(axis=-1), 1, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model of three classes, its ONNX file, and what runs it."""
    model, path = paper("three classes"), tmp_path_factory.mktemp("several") / "pets.onnx"
    verification = to_onnx(model, path, class_names=KINDS["three classes"][0])
    return SimpleNamespace(model=model, path=path, verification=verification, predict=Predictor(path))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """What runs a model of four labels with thresholds of their own."""
    path = tmp_path_factory.mktemp("labels") / "colours.onnx"
    names, _ = KINDS["four labels"]
    to_onnx(paper("four labels"), path, class_names=names, thresholds=(0.0, 1.0, 0.0, 1.0))
    return Predictor(path)


def test_records_of_an_export(exported):
    [vectors, *_] = json.loads(exported.path.with_suffix(".test_vectors.json").read_text())
    q, heatmap = exported.predict(np.array(vectors["image"], "uint8"))
    np.testing.assert_allclose(q, vectors["probability"], atol=1e-5)
    np.testing.assert_allclose(heatmap, vectors["heatmap"], atol=1e-5)
    assert verify(exported.model, exported.path).heatmap == exported.verification.heatmap
    for kind in ("four labels", "two labels"):
        with pytest.raises(VerificationError, match=r"another model, of 3 classes.*of \d labels"):
            verify(paper(kind), exported.path)


def test_names_and_thresholds(labels, exported, tmp_path):
    model = paper("four labels")
    assert labels.contract.thresholds == (0, 1, 0, 1)
    assert labels(np.zeros((9, 9, 3), "uint8")).names == ("red", "blue")
    unnamed = Predictor(to_onnx(model, tmp_path / "unnamed.onnx").path)
    assert unnamed.class_names == ("class 0", "class 1", "class 2", "class 3")
    for thresholds in ((0.5,), (0.5, 0.5, 0.5, 2.0)):
        with pytest.raises(InputError, match="`thresholds` must be 4 numbers from 0 to 1"):
            to_onnx(model, tmp_path / "none.onnx", thresholds=thresholds)
    with pytest.raises(InputError, match="`thresholds` must be 0 numbers"):
        to_onnx(exported.model, tmp_path / "none.onnx", thresholds=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="The model has 4 classes"):
        to_onnx(model, tmp_path / "none.onnx", class_names=("a", "b"))


def test_prediction(exported, rng):
    images = rng.integers(0, 256, (2, 12, 11, 3), "uint8")
    batch, single = exported.predict(images), exported.predict(images[1])
    assert (single.probability.shape, single.heatmap.shape) == ((3,), (12, 11, 3))
    np.testing.assert_array_equal(single.heatmap, batch.heatmap[1])
    names = [exported.predict.class_names[q.argmax()] for q in batch.probability]
    assert batch.names == [(name,) for name in names]
    assert single.names == (names[1],)
    chosen = exported.predict(images, classes=["cow", 0])
    np.testing.assert_array_equal(chosen.probability, batch.probability)
    np.testing.assert_array_equal(chosen.heatmap, batch.heatmap[..., [2, 0]])
    np.testing.assert_array_equal(exported.predict(images[1], classes=[1]).heatmap, single.heatmap[..., [1]])


@pytest.mark.parametrize("classes", [[], [3], [-1], ["mouse"], [0, 0], ["cat", 0], [True], [0.0], "cat", {}])
def test_classes_that_are_none(exported, classes):
    with pytest.raises(
        InputError, match="classes: expected different numbers from 0 to 2, or names, such as"
    ):
        exported.predict(np.zeros((9, 9, 3), "uint8"), classes=classes)


def test_two_classes_have_one_map(tmp_path):
    model = pn.PatchNet((None, None, 3), 5, filters=4, depth=2)
    predict = Predictor(to_onnx(model, tmp_path / "two.onnx", class_names=("cat", "dog")).path)
    image = np.zeros((9, 9, 3), "uint8")
    with pytest.raises(InputError, match="tells two classes apart by one map"):
        predict(image, classes=[1])
    prediction = predict(image)
    assert prediction.names == (predict.contract.class_of(prediction.probability),)
    assert len(predict(image[None]).names) == 1


def test_maps_are_bounded(exported):
    """The pixels of each class's map count, of an image and of an answer."""
    rows = np.zeros((10, 10, 3), "uint8").tolist()

    def read(count, max_total_pixels, **more):
        request = {"instances": [rows] * count, **more}
        return protocols.read_v1(request, exported.predict, Limits(max_total_pixels=max_total_pixels))

    one = {"parameters": {"classes": ["dog"]}}
    assert read(2, 600).classes is None
    assert read(3, 300, **one).classes == (1,)
    assert read(3, 300, signature_name="probability").outputs == ("probability",)
    with pytest.raises(TooLargeError, match=r"at most 99 pixels for heatmaps of 3 classes.*Received: 100"):
        read(1, 299, **one)
    with pytest.raises(TooLargeError, match=r"at most 599 pixels in all its heatmaps.*3 maps of 200 pixels"):
        read(2, 599)


@pytest.mark.parametrize(("heatmap", "bound", "largest"), [(True, 600, 2), (False, 600, 5), (True, 10, 1)])
def test_batches_are_bounded_by_maps(exported, rng, heatmap, bound, largest):
    """A batch holds the maps of all classes, whichever are wanted; probabilities are small."""
    images = list(rng.integers(0, 256, (5, 10, 10, 3), "uint8"))
    version, seen = Version(1, exported.path, (), exported.predict, True), []

    async def ask():
        batcher = Batcher(heatmap=heatmap, max_batch_pixels=bound, observe=seen.append)
        requests = [(images[:1], None), (images[1:3], (2,)), (images[3:], (1, 0))]
        return await asyncio.gather(*(batcher.predict(few, version, classes) for few, classes in requests))

    answers = [prediction for few in asyncio.run(ask()) for prediction in few]
    assert sum(seen) == 5
    assert max(seen) == largest
    for image, classes, got in zip(images, (None, (2,), (2,), (1, 0), (1, 0)), answers, strict=True):
        expected = exported.predict(image, classes=classes)
        np.testing.assert_array_equal(got.probability, expected.probability)
        if heatmap:
            np.testing.assert_array_equal(got.heatmap, expected.heatmap)


@pytest.fixture(scope="module")
def served(exported):
    pytest.importorskip("tritonclient", reason="needs the extra serve")
    with serving(exported.path, exported.path.with_name("log"), "--max-total-pixels", 2**16) as server:
        yield server


def post(served, path, content):
    answer = urllib3.request("POST", f"http://127.0.0.1:{served.http}{path}", json=content, timeout=60)
    return answer.status, answer.json()


def test_client(served, exported, rng):
    images = rng.integers(0, 256, (2, 12, 11, 3), "uint8")
    client, expected = Client(served.url), exported.predict(images)
    for got, wanted in (
        (client(images), expected),
        (client(images[0]), exported.predict(images[0])),
        (client(encoded(images[0])), exported.predict(images[0])),
        (client(images, classes=["cow", 1]), exported.predict(images, classes=[2, 1])),
    ):
        np.testing.assert_array_equal(got.probability, wanted.probability)
        np.testing.assert_array_equal(got.heatmap, wanted.heatmap)
        assert got.names == wanted.names
    np.testing.assert_array_equal(client.probability(images[0]), expected.probability[0])
    assert client.contract == exported.predict.contract


def test_protocols(served, exported, rng):
    image = rng.integers(0, 256, (13, 11, 3), "uint8")
    q, heatmap = exported.predict(image)
    v1, v2 = "/v1/models/cells:predict", "/v2/models/cells/infer"
    _, answer = post(served, v1, {"instances": [b64(encoded(image))], "parameters": {"classes": "cow"}})
    [row] = answer["predictions"]
    np.testing.assert_array_equal(np.float32(row["probability"]), q)
    np.testing.assert_array_equal(np.float32(row["heatmap"]), heatmap[..., [2]])
    request = {"inputs": [tensor(image.ravel().tolist())]}
    for parameters, maps in (({}, heatmap), ({"classes": 1}, heatmap[..., [1]])):
        _, answer = post(served, v2, {**request, "parameters": parameters})
        probability, drawn = answer["outputs"]
        assert probability["shape"] == [1, 3]
        assert drawn["shape"] == [1, *maps.shape]
        np.testing.assert_array_equal(np.float32(drawn["data"]).reshape(maps.shape), maps)


def test_grpc(served, exported, rng):
    grpc = pytest.importorskip("tritonclient.grpc")
    image = rng.integers(0, 256, (1, 13, 11, 3), "uint8")
    client = grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}")
    given = grpc.InferInput("image", image.shape, "UINT8")
    given.set_data_from_numpy(image)
    expected = exported.predict(image)
    try:
        for parameters, maps in (
            (None, expected.heatmap),
            ({"classes": "dog"}, expected.heatmap[..., [1]]),
            ({"classes": 2}, expected.heatmap[..., [2]]),
        ):
            answer = client.infer("cells", [given], parameters=parameters)
            np.testing.assert_array_equal(answer.as_numpy("probability"), expected.probability)
            np.testing.assert_array_equal(answer.as_numpy("heatmap"), maps)
        shapes = {output.name: list(output.shape) for output in client.get_model_metadata("cells").outputs}
        assert shapes == {"probability": [-1, 3], "heatmap": [-1, -1, -1, 3]}
    finally:
        client.close()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"parameters": {"classes": ["mouse"]}}, 400, "classes: expected different numbers from 0 to 2"),
        ({"parameters": {"classes": {}}}, 400, "classes: expected different numbers"),
        ({"parameters": {"class": 1}}, 400, 'parameters: expected an object with "classes" alone'),
        ({"parameters": [1]}, 400, 'parameters: expected an object with "classes" alone'),
        ({"instances": [b64(encoded(np.zeros((200, 200, 3), "uint8")))]}, 413, "at most 21845 pixels for"),
    ],
)
def test_refusals(served, more, status, message):
    rows = np.zeros((9, 9, 3), "uint8").tolist()
    answered, content = post(served, "/v1/models/cells:predict", {"instances": [rows], **more})
    assert answered == status
    assert message in content["error"]


def test_metadata_says_the_classes(served):
    at = f"http://127.0.0.1:{served.http}"
    said = urllib3.request("GET", f"{at}/v1/models/cells/metadata").json()["metadata"]
    assert said["contract"]["classes"] == {"names": ["cat", "dog", "cow"], "exclusive": True}
    outputs = said["signature_def"]["signature_def"]["serving_default"]["outputs"]
    sizes = [dim["size"] for dim in outputs["heatmap"]["tensor_shape"]["dim"]]
    assert sizes == ["-1", "-1", "-1", "3"]


def test_thresholds_of_a_run(patchnet, tmp_path):
    """An export carries the thresholds that the evaluation of its run chose."""
    model, (names, _) = paper("four labels"), KINDS["four labels"]
    run, listed = tmp_path / "run", ", ".join(names)
    run.mkdir()
    model.save(run / "model.keras")
    (run / "config.yaml").write_text(
        f"name: run\ndata: {{kind: manifest, path: gone.csv, classes: [{listed}], multilabel: true}}\n"
        "model: {patch_size: 5, subnet: {filters: 4, depth: 2}}\ntraining: {epochs: 1}\n"
    )
    write_identity(run, load_config(run / "config.yaml"), model)
    for thresholds, warnings in ((None, 2), ([0.5, 0.25, 0.75, 0.125], 1)):
        if thresholds:
            results = Run(validation={}, classes=names, multilabel=True, thresholds=thresholds)
            results.write(run / "metrics.json")
        code, _, stderr = patchnet("export", run, "--overwrite")
        assert (code, stderr.count("warning: ")) == (0, warnings), stderr
        assert ("metrics.json: no thresholds of the labels" in stderr) == (not thresholds)
        contract = Predictor(run / "export" / "run.onnx").contract
        assert contract.thresholds == tuple(thresholds or [0.5] * 4)
        assert contract.classes.names == names
