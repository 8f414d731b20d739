import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import patchnet_tf as pn
from patchnet_tf.model.dense import DenseMap, tile_side
from patchnet_tf.model.layers import PatchDistributed
from patchnet_tf.model.patches import ExtractPatches
from patchnet_tf.model.patchwise import PatchwiseMap

from .conftest import shake


def small_subnet(p, channels=1, **options):
    return shake(
        pn.PatchSubnet(p, channels, **{"filters": 4, "depth": 3, **options}), np.random.default_rng(1)
    )


def both(subnet, images, stride=1, filters=False, memory=1792):
    options = {"filters": filters, "stride": stride}
    return DenseMap(subnet, memory=memory, **options)(images), PatchwiseMap(subnet, **options)(images)


@settings(deadline=None, max_examples=40)
@given(
    p=st.integers(1, 12),
    depth=st.integers(1, 4),
    channels=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]),
    rows=st.integers(0, 9),
    columns=st.integers(0, 9),
    stride=st.integers(1, 4),
    filters=st.booleans(),
    batch=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense_is_patch_by_patch(p, depth, channels, padding, rows, columns, stride, filters, batch, seed):
    """Odd and even patches, below and above 2 * depth + 1; images from one patch on."""
    if padding == "valid":
        p = max(p, 2 * depth + 1)
    rng = np.random.default_rng(seed)
    subnet = shake(pn.PatchSubnet(p, channels, filters=3, depth=depth, padding=padding), rng)
    images = rng.normal(size=(batch, p + rows, p + columns, channels)).astype("float32")
    exact, plain = both(subnet, images, stride, filters)
    np.testing.assert_allclose(exact, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("p", "padding"), [(13, "same"), (15, "same"), (18, "same"), (31, "same"), (21, "valid")]
)
def test_dense_is_patch_by_patch_with_all_of_S(p, padding, rng):
    subnet = shake(pn.PatchSubnet(p, 3, padding=padding), rng)
    images = rng.normal(size=(1, p + 5, p + 9, 3)).astype("float32")
    exact, plain = both(subnet, images)
    assert np.std(plain) > 1e-3
    np.testing.assert_allclose(exact, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("p", "padding", "stride", "rows", "columns"),
    [(9, "same", 1, 47, 41), (4, "same", 1, 47, 41), (9, "same", 2, 61, 100), (9, "valid", 1, 145, 20)],
)
def test_tiles_do_not_show(p, padding, stride, rows, columns, rng):
    """Numbers of patches that the tiles do not divide, so that the last ones reach beyond the image."""
    subnet = small_subnet(p, padding=padding)
    assert tile_side(2**20, p, stride, subnet) < rows // stride
    images = rng.normal(size=(2, p - 1 + rows, p - 1 + columns, 1)).astype("float32")
    tiled, plain = both(subnet, images, stride, memory=1)
    whole = DenseMap(subnet, stride=stride)(images)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    np.testing.assert_allclose(tiled, plain, atol=1e-5)


def test_no_bound_on_memory_without_padding(rng):
    """The images at once, in a graph without a loop, whatever their size and number."""
    subnet = small_subnet(8, padding="valid")
    for stride, shape in ((1, (3, 12, 17, 1)), (3, (1, 23, 9, 1))):
        at_once, plain = both(subnet, rng.normal(size=shape).astype("float32"), stride, memory=None)
        np.testing.assert_allclose(at_once, plain, atol=1e-5)
    maps = tf.function(
        DenseMap(subnet, memory=None), input_signature=[tf.TensorSpec((None, None, None, 1))]
    ).get_concrete_function()
    assert not {"While", "StatelessWhile"} & {node.op for node in maps.graph.as_graph_def().node}
    with pytest.raises(ValueError, match="memory"):
        DenseMap(small_subnet(8), memory=None)


def test_memory_buys_larger_tiles():
    for p, padding in [(17, "same"), (7, "same"), (31, "valid")]:
        subnet = pn.PatchSubnet(p, padding=padding)
        sides = [tile_side(mebibytes * 2**20, p, 1, subnet) for mebibytes in (1, 64, 1024)]
        assert 1 <= sides[0] < sides[1] < sides[2]


