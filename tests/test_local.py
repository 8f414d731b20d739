"""ConvNets made local: what they see, that they compute what the original computes, and every patch."""

import bisect

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tf2onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import patchnet_tf as pn
from patchnet_tf.errors import InputError
from patchnet_tf.model.local import LocalNetwork
from patchnet_tf.model.phases import PhaseMap


def shaken(model, rng):
    """Random weights everywhere, so that no normalization is the identity; variances stay positive."""
    for weight in model.weights:
        if "variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif weight.dtype != "int32" and "count" not in weight.path:
            weight.assign(np.asarray(weight) + rng.normal(0, 0.2, weight.shape))
    return model


def seen(features, images, unit):
    """The rows and columns of the images that a unit of a padded network sees: where changes reach it."""
    before, others = features(images), -images[::-1]

    def box(axis, length):
        places = np.arange(length).reshape((-1, 1, 1) if axis == 1 else (1, -1, 1))

        def changes(changed):
            after = features(tf.where(changed, others, images))
            return bool(np.any(after[:, unit[0], unit[1]] != before[:, unit[0], unit[1]]))

        # The more of one side changes, the more it reaches.
        start = bisect.bisect_left(range(length + 1), True, key=lambda n: changes(places < n)) - 1
        rest = bisect.bisect_left(range(length + 1), True, key=lambda n: changes(places >= length - n)) - 1
        return slice(start, length - rest)

    return box(1, images.shape[1]), box(2, images.shape[2])


def patchwise(S, image, stride=1):
    """S on each patch of one image, by itself."""
    p = S.patch_size
    rows, columns = ((size - p) // stride + 1 for size in image.shape[:2])
    patches = np.stack(
        [
            image[i * stride : i * stride + p, j * stride : j * stride + p]
            for i in range(rows)
            for j in range(columns)
        ]
    )
    return np.asarray(S(patches)).reshape(rows, columns)


def check_local(model, layer, size, rng, strides=(1, 2)):
    """Hold a local network against the padded original, and every patch against patch by patch."""
    shaken(model, rng)
    S = pn.local_network(model, layer, hidden=0)
    check_inside(S, model, layer, tf.constant(rng.normal(size=(6, *size, S.channels)), "float32"))
    check_every_patch(S, rng, {*strides, S.stride})
    return S


def check_inside(S, model, layer, images):
    """A local network sees what a unit of the padded original sees, and makes of it what that unit makes."""
    p, s = S.patch_size, S.stride
    features = keras.Model(model.input, model.get_layer(layer).output)
    full = features(images)
    unit = full.shape[1] // 2, full.shape[2] // 2
    rows, columns = seen(features, images, unit)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (p, p)
    made = S.body(images[:, rows, columns])
    scale = float(np.abs(made).max())
    np.testing.assert_allclose(made[:, 0, 0], full[:, unit[0], unit[1]], rtol=1e-4, atol=1e-5 * scale)
    grid = S.body(images[:, rows.start :, columns.start :])
    assert grid.shape[1] == (images.shape[1] - rows.start - p) // s + 1
    inner = full[:, unit[0] :, unit[1] :][:, : grid.shape[1], : grid.shape[2]]
    np.testing.assert_allclose(
        grid[:, : inner.shape[1], : inner.shape[2]], inner, rtol=1e-4, atol=1e-5 * scale
    )


def check_every_patch(S, rng, strides):
    """Every patch equals patch by patch, and depends on its own pixels, to the bit."""
    p, s = S.patch_size, S.stride
    image = rng.normal(size=(p + s + 2, p + 2 * s + 1, S.channels)).astype("float32")
    for stride in strides:
        whole = S.every_patch(stride=stride)
        decisions = np.asarray(whole(image[None]))[0]
        np.testing.assert_allclose(decisions, patchwise(S, image, stride), rtol=0, atol=1e-5)
        i, j = decisions.shape[0] // 2, decisions.shape[1] // 2
        other = rng.normal(size=image.shape).astype("float32") * 9
        patch = slice(i * stride, i * stride + p), slice(j * stride, j * stride + p)
        other[patch] = image[patch]
        assert np.asarray(whole(other[None]))[0, i, j] == decisions[i, j]


def tanh(x, name=None):
    return layers.Activation("tanh", name=name)(x)


def plain(x):
    x = tanh(layers.Conv2D(4, 3, padding="same")(x))
    return tanh(layers.Conv2D(4, 3, strides=2, padding="same")(x))


def even(x):
    x = tanh(layers.Conv2D(4, 4, padding="same")(x))
    return tanh(layers.Conv2D(4, (2, 2), strides=2, padding="same")(x))


def by_threes(x):
    x = tanh(layers.Conv2D(4, 5, strides=3, padding="same")(x))
    return tanh(layers.Conv2D(4, 3, strides=2, padding="same")(x))


def dilated(x):
    x = layers.Conv2D(4, 3, padding="same", dilation_rate=2, activation="gelu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", dilation_rate=3, activation="tanh")(x)
    return tanh(layers.Conv2D(4, 3, strides=2)(x))


def separable(x):
    x = layers.SeparableConv2D(5, 3, padding="same", strides=2, activation="tanh")(x)
    x = layers.BatchNormalization()(layers.SeparableConv2D(4, 3, padding="same", use_bias=False)(x))
    return layers.BatchNormalization()(layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2)(x))


