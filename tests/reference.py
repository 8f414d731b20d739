"""The paper's S, G and heatmap in plain numpy and float64, from `get_weights()` alone."""

import numpy as np


def convolve(maps, kernel, bias, padding):
    """3 x 3 convolution of (h, w, c) maps, then ReLU."""
    if padding == "same":
        maps = np.pad(maps, ((1, 1), (1, 1), (0, 0)))
    h, w = maps.shape[0] - 2, maps.shape[1] - 2
    out = sum(maps[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3))
    return np.maximum(out + bias, 0)


def filters(weights, patch, padding="same"):
    """The tanh outputs (F,) of one standardized patch (p, p, c)."""
    *convolutions, kernel, bias, _, _ = (np.asarray(w, "float64") for w in weights)
    maps = patch
    for k, b in zip(convolutions[::2], convolutions[1::2], strict=True):
        maps = convolve(maps, k, b, padding)
    return np.tanh(np.einsum("hwf,hwf->f", maps, kernel) + bias)


def logits(weights, patch, padding="same"):
    """The outputs (units,) of the linear units about one standardized patch (p, p, c)."""
    return filters(weights, patch, padding) @ np.asarray(weights[-2], "float64") + weights[-1]


def subnet(weights, patch, padding="same"):
    """Q of one standardized patch (p, p, c)."""
    return labels(weights, patch, padding)[0]


def labels(weights, patch, padding="same"):
    """Q (units,) of one standardized patch, about labels."""
    return 1 / (1 + np.exp(-logits(weights, patch, padding)))


def classes(weights, patch, padding="same"):
    """Q (units,) of one standardized patch, about exclusive classes."""
    powers = np.exp(logits(weights, patch, padding))
    return powers / powers.sum()


def same_patches(image, p, stride, border="constant"):
    """The patches (rows, columns, p, p, c) that cover (h, w, c), the border split evenly."""
    counts = [-(-size // stride) for size in image.shape[:2]]
    totals = [max((n - 1) * stride + p - s, 0) for n, s in zip(counts, image.shape[:2], strict=True)]
    padded = np.pad(image, [*((t // 2, t - t // 2) for t in totals), (0, 0)], mode=border)
    return np.array(
        [
            [padded[i * stride : i * stride + p, j * stride : j * stride + p] for j in range(counts[1])]
            for i in range(counts[0])
        ]
    )


def decisions(weights, image, p, stride, mean=0.5, std=0.25, padding="same", decide=subnet):
    """`decide` on the standardized patches of one 0..255 image: (rows, columns, ...)."""
    patches = (same_patches(image.astype("float64") / 255, p, stride) - mean) / std
    return np.array([[decide(weights, patch, padding) for patch in row] for row in patches])


def probability(weights, image, p, stride, **kwargs):
    """G of one 0..255 image."""
    return decisions(weights, image, p, stride, **kwargs).mean()


def cover_mean(decided, p):
    """At each pixel of (h, w, ..), the mean decision of patches (p - 1) // 2 above and left that cover it."""
    total, count = np.zeros(decided.shape), np.zeros((*decided.shape[:2], *[1] * (decided.ndim - 2)))
    before = (p - 1) // 2
    for i in range(decided.shape[0]):
        for j in range(decided.shape[1]):
            covered = np.s_[max(i - before, 0) : i - before + p, max(j - before, 0) : j - before + p]
            total[covered] += decided[i, j]
            count[covered] += 1
    return total / count
