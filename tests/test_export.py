import functools
import hashlib
import json
import re
import shutil
from pathlib import Path

import cv2
import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from skimage import data as photographs
from tensorflow_serving.apis import prediction_log_pb2

import patchnet_tf as pn
from patchnet_tf.contract import IDENTITY, KEY, OUTPUTS, Classes, Contract, Pixels
from patchnet_tf.errors import InputError
from patchnet_tf.export import VerificationError, to_onnx, to_saved_model, verify
from patchnet_tf.export import graph as graphs
from patchnet_tf.export import onnx as onnx_format
from patchnet_tf.export.formats import FORMATS, choose, open_exported, places
from patchnet_tf.export.saved_model import SavedModel
from patchnet_tf.images.reading import read_image
from patchnet_tf.model import dense
from patchnet_tf.model.preprocessing import GammaCorrection, ShadesOfGray
from patchnet_tf.serving import Predictor, digest
from patchnet_tf.serving.versions import Versions

from . import reference
from .conftest import shake

SHARED = Path(__file__).parents[2] / "shared" / "images"
PLAIN = {"input_shape": (None, None, 3), "patch_size": 5, "filters": 4, "depth": 2}
MODELS = {
    "plain": PLAIN,
    "fixed size, even p, strided, cropped, inverted": {
        "input_shape": (20, 21, 1),
        "patch_size": 6,
        "stride": 4,
        "crop": (9, 11),
        "mean": 0.3,
        "filters": 4,
        "depth": 2,
    },
    "patches too small to share work": {**PLAIN, "input_shape": (None, None, 1), "depth": 4},
    "no padding": {**PLAIN, "padding": "valid"},
}


def make(name):
    invert = [keras.layers.Rescaling(-1.0, 1.0)] if "inverted" in name else []
    model = pn.PatchNet(**MODELS[name], preprocessing=invert)
    return shake(model, np.random.default_rng(0))


def contract(name):
    """What a file of such a model should say that it takes and answers."""
    arguments = MODELS[name]
    return Contract(
        classes=Classes(names=("cat", "dog")),
        pixels=Pixels(channels=arguments["input_shape"][-1]),
        smallest=arguments.get("crop", (arguments["patch_size"],) * 2),
    )


def session(path, **options):
    configured = onnxruntime.SessionOptions()
    for key, value in options.items():
        setattr(configured, key, value)
    return onnxruntime.InferenceSession(path, configured, providers=["CPUExecutionProvider"])


def everything(graph):
    """Every graph in a graph, itself first, with the node that it belongs to."""
    yield None, graph
    for node in graph.node:
        for inner in graphs.subgraphs(node):
            yield node, inner
            yield from list(everything(inner))[1:]


