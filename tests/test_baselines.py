from functools import partial

import keras
import numpy as np
import pytest
from scipy.signal import correlate2d

import patchnet_tf as pn
from patchnet_tf import baselines
from patchnet_tf.baselines.cam import CAM
from patchnet_tf.baselines.class_maps import min_max_normalized
from patchnet_tf.baselines.grad_cam import GradCAM
from patchnet_tf.baselines.layers import every_layer


def small_cam(shape=(None, None, 2), end="sigmoid", units=1):
    """Return a network that CAM is made for, with 3 filters at half of the image's resolution."""
    image = keras.Input(shape)
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu", name="conv")(x)
    x = keras.layers.MaxPooling2D(2)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(units, activation=end, name="unit")(x))


def features_by_hand(model, image):
    """Compute in plain numpy what that network averages: (h, w, 3)."""
    kernel, bias = (w.astype("float64") for w in model.get_layer("conv").get_weights())
    maps = []
    for k in range(kernel.shape[-1]):
        planes = [correlate2d(image[..., c] / 255, kernel[..., c, k], "same") for c in range(image.shape[-1])]
        maps.append(np.maximum(sum(planes) + bias[k], 0))
    h, w = image.shape[0] // 2, image.shape[1] // 2
    return np.stack(maps, -1)[: 2 * h, : 2 * w].reshape(h, 2, w, 2, -1).max((1, 3))


def enlarged_by_hand(small, size):
    """Up-sample (h, w) bilinearly: pixel i of H lies at (i + 0.5) h / H - 0.5."""
    for axis, length in enumerate(size):
        n = small.shape[axis]
        at = (np.arange(length) + 0.5) * n / length - 0.5
        small = np.apply_along_axis(lambda row, at=at, n=n: np.interp(at, np.arange(n), row), axis, small)
    return small


def images_of(rng, *shape):
    return rng.integers(0, 256, shape, "uint8")


def raw(method, images):
    """Return a method's maps as they are before they are enlarged and scaled."""
    return keras.ops.convert_to_numpy(method.raw(keras.ops.convert_to_tensor(images, "float32")))


def state(model):
    """What a map must leave as it was."""
    return [
        ("call" in vars(layer), getattr(layer, "activation", None), layer.trainable)
        for layer in every_layer(model)
    ]


def test_cam_by_hand(rng):
    model, images = small_cam(), images_of(rng, 3, 12, 17, 2)
    kernel = model.get_layer("unit").get_weights()[0]
    got = baselines.cam(model, images)
    assert got.dtype == np.float32
    for image, heatmap in zip(images, got, strict=True):
        expected = enlarged_by_hand(features_by_hand(model, image) @ kernel[:, 0], (12, 17))
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        np.testing.assert_allclose(heatmap, expected, atol=1e-5)


def test_cam_adds_up_to_the_score(rng):
    """The mean of a map, plus the bias, is the score: what makes it CAM."""
    model, images = small_cam(end=None), images_of(rng, 2, 12, 17, 2).astype("float32")
    scores = raw(CAM(model), images).mean((1, 2)) + model.get_layer("unit").get_weights()[1]
    np.testing.assert_allclose(scores, model(images)[:, 0], rtol=1e-5)


@pytest.mark.parametrize(("end", "units"), [("sigmoid", 1), ("softmax", 2), (None, 1)])
def test_grad_cam_of_a_cam_network_is_cam(rng, end, units):
    """Where global average pooling and a linear unit end the network, the gradients are its weights."""
    model, images = small_cam(end=end, units=units), images_of(rng, 2, 12, 17, 2).astype("float32")
    before = state(model)
    cam = raw(CAM(model), images)
    pooled = keras.Model(model.input, model.layers[-3].output)  # the same layers, ending at the maps
    kernel = model.get_layer("unit").get_weights()[0][:, -1]
    np.testing.assert_allclose(cam, pooled(images).numpy() @ kernel, rtol=1e-4, atol=1e-6)
    grad = raw(GradCAM(model, layer=model.layers[-3].name), images)
    np.testing.assert_allclose(grad, np.maximum(cam, 0) / cam[0].size, rtol=1e-4, atol=1e-8)
    assert state(model) == before


