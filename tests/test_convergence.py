import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from patchnet_tf.cli import studying
from patchnet_tf.cli.tables import convergence_table
from patchnet_tf.config import load_config
from patchnet_tf.data import load_dataset
from patchnet_tf.model.layers import ExclusiveDecision
from patchnet_tf.model.patchnet import PatchNet
from patchnet_tf.model.pooling import LogMeanExp, TopMean
from patchnet_tf.studies import convergence
from patchnet_tf.studies.convergence import (
    closed_form,
    common_decisions,
    cross_entropy,
    fit,
    measure,
    patch_images,
)

ROOT = Path(__file__).parents[1]
PAPERS = ROOT / "configs" / "convergence.yaml"
QUICK = [
    "model.subnet={filters: 4, depth: 2}",
    "training.learning_rate=3e-3",
    "training.epochs=10",
]


def loss(a, b, p0, p1):
    """The cross-entropy of one image of each class, written out patch by patch."""
    with np.errstate(divide="ignore"):
        return -np.log(1 - p0) - np.log(sum([p0] * a + [p1] * b) / (a + b))


@given(a=st.integers(1, 40), b=st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_closed_form_is_where_the_loss_is_smallest(a, b):
    p0, p1 = np.meshgrid(np.linspace(0, 0.999, 1000), np.linspace(0.01, 1, 100), indexing="ij")
    best = np.unravel_index(np.argmin(loss(a, b, p0, p1)), p0.shape)
    assert p1[best] == 1
    assert p0[best] == pytest.approx(closed_form(a, b), abs=0.001)


def test_closed_form_of_the_papers_examples():
    assert closed_form(48, 16) == closed_form(3, 1) == pytest.approx(1 / 3)
    assert closed_form(16, 48) == 0


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(0.851, 0.149, 0.612), (3, 1, 0.549), (1, 1, 0.347), (1, 3, 0.144)]
)
def test_lowest_loss_of_the_mean(a, b, expected):
    """Half of log(4a) while b < a, half of log(1 / b) above; shares."""
    lowest = cross_entropy(a, b, closed_form(a, b), 1.0)
    share = b / (a + b)
    formula = np.log(4 * (1 - share)) / 2 if b < a else np.log(1 / share) / 2
    assert lowest == pytest.approx(formula)
    assert lowest == pytest.approx(expected, abs=0.0005)


def lse_loss(z, a, b, r):
    """The mean cross-entropy of both images, G's probability being pooled from all logits one by one."""
    logits = np.array([z[0]] * a + [z[1]] * b)
    pooled = logits.max() + np.log(np.mean(np.exp(r * (logits - logits.max())))) / r
    return (np.log1p(np.exp(z[0])) + np.log1p(np.exp(-pooled))) / 2


@pytest.mark.parametrize("r", [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 1.5, 4.0, 100.0])
@pytest.mark.parametrize(("a", "b"), [(39, 1), (15, 1), (13, 3), (8, 8), (3, 13)])
def test_closed_form_of_lse_is_where_the_loss_is_smallest(a, b, r):
    """Searched from three starts over both logits, within the limits of `Decision`."""
    starts = [(0, 0), (-6, 6), (-12.9, 12.9)]
    options = {"ftol": 1e-15, "gtol": 1e-12}
    searches = [
        minimize(lse_loss, start, args=(a, b, r), bounds=[(-13, 13)] * 2, options=options) for start in starts
    ]
    best = min(searches, key=lambda search: search.fun)
    p0, p1 = 1 / (1 + np.exp(-best.x))
    assert closed_form(a, b, r) == pytest.approx(p0, abs=1e-4)
    assert p1 == pytest.approx(1, abs=1e-4)
    lowest = cross_entropy(a, b, closed_form(a, b, r), 1.0, r)
    assert lowest == pytest.approx(best.fun, rel=1e-3)
    assert lowest <= best.fun + 1e-9
    assert lowest == pytest.approx(
        lse_loss((np.log(closed_form(a, b, r) / (1 - closed_form(a, b, r))), 13), a, b, r)
    )


@given(r=st.floats(0.01, 100), share=st.floats(0.001, 0.999))
@settings(deadline=None, max_examples=40)
def test_lse_has_no_floor_that_a_grid_would_find_lower(r, share):
    """Shares that are no counts of patches; r < 1 has one minimum, r >= 1 ends at the limit."""
    z0 = np.linspace(-13, 13, 2001)
    pooled = np.logaddexp(np.log1p(-share) + r * z0, np.log(share) + r * 13) / r
    losses = (np.logaddexp(0, z0) + np.logaddexp(0, -pooled)) / 2
    p0 = closed_form(1 - share, share, r)
    assert cross_entropy(1 - share, share, p0, 1.0, r) <= losses.min() + 1e-12
    if r >= 1:
        assert p0 == pytest.approx(1 / (1 + np.exp(13)), rel=1e-6)


