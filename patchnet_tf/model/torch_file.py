"""Arrays from a file that `torch.save` wrote (before PyTorch 1.6): no PyTorch, nothing executed.

Such a file is five pickles, one after the other: a magic number, a protocol, the machine, the object, the
keys of its storages; then each storage, a count and its numbers. A pickle may name any function and call it.
The reader here knows four names and refuses all others before anything is called.
"""

import collections
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class Tensor:
    """An array that lies in a storage: its offset, shape and strides count numbers, not bytes."""

    storage: tuple[str, np.dtype]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, storages: dict[str, np.ndarray]) -> np.ndarray:
        """Return the array."""
        key, dtype = self.storage
        numbers = storages[key]
        if (
            len(self.shape) != len(self.strides)
            or min((self.offset, *self.shape, *self.strides), default=0) < 0
        ):
            raise ValueError("a tensor has an impossible shape")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and last >= len(numbers):
            raise ValueError("a tensor reaches beyond its storage")
        strides = [step * dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


def _tensor(storage: Any, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Reads the pickles of such a file and refuses those that name anything else."""

    ALLOWED = {  # noqa: RUF012
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        **{("torch", name): dtype for name, dtype in DTYPES.items()},
    }

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up among those that are known."""
        if (module, name) not in self.ALLOWED:
            raise ValueError(f"it names {module}.{name}, which is not read")
        return self.ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        """Return (key, dtype) of a storage."""
        kind, dtype, key, *_ = pid
        if kind != "storage" or dtype not in DTYPES.values():
            raise ValueError(f"it refers to a {kind}, which is not read")
        return key, dtype


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a state dict.

    Args:
        path: of a file that `torch.save` wrote (in the format before PyTorch 1.6).

    Returns:
        The arrays by name; float32 or int64.

    Raises:
        InputError: the file is missing, damaged, or holds anything but such arrays.

    Example:
        >>> read_torch_file("efficientnet-lite0-57934424.pth")["_conv_stem.weight"].shape
        (32, 3, 3, 3)
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except FileNotFoundError:
        raise InputError(f"There is no file of weights {path}") from None
    except Exception as error:
        # Damaged pickles raise errors of nearly every kind.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a file of PyTorch weights that can be read: {reason}") from None


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("it does not begin as one")
    _Unpickler(file).load()  # the protocol
    if _Unpickler(file).load().get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    tensors = _Unpickler(file).load()
    dtypes = dict(tensor.storage for tensor in tensors.values())
    storages = {}
    for key in _Unpickler(file).load():
        (count,) = struct.unpack("<q", file.read(8))
        size = count * dtypes[key].itemsize
        data = file.read(size) if count >= 0 else b""
        if len(data) != size:
            raise ValueError("it ends too early")
        storages[key] = np.frombuffer(data, dtypes[key])
    return {name: tensor.of(storages) for name, tensor in tensors.items()}