def with_softmax_layer(model):
    """Return the same network with its softmax as a layer of its own."""
    image, unit = model.input, model.get_layer("unit")
    scores = keras.layers.Dense(unit.units, name="scores")
    other = keras.Model(image, keras.layers.Softmax()(scores(model.layers[-2].output)))
    scores.set_weights(unit.get_weights())
    return other


@pytest.mark.parametrize("end", ["softmax", "sigmoid", "layer"])
def test_each_class_has_its_maps(end, rng):
    """CAM by hand, Grad-CAM from the class's logit, the drop of its probability behind a square."""
    model = small_cam(end="softmax" if end == "layer" else end, units=4)
    model = with_softmax_layer(model) if end == "layer" else model
    images = images_of(rng, 2, 6, 8, 2)
    kernel, bias = (w.astype("float64") for w in model.layers[-1 if end != "layer" else -2].get_weights())

    def probabilities(image):
        e = np.exp(features_by_hand(model, image).mean((0, 1)) @ kernel + bias)
        return e / e.sum() if end != "sigmoid" else e / (1 + e)

    for k in range(4):
        cam = raw(CAM(model, class_index=k), images) if end != "layer" else None
        grad = raw(GradCAM(model, model.layers[3].name, class_index=k), images)
        hidden = baselines.occlusion(model, images, size=3, stride=3, class_index=k)
        for n, image in enumerate(images):
            expected = features_by_hand(model, image) @ kernel[:, k]
            if cam is not None:
                np.testing.assert_allclose(cam[n], expected, atol=1e-5)
            np.testing.assert_allclose(grad[n], np.maximum(expected, 0) / expected.size, atol=1e-6)
            total, times = np.zeros((6, 8)), np.zeros((6, 8))
            for top in (0, 3):
                for left in (0, 3, 5):
                    covered = image.copy()
                    covered[top : top + 3, left : left + 3] = 0
                    drop = probabilities(image)[k] - probabilities(covered)[k]
                    total[top : top + 3, left : left + 3] += drop
                    times[top : top + 3, left : left + 3] += 1
            mean = total / times
            np.testing.assert_allclose(hidden[n], (mean - mean.min()) / np.ptp(mean), atol=1e-3)


def test_the_class_must_be_said():
    images = np.zeros((1, 8, 8, 2))
    for method in (baselines.cam, baselines.grad_cam, partial(baselines.occlusion, size=4, stride=4)):
        three, one = small_cam(end="softmax", units=3), small_cam()
        with pytest.raises(ValueError, match=r"from 0 to 2\. Received: class_index=None"):
            method(three, images)
        for wrong in (3, -1, 1.0, True):
            with pytest.raises(ValueError, match=rf"from 0 to 2\. Received: class_index={wrong}"):
                method(three, images, class_index=wrong)
        with pytest.raises(ValueError, match=r"None for one output\. Received: class_index=1"):
            method(one, images, class_index=1)


@pytest.mark.parametrize(
    "network", [baselines.vgg19_cam, baselines.vgg11, partial(baselines.pretrained_full, weights=None)]
)
def test_networks_of_several_classes(network, rng):
    images = images_of(rng, 2, 32, 32, 3).astype("float32")
    options = {} if isinstance(network, partial) else {"width": 1 / 64}
    exclusive = network((32, 32, 3), classes=4, **options)
    labels = network((32, 32, 3), classes=4, multilabel=True, **options)
    labels.set_weights(exclusive.get_weights())
    q, each = (model(images, training=False).numpy() for model in (exclusive, labels))
    assert q.shape == each.shape == (2, 4)
    odds = each / (1 - each)  # both say e to the logit
    np.testing.assert_allclose(q, odds / odds.sum(1, keepdims=True), atol=1e-5)
    assert network((32, 32, 3), classes=2, multilabel=True, **options).output_shape == (None, 2)
    assert network((32, 32, 3), classes=2, **options).output_shape == (None, 1)
    with pytest.raises(ValueError, match="Received: classes=1"):
        network((32, 32, 3), classes=1, **options)