def test_one_graph_for_all_sizes(rng):
    subnet = small_subnet(9)
    dense = tf.function(DenseMap(subnet, memory=1), input_signature=[tf.TensorSpec((None, None, None, 1))])
    for shape in [(1, 9, 9, 1), (2, 30, 60, 1), (1, 70, 11, 1)]:
        images = rng.normal(size=shape).astype("float32")
        np.testing.assert_allclose(dense(images), PatchwiseMap(subnet)(images), atol=1e-5)
    assert dense.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("dtype", "atol"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 5e-2)])
def test_mixed_precision_within_its_rounding(dtype, atol, policy, rng):
    exact = small_subnet(9)
    policy(dtype)
    subnet = pn.PatchSubnet(9, 1, filters=4, depth=3)
    subnet.set_weights(exact.get_weights())
    images = rng.normal(size=(1, 20, 20, 1)).astype("float32")
    dense = DenseMap(subnet)(images)
    assert dense.dtype == "float32"
    np.testing.assert_allclose(dense, PatchwiseMap(exact, dtype="float32")(images), atol=atol)


def test_under_xla(rng):
    subnet = small_subnet(8, depth=2)
    images = rng.normal(size=(1, 14, 15, 1)).astype("float32")
    compiled = tf.function(DenseMap(subnet), jit_compile=True)
    np.testing.assert_allclose(compiled(images), PatchwiseMap(subnet)(images), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("shape", [(20, 22, 1), (None, None, 1)])
def test_G_without_padding_is_its_patches_in_training_too(stride, shape, rng):
    """Overlapping patches of a "valid" S: the same numbers and gradients as patch by patch."""
    options = {"stride": stride, "crop": (15, 17), "filters": 4, "depth": 3, "padding": "valid"}
    dense = pn.PatchNet(shape, 8, **options)
    assert any(isinstance(layer, DenseMap) for layer in dense.layers)
    image = keras.Input((20, 22, 1))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = ExtractPatches(8, stride, (15, 17))(x)
    x = dense.get_layer("standardize")(x)
    x = PatchDistributed(dense.subnet)(x)
    plain = keras.Model(image, keras.layers.GlobalAveragePooling1D()(x))

    images = rng.uniform(0, 255, (2, 20, 22, 1)).astype("float32")
    results = []
    for model in (dense, plain):
        with tf.GradientTape() as tape:
            probability = model(images, training=True)
            loss = tf.reduce_mean(keras.losses.binary_crossentropy([[0.0], [1.0]], probability))
        results.append((probability, tape.gradient(loss, dense.trainable_weights)))
    (p1, g1), (p2, g2) = results
    np.testing.assert_allclose(p1, p2, atol=1e-6)
    for a, b in zip(g1, g2, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_G_without_padding_saves_and_has_a_heatmap(tmp_path, rng):
    model = pn.PatchNet((20, 22, 1), 8, stride=2, filters=4, depth=3, padding="valid")
    model.save(tmp_path / "model.keras")
    images = rng.uniform(0, 255, (1, 20, 22, 1)).astype("float32")
    loaded = pn.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    exact, plain = (
        pn.heatmap_model(loaded, method=method).predict(images, verbose=0)
        for method in ("exact", "patchwise")
    )
    np.testing.assert_allclose(exact, plain, atol=1e-5)


def test_config_is_the_constructors_arguments():
    layer = DenseMap(small_subnet(5), filters=True, stride=2, memory=64)
    copy = DenseMap.from_config(layer.get_config())
    assert (copy.filters, copy.stride, copy.memory) == (True, 2, 64)
    with pytest.raises(ValueError, match=r"memory.*Received"):
        DenseMap(small_subnet(5), memory=0)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_draw_the_same_map(backend, tmp_path, rng):
    pytest.importorskip(backend)
    model = shake(pn.PatchNet((16, 17, 1), 7, filters=4, depth=2), rng)
    model.save(tmp_path / "model.keras")
    images = rng.uniform(0, 255, (2, 16, 17, 1)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    code = (
        "import numpy as np, patchnet_tf as pn\n"
        f"model = pn.load_model(r'{tmp_path / 'model.keras'}')\n"
        f"images = np.load(r'{tmp_path / 'images.npy'}')\n"
        f"np.save(r'{tmp_path / 'maps.npy'}', pn.heatmap_model(model).predict(images, verbose=0))\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    expected = pn.heatmap_model(model).predict(images, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "maps.npy"), expected, atol=1e-5)