def grouped(x):
    x = layers.Conv2D(4, 1)(x)
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", groups=4)(x))
    return layers.LayerNormalization()(layers.Conv2D(4, 3, groups=4, strides=2)(x))


def averaging(x):
    x = layers.AveragePooling2D(3, strides=1, padding="same")(x)
    x = layers.ZeroPadding2D(1)(x)
    return layers.AveragePooling2D(2)(layers.AveragePooling2D(3, strides=1)(x))


def pooled(x):
    x = layers.MaxPooling2D(3, strides=1, padding="same")(layers.Conv2D(4, 3)(x))
    return layers.MaxPooling2D(2)(layers.Cropping2D(((1, 2), (1, 2)))(x))


def explicit_padding(x):
    x = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = layers.BatchNormalization()(x)
    return tanh(layers.Conv2D(4, 3)(layers.ZeroPadding2D(2)(x)))


def residual(x):
    x = tanh(layers.Conv2D(4, 3, strides=2, padding="same")(x))
    y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    return tanh(layers.Add()([layers.Dropout(0.5)(y), x]))


def projection(x):
    x = layers.Conv2D(4, 3, padding="same")(x)
    y = tanh(layers.Conv2D(4, 1, strides=2)(x))
    y = layers.Conv2D(6, 3, padding="same")(y)
    return tanh(layers.Add()([y, layers.BatchNormalization()(layers.Conv2D(6, 1, strides=2)(x))]))


def preactivation(x):
    """Its shortcut lies between the strides of the other branch, as in ResNet v2."""
    x = layers.Conv2D(4, 3, padding="same")(x)
    before = tanh(layers.BatchNormalization()(x))
    y = layers.Conv2D(4, 3, strides=2)(layers.ZeroPadding2D(1)(before))
    return layers.Add()([layers.MaxPooling2D(1, strides=2)(x), y])


def pooled_branch(x):
    """A pooled branch beside a strided one, as in Xception."""
    x = tanh(layers.Conv2D(4, 3, padding="same")(x))
    y = layers.SeparableConv2D(4, 3, padding="same")(x)
    y = layers.MaxPooling2D(3, strides=2, padding="same")(y)
    return layers.Add()([y, layers.Conv2D(4, 1, strides=2, padding="same")(x)])


def inception(x):
    a = layers.Conv2D(2, (3, 1), padding="same")(layers.Conv2D(2, (1, 3), padding="same")(x))
    b = layers.Conv2D(2, 1)(layers.AveragePooling2D(3, strides=1, padding="same")(x))
    c = layers.Conv2D(2, 2, padding="same")(layers.Conv2D(2, 4, padding="same")(x))
    return layers.MaxPooling2D(2)(layers.Concatenate()([a, b, c]))


def unlike_strides(x):
    """One branch strides by 4, the other by 2 and 2."""
    a = layers.MaxPooling2D(4)(layers.Conv2D(4, 3, padding="same")(x))
    b = layers.Conv2D(4, 2, strides=2)(layers.Conv2D(4, 2, strides=2, activation="tanh")(x))
    return layers.Multiply()([a, b])