def is_plain(loaded):
    """Whether a graph has no subgraph, such as a Loop's, and no number in double precision."""
    inferred = onnx.shape_inference.infer_shapes(loaded).graph
    types = {info.type.tensor_type.elem_type for info in inferred.value_info}
    types |= {tensor.data_type for tensor in inferred.initializer}
    return len(list(everything(inferred))) == 1 and TensorProto.DOUBLE not in types


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    """A name of MODELS, the model, its ONNX file and what its export proved."""
    model, path = make(request.param), tmp_path_factory.mktemp("export") / "model.onnx"
    return request.param, model, path, to_onnx(model, path, class_names=("cat", "dog"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The plain model and its ONNX file."""
    model, path = make("plain"), tmp_path_factory.mktemp("plain") / "model.onnx"
    to_onnx(model, path)
    return model, path


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(11, 23), st.integers(11, 23), st.integers(0, 99))
def test_onnx_is_the_papers(exported, batch, height, width, seed):
    name, model, path, _ = exported
    arguments = MODELS[name]
    channels, p, stride = model.input_shape[-1], arguments["patch_size"], arguments.get("stride")
    images = np.random.default_rng(seed).integers(0, 256, (batch, height, width, channels), "uint8")
    q, maps = session(path).run(["probability", "heatmap"], {"image": images})
    assert (q.shape, maps.shape) == ((batch,), images.shape[:3])
    assert q.dtype == maps.dtype == np.float32

    options = {"mean": arguments.get("mean", 0.5), "padding": arguments.get("padding", "same")}
    seen = 255 - images if "inverted" in name else images
    for k, image in enumerate(seen):
        expected = reference.decisions(model.get_weights(), image, p, 1, **options)
        np.testing.assert_allclose(maps[k], expected, atol=1e-5)
        if crop := arguments.get("crop"):
            top, left = (height - crop[0]) // 2, (width - crop[1]) // 2
            image = image[top : top + crop[0], left : left + crop[1]]
        expected = reference.probability(model.get_weights(), image, p, stride or p, **options)
        assert q[k] == pytest.approx(expected, abs=1e-5)


def test_preprocessing_is_in_the_files(tmp_path, rng):
    """Each image of a batch has its own light, that of the whole image, whatever its size."""
    steps = [GammaCorrection(1.8), ShadesOfGray(4)]
    model = shake(pn.PatchNet(**PLAIN, preprocessing=steps), rng)
    to_onnx(model, tmp_path / "model.onnx")
    run = session(tmp_path / "model.onnx")
    version = to_saved_model(model, tmp_path / "served").path
    served = tf.saved_model.load(str(version))
    for shape in ((1, 12, 17, 3), (3, 15, 11, 3)):
        images = (rng.integers(0, 256, shape) * rng.uniform(0.1, 1, (shape[0], 1, 1, 3))).astype("uint8")
        x = (images / 255) ** (1 / 1.8)
        light = (x**4).mean(axis=(1, 2), keepdims=True) ** (1 / 4)
        light /= np.sqrt((light**2).sum(axis=-1, keepdims=True))
        x = np.minimum(x / (np.sqrt(3) * light), 1)
        maps = [reference.decisions(model.get_weights(), 255 * image, 5, 1) for image in x]
        probabilities = [reference.probability(model.get_weights(), 255 * image, 5, 5) for image in x]
        from_saved = served.signatures["serving_default"](image=tf.constant(images))
        for got in (
            run.run(["probability", "heatmap"], {"image": images}),
            (from_saved["probability"], from_saved["heatmap"]),
            (model.predict(images, verbose=0)[:, 0], pn.heatmap_model(model).predict(images, verbose=0)),
        ):
            np.testing.assert_allclose(got[0], probabilities, atol=1e-5)
            np.testing.assert_allclose(got[1], maps, atol=1e-5)
    metadata = json.loads((version / "assets.extra" / "metadata.json").read_text())
    assert json.loads(metadata["preprocessing"])[1:3] == [
        {"layer": "GammaCorrection", "gamma": 1.8},
        {"layer": "ShadesOfGray", "norm": 4},
    ]
    assert run.get_modelmeta().custom_metadata_map["preprocessing"] == metadata["preprocessing"]
    model.save(tmp_path / "model.keras")
    loaded = pn.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))


def test_batch_changes_no_bit(exported, rng):
    """A server may answer several requests at once. Odd sizes lay images at odd addresses in the memory."""
    _, model, path, _ = exported
    opened = session(path)
    for size in ((11, 11), (13, 18), (25, 22)):
        images = rng.integers(0, 256, (5, *size, model.input_shape[-1]), "uint8")
        together = opened.run(["probability", "heatmap"], {"image": images})
        for k in range(5):
            alone = opened.run(["probability", "heatmap"], {"image": images[k : k + 1]})
            np.testing.assert_array_equal(alone[0][0], together[0][k])
            np.testing.assert_array_equal(alone[1][0], together[1][k])


def test_file_is_clean(exported):
    name, model, path, _ = exported
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded, full_check=True)
    onnx.shape_inference.infer_shapes(loaded, check_type=True, strict_mode=True, data_prop=True)
    assert [(opset.domain, opset.version) for opset in loaded.opset_import] == [("", 18)]
    image = loaded.graph.input[0]
    plain = name == "no padding"  # all work is shared: a plain graph, which has no switch
    assert [info.name for info in loaded.graph.input] == ["image", "heatmap_wanted"][: 1 if plain else 2]
    assert is_plain(loaded) == plain
    assert [i.name for i in session(path).get_inputs()] == ["image"]
    assert [i.name for i in session(path).get_outputs()] == ["probability", "heatmap"]
    shapes = {i.name: i.shape for i in (*session(path).get_inputs(), *session(path).get_outputs())}
    assert shapes == {
        "image": ["batch", "height", "width", model.input_shape[-1]],
        "probability": ["batch"],
        "heatmap": ["batch", "height", "width"],
    }
    assert all(info.doc_string for info in (*loaded.graph.input, *loaded.graph.output))
    assert loaded.doc_string
    assert image.type.denotation == "IMAGE"


def test_runtimes_see_constant_weights(exported):
    """Weights that a runtime cannot know to be constant make its convolutions several times slower."""
    loaded = onnx.load(exported[2])
    convolutions = 0
    for owner, graph in everything(loaded.graph):
        own = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Conv":
                convolutions += 1
                assert own.issuperset(node.input[1:])
        if owner is not None and owner.op_type == "Loop":
            assert not graphs.invariant_states(graph)
        read = {name for node in graph.node for name in graphs.reads(node)}
        assert own <= read | {info.name for info in graph.output}
    assert convolutions >= 2 * MODELS[exported[0]]["depth"]  # of the probability and of the heatmap


def test_metadata(exported):
    name, model, path, _ = exported
    metadata = session(path).get_modelmeta().custom_metadata_map
    arguments = MODELS[name]
    assert Contract.from_metadata(metadata) == contract(name)
    assert json.loads(metadata["class_names"]) == ["cat", "dog"]
    assert int(metadata["patch_size"]) == arguments["patch_size"]
    assert int(metadata["stride"]) == arguments.get("stride", arguments["patch_size"])
    least = arguments.get("crop", (arguments["patch_size"],) * 2)
    assert json.loads(metadata["smallest_image"]) == list(least)
    assert json.loads(metadata["crop"]) == (list(arguments["crop"]) if "crop" in arguments else None)
    layers = [layer["layer"] for layer in json.loads(metadata["preprocessing"])]
    assert layers == ["ZeroToOne"] + ["Rescaling"] * (2 if "inverted" in name else 1)
    assert metadata["Image.BitmapPixelFormat"] == {1: "Gray8", 3: "Rgb8"}[model.input_shape[-1]]
    assert metadata["Image.NominalPixelRange"] == "NominalRange_0_255"
    assert metadata["Image.ColorSpaceGamma"] == "SRGB"


def test_probability_alone_does_not_compute_the_heatmap(plain, rng, tmp_path):
    _, path = plain
    image = rng.integers(0, 256, (2, 20, 21, 3), "uint8")
    profiled = session(path, enable_profiling=True, profile_file_prefix=str(tmp_path / "profile"))
    [q] = profiled.run(["probability"], {"image": image, "heatmap_wanted": np.array(False)})
    events = json.loads(Path(profiled.end_profiling()).read_text())
    ran = {event["args"].get("op_name") for event in events if "args" in event}
    assert "Conv" in ran
    assert "Loop" not in ran
    both = session(path).run(["probability", "heatmap"], {"image": image})
    np.testing.assert_array_equal(q, both[0])


def test_files_beside(exported):
    _, model, path, proved = exported
    folder = path.parent
    names = {file.name for file in folder.iterdir()}
    assert names == {"model.onnx", "model.test_vectors.json", "verification.json", "MANIFEST.json"}
    listed = json.loads((folder / "MANIFEST.json").read_text())
    assert listed.keys() == names - {"MANIFEST.json"}
    record = json.loads((folder / "verification.json").read_text())["model.onnx"]
    same = open_exported(path).metadata[IDENTITY]
    assert listed["model.onnx"].pop("identity") == record["identity"] == same
    for name, entry in listed.items():
        content = (folder / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert record["largest_difference"] == {"probability": proved.probability, "heatmap": proved.heatmap}
    assert 0 < proved.heatmap < 1e-5
    assert len({tuple(batch["shape"]) for batch in record["batches"]}) > 1
    for vector in json.loads((folder / "model.test_vectors.json").read_text()):
        image = np.array(vector["image"], "uint8")
        q, maps = session(path).run(["probability", "heatmap"], {"image": image})
        np.testing.assert_allclose(q, vector["probability"], atol=1e-5)
        np.testing.assert_allclose(maps, vector["heatmap"], atol=1e-5)
        expected = pn.heatmap_model(model, method="patchwise").predict(image, verbose=0)
        np.testing.assert_allclose(vector["heatmap"], expected, atol=1e-5)


def test_fixed_shape_beside_another_export(plain, tmp_path, rng):
    model, path = plain
    folder = tmp_path / "not" / "there" / "yet"
    images = rng.integers(0, 256, (5, 9, 12, 3), "uint8")
    for name in ("any", "fixed"):
        size = {"size": (9, 12), "batch": 2} if name == "fixed" else {}
        proved = to_onnx(model, folder / f"{name}.onnx", images=images, **size)
        assert [batch.source for batch in proved.batches] == ["generated", "generated", "given"]
    assert session(folder / "fixed.onnx").get_inputs()[0].shape == [2, 9, 12, 3]
    assert session(folder / "fixed.onnx").get_outputs()[1].shape == [2, 9, 12]
    loaded = onnx.load(folder / "fixed.onnx")
    assert is_plain(loaded)
    known = {
        info.name
        for info in [*loaded.graph.value_info, *loaded.graph.output]
        if all(dimension.dim_value for dimension in info.type.tensor_type.shape.dim)
    }
    assert known >= {name for node in loaded.graph.node for name in node.output}
    expected = session(path).run(["heatmap"], {"image": images[:2]})
    got = session(folder / "fixed.onnx").run(["heatmap"], {"image": images[:2]})
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert json.loads((folder / "verification.json").read_text()).keys() == {"any.onnx", "fixed.onnx"}
    assert verify(model, folder / "fixed.onnx").heatmap < 1e-5
    assert verify(model, folder / "any.onnx", images=images).heatmap < 1e-5
    with pytest.warns(UserWarning, match="smaller than those that the file takes, 9 x 12"):
        smaller = verify(model, folder / "fixed.onnx", images=images[:, :8])
    assert [batch.source for batch in smaller.batches] == ["generated"] * 2
    [*_, given] = verify(
        model, folder / "fixed.onnx", images=np.pad(images, [(0, 0), (3, 4), (1, 1), (0, 0)])
    ).batches
    np.testing.assert_array_equal(given.images, images[[0, -1]])


@pytest.mark.parametrize(("alone", "other"), [OUTPUTS, OUTPUTS[::-1]])
def test_one_output_alone(alone, other, plain, tmp_path, rng):
    model, both = plain
    path = tmp_path / f"{alone}.onnx"
    proved = to_onnx(model, path, outputs=alone)
    loaded = onnx.load(path)
    assert [info.name for info in loaded.graph.input] == ["image"]  # nothing to switch
    assert [info.name for info in loaded.graph.output] == [alone]
    assert ("Loop" in {node.op_type for node in loaded.graph.node}) == (alone == "heatmap")
    images = rng.integers(0, 256, (2, 9, 12, 3), "uint8")
    [expected] = session(both).run([alone], {"image": images})
    [answer] = session(path).run(None, {"image": images})
    np.testing.assert_allclose(answer, expected, atol=1e-6)

    predict = Predictor(path)
    assert list(predict.contract.outputs) == [alone] == [predict.contract.only]
    np.testing.assert_array_equal(getattr(predict, alone)(images), answer)
    np.testing.assert_array_equal(getattr(predict, alone)(images[0]), answer[0])
    with pytest.raises(InputError, match=f"with the {alone} alone. Received: a call for the {other}"):
        getattr(predict, other)(images)
    with pytest.raises(InputError, match=rf"with the {alone} alone; `\.{alone}\(image\)`"):
        predict(images)
    with pytest.raises(ValueError, match=f"with the {alone} alone; export it without --outputs"):
        Versions(path).refresh()

    record = json.loads((tmp_path / "verification.json").read_text())[path.name]
    assert record["largest_difference"].keys() == {alone}
    vectors = json.loads(path.with_suffix(".test_vectors.json").read_text())
    assert all(vector.keys() == {"image", alone} for vector in vectors)
    assert verify(model, path).largest == proved.largest


def test_a_fixed_size_makes_no_larger_file(plain, tmp_path):
    model, path = plain
    to_onnx(model, tmp_path / "fixed.onnx", size=(150, 160), batch=1)
    assert (tmp_path / "fixed.onnx").stat().st_size < 1.3 * path.stat().st_size  # the table of one tile
    vectors = json.loads((tmp_path / "fixed.test_vectors.json").read_text())
    assert len(vectors) == 1  # the second would be as large
    assert np.shape(vectors[0]["image"]) == (1, 150, 160, 3)


@pytest.mark.parametrize(
    ("name", "fixed"),
    [("plain", False), ("patches too small to share work", False), ("patches too small to share work", True)],
)
def test_a_heatmap_of_many_tiles(name, fixed, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_format, "MEMORY", 1)  # MiB
    model = make(name)
    assert dense.tile_side(2**20, 5, 1, model.subnet) < 60
    size = {"size": (67, 131), "batch": 2} if fixed else {}
    to_onnx(model, tmp_path / "tiles.onnx", **size)
    assert is_plain(onnx.load(tmp_path / "tiles.onnx")) == fixed
    images = rng.integers(0, 256, (2, 67, 131, model.input_shape[-1]), "uint8")
    whole = pn.heatmap_model(model, method="patchwise").predict(images, verbose=0)
    [maps] = session(tmp_path / "tiles.onnx").run(["heatmap"], {"image": images})
    np.testing.assert_allclose(maps, whole, atol=1e-5)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not there")
@pytest.mark.parametrize("padding", [pytest.param("same", marks=pytest.mark.slow), "valid"])
def test_real_images_at_both_precisions(padding, tmp_path):
    """All seven layers; with padding the graph is a dozen times larger, which is what takes long."""
    keras.utils.set_random_seed(0)
    model = pn.PatchNet((96, 128, 3), patch_size=17, filters=8, depth=7, padding=padding)
    files = sorted(SHARED.glob("skin_isic2017/val/*/*.png"))[:2]
    images = np.stack([read_image(file, 3)[:96, :128] for file in files])
    expected = pn.heatmap_model(model).predict(images, verbose=0)
    for precision, tolerance in (("float32", 1e-4), ("float16", 5e-3)):
        path = tmp_path / f"{precision}.onnx"
        to_onnx(model, path, precision=precision, images=images)
        [maps] = session(path).run(["heatmap"], {"image": images})
        np.testing.assert_allclose(maps, expected, atol=tolerance)


def test_float16_on_photographs(plain, tmp_path):
    model, _ = plain
    grey = [photograph()[:40, :48, None] for photograph in (photographs.brick, photographs.gravel)]
    images = np.repeat(grey, 3, axis=-1)
    half = tmp_path / "half.onnx"
    proved = to_onnx(model, half, precision="float16", images=images)
    assert 1e-6 < proved.heatmap < 5e-3
    assert verify(model, half).tolerance == 5e-3
    q, maps = session(half).run(["probability", "heatmap"], {"image": images})
    assert q.dtype == maps.dtype == np.float32
    np.testing.assert_allclose(maps, pn.heatmap_model(model).predict(images, verbose=0), atol=5e-3)
    np.testing.assert_allclose(q, model.predict(images, verbose=0)[:, 0], atol=5e-3)
    loaded = onnx.load(half)
    for _, graph in everything(loaded.graph):
        weights = {name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]}
        used = [tensor for tensor in graph.initializer if tensor.name in weights]
        assert {tensor.data_type for tensor in used} <= {TensorProto.FLOAT16}
    assert session(half).get_modelmeta().custom_metadata_map["precision"] == "float16"


def test_a_wrong_conversion_is_refused(tmp_path, monkeypatch):
    def off_by_a_little(model):
        graphs.embed_constants(model)
        for _, graph in everything(model.graph):
            for tensor in graph.initializer:
                value = numpy_helper.to_array(tensor)
                if value.dtype == np.float32 and value.ndim == 4:
                    tensor.CopyFrom(numpy_helper.from_array(value * np.float32(1.01), tensor.name))

    monkeypatch.setattr(onnx_format, "embed_constants", off_by_a_little)
    with pytest.raises(VerificationError, match=r"ONNX Runtime .* and Keras differ by .* more than 0.0001"):
        to_onnx(make("plain"), tmp_path / "new" / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_existing_target(plain, tmp_path):
    model, path = plain
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists already"):
        to_onnx(model, path)
    assert path.read_bytes() == before
    copied = shutil.copytree(path.parent, tmp_path / "copy") / "model.onnx"
    to_onnx(model, copied, overwrite=True, class_names=("cat", "dog"))
    assert copied.read_bytes() != before
    assert verify(model, copied).heatmap < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "int8"}, "precision"),
        ({"outputs": "mask"}, "outputs"),
        ({"size": (4, 9)}, "from 5 x 5"),
        ({"size": 9}, "size"),
        ({"batch": 0}, "batch"),
        ({"class_names": ("cat", "cat")}, "class_names"),
        ({"class_names": ("cat",)}, "class_names"),
        ({"class_names": "ab"}, "class_names"),
        ({"class_names": None}, "class_names"),
        ({"size": (9, 20_000)}, "to 8192 x 8192"),
        ({"metadata": {"patch_size": "9"}}, "metadata"),
        ({"metadata": {"trained": 3}}, "metadata"),
        ({"path": "model.pb"}, r"\.onnx"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    path = tmp_path / arguments.pop("path", "model.onnx")
    with pytest.raises(InputError, match=f"(?s){message}.*Received"):
        to_onnx(make("plain"), path, **arguments)
    assert not list(tmp_path.iterdir())


def test_bad_targets(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        to_onnx(make("plain"), tmp_path / "file" / "model.onnx")
    assert caught.value.filename == str(tmp_path / "file" / "model.onnx")
    with pytest.raises(ValueError, match=r"made by `PatchNet`.*Received"):
        to_onnx(keras.Sequential([keras.Input((4, 4, 1))]), tmp_path / "model.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match=r"folder\.onnx: a folder has that name"):
        to_onnx(make("plain"), tmp_path / "folder.onnx", overwrite=True)


@pytest.mark.parametrize("damage", ["altered", "truncated"])
@pytest.mark.parametrize("listed", [True, False])
def test_verify_of_a_damaged_file(damage, listed, plain, tmp_path):
    model, path = plain
    copied = shutil.copytree(path.parent, tmp_path / "copy") / "model.onnx"
    content = copied.read_bytes()
    if damage == "truncated":
        copied.write_bytes(content[:-100])
    else:
        kernel = model.subnet.get_weights()[-2].astype("<f4").tobytes()
        assert content.count(kernel) > 0
        copied.write_bytes(content.replace(kernel, np.roll(np.frombuffer(kernel, "<f4"), 1).tobytes()))
    if not listed:
        (copied.parent / "MANIFEST.json").unlink()
    message = "altered or truncated since it was exported; .*Received"
    if damage == "truncated" and not listed:
        message = "altered or truncated|cannot load"
    with pytest.raises(InputError, match=message):
        verify(model, copied)


def test_verify_of_another_file(plain, tmp_path):
    model, path = plain
    with pytest.raises(FileNotFoundError, match="no exported file"):
        verify(model, tmp_path / "model.onnx")
    add = helper.make_node("Add", ["a", "a"], ["b"])
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab")
    other = helper.make_model(helper.make_graph([add], "g", [a], [b]), ir_version=8)
    other.opset_import[0].version = 18
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InputError, match="not one made by"):
        verify(model, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match="differ"):
        verify(pn.PatchNet(**PLAIN), path)
    with pytest.raises(InputError, match=r"another model.*Received"):
        verify(pn.PatchNet(**{**PLAIN, "input_shape": (9, 9, 1)}), path)
    with pytest.raises(VerificationError, match="another model; its patch_size is 5, the model's 4"):
        verify(pn.PatchNet(**{**PLAIN, "patch_size": 4}), path)
    (path.parent / "copy").mkdir()
    shutil.copy(path, path.parent / "copy")
    (path.parent / "copy" / "MANIFEST.json").write_text("[]")
    with pytest.raises(InputError, match="not a manifest"):
        verify(model, path.parent / "copy" / "model.onnx")


def loop_model():
    """Sum transpose(w) * x + shift over three turns; w, x and the shift are handed round."""
    w = np.arange(6, dtype="float32").reshape(3, 2)
    nodes = [
        helper.make_node("Transpose", ["w_state"], ["t"], perm=[1, 0]),
        helper.make_node("Mul", ["t", "x_state"], ["y"]),
        helper.make_node("Add", ["y", "shift_state"], ["z"]),
        helper.make_node("Add", ["s_state", "z"], ["s_out"]),
        helper.make_node("Identity", ["w_state"], ["w_mid"]),
        helper.make_node("Identity", ["w_mid"], ["w_out"]),
        helper.make_node("Identity", ["shift_state"], ["shift_out"]),
        helper.make_node("Identity", ["x_state"], ["x_out"]),
        helper.make_node("Identity", ["go"], ["go_out"]),
    ]
    info = helper.make_tensor_value_info
    shapes = {"w": [3, 2], "x": [3], "shift": [2, 1], "s": [2, 3]}
    states = [info(f"{name}_state", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    results = [info(f"{name}_out", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    body = helper.make_graph(
        nodes,
        "body",
        [info("turn", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), *states],
        [info("go_out", TensorProto.BOOL, []), *results],
    )
    loop = helper.make_node(
        "Loop", ["turns", "", "w", "x", "shift", "zero"], ["a", "b", "c", "sum"], body=body
    )
    last = helper.make_node("Add", ["sum", "c"], ["result"])
    constants = {
        "turns": np.array(3),
        "w": w,
        "shift": np.float32([[1], [2]]),
        "zero": np.zeros((2, 3), "float32"),
    }
    graph = helper.make_graph(
        [loop, last],
        "g",
        [info("x", TensorProto.FLOAT, [3])],
        [info("result", TensorProto.FLOAT, [2, 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), w


def test_embed_constants_of_a_loop():
    model, w = loop_model()
    x = np.float32([1, 2, 3])
    expected = 3 * (w.T * x + [[1], [2]]) + [[1], [2]]
    for rewrite in (lambda model: None, graphs.embed_constants):
        rewrite(model)
        onnx.checker.check_model(model, full_check=True)
        [got] = session(model.SerializeToString()).run(None, {"x": x})
        np.testing.assert_allclose(got, expected)
    [loop] = [node for node in model.graph.node if node.op_type == "Loop"]
    [body] = graphs.subgraphs(loop)
    assert len(loop.input) == 3  # the number of turns, no condition, and the sum
    assert "Transpose" not in {node.op_type for node in body.node}
    [kernel] = [t for t in body.initializer if t.dims == [2, 3]]
    np.testing.assert_array_equal(numpy_helper.to_array(kernel), w.T)
    assert {tensor.name for tensor in model.graph.initializer} == {"turns", "shift", "zero"}


def test_formats_by_their_names():
    assert {name: kind.name for name, kind in FORMATS.items()} == {
        "onnx": "onnx",
        "saved_model": "saved_model",
    }


def test_options_go_to_the_formats_that_take_them():
    defaults = {"precision": "float32", "size": None, "batch": None, "overwrite": False}
    assert choose(["saved_model"], **defaults) == [SavedModel()]
    for option, value in {"precision": "float16", "size": (9, 9), "batch": 2, "overwrite": True}.items():
        options = {**defaults, option: value}
        assert choose(["onnx"], **options) == [onnx_format.Onnx(**options)]
        assert choose(["onnx", "saved_model"], **options) == [onnx_format.Onnx(**options), SavedModel()]
        with pytest.raises(InputError, match=rf"^--{option}: for the ONNX file alone\. Received: "):
            choose(["saved_model"], **options)


@pytest.mark.parametrize(
    ("names", "out", "expected"),
    [
        (["onnx"], None, ["run/export/run.onnx"]),
        (["onnx", "saved_model"], None, ["run/export/run.onnx", "run/export/run"]),
        (["onnx"], "cells", ["cells.onnx"]),
        (["onnx"], "cells.onnx", ["cells.onnx"]),
        (["onnx"], "v1.2", ["v1.2.onnx"]),
        (["onnx"], "folder", ["folder/run.onnx"]),
        (["onnx"], "served", ["served.onnx"]),
        (["saved_model"], "folder", ["folder"]),
        (["saved_model"], "cells.onnx", ["cells"]),
        (["onnx", "saved_model"], "folder", ["folder.onnx", "folder"]),
    ],
)
def test_places(names, out, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run", "folder", "served/1"):
        Path(name).mkdir(parents=True)
    Path("served/1/saved_model.pb").touch()
    out = None if out is None else Path(out)
    assert places(Path("run"), out, choose(names)) == [Path(path) for path in expected]


def test_error_messages_are_one_line(plain, tmp_path):
    model, path = plain
    for call in (
        lambda: to_onnx(model, path),
        lambda: to_onnx(model, tmp_path / "m.onnx", size=(1, 1)),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert re.fullmatch(r"[^\n]+", str(caught.value))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The plain model, the folder of its versions, and what the export of the first one proved."""
    model, folder = make("plain"), tmp_path_factory.mktemp("served") / "patchnet"
    return model, folder, to_saved_model(model, folder, class_names=("cat", "dog"))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 3), st.integers(5, 16), st.integers(5, 16), st.integers(0, 99))