def test_grad_cam_by_finite_differences(rng):
    """A nested head and tail, with something after the convolution that is not linear."""
    image = keras.Input((8, 6, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    head = keras.Model(image, x, name="head")
    maps = keras.Input((8, 6, 4))
    x = keras.layers.AveragePooling2D(2)(maps)
    x = keras.layers.Dense(5, activation="tanh")(keras.layers.Flatten()(x))
    tail = keras.Model(maps, keras.layers.Dense(1, activation="sigmoid")(x), name="tail")
    image = keras.Input((8, 6, 1))
    model = keras.Model(image, tail(head(keras.layers.Rescaling(1 / 255)(image))))

    w1, b1, w2, b2 = (w.astype("float64") for w in tail.get_weights())

    def score(a):  # (8, 6, 4), in float64
        pooled = a.reshape(4, 2, 3, 2, 4).mean((1, 3)).ravel()
        return (np.tanh(pooled @ w1 + b1) @ w2 + b2)[0]

    images = images_of(rng, 2, 8, 6, 1)
    got = raw(GradCAM(model), images)
    assert got.max() > 0
    for one, heatmap in zip(images, got, strict=True):
        a = head(one[None] / np.float32(255)).numpy()[0].astype("float64")
        gradient = np.zeros_like(a)
        for place in np.ndindex(*a.shape):
            step = np.zeros_like(a)
            step[place] = 1e-4
            gradient[place] = (score(a + step) - score(a - step)) / 2e-4
        np.testing.assert_allclose(heatmap, np.maximum(a @ gradient.mean((0, 1)), 0), rtol=1e-4, atol=1e-7)


def test_a_saturated_probability_has_a_map(rng):
    """The gradient is that of the score: the sigmoid's vanishes at 1."""
    model, images = small_cam(), images_of(rng, 1, 12, 16, 2)
    expected = baselines.grad_cam(model, images)
    model.get_layer("unit").bias.assign([200.0])
    assert model.predict(images, verbose=0) == 1
    np.testing.assert_allclose(baselines.grad_cam(model, images), expected, atol=1e-5)


@pytest.fixture(scope="module")
def nested():
    """Return a classifier on a backbone of Keras, frozen, as people build it."""
    keras.utils.set_random_seed(0)
    backbone = keras.applications.MobileNetV2((64, 96, 3), alpha=0.35, include_top=False, weights=None)
    backbone.trainable = False
    image = keras.Input((64, 96, 3))
    x = keras.layers.RandomFlip()(image)
    x = backbone(keras.layers.Rescaling(1 / 127.5, -1)(x))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="unit")(x))