def merged(x):
    a, b = layers.Conv2D(4, 3, padding="same")(x), layers.Conv2D(4, 1)(x)
    y = [kind()([a, b]) for kind in (layers.Maximum, layers.Minimum, layers.Average, layers.Subtract)]
    return layers.Concatenate()([*y, layers.Multiply()([a, b])])


def pointwise(x):
    x = layers.Rescaling([1.0, 2.0, 3.0], [0.1, 0.2, 0.3])(x)
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(x)
    x = layers.Dense(4)(layers.Conv2D(4, 3, padding="same")(x))
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="ones")(layers.LeakyReLU(0.3)(x))
    x = layers.LayerNormalization()(layers.Activation("swish")(x))
    return layers.Softmax()(layers.ELU()(layers.GaussianNoise(0.1)(x)))


def operations(x):
    x = layers.Conv2D(4, 3, padding="same")(x)
    y = keras.ops.tanh(x * 2.0 + 1.0) - x / 3.0
    return y * keras.ops.relu6(keras.ops.maximum(x, -0.5) + 3.0) * (1 / 6)


def shared(x):
    convolution = layers.Conv2D(3, 3, padding="same", activation="tanh")
    return convolution(convolution(x))


NETWORKS = [
    plain,
    even,
    by_threes,
    dilated,
    separable,
    grouped,
    averaging,
    pooled,
    explicit_padding,
    residual,
    projection,
    preactivation,
    pooled_branch,
    inception,
    unlike_strides,
    merged,
    pointwise,
    operations,
    shared,
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_a_network_computes_what_the_padded_one_does_inside_and_sees_its_patch_alone(network, rng):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Identity(name="last")(network(image)))
    check_local(model, "last", (36, 36), rng)


@pytest.mark.parametrize("size", [(33, 33), (34, 34), (33, 36)])
@pytest.mark.parametrize("network", [pooled_branch, by_threes, even], ids=lambda network: network.__name__)
def test_branches_meet_as_at_the_size_that_the_network_was_built_for(network, size, rng):
    image = keras.Input((*size, 3))
    model = keras.Model(image, layers.Identity(name="last")(network(image)))
    check_local(model, "last", size, rng)


def test_nested_models_are_opened(rng):
    inner = keras.Input((None, None, 3))
    inner = keras.Model(inner, residual(inner), name="inner")
    stack = keras.Sequential([keras.Input((None, None, 4)), layers.Conv2D(4, 3), layers.ReLU()], name="stack")
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Identity(name="last")(stack(inner(image))))
    assert check_local(model, "last", (32, 32), rng).stride == 2
    assert pn.local_network(model, "inner/" + inner.layers[1].name).patch_size == 3
    assert pn.local_network(stack, patch_size=6).patch_size == 3


def test_a_patch_size_takes_the_last_end_of_a_block_that_fits():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, name="first")(image)
    y = layers.Conv2D(4, 1, name="inside")(x)
    x = layers.Add(name="end")([layers.Conv2D(4, 3, padding="same")(y), x])
    x = layers.Conv2D(4, 3, name="third")(x)
    model = keras.Model(image, layers.Flatten(name="flat")(x))
    sizes = {p: pn.local_network(model, patch_size=p).patch_size for p in (3, 4, 5, 6, 7, 14)}
    assert sizes == {3: 3, 4: 3, 5: 5, 6: 5, 7: 7, 14: 7}
    assert pn.local_network(model, patch_size=3).body.layers[-1].name == "first"


def test_a_much_smaller_patch_than_asked_for_is_warned_of():
    """With the layer that stops it: one that is refused, one of a patch too large, or none."""
    image = keras.Input((64, 64, 3))
    x = layers.Conv2D(4, 3, name="first")(image)
    large = keras.Model(image, layers.Conv2D(4, 30, name="large")(x), name="net")
    flat = keras.Model(image, layers.Flatten(name="flat")(x), name="net")
    for model, why in (
        (large, "'large' sees 32 x 32"),
        (flat, "'flat' looks further than a patch: it rearranges positions"),
        (keras.Model(image, x, name="net"), "no layer sees more"),
    ):
        with pytest.warns(UserWarning, match=f"^The patch of 'net' is 3 x 3 pixels, of 20 asked for: {why}"):
            assert pn.local_network(model, patch_size=20).patch_size == 3
        assert pn.local_network(model, patch_size=6).patch_size == 3