def test_saved_model_is_the_papers(served, batch, height, width, seed):
    model, folder, _ = served
    images = np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), "uint8")
    signatures = load(folder / "1").signatures
    both = {k: v.numpy() for k, v in signatures["serving_default"](image=tf.constant(images)).items()}
    for k, image in enumerate(images):
        expected = reference.decisions(model.get_weights(), image, 5, 1)
        np.testing.assert_allclose(both["heatmap"][k], expected, atol=1e-5)
        expected = reference.probability(model.get_weights(), image, 5, 5)
        assert both["probability"][k] == pytest.approx(expected, abs=1e-5)
    for name in ("probability", "heatmap"):
        [(output, value)] = signatures[name](image=tf.constant(images)).items()
        assert output == name
        np.testing.assert_allclose(value, both[name], atol=1e-6)


@functools.cache
def load(folder):
    return tf.saved_model.load(str(folder))


def test_saved_model_of_the_probability_alone_computes_no_heatmap(served):
    signatures = load(served[1] / "1").signatures
    nodes = {name: {node.op for f in called(signatures[name]) for node in f.node_def} for name in OUTPUTS}
    assert "Conv2D" in nodes["probability"]
    assert not {"While", "StatelessWhile"} & nodes["probability"]
    assert {"While", "StatelessWhile"} & nodes["heatmap"]


