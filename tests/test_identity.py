"""Which model it is: in Keras, in a run, and in exported files, which tell when they were changed."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import patchnet_tf as pn
from patchnet_tf.config import load_config
from patchnet_tf.contract import IDENTITY, make_classes
from patchnet_tf.data import load_dataset
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.export import VerificationError, to_onnx, to_saved_model, verify
from patchnet_tf.model.identity import identity
from patchnet_tf.serving import Predictor, digest
from patchnet_tf.serving.saved_model import SavedModelPredictor
from patchnet_tf.serving.versions import Versions
from patchnet_tf.training.run import check_identity, open_run
from patchnet_tf.training.train import ended, train

from .conftest import shake

NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def model():
    return shake(pn.PatchNet((None, None, 1), 4, filters=2, depth=1), np.random.default_rng(0))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with the model in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    to_onnx(model, folder / "model.onnx", class_names=NAMES)
    to_saved_model(model, folder / "served", class_names=NAMES)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def copied_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def with_weights(model, weights):
    other = pn.PatchNet.from_config(model.get_config())
    other.set_weights(weights)
    return other


def scaled(model, factor):
    return with_weights(model, [weight * np.float32(factor) for weight in model.get_weights()])


def test_a_model_has_one_identity(model, folder, tmp_path):
    model.save(tmp_path / "model.keras")
    expected = identity(model, make_classes(NAMES))
    assert identity(pn.load_model(tmp_path / "model.keras"), make_classes(NAMES)) == expected
    assert Predictor(folder / "model.onnx").metadata[IDENTITY] == expected
    assert SavedModelPredictor(folder / "served" / "1").metadata[IDENTITY] == expected
    for records, file in ((folder, "model.onnx"), (folder / "served" / "1", "saved_model.pb")):
        for name in ("MANIFEST.json", "verification.json"):
            assert json.loads((records / name).read_text())[file]["identity"] == expected


def test_other_weights_and_other_classes_are_another_model(model):
    weights = model.get_weights()
    weights[0].flat[0] = np.nextafter(weights[0].flat[0], np.float32(9))  # the last bit of one weight
    models = (model, with_weights(model, weights), scaled(model, 1.001))
    kinds = [make_classes(NAMES), make_classes(NAMES[::-1]), make_classes(NAMES, exclusive=False)]
    assert len({identity(one, classes) for one in models for classes in kinds}) == 9


def scale_file(path):
    """Scale what an ONNX file computes with by 1.001; the metadata stay as they are."""
    loaded, count = onnx.load(path), 0
    for graph in (loaded.graph, *(a.g for n in loaded.graph.node for a in n.attribute if a.HasField("g"))):
        for weights in graph.initializer:
            values = onnx.numpy_helper.to_array(weights)
            if values.dtype == np.float32 and values.size > 1:
                weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.001), weights.name))
                count += 1
    assert count
    onnx.save(loaded, path)


def test_a_file_changed_after_its_export(model, copy):
    """Without its manifest too, by whatever opens it. A new digest hides it, but no signature would."""
    path = copy / "model.onnx"
    (copy / "MANIFEST.json").unlink()
    assert verify(model, path).heatmap < 1e-5
    scale_file(path)
    for opened in (Predictor, lambda path: verify(model, path), lambda path: Versions(path).refresh()):
        with pytest.raises(ValueError, match=r"model\.onnx: altered or truncated since.*Received"):
            opened(path)
    digest.seal(path)
    Predictor(path)


@pytest.mark.parametrize("part", ["variables/variables.data-00000-of-00001", digest.METADATA])
def test_a_saved_model_changed_after_its_export(copy, part):
    version = copy / "served" / "1"
    (version / "MANIFEST.json").unlink()
    content = (version / part).read_bytes()
    if part == digest.METADATA:
        content = content.replace(b'"stride": "4"', b'"stride": "3"')
    else:
        content = content[:-4] + bytes(255 - b for b in content[-4:])
    assert content != (version / part).read_bytes()
    (version / part).write_bytes(content)
    with pytest.raises(ValueError, match=r"altered or truncated since"):
        SavedModelPredictor(version)


def test_a_file_of_another_model(model, folder):
    path = folder / "model.onnx"
    with pytest.raises(VerificationError, match=r"its weights differ.*Received: identity"):
        verify(scaled(model, 1.001), path)
    with pytest.raises(VerificationError, match=r"of the classes cat, dog.*Received: a model of dog, cat"):
        verify(model, path, class_names=NAMES[::-1])


def test_a_byte_changed_anywhere(copy, rng):
    """Nearly all are noticed before ONNX Runtime reads the file."""
    path = copy / "model.onnx"
    (copy / "MANIFEST.json").unlink()
    content = path.read_bytes()
    for place in [0, len(content) - 1, *rng.integers(0, len(content), 60)]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"altered or truncated since|cannot load|older version|not the"):
            Predictor(path)
    for length in rng.integers(0, len(content), 20):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"altered or truncated since|cannot load|older version|not one"):
            Predictor(path)


@pytest.mark.parametrize("name", ["MANIFEST.json", "verification.json"])
def test_records_of_another_model(copy, name):
    record = json.loads((copy / name).read_text())
    record["model.onnx"]["identity"] = "0" * 64
    (copy / name).write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"another model than .*{name} says.*Received: [0-9a-f]{{64}}"):
        Predictor(copy / "model.onnx")


def test_a_file_without_a_digest(copy):
    (copy / "MANIFEST.json").unlink()
    loaded = onnx.load(copy / "model.onnx")
    [entry] = [entry for entry in loaded.metadata_props if entry.key == digest.CONTENT]
    loaded.metadata_props.remove(entry)
    onnx.save(loaded, copy / "model.onnx")
    with pytest.raises(InputError, match="exported by an older version of this package; export it again"):
        Predictor(copy / "model.onnx")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        '{"model.onnx": ' * 50_000,
        '{"model.onnx": 3}',
        '{"model.onnx": {"bytes": 3}}',
        '{"../model.onnx": {"sha256": "0"}}',
        '{"/etc/passwd": {"sha256": "0"}}',
        "3",
        "null",
        "[]",
        "",
        '{"model.onnx": {"sha256": NaN}}',
        "\udcff",
    ],
)
def test_odd_manifests(copy, text):
    (copy / "MANIFEST.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError) as caught:
        Predictor(copy / "model.onnx")
    assert str(caught.value) == f"{copy / 'MANIFEST.json'}: not a manifest of exported files"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("gone")])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MANIFEST.json", "not a manifest of exported files"),
        ("verification.json", "not a regular|cannot be read"),
    ],
)
def test_records_that_are_no_files(copy, name, message, make):
    (copy / name).unlink()
    make(copy / name)
    with pytest.raises(InputError, match=rf"{name}: ({message})"):
        Predictor(copy / "model.onnx")


@pytest.mark.parametrize("text", ["null", "[]", "1e5", '"model.onnx"'])
def test_verifications_that_are_no_records(copy, text):
    (copy / "verification.json").write_text(text)
    with pytest.raises(InputError, match=r"verification\.json: not a record of exported files$"):
        Predictor(copy / "model.onnx")


@pytest.mark.parametrize("said", ["", "0" * 63, "0" * 65, "G" * 64, "0" * 64 + "\n"])
def test_identities_are_64_digits(said):
    metadata = {digest.CONTENT: "0" * 64, IDENTITY: said}
    with pytest.raises(InputError, match=rf"^gone: {IDENTITY}: expected 64 hexadecimal digits. Received: '"):
        digest.check_identity(Path("gone"), metadata)
    digest.check_identity(Path("gone"), metadata | {IDENTITY: "0" * 64})


@pytest.mark.parametrize("text", ["[" * 50_000, "", "\udcff"])
def test_odd_records(model, copy, text):
    (copy / "verification.json").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=r"verification\.json: (JSON nested too deeply|not JSON)"):
        Predictor(copy / "model.onnx")
    with pytest.raises(InputError, match=r"verification\.json: not written by an export"):
        to_onnx(model, copy / "other.onnx")


def test_weights_that_are_no_numbers(model, copied_run, tmp_path):
    bad = scaled(model, np.nan)
    with pytest.raises(InputError, match=r"cannot be exported: NaN or infinity in the weight .*kernel"):
        to_onnx(bad, tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()
    trained = pn.load_model(copied_run / "model.keras")
    weights = trained.get_weights()
    weights[-1].flat[0] = np.inf
    trained.set_weights(weights)
    trained.save(copied_run / "model.keras")
    with pytest.raises(InputError, match="NaN or infinity in the weight"):
        pn.load_model(copied_run / "model.keras")
    with pytest.raises(InputError, match=r"model\.keras: not a model \(NaN or infinity"):
        evaluate(copied_run)


def test_a_run_knows_its_model_and_its_configuration(run, copied_run):
    config, model = open_run(run)
    said = json.loads((run / "identity.json").read_text())
    assert said["model"] == identity(model, make_classes(config.data.classes))

    path = copied_run / "config.yaml"
    written = path.read_text()
    moved = written.replace("seed: 1", "seed: 2").replace("learning_rate: 0.001", "learning_rate: 0.01")
    assert moved != written
    path.write_text(moved)
    message = f"{path}: not what model.keras was trained with; it has another training.learning_rate, "
    with pytest.raises(InputError, match=re.escape(message + "training.seed")):
        evaluate(copied_run)
    path.write_text(re.sub("epochs: 4", "epochs: 9", written))  # a longer training may follow
    open_run(copied_run)

    path.write_text(written)
    weights = [weight * np.float32(1.001) for weight in model.get_weights()]
    model.set_weights(weights)
    model.save(copied_run / "model.keras")
    with pytest.raises(InputError, match=r"model\.keras: not the model that was trained there.*Received"):
        evaluate(copied_run)


@pytest.mark.parametrize("text", ["[" * 50_000, "[]", "{}", '{"configuration": 3}', ""])
def test_an_odd_identity(copied_run, text):
    (copied_run / "identity.json").write_text(text)
    with pytest.raises(InputError, match=r"identity\.json: (not|JSON)") as caught:
        open_run(copied_run)
    assert "\n" not in str(caught.value)


def test_an_older_run_is_opened_with_a_warning(copied_run):
    config, model = open_run(copied_run)
    (copied_run / "identity.json").unlink()
    with pytest.warns(UserWarning, match=r"there is no identity\.json"):
        check_identity(copied_run, config, model)


@pytest.mark.parametrize("best", [4, -1, 1e9, True, None, "1", [1]])
def test_a_best_epoch_that_there_is_not(small, copied_run, best):
    path = copied_run / "checkpoint.npz"
    with np.load(path) as saved:
        arrays = dict(saved)
    state = json.loads(str(arrays["convergence"]))
    assert state["best_epoch"] in range(4)
    arrays["convergence"] = json.dumps(state | {"best_epoch": best})
    np.savez(path, **arrays)
    config = load_config(small)
    data = load_dataset(config)
    for call in (
        lambda: train(config, copied_run, resume=True, data=data),
        lambda: ended(config, copied_run, data),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value) == f"{path}: not the checkpoint of this run, or damaged"


def test_the_digest_is_of_all_other_bytes(folder):
    """By hand: the 64 digits of a file count as zeros."""
    content = (folder / "model.onnx").read_bytes()
    digits = Predictor(folder / "model.onnx").metadata[digest.CONTENT].encode()
    assert content.count(digits) == 1
    assert hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest().encode() == digits
