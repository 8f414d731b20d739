"""The schema of configs/*.yaml: what a run can be told, with the paper's values as defaults.

Every error is one line that names the file, the key, what was expected and what was received.
"""

import difflib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError


class InputError(ValueError):
    """What a person gave cannot be used. Each line of the message is one complaint."""


def expect(what: str) -> WrapValidator:
    """Return the annotation that makes a wrong value's error say `what` was expected."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "expected {what}", {"what": what}) from None

    return WrapValidator(check)


def different(names: tuple[str, str]) -> tuple[str, str]:
    """Refuse one name twice: there would be only one class to learn."""
    if names[0] == names[1]:
        raise ValueError("twice the same")
    return names


Count = Annotated[int, Field(ge=1), expect("a whole number of at least 1")]
# What NumPy takes, and with it `keras.utils.set_random_seed`.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), expect(f"a whole number from 0 to {2**32 - 1}")]
# The paper has 7; a slip of the hand, such as 70000, would fill the memory.
Depth = Annotated[int, Field(ge=1, le=64), expect("a whole number from 1 to 64")]
Rate = Annotated[float, Field(gt=0, lt=math.inf), expect("a number greater than 0")]
Flag = Annotated[bool, expect("true or false")]
Text = Annotated[str, Field(min_length=1), expect("a text that is not empty")]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$"), expect("a name of letters, digits, '_', '-' and '.'")]
Size = Annotated[
    tuple[Count, Count],
    # YAML has lists, not tuples.
    Field(strict=False),
    expect("[height, width], two whole numbers of at least 1"),
]
SIDE = 8192  # all images are in memory at once: more is a slip of the hand
NewSize = Annotated[
    tuple[Annotated[int, Field(ge=1, le=SIDE)], Annotated[int, Field(ge=1, le=SIDE)]],
    Field(strict=False),
    expect(f"[height, width], two whole numbers from 1 to {SIDE}"),
]
Texture = Literal["brick", "grass", "gravel"]


class Section(BaseModel):
    """What all parts of a configuration have in common: no unknown key, no converted value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class FolderData(Section):
    """Images in path/train/<class>/ and path/val/<class>/; the two class folders may have any names.

    See `patchnet_tf.data.folder`.
    """

    kind: Literal["folder"]
    path: Text
    # The class folders, class 0 (black) first; None: the two that there are, in sorted order.
    classes: (
        Annotated[
            tuple[Text, Text],
            Field(strict=False),
            AfterValidator(different),
            expect("the names of two different class folders"),
        ]
        | None
    ) = None
    size: NewSize | None = None  # resize every image to this; needed where they differ
    channels: Annotated[Literal[1, 3], expect("1 (grey) or 3 (RGB)")] | None = None  # None: as the files are
    mask: Name | None = None  # kind of the masks that localization is measured against


class TexturesData(Section):
    """Crops of two of the photographs inside scikit-image. See `patchnet_tf.data.textures`."""

    kind: Literal["textures"]
    classes: Annotated[
        tuple[Texture, Texture],
        Field(strict=False),
        AfterValidator(different),
        expect("two of brick, grass and gravel, class 0 first"),
    ] = ("brick", "gravel")
    size: Annotated[int, Field(ge=1, le=256), expect("a whole number from 1 to 256")] = 64
    train: Count = 64  # crops of each class
    val: Count = 32
    collages: Count = 6
    collage_size: Annotated[int, Field(ge=1, le=256), expect("a whole number from 1 to 256")] = 128


class ModelSection(Section):
    """The arguments of `PatchNet`."""

    patch_size: Count
    stride: Count | None = None  # None: patch_size
    crop: Size | None = None
    filters: Count = 64
    depth: Depth = 7
    padding: Annotated[Literal["same", "valid"], expect('"same" or "valid"')] = "same"


class Training(Section):
    """How to train: the paper's Adam, batch and convergence."""

    learning_rate: Rate = 1e-4
    batch_size: Count = 4
    epochs: Count = 10_000  # at most
    patience: Count = 1000
    flips: Flag = False  # mirror training images at random, left-right and up-down
    snapshot_every: Count | None = None  # draw heatmaps of four validation images every so many epochs
    seed: Seed = 0


