"""What operators are given: one set of limits for Docker, Compose and systemd; the lock file; signatures."""

import importlib.util
import inspect
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import unittest.mock
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from patchnet_tf.cli.serving import serve
from patchnet_tf.serving.server import Options

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "serving" / "deploy"
OPTIONS = Options(model=Path("cells"), name="cells")


def unit():
    """The values of the unit's keys; one that is there several times has several."""
    values = {}
    for line in (DEPLOY / "patchnet.service").read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def service():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["patchnet"]


def instructions():
    """The instructions of the Dockerfile, with what is broken over several lines put together."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [tuple(line.split(maxsplit=1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def last(name):
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)([GMgm])", text).groups()
    return int(number) << {"g": 30, "m": 20}[unit.lower()]


def test_one_set_of_limits():
    said, run = unit(), service()
    assert bytes_of(run["mem_limit"]) == bytes_of(said["MemoryMax"][0]) == 4 << 30
    assert run["pids_limit"] == int(said["TasksMax"][0])
    assert run["ulimits"]["nofile"] == int(said["LimitNOFILE"][0]) > 2 * OPTIONS.max_connections
    grace = int(run["stop_grace_period"].removesuffix("s"))
    assert grace == int(said["TimeoutStopSec"][0]) > OPTIONS.grace
    assert (run["read_only"], said["ProtectSystem"]) == (True, ["strict"])
    assert (run["cap_drop"], said["CapabilityBoundingSet"]) == (["ALL"], [""])
    assert (run["security_opt"], said["NoNewPrivileges"]) == (["no-new-privileges:true"], ["yes"])
    assert (run["tmpfs"][0].split(":")[0], said["PrivateTmp"]) == ("/tmp", ["yes"])
    assert said["DynamicUser"] == ["yes"]
    assert all(volume.endswith(":ro") for volume in run["volumes"])


def test_the_container():
    user, entry, ports = last("USER"), json.loads(last("ENTRYPOINT")), last("EXPOSE").split()
    assert all(int(number) > 0 for number in user.split(":"))
    assert [instruction for instruction, _ in instructions()].count("FROM") == 2
    final = instructions()[[k for k, (name, _) in enumerate(instructions()) if name == "FROM"][-1] :]
    assert ("RUN", "pip uninstall --yes setuptools wheel pip") in final
    assert not any("install " in rest for name, rest in final if name == "RUN" and "uninstall" not in rest)
    copied = {source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]}
    for source in copied - {"--from=build", "/venv"}:
        assert (ROOT / source).exists(), source
    options = dict(zip(entry[2::2], entry[3::2], strict=True))
    assert ports == [str(OPTIONS.port), str(OPTIONS.grpc_port), options["--metrics-port"]]
    assert f"127.0.0.1:{options['--metrics-port']}/v2/health/ready" in last("HEALTHCHECK")
    assert service()["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports[:2]]


def test_commands_are_those_of_the_command_line():
    known = {"--" + name.replace("_", "-") for name in inspect.signature(serve).parameters}
    [start] = unit()["ExecStart"]
    for command in (json.loads(last("ENTRYPOINT")), shlex.split(start), service()["command"]):
        assert {word for word in command if word.startswith("--")} <= known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_reads_the_unit(tmp_path):
    text = (DEPLOY / "patchnet.service").read_text()
    runs = re.sub(r"(?<=^ExecStart=)\S+", sys.executable, text, flags=re.MULTILINE)
    (tmp_path / "patchnet.service").write_text(runs)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "patchnet.service"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["requirements.txt", "build.txt"])
def test_the_lock_file(name):
    """Each package has a version and hashes; what setup.py wants for serving is there, as it wants it."""
    text = (DEPLOY / name).read_text()
    entries = re.findall(r"^([\w.-]+)==(\S+)(.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+)", text, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
    locked = {}
    for package, version, _ in entries:
        locked.setdefault(package, []).append(Version(version))
    given = {}
    with unittest.mock.patch("setuptools.setup", lambda **settings: given.update(settings)):
        runpy.run_path(str(ROOT / "setup.py"))
    wanted = [*given["install_requires"], *given["extras_require"]["serve"]]
    if name == "build.txt":
        wanted = re.findall(r'requires = \["(.*)"\]', (ROOT / "pyproject.toml").read_text())
    assert wanted
    for requirement in map(Requirement, wanted):
        for version in locked[requirement.name]:
            assert version in requirement.specifier, requirement
    assert not locked.keys() & {"tensorflow", "keras", "onnx"}


@pytest.mark.skipif(importlib.util.find_spec("model_signing") is None, reason="needs the extra sign")
def test_a_signature_with_a_key_of_ones_own(tmp_path):
    """The commands of docs/export.md."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    pem, formats = serialization.Encoding.PEM, (serialization.PrivateFormat, serialization.PublicFormat)
    (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, formats[0].PKCS8, serialization.NoEncryption()))
    (tmp_path / "key.pub").write_bytes(key.public_key().public_bytes(pem, formats[1].SubjectPublicKeyInfo))
    (tmp_path / "cells").mkdir()
    for name in ("cells.onnx", "MANIFEST.json"):
        (tmp_path / "cells" / name).write_text(name)
    commands = re.findall(r"^model_signing (.*)$", (ROOT / "docs" / "export.md").read_text(), re.MULTILINE)
    sign, verify = (shlex.split(command) for command in commands)

    def call(arguments):
        command = [sys.executable, "-m", "model_signing", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert call(sign).returncode == 0
    assert call(verify).returncode == 0
    (tmp_path / "cells" / "cells.onnx").write_text("other")
    changed = call(verify)
    assert changed.returncode != 0
    assert "Hash mismatch" in changed.stdout + changed.stderr
