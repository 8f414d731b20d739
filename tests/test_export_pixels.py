"""Exports of models of other pixels than uint8: Keras, ONNX and SavedModel, and what they refuse."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import patchnet_tf as pn
from patchnet_tf.contract import Contract
from patchnet_tf.errors import InputError
from patchnet_tf.export import VerificationError, to_onnx, to_saved_model, verify
from patchnet_tf.serving import Client, Predictor
from patchnet_tf.serving.saved_model import SavedModelPredictor

from . import reference
from .test_model_pixels import PIXELS, images_of, make, to_255


class Exported(NamedTuple):
    pixels: dict
    model: pn.PatchNet
    path: Path
    version: Path
    predictors: tuple
    signatures: dict


@pytest.fixture(scope="module", params=PIXELS)
def exported(request, tmp_path_factory):
    """The pixels, the model, its files, what runs them, and the SavedModel's signatures."""
    pixels, folder = PIXELS[request.param], tmp_path_factory.mktemp("exports")
    rng = np.random.default_rng(0)
    model = make(pixels, rng)
    to_onnx(model, folder / "model.onnx", images=images_of(pixels, rng, 2, 9, 9))
    version = to_saved_model(model, folder / "served").path
    predictors = Predictor(folder / "model.onnx"), SavedModelPredictor(version)
    return Exported(
        pixels, model, folder / "model.onnx", version, predictors, predictors[1]._loaded.signatures
    )


def test_files_are_the_papers_and_say_what_they_take(exported, rng):
    pixels, model, path, _, predictors, _ = exported
    images = images_of(pixels, rng, 2, 9, 13)
    weights, as_uint8 = model.get_weights(), to_255(images, pixels)
    expected = [reference.probability(weights, image, 6, 6, padding="valid") for image in as_uint8]
    maps = [reference.decisions(weights, image, 6, 1, padding="valid") for image in as_uint8]
    for predict in predictors:
        assert predict.contract.pixels == model.pixels
        q, heatmap = predict(images)
        np.testing.assert_allclose(q, expected, atol=1e-5)
        np.testing.assert_allclose(heatmap, maps, atol=1e-5)
    [image, *_] = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    assert image.type == {"uint16": "tensor(uint16)", "float32": "tensor(float)"}[model.pixels.dtype]
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert Contract.from_metadata(said).pixels == model.pixels
    assert not [key for key in said if key.startswith("Image.")]  # ONNX has no word for such pixels


def test_vectors_cover_the_range(exported):
    pixels, model, path, version, (predict, _), _ = exported
    low, high = model.pixels.range
    for file in (path.with_name("model.test_vectors.json"), version / "test_vectors.json"):
        numbers = np.concatenate([np.ravel(v["image"]) for v in json.loads(file.read_text())])
        assert numbers.min() < low + (high - low) / 10
        assert numbers.max() > high - (high - low) / 10
        assert (numbers.max() > high) == bool(pixels.get("clip"))
        for vector in json.loads(file.read_text()):
            q, _ = predict(np.array(vector["image"], model.pixels.dtype))
            np.testing.assert_allclose(q, vector["probability"], atol=1e-5)


def test_files_are_verified_again(exported):
    pixels, model, path, *_ = exported
    if pixels["dtype"] == "float32":
        assert verify(model, path).heatmap < 1e-5
    changed = dict(pixels) | {"clip": not pixels.get("clip", False)}
    other = pn.PatchNet.from_config({**model.get_config(), "pixels": changed})
    other.set_weights(model.get_weights())
    with pytest.raises(
        VerificationError, match=r"made from another model, of pixels .* Received: "
    ) as raised:
        verify(other, path)
    assert "\n" not in str(raised.value)


def test_what_the_model_cannot_take_is_refused(exported, rng):
    pixels, model, _, _, predictors, _ = exported
    dtype, (low, high), channels = model.pixels.dtype, model.pixels.range, model.channels
    image = images_of(pixels, rng, 9, 9)
    other = "float32" if dtype == "uint16" else "uint16"
    beyond = image.copy()
    beyond[3, 4, 0] = min(high + 1, 65535)
    nan = image.astype("float32")
    nan[2, 2, 0] = np.nan
    for predict in predictors:
        with pytest.raises(InputError, match=f"^image: expected a numpy array of {dtype}, "):
            predict(image.astype(other))
        with pytest.raises(InputError, match=rf"^image: expected {channels} channel.* Received: "):
            predict(np.repeat(image, 2, axis=2))
        if not (model.pixels.clip or model.pixels.per_image):
            with pytest.raises(InputError, match=rf"^image: .*{low}.*{high}.* Received: "):
                predict(beyond)
        else:
            predict(beyond)
        if dtype == "float32":
            with pytest.raises(InputError, match=r"^image: expected finite pixels"):
                predict(nan)


def test_saved_models_refuse_by_themselves(exported, rng):
    """TF Serving knows the graph alone."""
    pixels, model, *_, signatures = exported
    answer = signatures["serving_default"]
    image = images_of(pixels, rng, 1, 9, 9)
    answer(image=tf.constant(image))
    if model.pixels.dtype == "float32":
        for bad, message in ((np.nan, "finite pixels"), (3072, r"pixels in -1024.0..3071.5")):
            image[0, 0, 0, 0] = bad
            with pytest.raises(tf.errors.InvalidArgumentError, match=f"This model takes {message}"):
                answer(image=tf.constant(image))
    elif model.pixels.clip:
        image[0, 0, 0, 0] = 65535
        answer(image=tf.constant(image))


def test_clients_of_tf_serving_send_them_as_they_are(exported, rng):
    pixels, model, *_ = exported
    pytest.importorskip("tensorflow_serving.apis")
    transport = Client("grpc://127.0.0.1:1/v1/models/cells")._transport
    image = images_of(pixels, rng, 1, 9, 9)
    sent = tf.make_ndarray(transport.request("serving_default", "image", image).inputs["image"])
    assert sent.dtype == model.pixels.dtype
    np.testing.assert_array_equal(sent, image)


def test_saved_models_decode_png_of_16_bits(exported, rng):
    pixels, model, _, _, (_, predict), signatures = exported
    if pixels["dtype"] == "float32":  # TensorFlow has no decoder
        assert set(signatures) == {"serving_default", "probability", "heatmap"}
        return
    image = rng.integers(0, 65536, (9, 11, model.channels), "uint16")
    answer = signatures["image_bytes"](image_bytes=tf.io.encode_png(image)[None])
    q, heatmap = predict(image)
    assert answer["probability"].numpy()[0] == pytest.approx(q, abs=1e-6)
    np.testing.assert_allclose(answer["heatmap"][0], heatmap, atol=1e-6)
    eight = (image // 256).astype("uint8")
    for bad in (
        tf.io.encode_png(eight),  # TensorFlow would multiply by 257
        tf.io.encode_png(np.repeat(image[..., :1], 4 - model.channels, axis=2)),
        tf.io.encode_jpeg(eight),
        tf.constant(b""),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"takes PNG files of 16 bits, (grey|RGB)"):
            signatures["image_bytes"](image_bytes=bad[None])