def called(signature):
    """The definitions of all functions that a signature can call."""
    library = {f.signature.name: f for f in signature.graph.as_graph_def().library.function}
    found, names = [], {a.func.name for n in signature.graph.as_graph_def().node for a in n.attr.values()}
    while names := names & library.keys():
        found += [library.pop(name) for name in names]
        names = {a.func.name for f in found for n in f.node_def for a in n.attr.values()}
    return found


def test_saved_model_takes_image_files(served, rng):
    images = rng.integers(0, 256, (2, 9, 12, 3), "uint8")
    images[1] = cv2.blur(images[1], (5, 5))
    png = [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in images]
    jpeg = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in images]
    decoded = [cv2.imdecode(np.frombuffer(file, "uint8"), cv2.IMREAD_COLOR)[..., ::-1] for file in jpeg]
    signatures = load(served[1] / "1").signatures
    for encoded, pixels, atol in ((png, images, 1e-6), (jpeg, np.array(decoded), 1e-2)):
        got = signatures["image_bytes"](image_bytes=tf.constant(encoded))
        expected = signatures["serving_default"](image=tf.constant(pixels))
        assert got.keys() == {"probability", "heatmap"}
        for name, value in got.items():
            np.testing.assert_allclose(value, expected[name], atol=atol)


def test_warm_up_requests_are_answered(served):
    path = served[1] / "1" / "assets.extra" / "tf_serving_warmup_requests"
    signatures, asked = load(served[1] / "1").signatures, []
    for record in tf.data.TFRecordDataset(str(path)):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        assert signatures[request.model_spec.signature_name](**inputs)
        asked.append(request.model_spec.signature_name)
    assert sorted(asked) == sorted(signatures)