def test_nested_backbones(nested, rng):
    model, images = nested, images_of(rng, 2, 64, 96, 3).astype("float32")
    # Batch statistics of an untrained network keep its maps apart.
    backbone = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    before, weights = state(model), model.get_weights()
    features = backbone(images / 127.5 - 1, training=False).numpy()  # (2, 2, 3, 1280)
    expected = features @ model.get_layer("unit").get_weights()[0][:, 0]
    np.testing.assert_allclose(raw(CAM(model), images), expected, rtol=1e-3, atol=1e-3 * abs(expected).max())
    grad = raw(GradCAM(model, "out_relu"), images)
    np.testing.assert_allclose(grad, np.maximum(expected, 0) / 6, rtol=1e-3, atol=1e-3 * grad.max())
    maps = baselines.grad_cam(model, images)  # the last convolution, found
    assert GradCAM(model).layer.name == "Conv_1"
    assert maps.shape == (2, 64, 96)
    assert state(model) == before
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("method", [baselines.cam, baselines.grad_cam])
def test_white_is_class_1(method):
    """Bright pixels speak for class 1 here, dark ones against it."""
    model = small_cam((None, None, 1))
    kernel = np.zeros((3, 3, 1, 3))
    kernel[1, 1] = 1
    model.set_weights([kernel, np.zeros(3), np.ones((3, 1)), -np.ones(1)])
    images = np.zeros((2, 16, 24, 1))
    images[0, 4:8, 16:20] = 255
    images[1, 10:14, 2:6] = 255
    first, second = method(model, images)
    assert first[5, 17] == second[11, 3] == 1
    assert first[11, 3] == second[5, 17] == 0
    kernel = -model.get_layer("unit").get_weights()[0]
    model.get_layer("unit").set_weights([kernel, np.ones(1)])
    first, second = method(model, images)
    if method is baselines.cam:
        assert first[5, 17] == second[11, 3] == 0
    else:  # nothing speaks for class 1
        assert np.all(first == 0.5)
        assert np.all(second == 0.5)


def test_constant_maps_are_one_half(rng):
    model = small_cam()
    images = images_of(rng, 3, 12, 16, 2)
    images[1] = 0
    model.get_layer("conv").bias.assign([0.3, 0.7, 0.1])
    model.get_layer("conv").kernel.assign(model.get_layer("conv").kernel * 5)
    maps = baselines.cam(model, images)
    assert np.all(maps[1] == 0.5)
    for heatmap in maps[::2]:
        assert (heatmap.min(), heatmap.max()) == (0, 1)


def test_scaling():
    maps = np.array([[[1, 3], [2, 5]], [[7, 7], [7, 7]], [[0, 0], [0, 0]]], "float32")
    expected = [[[0, 0.5], [0.25, 1]], [[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    np.testing.assert_allclose(min_max_normalized(maps), expected)
    rounding = np.float32([[[0.3, np.nextafter(np.float32(0.3), 1)]]])
    assert np.all(min_max_normalized(rounding) == 0.5)


@pytest.mark.parametrize("method", [baselines.cam, baselines.grad_cam])
def test_batches(method, rng):
    model, images = small_cam(), images_of(rng, 5, 10, 12, 2)
    np.testing.assert_allclose(method(model, images, batch_size=2), method(model, images), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_occlusion_by_hand(batch_size, rng):
    """The mean pixel is the probability, so a square costs what it hides."""
    image = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, kernel_initializer="ones")(x))
    images = images_of(rng, 2, 7, 11, 1)
    got = baselines.occlusion(model, images, size=4, stride=3, batch_size=batch_size)
    for pixels, heatmap in zip(images[..., 0] / 255, got, strict=True):
        total, times = np.zeros((7, 11)), np.zeros((7, 11))
        for top in (0, 3):
            for left in (0, 3, 6, 7):  # the last squares end with the image
                total[top : top + 4, left : left + 4] += pixels[top : top + 4, left : left + 4].sum() / 77
                times[top : top + 4, left : left + 4] += 1
        mean = total / times
        np.testing.assert_allclose(heatmap, (mean - mean.min()) / np.ptp(mean), atol=1e-4)


def test_vgg19_is_the_published_one():
    model = baselines.vgg19_cam((224, 224, 3))
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 16
    assert sum(layer.count_params() for layer in convolutions) == 20_024_384
    assert model.count_params() == 20_024_384 + 513
    assert model.get_layer("block5_conv4").output.shape == (None, 28, 28, 512)  # three halvings
    assert model.output_shape == (None, 1)
    kernel = model.get_layer("block5_conv1").get_weights()[0]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)  # He normal


def test_vgg11_is_the_published_one(monkeypatch):
    # Counting takes no random numbers, and zeros take no time.
    monkeypatch.setattr(
        keras.initializers.HeNormal,
        "__call__",
        lambda self, *args, **kwargs: keras.ops.zeros(*args, **kwargs),
    )
    model = baselines.vgg11((224, 224, 3))
    counts = [layer.count_params() for layer in model.layers if layer.weights and layer.name != "standardize"]
    # 1000 classes would make the published 132,863,336.
    assert len(counts) == 11
    assert sum(counts[:8]) == 9_220_480
    assert sum(counts) == 132_863_336 - 1000 * 4097 + 4097 == model.count_params()
    assert model.get_layer("block5_pool").output.shape == (None, 7, 7, 512)
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("network", [baselines.vgg19_cam, baselines.vgg11])
def test_networks_come_back_from_their_file(network, rng, tmp_path):
    model = network((32, 40, 1), preprocessing=[keras.layers.GaussianNoise(0.1)], mean=[0.3], std=0.2)
    images = images_of(rng, 2, 32, 40, 1)
    model.save(tmp_path / "model.keras")
    again = pn.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(images), model(images))
    assert baselines.grad_cam(again, images).shape == (2, 32, 40)


