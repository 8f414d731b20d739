"""Tokens, TLS, and the port of operators: `patchnet serve` and `Client`."""

import os
import re

import grpc
import numpy as np
import pytest
import trustme
import urllib3

import patchnet_tf as pn
from patchnet_tf.cli.serving import is_host
from patchnet_tf.errors import InputError
from patchnet_tf.serving import Client, Predictor
from patchnet_tf.serving.client import ServerError

from .conftest import shake
from .serving import serving
from .test_server import same

pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="needs the extra serve")
TOKEN, OLD = "a-token.of~24/letters+==", "another-token-that-ends"
IMAGE = np.random.default_rng(3).integers(0, 256, (13, 11, 3), "uint8")
METRICS = ("/metrics", "/v2", "/v2/health/live", "/v2/health/ready")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model = shake(pn.PatchNet((None, None, 3), 5, filters=4, depth=2), np.random.default_rng(0))
    path = tmp_path_factory.mktemp("security") / "cells.onnx"
    pn.export.to_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def direct(path):
    return Predictor(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Certificates of a server and of a client, the authority of both, and another one."""
    folder = tmp_path_factory.mktemp("certificates")
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other_ca.pem")
    for name, authority in (("server", ours), ("client", ours), ("stranger", other)):
        issued = authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for blob in issued.cert_chain_pems:
            blob.write_to_path(folder / f"{name}.pem", append=True)
    (folder / "tokens").write_text(f"{OLD}\n{TOKEN}\n")
    (folder / "tokens").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def guarded(path, files):
    """A server with tokens, and TLS where clients show a certificate."""
    options = ["--token-file", files / "tokens", "--tls-cert", files / "server.pem"]
    options += ["--tls-key", files / "server.key", "--tls-client-ca", files / "ca.pem"]
    with serving(path, path.with_name("log"), *options) as server:
        yield server


def https(server):
    return server.url.replace("http://", "https://")


def pair(files, name):
    return files / f"{name}.pem", files / f"{name}.key"


def test_client_with_token_and_certificate(guarded, direct, files):
    for token in (TOKEN, OLD):
        client = Client(https(guarded), token=token, ca=files / "ca.pem", cert=pair(files, "client"))
        same(client(IMAGE), direct(IMAGE))
        assert client.contract == direct.contract
        assert client.status()[0].state == "AVAILABLE"


@pytest.mark.parametrize(
    ("token", "ca", "cert", "message"),
    [
        (None, "ca", "client", r"expected Bearer and a token of this server \(status 401\)"),
        (TOKEN[:-1], "ca", "client", r"\(status 401\)"),
        (TOKEN, "other_ca", "client", "not trusted"),
        (TOKEN, "ca", "stranger", "cannot be reached"),
        (TOKEN, "ca", None, "cannot be reached"),
    ],
)
def test_clients_that_are_refused(guarded, files, token, ca, cert, message):
    cert = cert and pair(files, cert)
    client = Client(https(guarded), token=token, ca=files / f"{ca}.pem", cert=cert, retries=0)
    with pytest.raises(ServerError, match=message) as caught:
        client(IMAGE)
    assert TOKEN[:-1] not in str(caught.value)


def test_without_tls_there_is_no_answer(guarded):
    with pytest.raises(urllib3.exceptions.HTTPError):
        urllib3.request("GET", guarded.url, retries=False)


def test_grpc_with_token_and_certificate(guarded, direct, files):
    ca = (files / "ca.pem").read_bytes()
    ready = "/inference.GRPCInferenceService/ServerReady"
    infer = "/inference.GRPCInferenceService/ModelInfer"
    request = pb.ModelInferRequest(model_name="cells", raw_input_contents=[IMAGE.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=(1, *IMAGE.shape))
    at = f"127.0.0.1:{guarded.grpc}"
    cert, key = (file.read_bytes() for file in pair(files, "client"))
    with grpc.secure_channel(at, grpc.ssl_channel_credentials(ca, key, cert)) as channel:
        assert pb.ServerReadyResponse.FromString(channel.unary_unary(ready)(b"", timeout=60)).ready
        content, call = request.SerializeToString(), channel.unary_unary(infer)
        for metadata in ((), (("authorization", f"Bearer {TOKEN}x"),), (("authorization", TOKEN),)):
            with pytest.raises(grpc.RpcError) as caught:
                call(content, timeout=60, metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        answer = call(content, timeout=60, metadata=(("authorization", f"Bearer {TOKEN}"),))
        outputs = pb.ModelInferResponse.FromString(answer).raw_output_contents
        assert outputs[1] == direct(IMAGE).heatmap.tobytes()
    for credentials in (
        grpc.ssl_channel_credentials(ca),
        grpc.ssl_channel_credentials((files / "other_ca.pem").read_bytes(), key, cert),
        grpc.ssl_channel_credentials(ca, *(f.read_bytes() for f in reversed(pair(files, "stranger")))),
    ):
        with grpc.secure_channel(at, credentials) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(ready)(b"", timeout=60)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_operators_have_their_port(path, direct, files, tmp_path):
    """With tokens: probes and the page need none; metrics neither, at a port of their own."""
    options = ["--token-file", files / "tokens", "--metrics-port", "0"]
    with serving(path, tmp_path / "log", *options) as server:
        [line] = server.lines("serving")
        own = f"http://127.0.0.1:{line['metrics'][1]}"
        for at in METRICS:
            assert urllib3.request("GET", own + at).status == 200
            main = urllib3.request("GET", f"http://127.0.0.1:{server.http}{at}", headers=bearer(TOKEN))
            assert main.status == 404
        assert urllib3.request("GET", f"{own}/v1/models/cells").status == 404
        assert urllib3.request("GET", f"{own}/metrics", headers={"host": "evil.example"}).status == 421
        same(Client(server.url, token=TOKEN)(IMAGE), direct(IMAGE))
        counted = urllib3.request("GET", f"{own}/metrics").data.decode()
        route = re.escape('route="/v1/models/{name}:predict",status="200"')
        assert re.search(rf"patchnet_requests_total\{{{route}\}} 1\.0", counted)
        assert server.stop() == 0
        assert TOKEN not in (tmp_path / "log").read_text()


def test_operators_have_their_port_beside_tls(path, direct, files, tmp_path):
    """Clients speak TLS, operators do not."""
    options = ["--tls-cert", files / "server.pem", "--tls-key", files / "server.key", "--metrics-port", "0"]
    with serving(path, tmp_path / "log", *options) as server:
        [line] = server.lines("serving")
        own = f"http://127.0.0.1:{line['metrics'][1]}"
        assert urllib3.request("GET", f"{own}/v2/health/ready").status == 200
        same(Client(https(server), ca=files / "ca.pem")(IMAGE), direct(IMAGE))
        assert server.stop() == 0


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_what_needs_a_token(path, files, tmp_path):
    with serving(path, tmp_path / "log", "--token-file", files / "tokens") as server:
        at = f"http://127.0.0.1:{server.http}"
        for open_to_all in ("/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"):
            assert urllib3.request("GET", at + open_to_all).status == 200
        for closed in ("/metrics", "/v2", "/v1/models", "/v1/models/cells", "/v2/models/cells", "/nothing"):
            answer = urllib3.request("GET", at + closed)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json() == {"error": "authorization: expected Bearer and a token of this server"}
            wanted = 404 if closed == "/nothing" else 200
            assert urllib3.request("GET", at + closed, headers=bearer(TOKEN)).status == wanted


@pytest.mark.parametrize("said", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}é", TOKEN])
def test_tokens_are_compared_whole(said):
    from patchnet_tf.serving.server.security import check_token

    check_token(f"Bearer {TOKEN}", (OLD, TOKEN))
    check_token(f"bearer  {TOKEN}", (TOKEN,))
    check_token(said, ())
    with pytest.raises(InputError, match="expected Bearer"):
        check_token(said, (OLD, TOKEN))


def test_token_files(tmp_path, caplog):
    from patchnet_tf.serving.server import read_tokens

    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\r\n\n{OLD}")
    path.chmod(0o640)
    assert read_tokens(path) == (TOKEN, OLD)
    assert not caplog.messages
    path.chmod(0o644)
    assert read_tokens(path) == (TOKEN, OLD)
    assert caplog.messages == [f"{path}: everybody on this machine can read its tokens"]
    for content in (
        b"",
        b"\n",
        b"short\n",
        b"with a space in it, so\n",
        b"\xff" * 20,
        TOKEN.encode() + b"\0",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"^{path}: expected tokens of 16 to 4096 letters") as caught:
            read_tokens(path)
        assert not content or "space" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_tokens(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: not a regular file"):
        read_tokens(tmp_path / "pipe")
    path.write_bytes(f"{TOKEN}\n".encode() * 2**16)
    with pytest.raises(InputError, match="tokens: expected at most 1048576 bytes"):
        read_tokens(path)


def protected(path):
    """Write a key that has a password."""
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(path.read_bytes(), None)
    made = path.with_name("protected.key")
    made.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return made


@pytest.mark.parametrize(
    ("cert", "key", "ca", "message"),
    [
        ("server.pem", "client.key", None, "KEY_VALUES_MISMATCH"),
        ("server.key", "server.key", None, "server.key: expected a certificate and its key, in PEM"),
        ("tokens", "server.key", None, "expected a certificate and its key, in PEM. Received: "),
        ("gone.pem", "server.key", None, r"gone.pem: cannot be read \(No such file or directory\)"),
        ("server.pem", "gone.key", None, r"gone.key: cannot be read \(No such file or directory\)"),
        ("server.pem", "protected.key", None, "protected.key: expected a key without a password"),
        ("server.pem", "server.key", "tokens", "tokens: expected certificates, in PEM"),
        ("server.pem", "server.key", "gone.pem", r"gone.pem: cannot be read \(No such file or directory\)"),
        ("server.pem", None, None, "--tls-cert and --tls-key go together"),
        (None, None, "ca.pem", "--tls-client-ca needs both"),
        ("pipe", "server.key", None, "pipe: not a regular file"),
        ("server.pem", "pipe", None, "pipe: not a regular file"),
        ("server.pem", "server.key", "pipe", "pipe: not a regular file"),
    ],
)
def test_certificates_that_cannot_be_used(path, files, patchnet, monkeypatch, cert, key, ca, message):
    """They are refused in one line, before a port is opened."""
    monkeypatch.setattr("patchnet_tf.serving.server.process.listen", lambda *at: pytest.fail("opened"))
    protected(files / "server.key")
    if not (files / "pipe").exists():
        os.mkfifo(files / "pipe")
    options = []
    for option, name in (("--tls-cert", cert), ("--tls-key", key), ("--tls-client-ca", ca)):
        options += [option, files / name] if name else []
    code, out, err = patchnet("serve", path, *options)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"error: .*{message}.*\n", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"token": "two words"}, "`token` must be a text of printable ASCII without spaces"),
        ({"token": "x\ny"}, "`token` must be"),
        ({"ca": "x.pem"}, "`ca` and `cert` go with https and grpcs. Received: http"),
        ({"token": "x", "url": "http://me:secret@host/v1/models/cells"}, "either `token` or USER:PASSWORD"),
        (
            {"url": "https://host/v1/models/cells", "ca": "gone.pem"},
            "`ca` must be a PEM file of certificates",
        ),
        ({"url": "https://host/v1/models/cells", "cert": ("gone.pem", "x")}, "`cert` must be a PEM file of"),
    ],
)
def test_clients_that_cannot_be_made(arguments, message):
    with pytest.raises(ValueError, match=f"^.*{message}") as caught:
        Client(**{"url": "http://host/v1/models/cells", **arguments})
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["*", "cells.example", "Cells_2", "10.0.0.1", "::1"])
def test_names_of_hosts(name):
    assert is_host(name)


@pytest.mark.parametrize(
    "option",
    [
        ("--max-bytes", 2**31),
        ("--max-pixels", 2**31),
        ("--max-total-pixels", 10**30),
        ("--max-images", 10**9),
        ("--max-batch", 10**9),
        ("--max-waiting", 10**9),
        ("--max-connections", 10**9),
        ("--timeout", "inf"),
        ("--timeout", "nan"),
        ("--grace", 10**9),
        ("--keep-alive", 10**9),
        ("--metrics-port", 2**16),
        ("--metrics-host", ""),
        ("--metrics-host", "127.0.0.1"),  # without --metrics-port
        ("--allow-host", ""),
        ("--allow-host", "cells example"),
        ("--allow-host", "https://cells.example/"),
        ("--allow-host", "cells.example:8080"),
        ("--allow-host", "*.example"),
    ],
)
def test_absurd_options_are_refused(path, patchnet, monkeypatch, option):
    monkeypatch.setattr("patchnet_tf.serving.server.process.listen", lambda *at: pytest.fail("opened"))
    code, out, err = patchnet("serve", path, *option)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert option[0] in err


def test_the_largest_request(path, direct, tmp_path):
    """The largest limit is one that gRPC takes."""
    with serving(path, tmp_path / "log", "--max-bytes", 2**31 - 1) as server:
        same(Client(server.url)(IMAGE), direct(IMAGE))


def test_tls_handshakes_end(monkeypatch, files):
    """A connection that says nothing is closed, though it is not yet among those that are counted."""
    import asyncio

    from patchnet_tf.serving.server.connection import http_server, listen
    from patchnet_tf.serving.server.security import Tls

    monkeypatch.setattr("patchnet_tf.serving.server.connection.HANDSHAKE_SECONDS", 0.2)
    running = http_server(None, tls=Tls(*pair(files, "server")))

    async def main():
        with listen("127.0.0.1", 0) as listening:
            task = asyncio.create_task(running.serve([listening]))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            ended = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            running.should_exit = True
            await task
            return ended

    assert asyncio.run(main()) == b""
