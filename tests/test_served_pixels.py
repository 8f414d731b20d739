"""Served models of other pixels than uint8: every protocol, 16 bits to the last, and what is refused."""

import base64
import io
import json

import cv2
import numpy as np
import pytest
import tifffile
import urllib3

from patchnet_tf.errors import InputError, UnfitError
from patchnet_tf.export import to_onnx
from patchnet_tf.images.pixels import displayed
from patchnet_tf.serving import Client, Predictor
from patchnet_tf.serving.protocols import Limits, Tensor, read_v1, read_v2

from .serving import serving
from .test_model_pixels import images_of, make

grpc = pytest.importorskip("tritonclient.grpc", reason="needs the extra serve")


PIXELS = {
    "uint16": {"dtype": "uint16", "range": [0, 4095], "channels": 1},
    "float32": {"dtype": "float32", "range": [-1024.0, 3071.5], "channels": 5},
}


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    """What runs a file of each kind of pixels."""
    folder, rng = tmp_path_factory.mktemp("served"), np.random.default_rng(0)
    for name, pixels in PIXELS.items():
        to_onnx(make(pixels, rng), folder / f"{name}.onnx", class_names=("cat", "dog"))
    return {name: Predictor(folder / f"{name}.onnx") for name in PIXELS}


@pytest.fixture(scope="module")
def served(predictors):
    path = predictors["uint16"].path
    with serving(path, path.with_name("log")) as server:
        yield server


def png(image):
    """A PNG file as OpenCV writes it, which knows 16 bits."""
    return cv2.imencode(".png", image)[1].tobytes()


def npy(image):
    file = io.BytesIO()
    np.save(file, image)
    return file.getvalue()


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


@pytest.mark.parametrize("name", PIXELS)
def test_every_way_to_send_an_image(name, predictors, rng):
    """As JSON has it, in files, and as bytes: the same numbers, of the model's dtype."""
    from patchnet_tf.serving.server.rpc import tensors

    predict, pixels = predictors[name], PIXELS[name]
    image = images_of(pixels, rng, 7, 9)
    datatype = {"uint16": "UINT16", "float32": "FP32"}[name]
    shape = [1, *image.shape]
    file = png(image) if name == "uint16" else npy(image)

    def v2(data, name="image", datatype=datatype, shape=shape):
        return read_v2([Tensor(name, datatype, shape, data)], (), predict, Limits())

    contents = {"uint16": "uint_contents", "float32": "fp32_contents"}[name]
    message = grpc.service_pb2.ModelInferRequest()
    sent = message.inputs.add(name="image", datatype=datatype, shape=shape)
    getattr(sent.contents, contents).extend(image.ravel().tolist())
    tiff = io.BytesIO()
    tifffile.imwrite(tiff, image.transpose(2, 0, 1), photometric="minisblack", metadata={"axes": "CYX"})
    requests = {
        "rows": read_v1({"instances": json.loads(json.dumps([image.tolist()]))}, predict, Limits()),
        "file": read_v1({"instances": [b64(file)]}, predict, Limits()),
        "flat": v2(image.ravel().tolist()),
        "nested": v2([image.tolist()]),
        "bytes": v2(image.astype(image.dtype.newbyteorder("<")).tobytes()),
        "gRPC": read_v2(tensors(message), (), predict, Limits()),
        "TIFF": read_v1({"instances": [b64(tiff.getvalue())]}, predict, Limits()),
        "file as bytes": v2([file], "image_bytes", "BYTES", [1]),
    }
    for way, request in requests.items():
        [read] = request.images
        assert read.dtype == image.dtype, way
        np.testing.assert_array_equal(read, image, way)


BAD = {  # in place of the pixel [2, 3], its first channel
    "uint16": [
        (4096, UnfitError, r"0..4095. Received: .* to 4096, 1 of"),
        (65536, UnfitError, r"in 0..65535"),
        (-1, UnfitError, r"in 0..65535. Received: -1"),
        (0.5, InputError, r"whole numbers.*a fraction"),
    ],
    "float32": [
        (-1025, UnfitError, r"-1024.0..3071.5. Received: -1025"),
        (1e39, UnfitError, r"finite pixels"),
        (10**400, UnfitError, r"float32"),
        ("1", InputError, r"numbers. Received: a text"),
    ],
}