def test_files_of_a_saved_model(served):
    _, folder, proved = served
    assert proved.path == folder / "1"
    assert sorted(path.name for path in folder.parent.rglob("*") if path.name.startswith(".")) == []
    listed = json.loads((folder / "1" / "MANIFEST.json").read_text())
    found = [path for path in (folder / "1").rglob("*") if path.is_file() and path.name != "MANIFEST.json"]
    assert listed.keys() == {path.relative_to(folder / "1").as_posix() for path in found}
    record = json.loads((folder / "1" / "verification.json").read_text())["saved_model.pb"]
    assert record["largest_difference"] == {"probability": proved.probability, "heatmap": proved.heatmap}
    metadata = json.loads((folder / "1" / "assets.extra" / "metadata.json").read_text())
    assert json.loads(metadata["class_names"]) == ["cat", "dog"]
    assert Contract.from_metadata(metadata) == contract("plain")


def test_both_formats_open_as_predictors(exported, plain, served, rng):
    """What opens an exported file is the same for both, and so is what it says and answers."""
    [saved, onnx_file] = [open_exported(path) for path in (served[1], plain[1])]
    assert (saved.path, onnx_file.path) == (served[1] / "1", plain[1])
    assert open_exported(exported[2]).contract == contract(exported[0])
    assert saved.contract == contract("plain")
    assert saved.input_shape == onnx_file.input_shape == (None, None, None, 3)
    images = rng.integers(0, 256, (2, 11, 12, 3), "uint8")
    for predict, model in ((saved, served[0]), (onnx_file, plain[0])):
        q, maps = predict(images)
        np.testing.assert_allclose(q, model.predict(images, verbose=0)[:, 0], atol=1e-5)
        np.testing.assert_allclose(maps, pn.heatmap_model(model).predict(images, verbose=0), atol=1e-5)
        np.testing.assert_allclose(predict.probability(images), q, atol=1e-6)
    for image in (images[..., :1], images[:, :4]):
        with pytest.raises(InputError, match="Received"):
            saved(image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: None, "exported by an older version of this package; export it again"),
        (lambda text: text[:-1], "not the contract of a model"),
        (lambda text: text.replace('"channels":3', '"channels":1'), "its contract is that of another model"),
    ],
)
def test_a_file_without_its_contract(served, plain, tmp_path, change, message):
    version = shutil.copytree(served[1] / "1", tmp_path / "served" / "1")
    (version / "MANIFEST.json").unlink()
    described = json.loads((version / "assets.extra" / "metadata.json").read_text())
    described[KEY] = change(described[KEY])
    (version / "assets.extra" / "metadata.json").write_text(
        json.dumps({key: value for key, value in described.items() if value is not None})
    )
    loaded = onnx.load(plain[1])
    [entry] = [entry for entry in loaded.metadata_props if entry.key == KEY]
    loaded.metadata_props.remove(entry)
    if (text := change(entry.value)) is not None:
        loaded.metadata_props.add(key=KEY, value=text)
    onnx.save(loaded, tmp_path / "model.onnx")
    for changed in (version, tmp_path / "model.onnx"):
        digest.seal(changed)
    for path, model in ((version, served[0]), (tmp_path / "model.onnx", plain[0])):
        for call in (open_exported, functools.partial(verify, model)):
            with pytest.raises(InputError) as caught:
                call(path)
            assert str(caught.value).startswith(f"{path}: {message}")
            assert "\n" not in str(caught.value)