def attention(x):
    return layers.MultiHeadAttention(1, 2, name="far")(x, x)


def squeeze(x):
    y = layers.GlobalAveragePooling2D(keepdims=True, name="far")(x)
    return layers.Multiply(name="after")([x, layers.Conv2D(4, 1)(y)])


def own_activation(x):
    return x - keras.ops.mean(x)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (layers.GlobalMaxPooling2D(name="far"), "it pools over the whole image"),
        (squeeze, "it pools over the whole image"),
        (attention, "attention looks at all positions"),
        (layers.Flatten(name="far"), "it rearranges positions"),
        (layers.UpSampling2D(name="far"), "it resizes the map"),
        (layers.Conv2DTranspose(3, 3, name="far"), "it resizes the map"),
        (layers.Resizing(8, 8, name="far"), "it resizes the map"),
        (layers.GroupNormalization(2, name="far"), "it normalizes over positions"),
        (layers.LayerNormalization(axis=[1, 2, 3], name="far"), "it combines positions or images"),
        (layers.BatchNormalization(axis=1, name="far"), "it combines positions or images"),
        (layers.Softmax(axis=1, name="far"), "it combines positions or images"),
        (layers.PReLU(name="far"), "weights of its own for each position"),
        (layers.Lambda(own_activation, name="far"), "a function that cannot be looked into"),
        (layers.Conv2D(2, 3, activation=own_activation, name="far"), "a function that cannot be looked into"),
        (layers.Conv2D(2, 3, strides=(1, 2), name="far"), "its strides differ"),
        (layers.RandomFlip(name="far"), "it is a RandomFlip, which is not known to be local"),
    ],
)
def test_what_looks_further_is_refused_by_name(network, reason):
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, name="before")(image)
    x = network(x)
    model = keras.Model(image, layers.Identity(name="last")(x))
    with pytest.raises(InputError, match=f"'far' looks further than a patch: .*{reason}") as caught:
        pn.local_network(model, "last")
    assert "\n" not in str(caught.value)
    assert pn.local_network(model, "before").patch_size == 3
    with pytest.warns(UserWarning, match=f"'far' looks further than a patch: .*{reason}"):
        assert pn.local_network(model, patch_size=99).patch_size == 3


def test_bad_arguments_are_one_line_each():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, (1, 3), name="wide")(layers.Conv2D(4, 5, name="five")(image))
    model = keras.Model(image, layers.Conv2D(4, 3, name="seven")(x), name="net")
    flat = keras.Model(image, layers.Dense(1)(layers.Flatten(name="flat")(image)), name="flat")

    def refuse(message, *arguments, error=InputError, **options):
        with pytest.raises(error, match=message) as caught:
            pn.local_network(*arguments, **options)
        assert "\n" not in str(caught.value)

    refuse("Either `layer` or `patch_size`.*Received: layer=None, patch_size=None", model)
    refuse("Either `layer` or `patch_size`", model, "five", patch_size=9)
    refuse("'net' has no layer of that name. Received: layer='six'", model, "six")
    refuse("'wide' sees 5 x 7 pixels.*Received: layer='wide'", model, "wide")
    refuse(r"The smallest patch of 'net' is 5 \(it has 5\). Received: patch_size=4", model, patch_size=4)
    refuse("Nothing of 'flat' is local: 'flat': it rearranges positions", flat, patch_size=9)
    refuse("`patch_size` must be a whole number", model, patch_size=1.5, error=ValueError)
    refuse("`hidden` must be a whole number", model, "five", hidden=-1, error=ValueError)
    refuse("`dropout` must be below 1", model, "five", dropout=1.0, error=ValueError)
    refuse(r"`mean` needs one number, or 3 \(channels\)", model, "five", mean=[1, 2], error=ValueError)
    refuse('A network is "efficientnet_lite0" or one of keras.applications', "vgg17", patch_size=9)
    refuse("There is no file of weights for VGG16", "VGG16", patch_size=9, weights="nowhere.h5")
    refuse("Only a functional", layers.Dense(1), patch_size=9)
    two = keras.Model([image, keras.Input((16, 16, 3))], image, name="two")
    refuse("The model must have one input. Received: 2 of 'two'", two, patch_size=9)


