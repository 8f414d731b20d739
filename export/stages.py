"""The stages of an export, the same for every format, and what a format adds to them."""

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ..contract import IDENTITY, Contract
from ..errors import InputError
from ..files import check_regular, parse_json, place, staging, write_json
from ..model.identity import unfinite
from ..model.patchnet import PatchNet
from ..serving import Predictor, digest, manifest
from .comparison import Verification, compare
from .metadata import contract_of, describe
from .signature import check_patchnet


class Format(abc.ABC):
    """A format of exported files, with the user's choices for one export as its fields.

    Attributes:
        name: in `FORMATS` and on the command line.
        title: for people.
        suffix: of its files; none where it is a folder.
        precision: of S, a key of `TOLERANCE`.
        only: the one output that the file has; None, all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str] = ""
    precision = "float32"
    only: str | None = None

    @abc.abstractmethod
    def check(self, model: PatchNet, path: Path) -> Path:
        """Return the file or folder to write where the user said `path`.

        Raises:
            InputError: the choices do not suit the model, or nothing can be written there.
        """

    @abc.abstractmethod
    def write(self, model: PatchNet, path: Path, contract: Contract, described: Mapping[str, str]) -> None:
        """Write the model to `path`, with the texts `described`, of which the contract is one."""

    @staticmethod
    @abc.abstractmethod
    def recognizes(path: Path) -> bool:
        """Return whether what is at `path` may be an export of this format, whole or not."""

    @staticmethod
    @abc.abstractmethod
    def open(path: Path) -> Predictor:
        """Return what runs an exported file; errors as of `Predictor`."""

    @staticmethod
    @abc.abstractmethod
    def records(path: Path) -> tuple[Path, Path]:
        """Return the file beside which the records of an export lie, and that of its test vectors."""


def export_model(
    model: PatchNet,
    path: str | Path,
    file_format: Format,
    *,
    class_names: Sequence[str] = (),
    thresholds: Sequence[float] | None = None,
    metadata: Mapping[str, str] | None = None,
    images: Any = None,
) -> Verification:
    """Write a model, run the new file in its own runtime, compare it with Keras, and put it in its place.

    Arguments, errors and what is returned are those of `to_onnx` and `to_saved_model`.
    """
    check_patchnet(model)
    if weight := unfinite(model):
        raise InputError(f"The model cannot be exported: NaN or infinity in the weight {weight}")
    target = file_format.check(model, Path(path))
    contract = contract_of(model, class_names, thresholds).model_copy(update={"only": file_format.only})
    described = describe(model, file_format.precision, contract, metadata or {})
    with staging(target) as folder:
        staged = folder / target.name
        file_format.write(model, staged, contract, described)
        digest.seal(staged)
        verification = compare(model, file_format.open(staged), target, file_format.precision, images)
        file, vectors = file_format.records(staged)
        write_json(vectors, verification.test_vectors(), indent=None)
        beside = file_format.records(target)[0].parent
        same = {"identity": described[IDENTITY]}
        add_entries(file.parent, "verification.json", {file.name: same | verification.record()}, beside)
        listed = manifest.manifest(file.parent)
        listed[file.name] |= same
        add_entries(file.parent, manifest.NAME, listed, beside)
        # The export itself comes last, when everything about it is there.
        for part in sorted(folder.iterdir(), key=lambda part: part == staged):
            place(part, target.with_name(part.name))
    return verification


def add_entries(folder: Path, name: str, entries: dict, beside: Path) -> None:
    """Write a JSON file to `folder`: what is in `beside`, where other exports may lie, and `entries`."""
    try:
        check_regular(beside / name)
        before = parse_json((beside / name).read_bytes(), str(beside / name))
    except FileNotFoundError:
        before = {}
    except (IsADirectoryError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{beside / name}: not written by an export; choose another folder")
    write_json(folder / name, before | entries)