def test_saved_model_of_the_next_version(served, tmp_path):
    model, folder, _ = served
    versions = shutil.copytree(folder, tmp_path / "patchnet")
    (versions / "1").rename(versions / "9")
    assert to_saved_model(model, versions).path == versions / "10"
    assert verify(model, versions).path == versions / "10"
    assert verify(model, versions / "9").heatmap < 1e-5
    shutil.rmtree(versions / "10")
    weights = versions / "9" / "variables" / "variables.data-00000-of-00001"
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    with pytest.raises(InputError, match=r"altered or truncated.*Received"):
        verify(model, versions)
    weights.unlink()
    with pytest.raises(InputError, match="missing"):
        verify(model, versions)
    (versions / "9" / "MANIFEST.json").unlink()
    with pytest.raises(InputError, match="altered or truncated since"):
        verify(model, versions)
    digest.seal(versions / "9")
    with pytest.raises(InputError, match="cannot load"):
        verify(model, versions)
    with pytest.raises(InputError, match="a version already"):
        to_saved_model(model, versions / "9")


def test_saved_model_refuses_wrong_images(served):
    answer = load(served[1] / "1").signatures["serving_default"]
    for shape, dtype, message in (
        ((1, 4, 9, 3), "uint8", "at least 5 x 5 pixels"),
        ((1, 9, 9, 1), "uint8", r"takes images of 3 channel\(s\)|shape"),
        ((0, 9, 9, 3), "uint8", "takes at least one image"),
        ((1, 9, 9, 3), "float32", "uint8"),
    ):
        with pytest.raises((tf.errors.InvalidArgumentError, TypeError, ValueError), match=message):
            answer(image=tf.zeros(shape, dtype))