@pytest.fixture
def S(rng):
    image = keras.Input((None, None, 3))
    model = shaken(keras.Model(image, layers.Identity(name="last")(preactivation(residual(image)))), rng)
    return pn.local_network(model, "last", hidden=5, dropout=0.25, mean=0.5, std=[0.1, 0.2, 0.3])


def test_it_is_a_model_that_says_what_it_is(S):
    assert isinstance(S, LocalNetwork)
    assert (S.patch_size, S.stride, S.channels) == (15, 4, 3)
    assert S.input_shape == (None, 15, 15, 3)
    assert S.output_shape == (None, 1)
    assert S.output.dtype == "float32"
    assert S.pixels == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert [layer.name for layer in S.head.layers] == ["features", "norm", "hidden", "dropout", "unit"]


def test_the_original_is_neither_changed_nor_shared(rng):
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Identity(name="last")(separable(image)))
    before = [w.copy() for w in model.get_weights()]
    S = pn.local_network(model, "last")
    S.set_weights([w + 1 for w in S.get_weights()])
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    assert model.trainable


def test_it_survives_a_keras_file_alone_and_nested(S, rng, tmp_path):
    patches = rng.normal(size=(3, 15, 15, 3)).astype("float32")
    S.save(tmp_path / "S.keras")
    again = pn.load_model(tmp_path / "S.keras")
    np.testing.assert_array_equal(again(patches), S(patches))
    assert type(again) is LocalNetwork
    assert {**again.get_config(), "body": ...} == {**S.get_config(), "body": ...}
    assert again.head.trainable
    assert not again.body.trainable

    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Rescaling(2.0)(S.every_patch(stride=2)(image)))
    model.save(tmp_path / "model.keras")
    images = rng.normal(size=(2, 20, 21, 3)).astype("float32")
    loaded = pn.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), model(images))


def test_the_body_is_frozen_until_it_is_set_free(S, rng):
    patches = rng.normal(size=(8, 15, 15, 3)).astype("float32")
    labels = np.tile([[0.0], [1.0]], (4, 1))

    def fit():
        before = [np.asarray(w).copy() for w in S.body.weights]
        S.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
        S.fit(patches, labels, epochs=1, verbose=0)
        pairs = zip(before, S.body.weights, strict=True)
        return {w.path.rpartition("/")[2] for was, w in pairs if not np.array_equal(was, w)}

    features = np.asarray(S.body(patches, training=True))
    assert fit() == set()
    np.testing.assert_array_equal(S.body(patches, training=True), features)
    S.body.trainable = True
    assert fit() == {"kernel", "bias"}  # not the scale and offset of normalizations


def test_every_patch_takes_any_size_and_batch(S, rng):
    images = rng.normal(size=(3, 22, 17, 3)).astype("float32")
    image = keras.Input((None, None, 3))
    model = keras.Model(image, S.every_patch()(image))
    assert model.output_shape == (None, None, None)
    expected = np.stack([patchwise(S, x) for x in images])
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, rtol=0, atol=1e-5)
    alone = images[:, :15, :15]
    np.testing.assert_allclose(model.predict(alone, verbose=0)[:, 0], S(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_tiles_of_bounded_memory_are_the_same_map(S, rng, stride):
    images = rng.normal(size=(2, 70, 83, 3)).astype("float32")
    whole, tiled = S.every_patch(stride=stride), S.every_patch(stride=stride, memory=1)
    tiled.tile_side = lambda: 28 // stride
    np.testing.assert_allclose(tiled(images), whole(images), rtol=0, atol=1e-6)
    dynamic = tf.function(tiled, input_signature=[tf.TensorSpec((None, None, None, 3))])
    np.testing.assert_allclose(dynamic(images), whole(images), rtol=0, atol=1e-6)


def test_more_memory_makes_larger_tiles(S):
    assert 1 <= S.every_patch(memory=1).tile_side() < S.every_patch(memory=100).tile_side()


def test_the_graph_is_plain(S):
    signature = [tf.TensorSpec((None, None, None, 3))]
    graph = tf.function(S.every_patch(), input_signature=signature).get_concrete_function().graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert not kinds & {"While", "StatelessWhile", "If", "StatelessIf", "TensorListReserve"}
    assert "Conv2D" in kinds


def test_onnx_runs_the_same_map_without_a_loop(S, rng):
    function = tf.function(S.every_patch(), input_signature=[tf.TensorSpec((None, None, None, 3))])
    model, _ = tf2onnx.convert.from_function(function, function.input_signature, opset=18)
    assert not {node.op_type for node in model.graph.node} & {"Loop", "If", "Scan"}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in ((15, 15), (22, 27)):
        images = rng.normal(size=(2, *size, 3)).astype("float32")
        (heatmap,) = session.run(None, {session.get_inputs()[0].name: images})
        np.testing.assert_allclose(heatmap, function(images), rtol=0, atol=1e-5)


def test_logits_are_what_decisions_are_made_from(S, rng):
    images = rng.normal(size=(1, 19, 18, 3)).astype("float32")
    logits = np.asarray(S.every_patch(logits=True)(images))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), S.every_patch()(images), rtol=0, atol=1e-6)