def test_lse_with_what_tells_the_classes_apart_in_class_0():
    """The common patches have the logit -log(a) / 2r, and the loss falls little below log 2."""
    a, r = 0.851, 4.0

    def loss(z):  # the share 1 - a of class 0 has a logit of its own
        pooled = np.logaddexp(np.log(a) + r * z[0], np.log1p(-a) + r * z[1]) / r
        return (np.logaddexp(0, pooled) + np.logaddexp(0, -z[0])) / 2

    best = minimize(loss, (0, 0), bounds=[(-13, 13)] * 2, options={"ftol": 1e-15})
    assert best.x[0] == pytest.approx(-np.log(a) / (2 * r), abs=1e-3)
    assert best.fun == pytest.approx(0.683, abs=0.0005)


def class_loss(shares, q):
    """The mean cross-entropy of one image of each class, whose common patches are decided `q` (..., K)."""
    shares = np.asarray(shares)
    with np.errstate(divide="ignore"):
        return -np.log(shares + (1 - shares) * q).mean(axis=-1)


@given(shares=st.lists(st.floats(0, 0.9), min_size=2, max_size=6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_common_decisions_are_where_the_loss_is_smallest(shares, seed):
    """Against decisions near and far from it; the loss is convex in them."""
    q, rng = common_decisions(shares), np.random.default_rng(seed)
    assert q.sum() == pytest.approx(1)
    others = rng.dirichlet(np.ones(len(shares)), 200)
    nearer = q + 0.001 * (others - q)
    assert class_loss(shares, q) <= class_loss(shares, np.concatenate([others, nearer])).min() + 1e-12


@given(b=st.floats(0, 0.99))
def test_common_decisions_of_two_classes_are_the_papers(b):
    assert common_decisions([0, b])[1] == pytest.approx(closed_form(1 - b, b))


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("b", [0.01, 0.149, 0.4, 0.6])
def test_several_classes_as_the_document_says(classes, b):
    a = 1 - b
    # Class 0 has nothing of its own: (a - b) / (K a) each for the others.
    q = common_decisions([0] + [b] * (classes - 1))
    np.testing.assert_allclose(q[1:], max(0, (a - b) / (classes * a)))
    if b < 1 / 2:  # the image of class k is undecided between 0 and k
        assert a * q[0] == pytest.approx(a * q[1] + b)
        assert a * q[0] == pytest.approx((1 + (classes - 2) * b) / classes)
    # Each has as much: 1 / K, and every image is right.
    q = common_decisions([b] * classes)
    np.testing.assert_allclose(q, 1 / classes)
    assert a * q[0] + b == pytest.approx((1 + (classes - 1) * b) / classes)


@pytest.mark.parametrize(
    ("shares", "q", "loss"),
    [
        ([0, 0.149], [0.588, 0.412], 0.612),
        ([0, 0.149, 0.149], [0.450, 0.275, 0.275], 0.906),
        ([0.149] * 2, [1 / 2] * 2, 0.554),
        ([0.149] * 3, [1 / 3] * 3, 0.838),
        ([0, 1 / 16, 1 / 4], [0.467, 0.4, 0.133], 0.880),
    ],
)
def test_the_documents_table(shares, q, loss):
    np.testing.assert_allclose(common_decisions(shares), q, atol=0.0005)
    assert class_loss(shares, common_decisions(shares)) == pytest.approx(loss, abs=0.0005)


@pytest.mark.parametrize(("own", "q"), [((0, 1, 4), (7 / 15, 2 / 5, 2 / 15)), ((4, 4, 4), (1 / 3,) * 3)])
def test_three_classes_converge_to_the_closed_form(own, q):
    """Images of 16 patches, some of each class's own: b = 1/16 and 1/4 make levels 1/15 and 1/3."""
    images = np.zeros((3, 4, 8, 4, 8), "uint8")  # rows and columns of patches, and of each
    for k, count in enumerate(own):
        part = [np.s_[:, :], np.s_[:4, :], np.s_[:, :4]][k]  # white, its upper half, its left half
        for n in range(count):
            images[k, n // 4, :, n % 4, :][part] = 255
    images = images.reshape(3, 32, 32, 1)
    model = fit(images, steps=300, learning_rate=1e-2, patch_size=8, filters=8, depth=3)
    decided = np.asarray(model.decisions(images))  # (3, 16, 3)
    np.testing.assert_allclose(common_decisions(np.array(own) / 16), q)
    np.testing.assert_allclose(decided[0, -1], q, atol=0.03)
    for k, count in enumerate(own):
        np.testing.assert_allclose(decided[k, :count, k], 1, atol=0.03)


def images_of_decisions(classes, black, common):
    """Decisions (K, 16, K) about an image of each class, `common` about its black patches."""
    q = np.tile(np.asarray(common, "float32"), (classes, 16, 1))
    for k in range(1, classes):
        q[k, black:] = ExclusiveDecision()(np.float32(99) * np.eye(classes, dtype="float32")[k])
    return q


@pytest.mark.parametrize("classes", [3, 5])
def test_topk_of_several_classes_as_the_document_says(classes):
    """n = 8 of 16 patches, b = 2: (n - 2b) / (K (n - b)) each for the others, found on a grid."""
    t = np.linspace(0, 1 / classes, 101)
    losses = [
        -np.log(
            np.einsum(
                "kk->k",
                TopMean(0.5, exclusive=True)(
                    images_of_decisions(classes, 14, [1 - (classes - 1) * x, *[x] * (classes - 1)])
                ),
            )
        ).mean()
        for x in t
    ]
    assert t[np.argmin(losses)] == pytest.approx((8 - 4) / (classes * (8 - 2)), abs=0.01)


def test_lse_of_several_classes_has_no_floor_to_speak_of():
    """Black patches are as sure of class 0 as they can be: b^(-1/r) exp(-13) and less is left."""
    black = ExclusiveDecision()(np.array([99, 0, 0, 0], "float32"))
    p = np.asarray(LogMeanExp(4.0, exclusive=True)(images_of_decisions(4, 14, black)))
    losses = -np.log(np.diag(p))
    expected = np.log1p(np.exp(-13) * np.array([3, *[(2 / 16) ** (-1 / 4) + 2] * 3]))
    np.testing.assert_allclose(losses, expected, atol=2e-6)


@pytest.mark.parametrize(("share", "positive"), [(0.149, 0.5), (0.149, 0.2), (0.4, 0.2), (0.02, 0.9)])
def test_a_label_that_few_images_have(share, positive):
    """p0 = max(0, t - (1 - t) b / a), of the share t of images with the label."""
    p = np.linspace(0, 1, 100001)[:-1]
    with np.errstate(divide="ignore"):
        losses = -(1 - positive) * np.log(1 - p) - positive * np.log((1 - share) * p + share)
    expected = max(0, positive - (1 - positive) * share / (1 - share))
    assert p[losses.argmin()] == pytest.approx(expected, abs=1e-4)


def test_patch_images():
    black, white = patch_images(3, 4, patch_size=2)[..., 0]
    assert not black.any()
    rows = ["111111", "111111", "110000", "110000", "000000", "000000"]
    np.testing.assert_array_equal(white, [[255 * int(c) for c in row] for row in rows])


def test_measure_counts_the_patches_that_touch_the_square(rng):
    """Against patches cut by hand: rows and columns 32 to 95 of 128, and 4 pixels of padding at each side."""
    image = load_dataset(load_config(PAPERS)).train.images[1]
    model = PatchNet((None, None, 1), 17, filters=2, depth=1)
    found = measure(model, image)
    assert (found.a, found.b) == (48, 16)

    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    cut = [padded[17 * i : 17 * i + 17, 17 * j : 17 * j + 17] for i in range(8) for j in range(8)]
    q = np.array(
        [model.predict_on_batch(patch[None])[0, 0] for patch in cut]
    )  # one patch is all of its image
    white = np.array([patch.any() for patch in cut])
    assert found.p0 == pytest.approx(q[~white].mean(), abs=1e-6)
    assert found.p1 == pytest.approx(q[white].mean(), abs=1e-6)
    assert found.p1_range == pytest.approx((q[white].min(), q[white].max()), abs=1e-6)


@pytest.mark.parametrize("white", [1, 6, 10])
def test_training_ends_at_the_closed_form(white):
    images = patch_images(4, white, patch_size=6)
    found = measure(fit(images, steps=300, learning_rate=1e-2, patch_size=6, filters=4, depth=2), images[1])
    assert (found.a, found.b) == (16 - white, white)
    assert found.p0 == pytest.approx(closed_form(16 - white, white), abs=0.02)
    assert found.p1 == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("white", [1, 6, 10])
@pytest.mark.parametrize("r", [0.1, 4.0])
def test_training_with_lse_ends_at_the_closed_form(white, r):
    images = patch_images(4, white, patch_size=6)
    lse = {"pooling": "lse", "sharpness": r}
    # With larger steps the logits of one patch among 16 still swing when training ends.
    net = fit(images, steps=1000, learning_rate=3e-3, patch_size=6, filters=4, depth=2, **lse)
    found = measure(net, images[1])
    assert (found.a, found.b, found.sharpness) == (16 - white, white, r)
    assert found.p0 == pytest.approx(closed_form(16 - white, white, r), abs=0.02)
    assert found.p1 == pytest.approx(1, abs=0.02)
    lowest = cross_entropy(16 - white, white, closed_form(16 - white, white, r), 1.0, r)
    assert found.loss == pytest.approx(lowest, abs=0.02)
    assert found.loss == pytest.approx(net.evaluate(images, np.array([[0.0], [1.0]]), verbose=0), abs=1e-4)


def test_pictures_and_figures(tmp_path, monkeypatch):
    """A quick S on small images; the sweep at one ratio."""
    monkeypatch.setattr(convergence, "WHITE", (8,))
    monkeypatch.setattr(convergence, "SMALL_STEPS", 20)
    monkeypatch.setattr(convergence, "SMALL", {"patch_size": 4, "filters": 4, "depth": 2})
    config = load_config(PAPERS, [*QUICK, "model.patch_size=16", "data.size=60", "data.square=32"])
    found = convergence.converge(config, tmp_path / "run")
    written = json.loads((tmp_path / "run" / "convergence.json").read_text())
    assert written == json.loads(json.dumps(found))
    assert (written["square"]["a"], written["square"]["b"]) == (12, 4)  # 4 x 4 patches of 16 pixels
    assert written["square"]["closed_form"] == {"p0": pytest.approx(1 / 3), "p1": 1}
    assert written["square"]["paper"] == {"p0": 0.333, "p1": 0.982}
    assert [(point["a"], point["b"], point["sharpness"]) for point in written["sweep"]] == [(8, 8, None)]
    lse = [(point["a"], point["b"], point["sharpness"]) for point in written["sweep_lse"]]
    assert lse == [(8, 8, 0.1), (8, 8, 4.0)]
    assert written["sweep_lse"][0]["closed_form"] == {"p0": closed_form(8, 8, 0.1), "p1": 1}
    for name in ("heatmap", "sweep", "pooling"):
        picture = cv2.imread(str(tmp_path / "run" / f"{name}.png"))
        assert picture.shape[0] > 400
        assert 2 < picture.std() < 200
    labels = list(convergence_table(written).columns[0].cells)
    assert labels[2:] == ["16, small S", "lse, r = 0.1", "lse, r = 4"]
    # Finished, so measured again and not trained again.
    before = (tmp_path / "run" / "history.csv").read_text()
    again = convergence.converge(config, tmp_path / "run", with_sweep=False)
    assert again == {key: found[key] for key in ("square", "four_patches")}
    assert (tmp_path / "run" / "history.csv").read_text() == before
    assert not (tmp_path / "run" / "pooling.png").exists()


def test_command(patchnet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = studying.packaged
    monkeypatch.setattr(studying, "packaged", lambda name, overrides: packaged(name, [*QUICK, *overrides]))
    code, out, err = patchnet("convergence", "--steps", "2", "--no-sweep")
    assert code == 0, err
    assert {"48", "16", "0.3333", "0.333", "0.982"} <= set(out.split())
    assert "Pictures and figures: runs/convergence" in out
    assert len(Path("runs/convergence/history.csv").read_text().splitlines()) == 3
    code, out, err = patchnet("convergence", "--steps", "0")
    assert (code, out) == (2, "")
    assert "--steps" in err
    code, out, err = patchnet("convergence", "--out", PAPERS)
    assert (code, out) == (2, "")
    assert err == f"error: {PAPERS}: not a folder\n"


@pytest.mark.slow
def test_command_in_full(patchnet, tmp_path):
    """The paper's S in full; the tolerance is that of the paper's own figures."""
    code, out, err = patchnet("convergence", "--no-sweep", "--out", tmp_path / "run")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "convergence.json").read_text())
    assert "sweep" not in found
    for point in found.values():
        assert point["p0"] == pytest.approx(1 / 3, abs=0.002)
        assert point["p1"] == pytest.approx(1, abs=0.02)
    assert "0.3333" in out
    assert "0.982" in out
