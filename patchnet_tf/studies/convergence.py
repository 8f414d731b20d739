"""What PatchNet's decisions converge to, where that can be worked out: Appendix A of the paper.

Class 0 is a black image. Class 1 is an image of a black patches and b others, all b alike. G averages the
decisions, p0 on black patches and p1 on the others, so that the cross-entropy of the two images is

    L(p0, p1) = -log(1 - p0) - log((a p0 + b p1) / (a + b)).

L falls with p1, so p1 = 1. Then dL/dp0 = 1 / (1 - p0) - a / (a p0 + b), which is zero at p0 = (a - b) / (2a)
and positive above it. So

    p0 = max(0, (a - b) / (2a)),    p1 = 1.

Black patches keep a decision above 0 as long as they are the larger part of class 1: they are in both
classes, and G's average over the image of class 1 needs them.

With log-mean-exp in place of the average they are free to become black, unless r is small: see `closed_form`.
docs/convergence.md says more.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..config import Config
from ..data import load_dataset
from ..files import write_json
from ..images.pictures import save_png
from ..model.heatmaps import Drawing, heatmap_model
from ..model.layers import Decision
from ..model.losses import loss_and_metrics
from ..model.patchnet import PatchNet
from ..progress import Progress, silent
from ..reporting import plots
from ..training.run import open_run
from ..training.train import train

PAPER = {"p0": 0.333, "p1": 0.982}  # of the example with 128 x 128 pixels

# The sweep has a small S, so that it takes seconds: images of SIDE x SIDE patches, b of them white.
SIDE, WHITE = 4, range(1, 11)
SMALL = {"patch_size": 8, "filters": 8, "depth": 3}
SMALL_STEPS, SMALL_RATE = 300, 1e-2
# With log-mean-exp it takes every third b, with PatchNet's default r and with one so small that p0 is not 0.
SHARPNESS, EVERY = (0.1, 4.0), 3


@dataclass(frozen=True)
class Decisions:
    """What S decides about the patches of the image of class 1.

    Attributes:
        a: number of black patches.
        b: number of the others.
        p0: mean Q of the black patches.
        p1: mean Q of the others, with which G(class 1) = (a p0 + b p1) / (a + b).
        p1_range: smallest and largest Q of the others, which differ where they are not alike.
        sharpness: r, if G pools by log-mean-exp; None if it averages.
    """

    a: int
    b: int
    p0: float
    p1: float
    p1_range: tuple[float, float]
    sharpness: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the figures and, beside them, the closed form."""
        return asdict(self) | {"closed_form": {"p0": self.limit, "p1": 1.0}}

    @property
    def limit(self) -> float:
        """p0 of the closed form."""
        return closed_form(self.a, self.b, self.sharpness)

    @property
    def loss(self) -> float:
        """The cross-entropy of these decisions, as if the others were all alike."""
        return cross_entropy(self.a, self.b, self.p0, self.p1, self.sharpness)


def closed_form(a: float, b: float, sharpness: float | None = None) -> float:
    """Return p0 at the minimum of the loss, for `a` black patches and `b` others in the image of class 1.

    With log-mean-exp, shares a + b = 1 and logits within -L..L, z1 = L, and dL/dz0 has the sign of

        b exp(r L) + exp((1 + r) m) - a exp((r - 1) z0),    m = (1/r) log(a exp(r z0) + b exp(r L)),

    which grows with z0 where r <= 1: the minimum is at its zero, or at z0 = -L where it is positive already.
    Where r > 1 it is positive everywhere.

    Args:
        a: number of black patches, or their share.
        b: number of the others, or their share; with r > 1 at least exp(-13 r) a.
        sharpness: r of log-mean-exp; None for the average.

    Example:
        >>> closed_form(48, 16)  # 1 / 3
        0.3333333333333333
        >>> closed_form(48, 16, sharpness=0.1)
        0.0126
    """
    if sharpness is None:
        return max(0.0, (a - b) / (2 * a))
    r, most = sharpness, Decision.LIMIT
    low, high = -most, most
    for _ in range(60):  # halved until float64 tells no difference
        z0 = (low + high) / 2
        pooled = pooled_logit(a, b, z0, most, r)
        if np.logaddexp(log(b / (a + b)) + r * most, (1 + r) * pooled) > log(a / (a + b)) + (r - 1) * z0:
            high = z0
        else:
            low = z0
    return 1 / (1 + exp(-high))