def test_networks_learn(rng):
    """A few steps tell black from white."""
    model = baselines.vgg19_cam((8, 8, 1))
    model.compile(keras.optimizers.SGD(1e-4), "binary_crossentropy")
    images, labels = np.full((2, 8, 8, 1), [[[[0]]], [[[255]]]]), np.array([0, 1])
    losses = [model.train_on_batch(images, labels) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_width():
    model = baselines.vgg19_cam((64, 64, 3), width=1 / 32)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert [layer.filters for layer in convolutions] == [2] * 2 + [4] * 2 + [8] * 4 + [16] * 8
    model = baselines.vgg11((32, 32, 1), width=1 / 128)
    assert [layer.units for layer in model.layers if isinstance(layer, keras.layers.Dense)] == [32, 32, 1]
    assert model.get_layer("block1_conv1").filters == 1  # half a channel is none


def test_resize_inside_the_model(rng):
    """It sees what bilinear interpolation makes of the image; maps are as large as the image."""
    model = baselines.vgg11((None, None, 2), width=1 / 32, resize=(40, 48))
    plain = baselines.vgg11((40, 48, 2), width=1 / 32)
    plain.set_weights(model.get_weights())
    images = images_of(rng, 3, 20, 30, 2)
    enlarged = np.stack([[enlarged_by_hand(image[..., c], (40, 48)) for c in (0, 1)] for image in images])
    enlarged = enlarged.transpose(0, 2, 3, 1)  # (3, 40, 48, 2)
    np.testing.assert_allclose(model(images), plain(enlarged), rtol=1e-4)
    maps = baselines.grad_cam(model, images)
    expected = baselines.grad_cam(plain, enlarged)  # from the same (2, 3) pixels
    assert maps.shape == (3, 20, 30)
    for heatmap, large in zip(maps, expected, strict=True):
        assert np.corrcoef(enlarged_by_hand(heatmap, (40, 48)).ravel(), large.ravel())[0, 1] > 0.95
    grey = np.full((1, 100, 60, 2), 90)
    np.testing.assert_allclose(model(grey), plain(np.full((1, 40, 48, 2), 90)), rtol=1e-5)


@pytest.mark.parametrize("size", [(24, 31), (None, None)])
def test_a_cropped_map_is_where_the_crop_was(size, rng):
    model = baselines.vgg19_cam((*size, 1), width=1 / 16, crop=(16, 18))
    plain = baselines.vgg19_cam((16, 18, 1), width=1 / 16)
    plain.set_weights(model.get_weights())
    images = images_of(rng, 2, 24, 31, 1).astype("float32")
    central = images[:, 4:20, 6:24]
    np.testing.assert_array_equal(model(images), plain(central))
    for method, arguments in ((CAM, ()), (GradCAM, ())):
        got = raw(method(model, *arguments), images)
        inside = np.stack([enlarged_by_hand(m, (16, 18)) for m in raw(method(plain), central)])
        assert got.shape == (2, 24, 31)
        np.testing.assert_allclose(got[:, 4:20, 6:24], inside, rtol=1e-3, atol=1e-6 * abs(inside).max())
        got[:, 4:20, 6:24] = 0  # nothing outside
        assert not got.any()


def test_pixels_are_standardized_inside(rng):
    model = baselines.vgg19_cam((8, 8, 1), mean=0.25, std=0.5)
    pixels = keras.Model(model.input, model.get_layer("standardize").output)
    np.testing.assert_allclose(pixels(np.full((1, 8, 8, 1), 127.5)), 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: baselines.vgg11((None, 224, 3)), "height and a width"),
        (lambda: baselines.vgg11((224, 31, 3)), "at least 32 x 32"),
        (lambda: baselines.vgg19_cam((7, 64, 3)), "at least 8 x 8"),
        (lambda: baselines.vgg19_cam((64, 64, 3), crop=(7, 64)), "at least 8 x 8"),
        (lambda: baselines.vgg19_cam((64, 64, 3), crop=(64, 65)), "not be larger"),
        (lambda: baselines.vgg11((64, 64, 3), resize=(16, 64)), "at least 32 x 32"),
        (lambda: baselines.vgg11((64, 64, 3), width=0), "above 0 and at most 1"),
        (lambda: baselines.vgg19_cam((64, 64, 3), width=2), "above 0 and at most 1"),
        (lambda: baselines.vgg19_cam((64, 64)), "height, width, channels"),
        (lambda: baselines.vgg19_cam((64, 64, 3), std=0), "positive"),
    ],
)
def test_networks_refuse(make, message):
    with pytest.raises(ValueError, match=f"{message}.*Received"):
        make()


