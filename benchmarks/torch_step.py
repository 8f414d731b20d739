"""PyTorch's side of train_step.py, which starts it; it needs PyTorch and numpy only.

    python benchmarks/torch_step.py START.npz THREADS

Reads images, labels and weights from START.npz, then does one training step for each line on stdin and
answers with the loss that the step began with.
"""

import sys

import numpy as np
import torch
from torch.nn import functional as F


def tensor(array: np.ndarray, *order: int) -> torch.Tensor:
    """Return a copy of `array`, its axes in another order where one is given."""
    return torch.tensor(np.ascontiguousarray(array.transpose(order) if order else array))


class PatchNet(torch.nn.Module):
    """G with the weights of a Keras PatchNet, in the order of its `get_weights()`."""

    def __init__(self, weights: list[np.ndarray]) -> None:
        super().__init__()
        *convolutions, readout, readout_bias, unit, unit_bias = weights
        self.kernels = torch.nn.ParameterList([tensor(kernel, 3, 2, 0, 1) for kernel in convolutions[::2]])
        self.biases = torch.nn.ParameterList([tensor(bias) for bias in convolutions[1::2]])
        self.readout = torch.nn.Parameter(tensor(readout, 2, 0, 1))  # (F, p, p)
        self.readout_bias = torch.nn.Parameter(tensor(readout_bias))
        self.unit, self.unit_bias = torch.nn.Parameter(tensor(unit)), torch.nn.Parameter(tensor(unit_bias))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in 0..255 to the probability of class 1, (B,)."""
        batch, channels, height, width = images.shape
        p = self.readout.shape[1]
        down, across = -(-height // p), -(-width // p)
        below, right = down * p - height, across * p - width
        x = F.pad(images / 255, (right // 2, right - right // 2, below // 2, below - below // 2))
        x = x.reshape(batch, channels, down, p, across, p).permute(0, 2, 4, 1, 3, 5)
        x = (x.reshape(-1, channels, p, p) - 0.5) / 0.25  # (B * patches, C, p, p)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = F.relu(F.conv2d(x, kernel, bias, padding=1))  # (B * patches, F, p, p)
        x = torch.tanh((x * self.readout).sum((2, 3)) + self.readout_bias)  # (B * patches, F)
        q = torch.sigmoid(x @ self.unit + self.unit_bias)
        return q.reshape(batch, -1).mean(1)


def main(start: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    with np.load(start) as arrays:
        images, labels = tensor(arrays["images"], 0, 3, 1, 2), tensor(arrays["labels"][:, 0])
        model = PatchNet([arrays[f"weight_{k}"] for k in range(len(arrays.files) - 2)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-7)  # Keras's epsilon
    for _ in sys.stdin:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        print(loss.item(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