def common_decisions(shares: Sequence[float]) -> np.ndarray:
    """Return Q (K,) about the patches that the images of all K classes have in common, at the loss's minimum.

    The image of class k has the share b_k of patches that no other has, about which S decides k; the rest
    are alike in all images. With a_k = 1 - b_k the loss is -sum log(a_k q_k + b_k) over decisions q of sum 1,
    least at

        q_k = max(0, v - b_k / a_k),    v such that they sum to 1.

    Args:
        shares: b_k of each class, 0 or more and below 1.

    Example:
        >>> common_decisions([0, 0.25])  # of two classes, (a - b) / (2a) for class 1
        array([0.66666667, 0.33333333])
        >>> common_decisions([0.1, 0.1, 0.1, 0.1])
        array([0.25, 0.25, 0.25, 0.25])
    """
    shares = np.asarray(shares, "float64")
    levels = shares / (1 - shares)
    ordered = np.sort(levels)
    v = (1 + np.cumsum(ordered)) / np.arange(1, len(levels) + 1)  # if only the first are above 0
    return np.maximum(0, v[np.flatnonzero(v > ordered)[-1]] - levels)


def cross_entropy(a: float, b: float, p0: float, p1: float, sharpness: float | None = None) -> float:
    """Return the mean cross-entropy of the two images, where S decides `p0` and `p1`.

    Args:
        a: number of black patches in the image of class 1, or their share.
        b: number of the others, or their share.
        p0: Q of the black patches, below 1.
        p1: Q of the others.
        sharpness: r of log-mean-exp; None for the average.

    Example:
        >>> cross_entropy(0.851, 0.149, closed_form(0.851, 0.149), 1.0)
        0.612
    """
    if sharpness is None:
        return -(log(1 - p0) + log((a * p0 + b * p1) / (a + b))) / 2
    end = 1 / (1 + exp(Decision.LIMIT))
    p0, p1 = (min(max(p, end), 1 - end) for p in (p0, p1))
    z0, z1 = log(p0 / (1 - p0)), log(p1 / (1 - p1))
    return float(np.logaddexp(0, z0) + np.logaddexp(0, -pooled_logit(a, b, z0, z1, sharpness))) / 2


def pooled_logit(a: float, b: float, z0: float, z1: float, r: float) -> float:
    """Return (1/r) log mean exp(r z) of `a` logits z0 and `b` logits z1."""
    return float(np.logaddexp(log(a) + r * z0, log(b) + r * z1) - log(a + b)) / r


def patch_images(side: int, white: int, patch_size: int) -> np.ndarray:
    """Draw a black image of side x side patches, and one whose first `white` patches are white.

    Returns:
        (2, side * patch_size, side * patch_size, 1), uint8, 0 or 255.

    Example:
        >>> patch_images(2, 1, patch_size=1)[1, ..., 0]
        array([[255,   0],
               [  0,   0]], dtype=uint8)
    """
    patches = np.zeros((2, side * side), "uint8")
    patches[1, :white] = 255
    square = np.ones((1, patch_size, patch_size), "uint8")
    return np.kron(patches.reshape(2, side, side), square)[..., None]


def fit(images: np.ndarray, *, steps: int, learning_rate: float, **model: Any) -> keras.Model:
    """Train a PatchNet on one image of each class.

    Args:
        images: (K, H, W, 1) in 0..255: the image of class 0, that of class 1, ...
        steps: of Adam, on all images at once.
        learning_rate: of Adam.
        **model: arguments of `PatchNet`, `patch_size` among them.

    Example:
        >>> model = fit(patch_images(2, 1, 8), steps=300, learning_rate=1e-2, patch_size=8, depth=2)
    """
    keras.utils.set_random_seed(0)
    count = len(images)
    net = PatchNet(images.shape[1:], classes=count, **model)
    net.compile(keras.optimizers.Adam(learning_rate), loss_and_metrics(net)["loss"])
    # One epoch of many steps, because Keras takes longer to begin an epoch than a step of a small S takes.
    targets = np.arange(2.0)[:, None] if net.binary else np.eye(count)
    pixels, targets = np.tile(images, (steps, 1, 1, 1)), np.tile(targets, (steps, 1))
    net.fit(pixels, targets, batch_size=count, shuffle=False, verbose=0)
    return net


