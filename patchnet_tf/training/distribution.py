"""Training on several devices: the graphics processors of one machine, or processes on several machines.

`mirrored` is TensorFlow's MirroredStrategy: all GPUs of one machine. `data_parallel` is Keras's DataParallel
on JAX: all devices of one process, or of several processes that are started by hand, one on each machine,
with the same command and these variables (patchnet_tf itself starts none):

    KERAS_BACKEND=jax
    KERAS_DISTRIBUTION_JOB_ADDRESSES=HOST:PORT     of process 0, where the others can reach it
    KERAS_DISTRIBUTION_NUM_PROCESSES=2
    KERAS_DISTRIBUTION_PROCESS_ID=0                1 for the second process

Every device takes an equal part of each batch, so one step is the step that a single device would take, up
to rounding. Each process reads the images for itself; only process 0 reads and writes the run folder. Where
a process fails, JAX ends the others after a while.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from ..data.batches import Batches
from ..errors import InputError

BACKENDS = {"mirrored": "tensorflow", "data_parallel": "jax"}


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, and their devices.

    Attributes:
        devices: their number, in all processes.
        rank: the number of this process, from 0.
        size: how many processes there are.
        scope: the context in which the model is made and trained.
    """

    devices: int = 1
    rank: int = 0
    size: int = 1
    scope: contextlib.AbstractContextManager = field(default_factory=contextlib.nullcontext)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reads and writes the run folder."""
        return self.rank == 0

    def shard(self, batches: Batches) -> keras.utils.PyDataset:
        """Return what this process gives to `fit`.

        Raises:
            InputError: the batches or the images cannot be divided among the devices.
        """
        return batches if self.devices == 1 else Shard(batches, self)

    def on_main(self, action: Callable[[], bytes]) -> bytes:
        """Let the main process do something; return its result, or raise its InputError, in every process."""
        if self.size == 1:
            return action()
        message = b""
        if self.is_main:
            try:
                message = b"+" + action()
            except InputError as error:
                message = b"-" + str(error).encode()
        message = broadcast(message, self.is_main)
        if message[:1] == b"-":
            raise InputError(message[1:].decode())
        return message[1:]


def join_group(kind: str | None) -> ProcessGroup:
    """Join the processes and devices of `training.distribution`.

    Args:
        kind: "mirrored", "data_parallel", or None: one device.

    Raises:
        InputError: Keras runs on another backend than `kind` needs, or the processes did not find each other.
    """
    if kind is None:
        return ProcessGroup()
    if (backend := keras.backend.backend()) != BACKENDS[kind]:
        raise InputError(
            f"training.distribution: {kind} needs the environment variable KERAS_BACKEND={BACKENDS[kind]}. "
            f"Received: Keras on {backend}"
        )
    if kind == "mirrored":
        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy()
        return ProcessGroup(strategy.num_replicas_in_sync, scope=strategy.scope())

    import jax

    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ and not jax.distributed.is_initialized():
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # where there are no GPUs
        try:
            keras.distribution.initialize()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                "training.distribution: the processes did not find each other by KERAS_DISTRIBUTION_"
                f"JOB_ADDRESSES, _NUM_PROCESSES and _PROCESS_ID ({str(error).splitlines()[0]})"
            ) from None
    # `Shard` divides the batches among the processes.
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    return ProcessGroup(jax.device_count(), jax.process_index(), jax.process_count(), distribution.scope())


def broadcast(message: bytes, is_main: bool) -> bytes:
    """Return the message of the main process, which every JAX process calls this for."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    content = np.frombuffer(message, "uint8") if is_main else np.zeros(size, "uint8")
    return np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes()


class Shard(keras.utils.PyDataset):
    """Batches of which every device gets an equal part, and of each the part of this process.

    Where the images of an epoch do not divide evenly, the last batch cannot be shared as it is. In training
    the last few images, fewer than devices, are left out; they are others in each epoch. In validation, where
    the batches have no seed, the last batch is filled up with images of weight 0, and the weights of the
    others make the loss and the accuracy of the epoch exactly those of all images.

    Args:
        batches: of all devices together.
        group: the devices and this process.

    Raises:
        InputError: the size of a batch is no multiple of the number of devices, or there are fewer training
            images than devices.
    """

    def __init__(self, batches: Batches, group: ProcessGroup) -> None:
        super().__init__()
        self.batches = batches
        self.group = group
        if batches.batch_size % group.devices:
            raise InputError(
                f"training.batch_size: expected a multiple of {group.devices}, the number of devices. "
                f"Received: {batches.batch_size}"
            )
        self.fill = batches.seed is None
        if not len(self):
            raise InputError(f"expected at least {group.devices} training images, one for each device")

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        last = self.batches.count - (len(self.batches) - 1) * self.batches.batch_size  # images in the last
        return len(self.batches) - (last < self.group.devices and not self.fill)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return this process's part of batch `index`: images, targets and, to fill up, weights."""
        arrays = self.batches[index]
        count, devices = len(arrays[0]), self.group.devices
        missing = -self.batches.count % devices
        if self.fill and missing:
            total = self.batches.count + missing
            kept = np.append(np.arange(count), np.zeros(-count % devices, int))
            weights = np.where(np.arange(len(kept)) < count, total / self.batches.count, 0)
            arrays = (*(array[kept] for array in arrays), weights.astype("float32")[:, None])
        size = len(arrays[0]) // devices * devices // self.group.size
        part = slice(self.group.rank * size, (self.group.rank + 1) * size)
        return tuple(array[part] for array in arrays)