def test_a_wrong_saved_model_is_refused(tmp_path, monkeypatch):
    model, other = make("plain"), pn.PatchNet(**PLAIN)
    original = SavedModel.write
    monkeypatch.setattr(SavedModel, "write", lambda self, model, *rest: original(self, other, *rest))
    with pytest.raises(VerificationError, match="SavedModel and Keras differ"):
        to_saved_model(model, tmp_path / "patchnet")
    assert not list(tmp_path.iterdir())


def test_verify_of_other_folders(served, tmp_path):
    model, _, _ = served
    with pytest.raises(InputError, match="neither a SavedModel nor"):
        verify(model, tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(InputError, match="not a SavedModel"):
        verify(model, tmp_path)
    module = tf.Module()
    module.twice = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec((), tf.float32)])
    tf.saved_model.save(module, str(tmp_path / "1"), {"serving_default": module.twice})
    with pytest.raises(InputError, match="not one made by"):
        verify(model, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        to_saved_model(model, tmp_path / "file")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_G_on_overlapping_patches_without_padding_is_exported(precision, tmp_path):
    """Its patches are never cut: the whole of G is one convolutional network."""
    model = pn.PatchNet((None, None, 1), 7, filters=4, depth=2, padding="valid", stride=2)
    done = pn.export.to_onnx(model, tmp_path / "model.onnx", precision=precision)
    assert done.heatmap <= (1e-5 if precision == "float32" else 5e-3)