def decide(model: PatchNet, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Q of each patch that G takes from an image (H, W, C), and whether the patch is black; (P,)."""
    to_numpy = keras.ops.convert_to_numpy
    q, patches = to_numpy(model.decisions(image[None])), to_numpy(model.patches(image[None]))
    black = patches[0].max(axis=(1, 2, 3)) == 0  # of (P, p, p, C)
    return q[0, :, 0].astype("float64"), black


def measure(model: PatchNet, image: np.ndarray) -> Decisions:
    """Count the black and the other patches of the image of class 1, (H, W, C), and average their decisions.

    Example:
        >>> measure(PatchNet((34, 34, 1), 17), patch_images(2, 1, 17)[1]).a
        3
    """
    q, black = decide(model, image)
    p1 = q[~black]
    return Decisions(
        int(black.sum()),
        len(p1),
        float(q[black].mean()),
        float(p1.mean()),
        (float(p1.min()), float(p1.max())),
        getattr(model.pooling, "sharpness", None),
    )


def four_patches(config: Config) -> Decisions:
    """Train the S of a configuration on images of 2 x 2 patches, one of them white: a = 3, b = 1."""
    model, training = config.model, config.training
    images = patch_images(2, 1, model.patch_size)
    net = fit(
        images,
        steps=training.epochs,
        learning_rate=training.learning_rate,
        patch_size=model.patch_size,
        filters=model.subnet.filters,
        depth=model.subnet.depth,
    )
    return measure(net, images[1])


def sweep(progress: Progress = silent) -> list[Decisions]:
    """Train a small S on images of 4 x 4 patches, 1 to 10 of them white, from the start each time."""
    return train_small([(white, {}) for white in WHITE], "sweep", progress)


def sweep_lse(progress: Progress = silent) -> list[Decisions]:
    """Train the same S with log-mean-exp, with each r at a few numbers of white patches."""
    pooling = [{"pooling": "lse", "sharpness": r} for r in SHARPNESS]
    return train_small(
        [(white, lse) for lse in pooling for white in WHITE[::EVERY]], "sweep of lse", progress
    )


def train_small(runs: Sequence[tuple[int, dict[str, Any]]], task: str, progress: Progress) -> list[Decisions]:
    """Train the small S from the start for each number of white patches, with arguments for its PatchNet."""
    measured = []
    for k, (white, model) in enumerate(runs):
        progress(task, k, len(runs), f"{white} of {SIDE * SIDE} patches white")
        images = patch_images(SIDE, white, SMALL["patch_size"])
        net = fit(images, steps=SMALL_STEPS, learning_rate=SMALL_RATE, **SMALL, **model)
        measured.append(measure(net, images[1]))
    progress(task, len(runs), len(runs))
    return measured


def converge(
    config: Config, folder: str | Path, *, with_sweep: bool = True, progress: Progress = silent
) -> dict[str, Any]:
    """Train on the black image and on that with the white square, and measure what S decides.

    Args:
        config: a configuration whose data are of the kind "squares"; configs/convergence.yaml.
        folder: the run folder; a run that is there is continued, a finished one measured again.
        with_sweep: also train on images with other b / a, and with log-mean-exp.
        progress: told after each step.

    Returns:
        What is in convergence.json: "square", "four_patches" and, with the sweep, the lists "sweep" and
        "sweep_lse"; each has the figures of `Decisions` and "closed_form", the first also the "paper"'s.
        Beside it are written heatmap.png and, with the sweep, sweep.png and pooling.png.

    Raises:
        InputError: the folder holds something else.
        OSError: something cannot be written.

    Example:
        >>> converge(load_config("configs/convergence.yaml"), "runs/convergence")["square"]["p0"]
        0.334
    """
    folder = Path(folder)
    train(config, folder, resume=True, progress=progress)
    _, model = open_run(folder)
    image = load_dataset(config).train.images[1]
    square = measure(model, image)
    heatmap = Drawing(heatmap_model(model))(image, lambda share: progress("heatmap", share, 1))
    save_png(draw_square(config, model, image, heatmap), folder / "heatmap.png")

    progress("four patches", 0, 1)
    four = four_patches(config)
    progress("four patches", 1, 1)
    found: dict[str, Any] = {
        "square": square.to_json() | {"paper": PAPER},
        "four_patches": four.to_json(),
    }
    if with_sweep:
        averaged, pooled = sweep(progress), sweep_lse(progress)
        found["sweep"] = [point.to_json() for point in averaged]
        found["sweep_lse"] = [point.to_json() for point in pooled]
        save_png(draw_sweep(averaged, four, square), folder / "sweep.png")
        save_png(draw_poolings([*averaged, *pooled]), folder / "pooling.png")
    else:
        for name in ("sweep.png", "pooling.png"):  # earlier ones would be of other figures
            (folder / name).unlink(missing_ok=True)
    write_json(folder / "convergence.json", found)
    return found


def draw_square(config: Config, model: keras.Model, image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Draw the image of class 1, the decisions that G averages, and the heatmap."""
    p = config.model.patch_size
    q, _ = decide(model, image)
    here = measure(model, image)
    limit = here.limit
    return plots.decisions(
        image,
        q.reshape(-(-image.shape[0] // p), -1),
        heatmap,
        patch_size=p,
        title=f"{here.a} black patches: p0 = {here.p0:.4f}, closed form {limit:.4f}.  "
        f"{here.b} patches that touch the square: p1 = {here.p1:.4f}, closed form 1.",
        marks={0: "0  class 0", limit: f"{limit:.3f}  p0", 0.5: "0.5  undecided", 1: "1  class 1, p1"},
    )


def draw_sweep(points: list[Decisions], four: Decisions, square: Decisions) -> np.ndarray:
    """Draw what was measured on the curve of the closed form."""
    ratio = np.linspace(0, 1.05 * max(d.b / d.a for d in points), 500)
    limit = np.maximum(0, (1 - ratio) / 2)  # (a - b) / (2 a)

    def measured(decisions: list[Decisions], which: str) -> tuple[list[float], list[float]]:
        return [d.b / d.a for d in decisions], [getattr(d, which) for d in decisions]

    return plots.convergence(
        {
            "p0 = max(0, (a - b) / (2a)), closed form": (ratio, limit),
            "p1 = 1, closed form": (ratio, np.ones_like(ratio)),
        },
        {
            "p0, 16 patches": measured(points, "p0"),
            "p1, 16 patches": measured(points, "p1"),
            "p0, 4 patches": measured([four], "p0"),
            "p0, 64 patches, 16 touch the white square": measured([square], "p0"),
        },
        title="What PatchNets decide about black patches, p0, and white ones, p1, after training",
    )


def draw_poolings(points: list[Decisions]) -> np.ndarray:
    """Draw p0 and the loss of either pooling, what was measured on the curves of the closed form."""
    shares = np.linspace(0.005, 0.7, 140)
    curves, measured = {}, {}
    for r in dict.fromkeys(point.sharpness for point in points):
        name = "mean" if r is None else f"lse, r = {r:g}"
        limits = [closed_form(1 - b, b, r) for b in shares]
        losses = [cross_entropy(1 - b, b, p0, 1.0, r) for b, p0 in zip(shares, limits, strict=True)]
        curves[name] = (shares, limits, losses)
        here = [point for point in points if point.sharpness == r]
        measured[name] = ([d.b / (d.a + d.b) for d in here], [d.p0 for d in here], [d.loss for d in here])
    return plots.poolings(
        curves,
        measured,
        title="By the share of white patches: closed form (lines) and trained PatchNets (markers)",
    )