def test_cam_refuses_what_it_is_not_defined_for(rng):
    image = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(4, 3, name="conv")(image)
    flat = keras.layers.Dense(1)(keras.layers.Flatten()(maps))
    x = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(maps))  # one linear layer too many
    deep = keras.Model(image, keras.layers.Dense(1)(x))
    with pytest.raises(ValueError, match=r"needs global average pooling.*Received"):
        baselines.cam(keras.Model(image, flat), images_of(rng, 1, 8, 8, 1))
    before = state(deep)
    with pytest.raises(ValueError, match=r"directly follows.*Received"):
        baselines.cam(deep, images_of(rng, 1, 8, 8, 1))
    assert state(deep) == before


def test_wrong_arguments_are_refused(rng, monkeypatch):
    model, images = small_cam(), images_of(rng, 1, 8, 8, 2)
    for wrong in (images[0], images[:0]):
        with pytest.raises(ValueError, match="Received: shape="):
            baselines.cam(model, wrong)
    with pytest.raises(ValueError, match=r"layer='convolution', of which .* has 0"):
        baselines.grad_cam(model, images, layer="convolution")
    with pytest.raises(ValueError, match=r"turns images into maps.*Received: layer='unit'"):
        baselines.grad_cam(model, images, layer="unit")
    with pytest.raises(ValueError, match=r"needs a convolution.*Received"):
        baselines.grad_cam(pn.PatchNet((8, 8, 2), 4, filters=2, depth=1), images)
    with pytest.raises(ValueError, match="batch_size=0"):
        baselines.cam(model, images, batch_size=0)
    with pytest.raises(ValueError, match="Received: size=2, stride=3"):
        baselines.occlusion(model, images, size=2, stride=3)
    with pytest.raises(ValueError, match="Received: 'features'"):
        baselines.grad_cam(keras.Model(model.input, model.layers[2].output, name="features"), images)
    model.get_layer("conv").bias.assign([np.nan] * 3)
    with pytest.raises(ValueError, match="NaN"):
        baselines.grad_cam(model, images)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match=r"TensorFlow.*Received: the Keras backend jax"):
        baselines.grad_cam(model, images)
