"""How much of a training step its batch takes: what `fit` would wait for if no batch was made ahead.

    python -m benchmarks.input_share [--steps 20]

4 images of 192 x 256 x 3 with flips, rotations, zoom and balance, p = 21, the paper's S, on the processor.
The batch is made while nothing else runs, and the step gets a batch that is ready; the two take turns. In
`fit` under TensorFlow the next batch is made while the step runs, so it waits for less than is printed.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import patchnet_tf as pn
from patchnet_tf.data import Examples
from patchnet_tf.data.batches import Batches

import keras  # isort: skip  (after patchnet_tf, which switches oneDNN on)

HEIGHT, WIDTH, P, BATCH, IMAGES = 192, 256, 21, 4, 64
WARM_UP = 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps

    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, HEIGHT, WIDTH, 3), "uint8")
    batches = Batches(
        Examples(images, np.arange(IMAGES) % 2),
        BATCH,
        seed=0,
        flips=True,
        rotations=True,
        zoom=1.2,
        balanced=True,
    )
    model = pn.PatchNet((HEIGHT, WIDTH, 3), P)
    model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", weighted_metrics=["accuracy"])
    making, stepping = [], []
    for k in range(WARM_UP + steps):
        began = time.perf_counter()
        batch = batches[k % len(batches)]
        made = time.perf_counter()
        model.train_on_batch(*batch)
        making.append(made - began)
        stepping.append(time.perf_counter() - made)
    batch, step = (1000 * statistics.median(times[WARM_UP:]) for times in (making, stepping))
    began = time.perf_counter()
    batches.epoch = 1
    epoch = 1000 * (time.perf_counter() - began)
    print(
        f"{BATCH} images of {HEIGHT} x {WIDTH} x 3, medians of {steps}: "
        f"batch {batch:.1f} ms, step {step:.0f} ms"
    )
    print(
        f"share of the batch: {batch / (batch + step):.2%}; "
        f"drawing an epoch of {IMAGES} images: {epoch:.2f} ms"
    )


if __name__ == "__main__":
    main()