@pytest.mark.parametrize("name", PIXELS)
def test_other_numbers_are_refused(name, predictors, rng):
    predict, image = predictors[name], images_of(PIXELS[name], rng, 7, 9)
    for bad, kind, message in BAD[name]:
        rows = image.tolist()
        rows[2][3][0] = bad
        with pytest.raises(kind, match=message) as raised:
            read_v1({"instances": [rows]}, predict, Limits())
        assert "\n" not in str(raised.value)
    nan = image.astype("float32")
    nan[2, 3, 0] = np.nan
    datatype, shape = {"uint16": "UINT16", "float32": "FP32"}[name], [1, *image.shape]
    wrong = [
        (Tensor("image", "UINT8", shape, bytes(image.size)), f"expected {datatype} of shape"),
        (
            Tensor("image", datatype, shape, bytes(image.size)),
            f"{image.size} numbers, as shape says. Received: ",
        ),
    ]
    if name == "float32":
        wrong.append((Tensor("image", datatype, shape, nan.tobytes()), "finite pixels. Received: NaN"))
    for tensor, message in wrong:
        with pytest.raises(InputError, match=message):
            read_v2([tensor], (), predict, Limits())
    eight = png(np.zeros((7, 9), "uint8"))
    if name == "uint16":
        with pytest.raises(UnfitError, match="16 bits per channel"):
            read_v1({"instances": [b64(eight)]}, predict, Limits())
    with pytest.raises(InputError, match=r"expected 5 channel\(s\)|channel"):
        read_v1({"instances": [b64(npy(np.zeros((7, 9, 2), image.dtype)))]}, predict, Limits())


def test_limits_count_pixels_whatever_they_hold(predictors, rng):
    """Not their bytes, and as many numbers as the channels need."""
    limits = Limits(max_pixels=63, max_total_pixels=130)
    assert limits.max_values(3) == limits.max_values(1) == 5 * 63 + 2**16
    assert limits.max_values(16) == 18 * 63 + 2**16
    image = images_of(PIXELS["float32"], rng, 7, 9)
    read_v1({"instances": [image.tolist()] * 2}, predictors["float32"], limits)
    with pytest.raises(InputError, match="at most 130 pixels in all"):
        read_v1({"instances": [image.tolist()] * 3}, predictors["float32"], limits)
    with pytest.raises(InputError, match="at most 63 pixels"):
        read_v1(
            {"instances": [images_of(PIXELS["float32"], rng, 8, 9).tolist()]}, predictors["float32"], limits
        )


def test_server(served, predictors, rng):
    predict, image = predictors["uint16"], images_of(PIXELS["uint16"], rng, 7, 9)
    expected = predict(image)
    client = Client(served.url)
    assert client.contract == predict.contract
    for sent in (image, png(image)):
        answer = client(sent)
        assert answer.probability == pytest.approx(expected.probability, abs=1e-6)
        np.testing.assert_array_equal(answer.heatmap, expected.heatmap)
    with grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as triton:
        wanted = grpc.InferInput("image", [1, *image.shape], "UINT16")
        wanted.set_data_from_numpy(image[None])
        heatmap = triton.infer("cells", [wanted]).as_numpy("heatmap")
        np.testing.assert_array_equal(heatmap[0], expected.heatmap)
        said = triton.get_model_metadata("cells", as_json=True)
        assert said["inputs"][0]["datatype"] == "UINT16"
    at = f"http://127.0.0.1:{served.http}"
    said = urllib3.request("GET", f"{at}/v2/models/cells").json()
    assert said["inputs"][0] == {"name": "image", "datatype": "UINT16", "shape": [-1, -1, -1, 1]}
    said = urllib3.request("GET", f"{at}/v1/models/cells/metadata").json()["metadata"]
    inputs = said["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert inputs["image"]["dtype"] == "DT_UINT16"
    assert said["pixels"] == "uint16, 1 channel. Numbers from 0 to 4095."
    assert said["contract"]["pixels"] == {"dtype": "uint16", "range": [0, 4095], "channels": 1}


def test_pictures_for_browsers(served, predictors, rng):
    image = images_of(PIXELS["uint16"], rng, 7, 9)
    url = f"{served.url}:picture"
    kind = {"content-type": "application/octet-stream"}
    answer = urllib3.request("POST", url, body=png(image), headers=kind)
    assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
    drawn = cv2.imdecode(np.frombuffer(answer.data, "uint8"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(drawn, np.rint(image[..., 0] / 4095 * 255))
    np.testing.assert_array_equal(drawn, displayed(image, predictors["uint16"].contract.pixels)[..., 0])
    for bad, status, message in ((b"", 400, "empty"), (b"no image", 415, "not an image file")):
        answer = urllib3.request("POST", url, body=bad, headers=kind)
        assert answer.status == status
        assert message in answer.json()["error"]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_clients_refuse_what_no_model_takes(scheme):
    client = Client(f"{scheme}://127.0.0.1:1/v1/models/cells")
    with pytest.raises(InputError, match=r"uint8, uint16 or float32.*Received: float64"):
        client(np.zeros((5, 5, 1)))
    with pytest.raises(InputError, match=r"finite pixels. Received: NaN or infinity"):
        client(np.full((5, 5, 1), np.nan, "float32"))