def test_every_patch_trains(S, rng):
    image = keras.Input((23, 23, 3))
    model = keras.Model(
        image, layers.GlobalAveragePooling2D()(layers.Reshape((9, 9, 1))(S.every_patch()(image)))
    )
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    images = rng.normal(size=(4, 23, 23, 3)).astype("float32")
    labels = np.array([[0.0], [0.0], [1.0], [1.0]])
    images[2:] += 0.5
    first = model.evaluate(images, labels, verbose=0)
    model.fit(images, labels, epochs=20, verbose=0)
    assert model.evaluate(images, labels, verbose=0) < first - 0.05


def test_every_patch_checks_its_arguments(S):
    with pytest.raises(ValueError, match="`stride` must be a whole number"):
        S.every_patch(stride=0)
    with pytest.raises(ValueError, match="`memory` must be a whole number"):
        PhaseMap(S, memory=-1)
    with pytest.raises(ValueError, match="Only a `PatchSubnet` has filters"):
        S.every_patch(filters=True)
    with pytest.raises(ValueError, match="incompatible"):
        S.every_patch()(np.zeros((1, 20, 20, 1)))


LAYERS = st.tuples(
    st.sampled_from(["convolution", "dilated", "depthwise", "max", "mean", "skip", "branches"]),
    st.integers(1, 4),  # kernel
    st.integers(1, 3),  # stride
    st.sampled_from(["same", "valid"]),
)


def random_layer(x, kind, kernel, stride, padding):
    match kind:
        case "convolution":
            return layers.Conv2D(3, kernel, stride, padding, activation="tanh")(x)
        case "dilated":
            return layers.Conv2D(3, kernel, 1, padding, dilation_rate=2, activation="tanh")(x)
        case "depthwise":
            return layers.DepthwiseConv2D(kernel, stride, padding, activation="tanh")(x)
        case "max":
            return layers.MaxPooling2D(kernel, stride, padding)(x)
        case "mean":
            return layers.AveragePooling2D(kernel, stride, padding)(x)
        case "skip":
            return layers.Add()([x, layers.DepthwiseConv2D(kernel, 1, "same")(x)])
        case "branches":
            y = layers.Conv2D(2, kernel, stride, "same", activation="tanh")(x)
            return layers.Concatenate()([y, layers.MaxPooling2D(3, stride, "same")(x)])


def random_network(size, drawn):
    image = x = keras.Input((size, size, 2))
    for layer in drawn:
        x = random_layer(x, *layer)
    return keras.Model(image, layers.Conv2D(3, 2, name="last")(x))


@settings(
    max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)  # a network takes seconds: too long to look for the smallest that fails
@given(drawn=st.lists(LAYERS, min_size=1, max_size=3), seed=st.integers(0, 99), stride=st.integers(2, 6))
def test_random_networks_are_local_and_the_same_at_every_patch(drawn, seed, stride):
    S = pn.local_network(random_network(None, drawn), "last", hidden=0)
    size = 3 * S.patch_size + 2 * S.stride + seed % 4
    rng = np.random.default_rng(seed)
    check_local(random_network(size, drawn), "last", (size, size), rng, strides=(1, stride))