class Config(Section):
    """One experiment."""

    name: Name
    data: Annotated[FolderData | TexturesData, Field(discriminator="kind")]
    model: ModelSection
    training: Training = Training()

    def to_yaml(self) -> str:
        """Return the configuration with every default written out, as `load_config` reads it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


SECTIONS = {
    (): Config,
    ("data", "folder"): FolderData,
    ("data", "textures"): TexturesData,
    ("model",): ModelSection,
    ("training",): Training,
}


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in YAML 1.2 and everywhere else, and a key is given once."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuse what looks like a date or a number and is none, on which PyYAML's own code stumbles."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            problem = f"{node.value!r} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a key that is given twice, of which YAML would silently keep the last."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", node.start_mark)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: a YAML file. A relative `data.path` in it is relative to the file's folder; "~" and
            environment variables are expanded.
        overrides: "section.key=value" texts, the value in YAML, that replace or add keys. A relative
            `data.path` among them is relative to the current folder.

    Raises:
        InputError: the file cannot be read or is not YAML, or a key is unknown, missing or wrong.

    Example:
        >>> load_config("configs/demo.yaml", ["training.epochs=3"]).training.epochs
        3
    """
    path = Path(path)
    try:
        raw = parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected keys and values (name: ..., data: ..., model: ...)")
    resolve_data_path(raw, path.parent)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InputError(f"--set: expected section.key=value. Received: {override!r}")
        place(raw, key.split("."), parse(text, f"--set {override}"))
        if key == "data.path":
            resolve_data_path(raw, Path.cwd())
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {complaint(e)}" for e in error.errors())) from None


def parse(text: str, source: str) -> Any:
    """Return what the YAML says; raise InputError naming the line where it is none."""
    try:
        return yaml.load(text, Loader)
    except RecursionError:
        raise InputError(f"{source}: not valid YAML (nested too deeply)") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f":{mark.line + 1}" if mark else ""
        reason = str(problem or error).splitlines()[0]
        raise InputError(f"{source}{where}: not valid YAML ({reason})") from None


def resolve_data_path(raw: dict, base: Path) -> None:
    """Make `data.path`, where there is one, absolute: from `base`, with ~ and variables expanded."""
    data = raw.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str) and data["path"]:
        data["path"] = os.path.abspath(base / os.path.expanduser(os.path.expandvars(data["path"])))


def place(raw: dict, keys: list[str], value: Any) -> None:
    """Put `value` at raw[keys[0]][keys[1]]...; what is no mapping on the way is left to the schema."""
    for key in keys[:-1]:
        if not isinstance(raw.setdefault(key, {}), dict):
            raw[key] = {}
        raw = raw[key]
    raw[keys[-1]] = value


def complaint(error: dict[str, Any]) -> str:
    """Say in one line what pydantic found."""
    loc = error["loc"]
    # pydantic puts the kind of the data into the place; the file does not have it there.
    keys = [
        str(part)
        for i, part in enumerate(loc)
        if not (i == 1 and loc[0] == "data" and (*loc[:2],) in SECTIONS)
    ]
    where = ".".join(keys)
    match error["type"]:
        case "missing":
            return f"{where}: this key is missing"
        case "extra_forbidden":
            return f"{where}: unknown key{suggestion(keys)}"
        case "union_tag_not_found":
            return f"{where}.kind: this key is missing; expected folder or textures"
        case "union_tag_invalid":
            return f"{where}.kind: expected folder or textures. Received: {error['input']['kind']!r}"
        case "model_type" | "model_attributes_type":
            return f"{where}: expected a section with keys of its own. Received: {error['input']!r}"
    return f"{where}: {error['msg']}. Received: {error['input']!r}"


def suggestion(keys: list[str]) -> str:
    """Return "; did you mean ...?" for the known key nearest to an unknown one, or nothing."""
    known = {key: (*loc[:1], key) for loc, section in SECTIONS.items() for key in section.model_fields}
    for loc, section in SECTIONS.items():  # of two keys with one name, the one of the same section
        if loc[:1] == tuple(keys[:-1]):
            known |= {key: (*loc[:1], key) for key in section.model_fields}
    near = [known[key] for key in difflib.get_close_matches(keys[-1], known, n=1)]
    # A known key that is unknown here belongs to the other kind of data.
    return f"; did you mean {'.'.join(near[0])}?" if near and near[0] != tuple(keys) else ""
