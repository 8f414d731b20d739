import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import urllib3

import patchnet_tf as pn
from patchnet_tf.errors import InputError
from patchnet_tf.serving import Client, Predictor, digest, manifest
from patchnet_tf.serving.client import ServerError

from .conftest import shake
from .serving import Served, serving
from .test_validation import BAD_FILES, GREY, RGB, encoded

pytest.importorskip("tritonclient", reason="needs the extra serve")

IMAGE = np.random.default_rng(3).integers(0, 256, (13, 11, 3), "uint8")
LIMITS = ("--max-bytes", 100_000, "--max-pixels", 2000, "--max-images", 4, "--max-total-pixels", 6000)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = shake(pn.PatchNet((None, None, 3), 5, filters=4, depth=2), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("server") / "cells.onnx"
    pn.export.to_onnx(model, path, class_names=("cat", "dog"))
    return path


@pytest.fixture(scope="module")
def served(path):
    with serving(path, path.with_name("log"), *LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def direct(path):
    return Predictor(path)


@pytest.fixture(scope="module")
def pool():
    return urllib3.PoolManager(maxsize=16, retries=False, timeout=60)


def same(prediction, expected):
    """Compare every bit."""
    np.testing.assert_array_equal(np.float32(prediction.probability), np.float32(expected.probability))
    np.testing.assert_array_equal(prediction.heatmap, expected.heatmap)


def v1(content, path="/v1/models/cells:predict", **headers):
    """Return a request of TF Serving's protocol."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return "POST", path, body, {"content-type": "application/json", **headers}


def v2(inputs, path="/v2/models/cells/infer", binary=b"", headers=(), **more):
    """Return a request of the V2 protocol."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    length = {"inference-header-content-length": str(len(head))} if binary else {}
    return "POST", path, head + binary, {"content-type": "application/json", **length, **dict(headers)}


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


def tensor(data=None, name="image", datatype="UINT8", shape=(1, 13, 11, 3), **more):
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data, **more}


LARGE_FILE = b64(encoded(np.zeros((40, 50, 3), "uint8")))["b64"]
FLAT = IMAGE.ravel().tolist()
ROWS = IMAGE.tolist()
BAD = {
    # What is no request
    "empty body": (v1(b""), 400, "not JSON"),
    "no JSON": (v1(b"hello"), 400, "not JSON"),
    "cut JSON": (v1(json.dumps({"instances": [ROWS]}).encode()[:-9]), 400, "not JSON"),
    "bytes": (v1(bytes(range(256))), 400, "not JSON"),
    "NaN": (v1(b'{"instances": [[[[NaN]]]]}'), 400, "NaN is not a number in JSON"),
    "infinity": (v1(b'{"instances": [[[[Infinity]]]]}'), 400, "Infinity is not a number"),
    "nested too deep": (v1(b"[" * 40_000 + b"]" * 40_000), 400, "nested too deeply"),
    "deep in an unknown key": (v1(b'{"a":' * 9_000 + b"1" + b"}" * 9_000), 400, "nested too deeply"),
    "a list": (v1([ROWS]), 400, 'expected an object with "instances". Received: a list'),
    "null": (v1(None), 400, "Received: null"),
    "unknown key": (
        v1({"instances": [ROWS], "instnaces": 1}),
        400,
        "Received: instances, instnaces|instnaces",
    ),
    "neither": (v1({"signature_name": "probability"}), 400, 'either "instances" or "inputs"'),
    "both": (v1({"instances": [ROWS], "inputs": [ROWS]}), 400, 'either "instances" or "inputs"'),
    "unknown signature": (
        v1({"instances": [ROWS], "signature_name": "map"}),
        400,
        "expected one of serving_default",
    ),
    "signature of a wrong type": (
        v1({"instances": [ROWS], "signature_name": {}}),
        400,
        "signature_name: expected",
    ),
    "instances of a wrong type": (
        v1({"instances": "all"}),
        400,
        "instances: expected a list of images. Received: a text",
    ),
    "no instance": (v1({"instances": []}), 400, "at least one image"),
    "too many instances": (v1({"instances": [ROWS] * 5}), 413, "at most 4 images. Received: 5"),
    "unknown input": (
        v1({"inputs": {"picture": [ROWS]}}),
        400,
        'either "image" or "image_bytes". Received: picture',
    ),
    "two inputs": (
        v1({"inputs": {"image": [ROWS], "image_bytes": []}}),
        400,
        'either "image" or "image_bytes"',
    ),
    "sizes in columns": (v1({"inputs": {"image": [ROWS, ROWS[1:]]}}), 422, "expected one size"),
    # What is no image
    "instance is null": (v1({"instances": [None]}), 400, r"instances\[0\]: expected rows of pixels.*null"),
    "second instance": (v1({"instances": [ROWS, 7]}), 400, r"instances\[1\]: expected rows.*a number"),
    "instance is empty": (v1({"instances": [{}]}), 400, 'an object with "b64" alone'),
    "instance has more": (v1({"instances": [{"b64": "", "x": 1}]}), 400, 'an object with "b64" alone'),
    "one channel too few": (v1({"instances": [[[[1, 2]] * 9] * 9]}), 422, r"expected 3 channel\(s\)"),
    "no channel axis": (v1({"instances": [IMAGE[..., 0].tolist()]}), 400, "a number as pixel"),
    "fractions": (v1({"instances": [(IMAGE / 2 + 0.1).tolist()]}), 400, "whole numbers.*fraction"),
    "texts as numbers": (v1({"instances": [[[["1", "2", "3"]]]]}), 400, "whole numbers. Received: a text"),
    "true": (v1({"instances": [[[[True, 2, 3]]]]}), 400, "whole numbers. Received: true or false"),
    "256": (v1({"instances": [[[[0, 1, 256]]]]}), 422, "0..255. Received: 0 to 256"),
    "-1": (v1({"instances": [[[[0, 1, -1]]]]}), 422, "0..255. Received: -1 to 1"),
    "huge number": (v1(b'{"instances": [[[[1, 2, 1' + b"0" * 99 + b"]]]]}"), 422, "numbers far beyond"),
    "endless number": (v1(b'{"instances": [[[[1, 2, 1' + b"0" * 9999 + b"]]]]}"), 400, "not JSON"),
    "1e999": (v1(b'{"instances": [[[[1, 2, 1e999]]]]}'), 400, "whole numbers"),
    "ragged": (v1({"instances": [[[[1, 2, 3]], [[1, 2, 3]] * 2]]}), 400, "rows of one length"),
    "below the patch": (
        v1({"instances": [[[[1, 2, 3]] * 4] * 9]}),
        422,
        "at least 5 x 5 pixels.*Received: 9 x 4",
    ),
    "too many pixels": (
        v1({"instances": [[[[1, 2, 3]] * 40] * 51]}),
        413,
        "at most 2000 pixels. Received: 51 x 40",
    ),
    "no base64": (v1({"instances": [{"b64": "!!!!"}]}), 400, "not base64"),
    "base64 of a wrong type": (v1({"instances": [{"b64": 7}]}), 400, "a text in base64. Received: a number"),
    "small file": (v1({"instances": [b64(encoded(RGB[:4]))]}), 422, "at least 5 x 5 pixels"),
    "large file": (
        v1({"instances": [b64(encoded(np.zeros((50, 41, 3), "uint8")))]}),
        413,
        "at most 2000 pixels",
    ),
    **{
        f"file: {name}": (
            v1({"instances": [{"image_bytes": b64(file)}]}),
            status,
            message.replace("67108864", "2000"),
        )
        for name, (file, status, message) in BAD_FILES.items()
    },
    # V2
    "v2: no JSON": (("POST", "/v2/models/cells/infer", b"{", {}), 400, "not JSON"),
    "v2: null": (("POST", "/v2/models/cells/infer", b"null", {}), 400, 'expected an object with "inputs"'),
    "v2: no input": (v2([]), 400, 'expected one, named "image"'),
    "v2: input of a wrong type": (v2([3]), 400, r"inputs\[0\]: expected an object"),
    "v2: inputs of a wrong type": (v2({"image": 1}), 400, '"inputs", a list'),
    "v2: two inputs": (v2([tensor(FLAT)] * 2), 400, "expected one"),
    "v2: unknown input": (v2([tensor(FLAT, name="x")]), 400, 'named "image"'),
    "v2: wrong type": (v2([tensor(FLAT, datatype="FP32")]), 400, "expected UINT8 of shape"),
    "v2: type of a wrong type": (v2([tensor(FLAT, datatype=[])]), 400, "expected UINT8"),
    "v2: wrong rank": (v2([tensor(FLAT, shape=(13, 11, 3))]), 400, r"\(count, height, width, channels\)"),
    "v2: no shape": (v2([{"name": "image", "datatype": "UINT8", "data": FLAT}]), 400, "expected shape"),
    "v2: negative shape": (v2([tensor(FLAT, shape=(-1, -13, 11, 3))]), 400, "expected shape"),
    "v2: shape of texts": (v2([tensor(FLAT, shape=("1", 13, 11, 3))]), 400, "expected shape"),
    "v2: empty batch": (v2([tensor([], shape=(0, 13, 11, 3))]), 400, "at least one image"),
    "v2: empty rows": (v2([tensor([], shape=(1, 0, 11, 3))]), 400, "count, height, width"),
    "v2: too many images": (v2([tensor(FLAT, shape=(5, 13, 11, 3))]), 413, "at most 4 images"),
    "v2: too many pixels": (v2([tensor(FLAT, shape=(1, 10**9, 10**9, 3))]), 413, "at most 2000 pixels"),
    "v2: too many channels": (v2([tensor(FLAT, shape=(1, 11, 13, 10**12))]), 400, "numbers, as shape says"),
    "v2: other length": (v2([tensor(FLAT[:-1])]), 400, "expected 429 numbers, as shape says. Received: 428"),
    "v2: 256": (v2([tensor([*FLAT[:-1], 256])]), 422, "0..255"),
    "v2: fraction": (v2([tensor([*FLAT[:-1], 0.5])]), 400, "whole numbers"),
    "v2: no data": (v2([tensor()]), 400, "expected data, a list. Received: null"),
    "v2: unknown output": (v2([tensor(FLAT)], outputs=[{"name": "map"}]), 400, 'expected "probability" or'),
    "v2: outputs of a wrong type": (v2([tensor(FLAT)], outputs="all"), 400, "expected a list of objects"),
    "v2: bytes of a wrong rank": (
        v2([tensor([b64(encoded(RGB))["b64"]], "image_bytes", "BYTES", (1, 1))]),
        400,
        "BYTES of shape",
    ),
    "v2: other number of files": (
        v2([tensor([b64(encoded(RGB))["b64"]], "image_bytes", "BYTES", (2,))]),
        400,
        "expected 2 files",
    ),
    "v2: gif": (
        v2([tensor([b64(encoded(GREY, "GIF"))["b64"]], "image_bytes", "BYTES", (1,))]),
        415,
        "not an image file",
    ),
    "v2: binary too short": (
        v2([tensor(parameters={"binary_data_size": 429})], binary=IMAGE.tobytes()[:-1]),
        400,
        "binary_data_size of at most 428",
    ),
    "v2: binary too long": (
        v2([tensor(parameters={"binary_data_size": 429})], binary=IMAGE.tobytes() + b"!"),
        400,
        "1 bytes more",
    ),
    "v2: binary of a negative size": (
        v2([tensor(parameters={"binary_data_size": -1})], binary=b"!"),
        400,
        "binary_data_size",
    ),
    "v2: binary file cut": (
        v2(
            [tensor(None, "image_bytes", "BYTES", (1,), parameters={"binary_data_size": 9})],
            binary=b"\xff" * 9,
        ),
        400,
        "each after its size",
    ),
    "v2: header length": (
        v2([tensor(FLAT)], headers={"inference-header-content-length": "99999999"}),
        400,
        "inference-header-content-length: expected at most",
    ),
    "v2: header length of a wrong type": (
        v2([tensor(FLAT)], headers={"inference-header-content-length": "-5"}),
        400,
        "inference-header-content-length",
    ),
    "v2: millions of empty files": (
        v2(
            [tensor(None, "image_bytes", "BYTES", (1,), parameters={"binary_data_size": 90_000})],
            binary=bytes(90_000),
        ),
        400,
        "expected 1 files, as shape says. Received: 89996 bytes more",
    ),
    "v2: no rows, and more columns than there are numbers": (
        v2([tensor([], shape=(1, 0, 10**30, 3))]),
        400,
        "expected shape",
    ),
    "v2: no rows, many columns": (v2([tensor([], shape=(1, 0, 2**62, 3))]), 400, "without 0"),
    "v2: name of a wrong type": (v2([tensor(FLAT)], outputs=[{"name": ["x"]}]), 400, "as name"),
    "half a surrogate pair": (v1(b'{"instances": [], "\\ud800": 1}'), 400, r"Received: \\ud800"),
    "half a surrogate pair as input": (v1(b'{"inputs": {"\\ud800": []}}'), 400, r"Received: \\ud800"),
    "endless number, said in our words": (v1(b"1" * 5000), 400, "a number of too many digits"),
    "v2: other version's metadata": (("GET", "/v2/models/cells/versions/7", None, {}), 404, "version 7"),
    "v2: nested otherwise than shape says": (
        v2([tensor([np.moveaxis(IMAGE, 0, 1).tolist()])]),
        400,
        "flat, or nested as shape says",
    ),
    "v2: nested in part": (v2([tensor([FLAT])]), 400, "flat, or nested as shape says"),
    "v2: data and binary data": (
        v2([tensor(FLAT, parameters={"binary_data_size": 429})], binary=IMAGE.tobytes()),
        400,
        "either data or binary_data_size",
    ),
    # What would take long
    "too many pixels in all": (
        v1({"instances": [{"b64": LARGE_FILE}] * 4}),
        413,
        "at most 6000 pixels in all",
    ),
    "v2: too many pixels in all": (
        v2(
            [tensor(None, shape=(4, 40, 50, 3), parameters={"binary_data_size": 24_000})],
            binary=bytes(24_000),
        ),
        413,
        "at most 6000 pixels in all",
    ),
    "too many values": (v1(b"[" + b"," * 99_000 + b"]"), 413, "at most 75536 values in JSON"),
    "time of a wrong type": (
        v1({"instances": [ROWS]}, **{"x-request-timeout": "soon"}),
        400,
        "x-request-timeout: expected seconds. Received: soon",
    ),
    "time that has no end": (v1({"instances": [ROWS]}, **{"x-request-timeout": "nan"}), 400, "seconds"),
    "no time": (v1({"instances": [ROWS]}, **{"x-request-timeout": "0"}), 400, "seconds. Received: 0"),
    # HTTP
    "name of another": (v1({"instances": [ROWS]}, host="evil.example"), 421, "name that --allow-host gives"),
    "page of another": (
        v1({"instances": [ROWS]}, origin="http://evil.example"),
        403,
        "origin: expected none, or this server's. Received: http://evil.example",
    ),
    "page of another port": (v1({"instances": [ROWS]}, origin="http://127.0.0.1:1"), 403, "this server's"),
    "page of a file": (v1({"instances": [ROWS]}, origin="null"), 403, "Received: null"),
    "many headers": (
        v1({"instances": [ROWS]}, **{f"x-{k}": "y" * 1000 for k in range(35)}),
        431,
        "at most 32768 bytes of headers",
    ),
    "slash at the end": (("GET", "/v2/", None, {}), 404, "Not Found"),
    "content type": (
        v1({"instances": [ROWS]}, **{"content-type": "image/png"}),
        415,
        "expected application/json",
    ),
    "form": (
        v1(b"a=1", **{"content-type": "multipart/form-data; boundary=x"}),
        415,
        "Received: multipart/form-data",
    ),
    "compressed": (
        v1({"instances": [ROWS]}, **{"content-encoding": "gzip"}),
        415,
        "content-encoding: expected none",
    ),
    "too long": (v1(b" " * 100_001), 413, "request: expected at most 100000 bytes"),
    "other model": (
        v1({"instances": [ROWS]}, path="/v1/models/dogs:predict"),
        404,
        "Model with name dogs does not exist",
    ),
    "v2: other model": (v2([tensor(FLAT)], path="/v2/models/dogs/infer"), 404, "dogs does not exist"),
    "other version": (
        v1({"instances": [ROWS]}, path="/v1/models/cells/versions/7:predict"),
        404,
        "version 7 is not served. Served: 1",
    ),
    "version of a wrong type": (
        v1({"instances": [ROWS]}, path="/v1/models/cells/versions/x:predict"),
        404,
        "version x",
    ),
    "v2: other version": (v2([tensor(FLAT)], path="/v2/models/cells/versions/7/infer"), 404, "version 7"),
    "explain": (
        v1({"instances": [ROWS]}, path="/v1/models/cells:explain"),
        404,
        "its heatmap; ask for :predict",
    ),
    "unload": (v1(b"", path="/v2/repository/models/cells/unload"), 404, "loaded from the model's folder"),
    "load": (v1(b"", path="/v2/repository/models/cells/load"), 404, "loaded from the model's folder"),
    "nothing there": (("GET", "/etc/passwd", None, {}), 404, "Not Found"),
    "page's neighbour": (("GET", "/../server.py", None, {}), 404, "Not Found"),
    "wrong method": (("GET", "/v1/models/cells:predict", None, {}), 404, "does not exist|Not Found"),
    "delete": (("DELETE", "/v1/models/cells", None, {}), 405, "Method Not Allowed"),
}


def test_there_are_many_bad_requests():
    assert len(BAD) >= 60


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(served, pool, direct, name):
    (method, path, body, headers), status, message = BAD[name]
    answer = pool.request(method, f"http://127.0.0.1:{served.http}{path}", body=body, headers=headers)
    assert answer.status == status, answer.data[:300]
    error = json.loads(answer.data)["error"]
    assert re.search(message, error), error
    assert "\n" not in error
    assert len(error) < 300
    assert served.process.poll() is None
    same(Client(served.url)(IMAGE), direct(IMAGE))


def test_v2_versions(served, pool):
    at = f"http://127.0.0.1:{served.http}/v2/models/cells"
    metadata = pool.request("GET", at + "/versions/1").json()
    assert metadata == pool.request("GET", at).json()
    assert (metadata["name"], metadata["versions"]) == ("cells", ["1"])
    assert pool.request("GET", at + "/versions/1/ready").json() == {"name": "cells", "ready": True}


def test_an_identity_that_is_no_text(served, pool):
    """An id that JSON can say and UTF-8 cannot."""
    request = v2([tensor(FLAT)], id="x")
    body = request[2].replace(b'"x"', b'"\\ud800"')
    answer = pool.request("POST", f"http://127.0.0.1:{served.http}{request[1]}", body=body)
    assert (answer.status, len(answer.json()["id"])) == (200, 36)


def eventually(condition, seconds=10):
    """Wait until a condition is true, and return what it gives."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_client_that_leaves_is_no_error(served):
    head = b"POST /v1/models/cells:predict HTTP/1.1\r\nhost: localhost\r\n"
    head += b"x-request-id: gone\r\ncontent-length: 99\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.http)) as connection:
        connection.sendall(head + b"{")
    found = eventually(lambda: [line for line in served.lines("request") if line["id"] == "gone"])
    assert (found[0]["status"], found[0]["level"]) == (499, "info")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_listening(host):
    """Connections send small packets at once; a second server is refused, with the address."""
    from patchnet_tf.serving.server.connection import address, listen

    try:
        listening = listen(host, 0)
    except OSError:
        pytest.skip("no such network here")
    with listening:
        port = listening.getsockname()[1]
        with socket.create_connection((host, port)) as client, listening.accept()[0] as accepted:
            assert client.getpeername()[0] == host
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(OSError, match="Address already in use") as caught:
            listen(host, port)
        assert caught.value.filename == address(host, port)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_grpc_port_is_not_shared(path, served, workers):
    command = [sys.executable, "-m", "patchnet_tf.cli", "serve", str(path), "--port", "0"]
    command += ["--workers", str(workers), "--grpc-port", str(served.grpc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: 127.0.0.1:{served.grpc}: Address already in use"
    assert done.stdout == ""


@contextlib.asynccontextmanager
async def behind_the_middleware(max_bytes, timeout=60, answer=None, connections=None, **options):
    """Serve, in this process, an application that reads a body, waits a second and answers."""
    from patchnet_tf.serving.server import Limits, Options
    from patchnet_tf.serving.server.answers import json_answer
    from patchnet_tf.serving.server.connection import http_server, listen
    from patchnet_tf.serving.server.middleware import LimitsMiddleware

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(1)
        await json_answer(answer or {})(scope, receive, send)

    served = Options(Path("cells.onnx"), "cells", limits=Limits(max_bytes), timeout=timeout)
    model = SimpleNamespace(options=served, draining=False)
    metrics = SimpleNamespace(request=lambda *arguments, **more: None)
    running = http_server(LimitsMiddleware(app, model, metrics), **options)
    if connections is not None:  # of the test, which waits for their end
        running.server_state.connections = connections
    with listen("127.0.0.1", 0) as listening:
        task = asyncio.create_task(running.serve([listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            running.should_exit = True
            await task


POST = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n\r\n"


def test_slow_requests_are_given_up(monkeypatch):
    """Heads that are never whole, and bodies that drip, also after a request that was answered."""
    monkeypatch.setattr("patchnet_tf.serving.server.connection.HEAD_SECONDS", 0.5)
    monkeypatch.setattr("patchnet_tf.serving.server.middleware.BODY_SECONDS", 0.5)

    async def talk(port, *parts, pause=0.1):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    async def main():
        whole = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
        async with behind_the_middleware(1000) as port:
            return await asyncio.gather(
                talk(port, b"GET / HT"),
                talk(port, POST, *[b"x"] * 4),
                talk(port, whole, whole[:9], pause=1.5),
                talk(port, b"GET / HTTP/1.1\r\nx: " + b"y" * 40_000),
            )

    half, dripping, second, long = asyncio.run(main())
    assert half == b""
    assert dripping.startswith(b"HTTP/1.1 408")
    assert b"its body took more than 0.5 s" in dripping
    assert second.startswith(b"HTTP/1.1 200")
    assert second.count(b"HTTP/1.1") == 1
    assert long.startswith(b"HTTP/1.1 400")


def test_bodies_that_stop_do_not_lock_others_out(monkeypatch):
    """Eight bodies of the largest size, but for a byte, are given up; small requests do not wait for them."""
    monkeypatch.setattr("patchnet_tf.serving.server.middleware.BODY_SECONDS", 1)

    async def main():
        async with behind_the_middleware(1000) as port:
            stopped = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
            for _, writer in stopped:
                writer.write(POST.replace(b"99", b"1000") + bytes(999))
            given_up = [asyncio.create_task(reader.readuntil(b"}")) for reader, _ in stopped]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST.replace(b"99", b"2") + b"{}")
            small = await reader.readuntil(b"}")
            answers = await asyncio.wait_for(asyncio.gather(*given_up), 30)
            for _, opened in [*stopped, (reader, writer)]:
                opened.close()
            return small, answers

    small, answers = asyncio.run(main())
    assert small[9:12] == b"200"
    assert {answer[9:12] for answer in answers} == {b"408"}


def test_a_request_has_its_time():
    """--timeout, or less where the client says so."""

    async def ask(port, head=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST.replace(b"content-length: 99", b"content-length: 2" + head) + b"{}")
        answer = await reader.readuntil(b"}")
        writer.close()
        return answer

    async def main():
        header = b"\r\nx-request-timeout: "
        async with behind_the_middleware(1000, timeout=0.2) as port:
            answers = [await ask(port), await ask(port, header + b"9")]
        async with behind_the_middleware(1000) as port:
            return [*answers, await ask(port, header + b"0.3"), await ask(port, header + b"60")]

    *late, whole = asyncio.run(main())
    for answer, seconds in zip(late, (b"0.2", b"0.2", b"0.3"), strict=True):
        assert answer[9:12] == b"504"
        assert b"request: not answered in " + seconds + b" s" in answer
    assert whole[9:12] == b"200"


def test_an_answer_that_is_not_read_is_given_up(monkeypatch):
    monkeypatch.setattr("patchnet_tf.serving.server.connection.WRITE_SECONDS", 0.2)

    connections = set()

    async def main():
        async with behind_the_middleware(1000, answer=" " * 30_000_000, connections=connections) as port:
            with socket.create_connection(("127.0.0.1", port)) as reader:
                reader.sendall(POST.replace(b"99", b"2") + b"{}")
                for full in (True, False):
                    while bool(connections) != full:
                        await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_connection_is_kept_for_as_long_as_is_said():
    async def main():
        async with behind_the_middleware(1000, keep_alive=1) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(POST.replace(b"99", b"2") + b"{}")
            answer = await asyncio.wait_for(reader.read(), 30)
            writer.close()
            return answer

    assert asyncio.run(main()).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_NOFILE")
def test_many_connections(path, tmp_path):
    """Idle ones give way; probes are answered; the log says it once; the limit of files is raised."""
    limited = ["sh", "-c", 'ulimit -Sn 64; exec "$@"', "sh"]
    with serving(path, tmp_path / "log", "--max-connections", 80, command=limited) as server:
        limit = re.search(r"Max open files +(\d+)", Path(f"/proc/{server.process.pid}/limits").read_text())[1]
        assert int(limit) >= 300
        with contextlib.ExitStack() as stack:
            idle = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.http))) for _ in range(300)
            ]
            live = urllib3.request("GET", f"http://127.0.0.1:{server.http}/v2/health/live", timeout=30)
            assert live.json() == {"live": True}
            assert idle[0].recv(1) == b""  # the one that was idle for the longest time is closed
        assert len(server.lines("too many connections")) == 1
        assert len(server.lines()) < 20


def begun(served, output="heatmap"):
    metrics = urllib3.request("GET", f"http://127.0.0.1:{served.http}/metrics").data.decode()
    return float(re.search(rf'patchnet_batch_images_count{{output="{output}"}} (\S+)', metrics)[1])


@pytest.mark.parametrize("protocol", ["http", "grpc", "deadline"])
def test_what_nobody_waits_for_is_not_computed(path, direct, tmp_path, protocol):
    """Of four large heatmaps one has begun when the client leaves, or its time is over."""
    size = 600
    large = np.zeros((4, size, size, 3), "uint8")
    with serving(path, tmp_path / "log", "--max-bytes", 2**24, "--max-batch", 1) as server:
        if protocol == "http":
            item = tensor(shape=large.shape, parameters={"binary_data_size": large.size})
            _, at, body, headers = v2([item], binary=large.tobytes())
            headers |= {"x-request-id": "gone", "host": "localhost", "content-length": str(len(body))}
            head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
            with socket.create_connection(("127.0.0.1", server.http)) as connection:
                connection.sendall(f"POST {at} HTTP/1.1\r\n{head}\r\n".encode() + body)
                eventually(lambda: begun(server), seconds=60)
            [line] = eventually(lambda: [r for r in server.lines("request") if r["id"] == "gone"])
            assert line["status"] == 499
        else:
            import grpc
            from tritonclient.grpc import service_pb2 as pb
            from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

            request = pb.ModelInferRequest(model_name="cells", raw_input_contents=[large.tobytes()])
            request.inputs.add(name="image", datatype="UINT8", shape=large.shape)
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
                stub = GRPCInferenceServiceStub(channel)
                if protocol == "deadline":
                    with pytest.raises(grpc.RpcError) as caught:
                        stub.ModelInfer(request, timeout=1)
                    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                else:
                    asked = stub.ModelInfer.future(request)
                    eventually(lambda: begun(server), seconds=60)
                    asked.cancel()
                eventually(lambda: [r for r in server.lines("request") if r["route"].endswith("ModelInfer")])
        before = begun(server)
        same(Client(server.url)(IMAGE), direct(IMAGE))
        assert begun(server) == before + 1
        assert before < 4


def test_pixels_in_json_are_read_in_parts():
    """As Python's own reader reads them, whatever surrounds them."""
    from patchnet_tf.serving.requests import read_json

    rows = np.random.default_rng(0).integers(0, 256, (100, 300, 3)).tolist()
    flat = [1.5, -3, 1e5, True, None, *range(30_000)]
    for content in (
        rows,
        {"instances": [rows, {"image": rows}, {"b64": 'a"[[1,2],[3,4]]\\' * 9000}], "x": [[], [[]], {}]},
        {"inputs": [{"data": flat, "shape": [1, 2]}], "id": "[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]"},
        {"\0": 10**6, "rows": rows},
        [flat, rows, "é" * 9000],
    ):
        for text in (json.dumps(content), json.dumps(content, indent=1)):
            assert read_json(text.encode(), 10**7) == content
            with pytest.raises(InputError, match="not JSON"):
                read_json(text.encode()[:-1], 10**7)
    numbers = b"[" + b"1," * 50_000
    for broken in (numbers + b"]", numbers[:-1] + b",,1]", numbers + b",1]", b"[," + numbers[1:] + b"1]"):
        with pytest.raises(InputError, match="not JSON"):
            read_json(broken, 10**7)
    assert read_json(numbers + b" 1 ] ", 10**7) == [1] * 50_001
    for broken in (b"[[1,2,],[3]]", b"[1 2]", b"[[1],[2]", b"[[1][2]]", b"[1],[2]"):
        with pytest.raises(InputError, match="not JSON"):
            read_json(b'{"a":' + b" " * 70_000 + broken + b"}", 10**7)
    with pytest.raises(InputError, match="pixels as lists of numbers, or files in base64"):
        read_json(b"[" + b'"",' * 300_000 + b"1]", 10**7)
    with pytest.raises(InputError, match="values in JSON"):
        read_json(b"[" + b"{}," * 300_000 + b"1]", 10**7)
    with pytest.raises(InputError, match="at most 10 values in JSON"):
        read_json(json.dumps(rows).encode(), 10)


def test_bodies_that_are_held_at_once_are_bounded():
    """Of twelve bodies of the largest size, eight are taken; later there is room again."""

    async def post(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(POST.replace(b"99", b"1000") + bytes(1000))
        answer = await reader.readuntil(b"}")
        writer.close()
        return answer

    async def main():
        async with behind_the_middleware(1000) as port:
            return [await asyncio.gather(*[post(port) for _ in range(12)]), [await post(port)]]

    many, [later] = asyncio.run(main())
    assert sorted(answer[9:12] for answer in many) == [b"200"] * 8 + [b"503"] * 4
    refused = next(answer for answer in many if answer[9:12] == b"503")
    assert b"retry-after: 1" in refused
    assert b"too many requests: try again" in refused
    assert later[9:12] == b"200"


def test_workers_that_cannot_start(tmp_path):
    """They are not started on and on."""
    code = (
        "from pathlib import Path; from patchnet_tf.serving.server import Options, connection, process\n"
        "options = Options(Path('gone'), 'cells')\n"
        "process.supervise(process.work, (options,), 1, 30, connection.listen('127.0.0.1', 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
    )
    assert done.stderr.splitlines()[-1] == "ChildProcessError: no worker could start; the log says why"
    assert "worker cannot serve" in done.stderr
    assert done.stderr.count("Traceback") == 1  # that of this test's own command


def test_what_grace_cuts_off_is_told_so(path, tmp_path):
    """While it drains it is not ready; then 503, and the process ends although threads compute."""
    count, size = 32, 512
    options = ("--grace", 2, "--max-bytes", 2**26, "--max-batch", 1, "--max-total-pixels", 2**24)
    with serving(path, tmp_path / "log", *options) as server:
        said = (tmp_path / "log").read_text().splitlines()
        assert f"Serving cells: http://127.0.0.1:{server.http}/ has a page to try it" in said
        pixels = bytes(count * size * size * 3)
        item = tensor(shape=(count, size, size, 3), parameters={"binary_data_size": len(pixels)})
        method, at, body, headers = v2([item], binary=pixels)
        pool = urllib3.PoolManager(retries=False, timeout=60, maxsize=4)
        base = f"http://127.0.0.1:{server.http}"
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            asked = [
                threads.submit(pool.request, method, base + at, body=body, headers=headers) for _ in range(2)
            ]
            begun = rb'patchnet_batch_images_count\{output="heatmap"\} [1-9]'
            while not re.search(begun, pool.request("GET", base + "/metrics").data):
                time.sleep(0.05)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            ready = pool.request("GET", base + "/v2/health/ready")
            assert (ready.status, ready.json()) == (503, {"error": "Server is not ready."})
            answers = [future.result() for future in asked]
        assert {(a.status, a.json()["error"]) for a in answers} == {(503, "the server is stopping")}
        assert server.process.wait(5) == 0
    assert not [line for line in server.lines() if "fault" in line]


def test_a_body_without_length_is_counted(served):
    """More than the limit, in chunks: the answer comes before the end."""
    connection = http.client.HTTPConnection("127.0.0.1", served.http, timeout=30)
    connection.request("POST", "/v1/models/cells:predict", iter([b"[" * 20_000] * 6), encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.getheader("connection") == "close"


def test_client(served, direct, rng):
    client = Client(served.url)
    for size in ((5, 5), (13, 11), (40, 50)):
        image = rng.integers(0, 256, (*size, 3), "uint8")
        same(client(image), direct(image))
        same(client(encoded(image)), direct(image))
        assert client.probability(image) == direct.probability(image)
    batch = rng.integers(0, 256, (4, 9, 8, 3), "uint8")
    same(client(batch), direct(batch))
    np.testing.assert_array_equal(client.probability(batch), direct.probability(batch))
    assert [tuple(version) for version in client.status()] == [(1, "AVAILABLE")]
    assert client.metadata()["serving_default"] == {
        "inputs": ["image"],
        "outputs": ["heatmap", "probability"],
    }
    same(Client(f"{served.url}/versions/1")(IMAGE), direct(IMAGE))
    with pytest.raises(ServerError, match=r"version 2 is not served. Served: 1 \(status 404\)"):
        Client(f"{served.url}/versions/2").status()


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/x-www-form-urlencoded", ""])
def test_content_types(served, pool, direct, kind):
    """What clients say of JSON, curl's -d among them."""
    body = json.dumps({"instances": [ROWS], "signature_name": "probability"}).encode()
    answer = pool.request("POST", served.url + ":predict", body=body, headers={"content-type": kind})
    assert np.float32(answer.json()["predictions"][0]) == np.float32(direct.probability(IMAGE))


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_documented_commands(served, direct, tmp_path):
    """The lines with curl in docs/serving.md, as they stand there but for the address."""
    guide = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    commands = [block for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "curl" in block]
    assert commands
    (tmp_path / "cell.png").write_bytes(encoded(IMAGE))
    for command in commands:
        local = command.replace("127.0.0.1:8080", f"127.0.0.1:{served.http}")
        done = subprocess.run(["bash", "-c", local], cwd=tmp_path, capture_output=True, check=True)
        answer = json.loads(done.stdout)["predictions"][0]
        probability = answer if isinstance(answer, float) else answer["probability"]
        assert np.float32(probability) == np.float32(direct.probability(IMAGE))


def test_rows(served, pool, direct):
    """Images of several sizes, as pixels and as files, in TF Serving's row format."""
    other = np.ascontiguousarray(IMAGE[:7])
    for signature, pick in (("serving_default", dict), ("probability", float), ("heatmap", list)):
        request = {
            "instances": [ROWS, {"image": other.tolist()}, b64(encoded(IMAGE))],
            "signature_name": signature,
        }
        answer = pool.request("POST", served.url + ":predict", json=request).json()["predictions"]
        assert [type(row) for row in answer] == [pick] * 3
        for row, image in zip(answer, (IMAGE, other, IMAGE), strict=True):
            expected = direct(image)
            if pick is not list:
                assert np.float32(row if pick is float else row["probability"]) == np.float32(
                    expected.probability
                )
            if pick is not float:
                heatmap = np.array(row if pick is list else row["heatmap"], "float32")
                np.testing.assert_array_equal(heatmap, expected.heatmap)


def test_v2(served, pool, direct):
    url = f"http://127.0.0.1:{served.http}/v2/models/cells/infer"
    expected = direct(IMAGE)
    file = encoded(IMAGE)
    raw = tensor(parameters={"binary_data_size": IMAGE.size})
    del raw["data"]
    files = tensor(None, "image_bytes", "BYTES", (1,), parameters={"binary_data_size": len(file) + 4})
    for request in (
        v2([tensor(FLAT)], id="seven"),
        v2([tensor([ROWS])], id="seven"),
        v2([tensor([base64.b64encode(file).decode()], "image_bytes", "BYTES", (1,))], id="seven"),
        v2([raw], binary=IMAGE.tobytes(), id="seven"),
        v2([files], binary=struct.pack("<I", len(file)) + file, id="seven"),
    ):
        answer = pool.request(*request[:1], url, body=request[2], headers=request[3]).json()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", "cells", "1")
        got = {
            output["name"]: np.array(output["data"], "float32").reshape(output["shape"])
            for output in answer["outputs"]
        }
        np.testing.assert_array_equal(got["probability"], np.float32([expected.probability]))
        np.testing.assert_array_equal(got["heatmap"], expected.heatmap[None])
    request = v2([tensor(FLAT)], parameters={"binary_data_output": True}, outputs=[{"name": "heatmap"}])
    answer = pool.request("POST", url, body=request[2], headers=request[3])
    length = int(answer.headers["inference-header-content-length"])
    [output] = json.loads(answer.data[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(answer.data) - length}
    heatmap = np.frombuffer(answer.data[length:], "<f4").reshape(output["shape"])
    np.testing.assert_array_equal(heatmap, expected.heatmap[None])


def test_v2_by_grpc(served, direct):
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    def request(shape=(1, 13, 11, 3), datatype="UINT8", name="image", raw=None, model="cells", **contents):
        message = pb.ModelInferRequest(model_name=model, id="7")
        item = message.inputs.add(name=name, datatype=datatype, shape=shape)
        for key, values in contents.items():
            getattr(item.contents, key).extend(values)
        if raw is not None:
            message.raw_input_contents.append(raw)
        return message

    expected = direct(IMAGE)
    file = encoded(IMAGE)
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="cells")).ready
        assert [i.name for i in stub.ModelMetadata(pb.ModelMetadataRequest(name="cells")).inputs] == [
            "image",
            "image_bytes",
        ]
        good = request(raw=IMAGE.tobytes())

        def check():
            answer = stub.ModelInfer(good)
            got = [np.frombuffer(raw, "<f4") for raw in answer.raw_output_contents]
            assert [output.name for output in answer.outputs] == ["probability", "heatmap"]
            np.testing.assert_array_equal(got[0], np.float32([expected.probability]))
            np.testing.assert_array_equal(got[1].reshape(answer.outputs[1].shape), expected.heatmap[None])

        check()
        for contents in (
            {"uint_contents": FLAT},
            {"bytes_contents": [file], "shape": (1,), "datatype": "BYTES", "name": "image_bytes"},
        ):
            [_, raw] = stub.ModelInfer(request(**contents)).raw_output_contents
            assert raw == expected.heatmap.tobytes()
        for call in (
            lambda: stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="cells")),
            lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="cells")),
        ):
            with pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"):
                call()
        with pytest.raises(grpc.RpcError, match="not a ModelInferRequest") as caught:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff\xff")
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        for bad, code, message in (
            (request(), "INVALID_ARGUMENT", "429 numbers"),
            (request(raw=IMAGE.tobytes()[1:]), "INVALID_ARGUMENT", "429 numbers.*Received: 428"),
            (request(uint_contents=[*FLAT[1:], 256]), "INVALID_ARGUMENT", "0..255"),
            (request(datatype="FP32", fp32_contents=FLAT), "INVALID_ARGUMENT", "UINT8"),
            (request(datatype="PIXELS"), "INVALID_ARGUMENT", "expected UINT8"),
            (request(shape=(1, -13, -11, 3), uint_contents=FLAT), "INVALID_ARGUMENT", "expected shape"),
            (
                request(shape=(1, 2**40, 2**40, 3), uint_contents=FLAT),
                "INVALID_ARGUMENT",
                "at most 2000 pixels",
            ),
            (request(shape=(9, 13, 11, 3)), "INVALID_ARGUMENT", "at most 4 images"),
            (request(name="x", uint_contents=FLAT), "INVALID_ARGUMENT", 'named "image"'),
            (request(raw=IMAGE.tobytes(), model="dogs"), "NOT_FOUND", "dogs does not exist"),
            (
                request((1,), "BYTES", "image_bytes", bytes_contents=[file[:-30]]),
                "INVALID_ARGUMENT",
                "damaged or truncated",
            ),
            (request(raw=bytes(100_001)), "RESOURCE_EXHAUSTED", "larger than max"),
            (pb.ModelInferRequest(model_name="cells"), "INVALID_ARGUMENT", "expected one"),
            (request(raw=IMAGE.tobytes(), uint_contents=FLAT), "INVALID_ARGUMENT", "Received: both"),
            (
                pb.ModelInferRequest(model_name="cells", raw_input_contents=[b"1"]),
                "INVALID_ARGUMENT",
                "number of inputs",
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(bad)
            assert (caught.value.code().name, bool(re.search(message, caught.value.details()))) == (
                code,
                True,
            ), caught.value
            check()


def test_health_and_metrics(served, pool, direct):
    base = f"http://127.0.0.1:{served.http}"
    for where in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/cells/ready",
        "/v1/models/cells",
        "/v1/models",
        "/v2",
        "/",
    ):
        assert pool.request("GET", base + where).status == 200
    route = 'patchnet_requests_total{route="/v1/models/{name}:predict",status="200"}'

    def count():
        metrics = pool.request("GET", base + "/metrics").data.decode()
        assert 'patchnet_version{model="cells"} 1.0' in metrics
        assert 'patchnet_stage_seconds_count{stage="predict"}' in metrics
        return float(re.search(re.escape(route) + r" (\S+)", metrics)[1])

    Client(served.url)(IMAGE)
    before = count()
    Client(served.url)(IMAGE)
    eventually(lambda: count() == before + 1)


def test_grpc_is_counted_and_logged(served, pool):
    import grpc
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    route = "/inference.GRPCInferenceService/ModelInfer"

    def counts():
        metrics = pool.request("GET", f"http://127.0.0.1:{served.http}/metrics").data.decode()
        found = re.findall(rf'requests_total\{{route="{route}",status="(\w+)"\}} (\S+)', metrics)
        return {status: float(number) for status, number in found}

    before = counts()
    good = pb.ModelInferRequest(model_name="cells", raw_input_contents=[IMAGE.tobytes()])
    good.inputs.add(name="image", datatype="UINT8", shape=(1, *IMAGE.shape))
    with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        stub.ModelInfer(good)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(pb.ModelInferRequest(model_name="cells"))
    expected = {status: before.get(status, 0) + 1 for status in ("OK", "INVALID_ARGUMENT")}
    eventually(lambda: expected.items() <= counts().items())  # a request is counted after its answer
    logged = [line for line in served.lines("request") if line["route"] == route]
    assert logged[-2]["status"] == "OK"
    assert logged[-2]["bytes"] == good.ByteSize()


def test_log_holds_no_images(served, pool):
    marked = {"instances": [{"b64": "SECRETSECRET"}]}
    pool.request("POST", served.url + ":predict?key=SECRETSECRET", json=marked)
    pool.request("POST", served.url + ":predict", body=b'{"SECRETSECRET', headers={"x-request-id": "mine"})
    found = eventually(lambda: [line for line in served.lines("request") if line["id"] == "mine"])
    assert found[0]["status"] == 400
    assert {"time", "level", "method", "route", "bytes", "ms"} <= found[0].keys()
    assert "SECRET" not in json.dumps(served.lines())
    assert not [line for line in served.lines() if "fault" in line]


def test_page(served, pool):
    base = f"http://127.0.0.1:{served.http}"
    page = pool.request("GET", base + "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="(page[^"]+)"', page.data.decode()):
        assert pool.request("GET", f"{base}/{name}").status == 200
    for name in ("", "page.js", "page.css"):  # nothing from elsewhere
        assert not re.search(
            r"https?://|//\w+\.\w+", pool.request("GET", f"{base}/{name}").data.decode().replace("// ", "")
        )


def load(served, direct, seconds, clients=8):
    """Ask from several threads for some seconds; return the number of answers, every one checked."""
    generator = np.random.default_rng(5)
    images = [
        generator.integers(0, 256, (*size, 3), "uint8")
        for size in [(5, 5), (9, 9), (9, 9), (20, 31), (40, 41)]
    ]
    expected = [direct(image) for image in images]
    client = Client(served.url)
    end = time.monotonic() + seconds

    def ask(number):
        count = 0
        while time.monotonic() < end:
            k = (number + count) % len(images)
            if (number + count) % 3:
                same(client(images[k]), expected[k])
            else:
                assert client.probability(images[k]) == expected[k].probability
            count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(clients) as threads:
        return sum(threads.map(ask, range(clients)))


def memory(pid):
    """Return the resident memory of a process in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_many_clients_at_once(served, direct):
    assert load(served, direct, seconds=4) > 20
    batches = re.findall(
        r'patchnet_batch_images_bucket\{le="1.0",output="(\w+)"\} (\S+)',
        urllib3.request("GET", f"http://127.0.0.1:{served.http}/metrics").data.decode(),
    )
    counts = re.findall(
        r'patchnet_batch_images_count\{output="(\w+)"\} (\S+)',
        urllib3.request("GET", f"http://127.0.0.1:{served.http}/metrics").data.decode(),
    )
    assert any(float(dict(counts)[output]) > float(ones) for output, ones in batches)  # some held several


@pytest.mark.slow
def test_memory_is_flat_under_load(path, direct, tmp_path):
    """Eight clients for a minute of warm-up and a minute that is measured."""
    with serving(path, tmp_path / "log", *LIMITS) as server:
        load(server, direct, seconds=60)
        samples, done = [], threading.Event()

        def sample():
            while not done.wait(1):
                samples.append(memory(server.process.pid))

        sampling = threading.Thread(target=sample)
        sampling.start()
        answers = load(server, direct, seconds=60)
        done.set()
        sampling.join()
    slope = np.polyfit(np.arange(len(samples)), samples, 1)[0] * 60
    print(f"{answers} answers; {samples[0]:.0f} MiB, {slope:+.2f} MiB per minute")
    assert slope < 5


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_request_is_lost_on_sigterm(path, direct, tmp_path, protocol):
    """Clients ask on and on; what the server has begun it answers, then they are refused a connection."""
    if protocol == "grpc":
        grpc = pytest.importorskip("grpc")
        from tritonclient.grpc import service_pb2 as pb
        from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub
    image = np.random.default_rng(5).integers(0, 256, (40, 41, 3), "uint8")
    expected = direct(image)
    answers, errors = [], []
    with serving(path, tmp_path / "log") as server:
        client = Client(server.url, retries=0)

        def http(number):
            while True:
                try:
                    prediction = client(image)
                except ServerError as error:
                    errors.append(error)
                    return
                same(prediction, expected)
                answers.append(number)

        def rpc(number):
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
                stub = GRPCInferenceServiceStub(channel)
                request = pb.ModelInferRequest(model_name="cells", raw_input_contents=[image.tobytes()])
                request.inputs.add(name="image", datatype="UINT8", shape=(1, *image.shape))
                while True:
                    try:
                        answer = stub.ModelInfer(request)
                    except grpc.RpcError as error:
                        errors.append(error)
                        return
                    np.testing.assert_array_equal(
                        np.frombuffer(answer.raw_output_contents[1], "<f4").reshape(image.shape[:2]),
                        expected.heatmap,
                    )
                    answers.append(number)

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            asking = [threads.submit({"http": http, "grpc": rpc}[protocol], k) for k in range(8)]
            while len(answers) < 16:
                time.sleep(0.01)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 15
            for future in asking:
                future.result()
    assert len(errors) == 8
    if protocol == "grpc":
        assert {error.code().name for error in errors} == {"UNAVAILABLE"}
        return
    assert all(error.status is None for error in errors)  # no connection, instead of half an answer
    requests = [line for line in server.lines("request") if line["method"] == "POST"]
    assert [line["status"] for line in requests] == [200] * len(answers)


def test_killed_and_started_again(path, direct, tmp_path):
    first = Served(path, tmp_path / "log1")
    same(Client(first.url)(IMAGE), direct(IMAGE))
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(ServerError, match="cannot be reached"):
        Client(first.url, retries=0)(IMAGE)
    with serving(path, tmp_path / "log2", "--port", first.http, "--grpc-port", first.grpc) as again:
        assert again.http == first.http
        same(Client(first.url)(IMAGE), direct(IMAGE))


def other_model(path, folder):
    """Write another model to a folder: the same file with other biases."""
    loaded = onnx.load(path)
    for weights in loaded.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.size == 4:
            weights.CopyFrom(onnx.numpy_helper.from_array(values + np.float32(0.1), weights.name))
    folder.mkdir()
    onnx.save(loaded, folder / path.name)
    digest.seal(folder / path.name)
    (folder / manifest.NAME).write_text(json.dumps(manifest.manifest(folder)))


def test_new_versions_are_picked_up_without_losing_a_request(path, tmp_path):
    """Version 2 comes while clients ask; a damaged version 3 is left alone; without 2, it is 1 again."""
    folder = tmp_path / "cells"
    shutil.copytree(path.parent, folder / "1", ignore=shutil.ignore_patterns("log"))
    other_model(path, tmp_path / "2")
    expected = {1: Predictor(path)(IMAGE), 2: Predictor(tmp_path / "2" / "cells.onnx")(IMAGE)}
    assert expected[1].probability != expected[2].probability
    by_probability = {np.float32(p.probability).item(): number for number, p in expected.items()}
    with serving(folder, tmp_path / "log") as server:
        client = Client(server.url, retries=0)
        stop, seen = threading.Event(), []

        def ask():
            while not stop.is_set():
                prediction = client(IMAGE)
                number = by_probability[prediction.probability]
                same(prediction, expected[number])
                seen.append(number)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask) for _ in range(4)]
            (tmp_path / "2").rename(folder / "2")
            server.wait_for("version loaded", 2)
            shutil.copytree(folder / "2", folder / "3")
            (folder / "3" / "cells.onnx").write_bytes((folder / "2" / "cells.onnx").read_bytes()[:-9])
            [refused] = server.wait_for("version not loaded")
            assert refused["version"] == 3
            assert "altered or truncated" in refused["reason"]
            assert client.status() == [(2, "AVAILABLE")]
            shutil.rmtree(folder / "2")
            server.wait_for("version loaded", 3)
            time.sleep(0.5)
            stop.set()
            for future in asking:
                future.result()
        assert client.status() == [(1, "AVAILABLE")]
    changes = [number for k, number in enumerate(seen) if k == 0 or seen[k - 1] != number]
    assert changes[0] == changes[-1] == 1
    assert set(seen) == {1, 2}


def test_odd_versions_are_passed_over_and_replaced_ones_noticed(path, tmp_path, caplog):
    """Of each bad one the log says once what is wrong; the good one below is loaded."""
    from patchnet_tf.serving.versions import Versions

    folder = tmp_path / "cells"
    for number in (1, 2, 3, 4):
        (folder / str(number)).mkdir(parents=True)
        shutil.copy(path, folder / str(number))
    for number, contract in ((2, "3"), (3, "[" * 50_000), (4, "null")):
        loaded = onnx.load(path)
        for entry in loaded.metadata_props:
            entry.value = contract
        onnx.save(loaded, folder / str(number) / "cells.onnx")
    versions = Versions(folder)
    for _ in range(3):
        versions.refresh()
    assert versions.current.number == 1
    assert len([record for record in caplog.records if record.message == "version not loaded"]) == 3
    before = versions.current.predict(IMAGE)
    other_model(path, tmp_path / "other")
    os.replace(tmp_path / "other" / "cells.onnx", folder / "1" / "cells.onnx")
    versions.refresh()
    assert versions.current.number == 1
    assert versions.current.predict(IMAGE).probability != before.probability
    shutil.copy(path, folder / "3")  # mended
    versions.refresh()
    assert versions.current.number == 3
    same(versions.current.predict(IMAGE), before)


def test_a_version_whose_answers_are_not_finite_is_refused(path, tmp_path):
    from patchnet_tf.serving.versions import Versions

    loaded = onnx.load(path)
    for weights in loaded.graph.initializer:
        if len(weights.dims) == 4:
            kernel = np.full(weights.dims, np.nan, "float32")
            weights.CopyFrom(onnx.numpy_helper.from_array(kernel, weights.name))
    wrong = tmp_path / "cells.onnx"
    onnx.save(loaded, wrong)
    digest.seal(wrong)
    Predictor(wrong)  # nothing else is wrong with it
    with pytest.raises(ValueError, match=r"cells\.onnx: expected finite answers.*Received: probability=nan"):
        Versions(wrong).refresh()


def test_files_that_connections_may_open():
    code = (
        "import resource; from patchnet_tf.serving.server.connection import raise_file_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1000))\n"
        "print(raise_file_limit(500), raise_file_limit(5000), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == "500 744 (1000, 1000)\n"


def test_an_empty_host_is_refused(path, patchnet):
    code, _, err = patchnet("serve", path, "--host", "", "--port", "0")
    assert (code, err) == (2, "error: --host: expected an address. Received: an empty text\n")


def test_names_that_are_allowed(path, direct, tmp_path):
    with serving(path, tmp_path / "log", "--allow-host", "cells.example") as server:
        for host, status in (("cells.example", 200), ("cells.example:80", 200), ("[::1]", 200), ("x", 421)):
            url = f"http://127.0.0.1:{server.http}/"
            assert urllib3.request("GET", url, headers={"host": host}).status == status
        url = server.url + ":predict"
        for host in (
            "cells.example",
            "127.0.0.1:80",
        ):  # of the page behind a proxy that keeps the name or not
            headers = {"host": host, "origin": "https://cells.example"}
            answer = urllib3.request("POST", url, json={"instances": [ROWS]}, headers=headers)
            assert answer.status == 200


def test_too_many_requests_at_once_are_told_to_wait(path, direct, tmp_path):
    image = np.random.default_rng(5).integers(0, 256, (100, 100, 3), "uint8")
    with serving(path, tmp_path / "log", "--max-waiting", 1, "--max-batch", 1) as server:
        client = Client(server.url, retries=0)
        with concurrent.futures.ThreadPoolExecutor(12) as threads:
            results = [threads.submit(client, image) for _ in range(12)]
        errors = [error for future in results if (error := future.exception())]
        assert errors
        assert len(errors) < 12
        assert {error.status for error in errors} == {503}
        assert "images are waiting; try again" in str(errors[0])
        same(client(image), direct(image))
        patient = Client(server.url, retries=20)
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            for prediction in threads.map(patient, [image] * 4):
                same(prediction, direct(image))


@pytest.mark.slow
def test_workers(path, direct, tmp_path):
    """Two processes answer; one that is killed is replaced; SIGTERM ends them all."""
    with serving(path, tmp_path / "log", "--workers", 2) as server:
        pids = server.wait_for("serving", 2)
        assert len(pids) == 2
        assert load(server, direct, seconds=5) > 20
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        server.wait_for("serving", 3)
        assert load(server, direct, seconds=5) > 20
        metrics = urllib3.request("GET", f"http://127.0.0.1:{server.http}/metrics").data.decode()
        [count] = re.findall(
            r'requests_total\{route="/v1/models/\{name\}:predict",status="200"\} (\S+)', metrics
        )
        assert float(count) > 40
        assert server.stop() == 0
    for pid in workers:
        assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.slow
def test_workers_do_not_outlive_their_parent(path, tmp_path):
    with serving(path, tmp_path / "log", "--workers", 2) as server:
        server.wait_for("serving", 2)
        server.stop(signal.SIGKILL)
    eventually(lambda: len(server.lines("stopped")) >= 2, seconds=20)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.http))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, path: folder / "gone", "there is no such file or folder"),
        (lambda folder, path: folder, "no exported model"),
        (
            lambda folder, path: (folder / "model.keras").write_bytes(b"x") and folder / "model.keras",
            "model.keras: not an exported model; export it first: patchnet export ",
        ),
        (
            lambda folder, path: (folder / "model.keras").write_bytes(b"x") and folder,
            "not an exported model; export it first: patchnet export ",
        ),
        (lambda folder, path: (folder / "a.onnx").write_bytes(b"x") and folder / "a.onnx", "cannot load it"),
    ],
)
def test_what_cannot_be_served(path, tmp_path, make, message, capsys, monkeypatch):
    from patchnet_tf.cli import app

    monkeypatch.setattr("sys.argv", ["patchnet", "serve", str(make(tmp_path, path)), "--port", "0"])
    monkeypatch.setattr("patchnet_tf.serving.server.process.configure_logging", lambda: None)
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
