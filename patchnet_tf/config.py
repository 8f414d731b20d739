"""The schema of configs/*.yaml: what a run can be told, with the paper's values as defaults.

Every error is one line that names the file, the key, what was expected and what was received.
"""

import difflib
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from .contract import MOST_CHANNELS, MOST_CLASSES, each_once
from .errors import InputError
from .files import read_small


def expect(what: str) -> WrapValidator:
    """Return the annotation that makes a wrong value's error say `what` was expected."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("expected", "expected {what}", {"what": what}) from None

    return WrapValidator(check)


Count = Annotated[int, Field(ge=1), expect("a whole number of at least 1")]
# What NumPy takes, and with it `keras.utils.set_random_seed`.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), expect(f"a whole number from 0 to {2**32 - 1}")]
# The paper has 7; a slip of the hand, such as 70000, would fill the memory.
Depth = Annotated[int, Field(ge=1, le=64), expect("a whole number from 1 to 64")]
Rate = Annotated[float, Field(gt=0, lt=math.inf), expect("a number greater than 0")]
# The paper has 1.2; with 10 a hundredth of the image is left.
Zoom = Annotated[float, Field(ge=1, le=10), expect("a number from 1 to 10")]
Share = Annotated[float, Field(gt=0, le=1), expect("a number above 0, at most 1")]
Units = Annotated[int, Field(ge=0, le=2**16), expect(f"a whole number from 0 to {2**16}")]
Dropout = Annotated[float, Field(ge=0, lt=1), expect("a number from 0 to below 1")]
Sharpness = Annotated[float, Field(ge=0.01, le=100), expect("a number from 0.01 to 100")]
Flag = Annotated[bool, expect("true or false")]
Text = Annotated[str, Field(min_length=1), expect("a text that is not empty")]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$"), expect("a name of letters, digits, '_', '-' and '.'")]
Size = Annotated[
    tuple[Count, Count],
    # YAML has lists, not tuples.
    Field(strict=False),
    expect("[height, width], two whole numbers of at least 1"),
]
LONGEST = 200  # characters of what a message quotes
SIDE = 8192  # more is a slip of the hand
NewSize = Annotated[
    tuple[Annotated[int, Field(ge=1, le=SIDE)], Annotated[int, Field(ge=1, le=SIDE)]],
    Field(strict=False),
    expect(f"[height, width], two whole numbers from 1 to {SIDE}"),
]
Texture = Literal["brick", "grass", "gravel"]


@dataclass(frozen=True)
class MayChange:
    """Marks a key that does not belong to a run's identity: a run may go on with another value."""


class Section(BaseModel):
    """What all parts of a configuration have in common: no unknown key, no converted value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """Return the values that make a run this run and no other: all but those marked `MayChange`.

        Returns:
            {"model.subnet.depth": 7, ...}.
        """
        values: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if MayChange() in field.metadata:
                continue
            if isinstance(value, Section):
                values |= {f"{name}.{key}": of_key for key, of_key in value.identity().items()}
            else:
                values[name] = value
        return values


Two = Annotated[tuple[Text, Text], Field(strict=False), AfterValidator(each_once)]
Several = Annotated[
    tuple[Text, ...], Field(strict=False, min_length=2, max_length=MOST_CLASSES), AfterValidator(each_once)
]
Channel = Annotated[int, Field(ge=0)] | Text
Channels = Annotated[
    Literal[1, 3]
    | Annotated[
        tuple[Channel, ...],
        Field(strict=False, min_length=1, max_length=MOST_CHANNELS),
        AfterValidator(each_once),
    ],
    expect(f"1 (grey), 3 (RGB), or a list of up to {MOST_CHANNELS} channels by name or number from 0"),
]
Number = Annotated[int | float, Field(allow_inf_nan=False)]


def rising(ends: tuple[int | float, int | float]) -> tuple[int | float, int | float]:
    """Return the ends of a range, or raise ValueError where it is empty."""
    if not ends[0] < ends[1]:
        raise ValueError("expected the lower number first")
    return ends


Range = Annotated[
    Literal["dtype", "percentiles"]
    | Annotated[tuple[Number, Number], Field(strict=False), AfterValidator(rising)],
    expect('"dtype", "percentiles", or [low, high], the lower number first'),
]


class DataSection(Section):
    """What all data sets have in common."""

    kind: str

    @property
    def resized_to(self) -> tuple[int, int] | None:
        """The (height, width) that its images were brought to, or None."""
        return None


class FilesData(DataSection):
    """What data sets of image files have in common."""

    path: Text  # where it is; ~ and $VARIABLES work
    size: NewSize | None = None  # resize every image to this; needed where they differ
    # Which channels of a file: 1 (grey), 3 (RGB), or a list of names or numbers from 0. None: all of them,
    # and 1 where all training images are grey.
    channels: Channels | None = None
    # As what numbers are read; a run writes it down. None: as what the training images have, one for all.
    dtype: Annotated[Literal["uint8", "uint16", "float32"], expect("uint8, uint16 or float32")] | None = None
    # What becomes 0 and 1 in the model: [low, high]; dtype, all that whole numbers can be; percentiles, 0.1
    # and 99.9 of the training images' numbers, with `clip`. A run writes the numbers down. None: dtype.
    range: Range | None = None
    clip: Flag = False  # numbers outside the range become its ends; otherwise they are refused
    per_image: Flag = False  # instead of a range, each image's own least and largest number
    window: Flag = False  # of DICOM: apply the window in the file
    # Which of several frames, pages or planes, from 0; None refuses several.
    frame: (
        Annotated[
            Annotated[int, Field(ge=0)] | Literal["middle"], expect('a whole number from 0, or "middle"')
        ]
        | None
    ) = None
    # A channel of the image file, by name or number, that is the mask where it is above the threshold.
    mask_channel: Annotated[
        Annotated[Channel, expect("the name of a channel, or its number from 0")] | None, MayChange()
    ] = None
    mask_threshold: Annotated[
        Annotated[Annotated[Number, expect("a number")] | None, MayChange()], Field(validate_default=True)
    ] = None
    # MiB for the images; more of them are kept in a file on disk, decoded and resized, and read from there.
    memory: Annotated[Count, MayChange()] = 2048
    cache: Annotated[Text | None, MayChange()] = (
        None  # folder of that file; None: the user's, see docs/data.md
    )

    @property
    def resized_to(self) -> tuple[int, int] | None:
        """The (height, width) that its images were brought to, or None."""
        return self.size

    @field_validator("per_image")
    @classmethod
    def without_range(cls, value: bool, info: ValidationInfo) -> bool:
        """Refuse a range of each image beside one for all."""
        if value and info.data.get("range") is not None:
            what = "false, as there is a data.range, the same for every image"
            raise PydanticCustomError("expected", "expected {what}", {"what": what})
        return value

    @field_validator("mask_threshold")
    @classmethod
    def with_mask_channel(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Refuse a channel of masks without a threshold, and the other way round."""
        channel = info.data.get("mask_channel")
        if (value is None) != (channel is None) and "mask_channel" in info.data:
            what = (
                "null without data.mask_channel"
                if channel is None
                else ("a number, above which a pixel of data.mask_channel belongs to the mask")
            )
            raise PydanticCustomError("expected", "expected {what}", {"what": what})
        return value


class DtdData(FilesData):
    """Two classes of the Describable Textures Dataset, in path/images/<class>/.

    See `patchnet_tf.data.dtd`.
    """

    kind: Literal["dtd"]
    size: NewSize | None = (224, 224)
    channels: Channels | None = 3
    classes: Annotated[Two, expect("the names of two different class folders")] = (
        "cracked",
        "perforated",
    )  # class 0 first
    train: Count = 80  # images of each class, the first ones
    val: Count = 40  # of each class, those that follow


class FolderData(FilesData):
    """Images in path/train/<class>/ and path/val/<class>/; the class folders may have any names.

    See `patchnet_tf.data.folder`.
    """

    kind: Literal["folder"]
    # The class folders; of two, class 0 (black) first. None: all that there are, in sorted order.
    classes: (
        Annotated[Several, expect(f"the names of 2 to {MOST_CLASSES} class folders, each once")] | None
    ) = None
    # Kind of the masks that localization is measured against.
    mask: Annotated[Name | None, MayChange()] = None


class Isic2017Data(FilesData):
    """The official folders and CSV files of ISIC 2017 below path. See `patchnet_tf.data.isic2017`."""

    kind: Literal["isic2017"]
    size: NewSize | None = (192, 256)
    channels: Channels | None = 3
    classes: Annotated[
        tuple[Literal["benign"], Literal["melanoma"]], Field(strict=False), expect("[benign, melanoma]")
    ] = ("benign", "melanoma")
    # Measure localization on the lesions (part 1), or on the union of the dermoscopic features (part 2).
    mask: Annotated[
        Annotated[Literal["lesion", "features"], expect('"lesion", "features" or null')] | None, MayChange()
    ] = None


class ManifestData(FilesData):
    """The images that a CSV file, path, lists in its columns path, split, label or labels, and perhaps masks.

    See `patchnet_tf.data.manifest`.
    """

    kind: Literal["manifest"]
    # Names of the classes 0, 1, ..., or of the labels.
    classes: Annotated[Several, expect(f"from 2 to {MOST_CLASSES} names, each once")] = ("0", "1")
    multilabel: Flag = False  # an image may have several of them, or none


class TexturesData(DataSection):
    """Crops of two of the photographs inside scikit-image. See `patchnet_tf.data.textures`."""

    kind: Literal["textures"]
    classes: Annotated[
        tuple[Texture, Texture],
        Field(strict=False),
        AfterValidator(each_once),
        expect("two of brick, grass and gravel, class 0 first"),
    ] = ("brick", "gravel")
    size: Annotated[int, Field(ge=1, le=256), expect("a whole number from 1 to 256")] = 64
    train: Count = 64  # crops of each class
    val: Count = 32
    collages: Count = 6
    collage_size: Annotated[int, Field(ge=1, le=256), expect("a whole number from 1 to 256")] = 128


class SquaresData(DataSection):
    """A black image, and one with a white square in the middle. See `patchnet_tf.data.squares`."""

    kind: Literal["squares"]
    classes: Annotated[
        tuple[Literal["black"], Literal["square"]], Field(strict=False), expect("[black, square]")
    ] = ("black", "square")
    size: Annotated[int, Field(ge=2, le=SIDE), expect(f"a whole number from 2 to {SIDE}")] = 128
    square: Count = 64  # side of the square, in pixels


Data = DtdData | FolderData | Isic2017Data | ManifestData | SquaresData | TexturesData


class GammaStep(Section):
    """The arguments of `patchnet_tf.model.preprocessing.GammaCorrection`."""

    kind: Literal["gamma"]
    gamma: Annotated[float, Field(ge=0.01, lt=math.inf), expect("a number of at least 0.01")] = 2.2


class ShadesOfGrayStep(Section):
    """The arguments of `patchnet_tf.model.preprocessing.ShadesOfGray`."""

    kind: Literal["shades_of_gray"]
    norm: Annotated[float, Field(ge=1, lt=math.inf), expect("a number of at least 1")] = 6


Step = GammaStep | ShadesOfGrayStep


class ModelSection(Section):
    """What all models have in common."""

    # Whether each map is scaled from its own lowest to its own highest value; the others are decisions, and
    # 0.5 means undecided.
    min_max_normalized: ClassVar[bool] = True

    kind: str
    crop: Size | None = None  # look at the central region only
    # Layers of the model before it looks at the pixels, in this order.
    preprocessing: Annotated[
        tuple[Annotated[Step, Field(discriminator="kind")], ...], Field(strict=False)
    ] = ()

    @property
    def learning_rate(self) -> float | None:
        """The learning rate that it wants instead of `training.learning_rate`, or None."""
        return None


class PaperSubnet(Section):
    """The arguments of `PatchSubnet`, the paper's S."""

    kind: Literal["paper"]
    filters: Count = 64
    depth: Depth = 7
    padding: Annotated[Literal["same", "valid"], expect('"same" or "valid"')] = "same"


class Pretrained(Section):
    """A pretrained network, and how it is trained."""

    kind: Literal["pretrained"]
    network: Text = "efficientnet_lite0"  # or one of keras.applications
    weights: Text | None = "imagenet"  # or the path of a file; None: random
    dropout: Dropout = 0.0  # of the head
    fine_tune: Flag = False  # train the network too, not the head alone
    fine_tune_rate: Rate = 1e-4  # the learning rate then, instead of training.learning_rate


class PretrainedSubnet(Pretrained):
    """S from a pretrained network made local; see `local_network`."""

    hidden: Units = 64  # of the head; 0 makes it logistic


Subnet = PaperSubnet | PretrainedSubnet


def paper_by_default(subnet: Any) -> Any:
    """Add the kind that a section without one means."""
    return {"kind": "paper", **subnet} if isinstance(subnet, dict) else subnet


class PatchNetModel(ModelSection):
    """The arguments of `PatchNet`."""

    min_max_normalized = False

    kind: Literal["patchnet"]
    patch_size: Count  # a pretrained network has some: 19, 35, 67, ... of efficientnet_lite0
    stride: Count | None = None  # None: patch_size; of a pretrained network, its own
    subnet: Annotated[Subnet, Field(discriminator="kind"), BeforeValidator(paper_by_default)] = PaperSubnet(
        kind="paper"
    )
    pooling: Annotated[Literal["mean", "lse", "topk"], expect("mean, lse or topk")] = "mean"
    sharpness: Sharpness = 4.0  # of lse: r
    share: Share = 0.1  # of the patches that topk averages
    border: Annotated[Literal["zero", "reflect"], expect('"zero" or "reflect"')] = "zero"
    familiarity: Flag = False  # keep what training's patches are like; of a pretrained network

    @field_validator("sharpness", "share")
    @classmethod
    def of_its_pooling(cls, value: float, info: ValidationInfo) -> float:
        """Refuse a value that the pooling does not use, unless it is the default, which a run writes out."""
        user = {"sharpness": "lse", "share": "topk"}[info.field_name]
        pooling, default = info.data.get("pooling", user), cls.model_fields[info.field_name].default
        if pooling != user and value != default:
            what = f"{default:g}, as model.pooling is {pooling}: only {user} uses it"
            raise PydanticCustomError("expected", "expected {what}", {"what": what})
        return value

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of a network that is fine-tuned."""
        tuned = isinstance(self.subnet, PretrainedSubnet) and self.subnet.fine_tune
        return self.subnet.fine_tune_rate if tuned else None


class PretrainedModel(ModelSection, Pretrained):
    """The arguments of `patchnet_tf.baselines.pretrained_full`."""

    kind: Literal["pretrained"]

    @property
    def learning_rate(self) -> float | None:
        """The learning rate of a network that is fine-tuned."""
        return self.fine_tune_rate if self.fine_tune else None


class Vgg11Model(ModelSection):
    """The arguments of `patchnet_tf.baselines.vgg11`."""

    kind: Literal["vgg11"]
    width: Share = 1.0  # of the published network's channels and linear units
    resize: NewSize | None = (224, 224)  # inside the model; None: images as they are


class Vgg19CamModel(ModelSection):
    """The arguments of `patchnet_tf.baselines.vgg19_cam`."""

    kind: Literal["vgg19_cam"]
    width: Share = 1.0  # of the published network's channels


Model = PatchNetModel | PretrainedModel | Vgg11Model | Vgg19CamModel


def patchnet_by_default(model: Any) -> Any:
    """Add the kind that a section without one means; before there were baselines it had none."""
    return {"kind": "patchnet", **model} if isinstance(model, dict) else model


class Training(Section):
    """How to train: the paper's Adam, batch and convergence."""

    learning_rate: Rate = 1e-4
    weight_decay: Annotated[float, Field(ge=0, lt=1), expect("a number from 0 to below 1")] = 0.0  # of AdamW
    batch_size: Count = 4
    epochs: Annotated[Count, MayChange()] = 10_000  # at most
    patience: Count = 1000
    stop_when_accurate: Flag = True  # the paper's other rule: end when the training accuracy is 100 %
    balanced: Flag = False  # each epoch as many images of one class as of the other
    flips: Flag = False  # mirror training images at random, left-right and up-down
    rotations: Flag = False  # turn them by 0 or 180 degrees at random
    zoom: Zoom | None = None  # enlarge them at random, at most by this factor
    # Train on all GPUs of this machine, or of several machines; see `patchnet_tf.training.distribution`.
    distribution: (
        Annotated[Literal["mirrored", "data_parallel"], expect("null, mirrored or data_parallel")] | None
    ) = None
    # MiB for the features of a frozen network, computed once for all epochs; more go into a file of the run.
    feature_memory: Annotated[Count, MayChange()] = 1024
    snapshot_every: Count | None = None  # draw heatmaps of four validation images every so many epochs
    seed: Seed = 0


class Baselines(Section):
    """What `patchnet compare` trains beside PatchNet.

    The pretrained network in full is trained as `training` says, and is that of `model.subnet` if there is
    one. The other keys are for the networks that start from scratch, VGG-19 for CAM and VGG-11; None means as
    `training` says.
    """

    networks: Annotated[
        tuple[Literal["pretrained", "vgg19_cam", "vgg11"], ...],
        Field(strict=False, min_length=1),
        AfterValidator(each_once),
        expect("a list of pretrained, vgg19_cam and vgg11, each once"),
    ] = ("vgg19_cam", "vgg11")
    width: Share = 1.0  # of their channels
    batch_size: Count | None = 64
    learning_rate: Rate | None = None
    epochs: Count | None = None
    patience: Count | None = None


class Comparison(Section):
    """What `patchnet compare` trains besides, and measures."""

    patch_sizes: (
        Annotated[
            tuple[Count, ...],
            Field(strict=False, min_length=1),
            AfterValidator(each_once),
            expect("a list of whole numbers of at least 1, each once"),
        ]
        | None
    ) = None  # of PatchNets; None: model.patch_size
    baselines: Baselines | None = Baselines()  # None: PatchNets alone
    # As many get a map where there are no masks, and have their pixels deleted and inserted anyway.
    images: Count = 16


class Evaluation(Section):
    """How `patchnet evaluate` measures."""

    # Of labels: by which each one's threshold is chosen on the validation images.
    threshold: Annotated[Literal["youden", "f1"], expect("youden or f1")] = "youden"


class Config(Section):
    """One experiment."""

    name: Name
    data: Annotated[Data, Field(discriminator="kind")]
    model: Annotated[Model, Field(discriminator="kind"), BeforeValidator(patchnet_by_default)]
    training: Training = Training()
    evaluation: Annotated[Evaluation, MayChange()] = Evaluation()
    comparison: Annotated[Comparison, MayChange()] = Comparison()

    def to_yaml(self) -> str:
        """Return the configuration with every default written out, as `load_config` reads it."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def by_kind(union: Any) -> dict[str, type[Section]]:
    """Return the sections of a union, by their kinds."""
    return {get_args(section.model_fields["kind"].annotation)[0]: section for section in get_args(union)}


SECTIONS = {
    (): Config,
    **{("data", kind): section for kind, section in by_kind(Data).items()},
    **{("model", kind): section for kind, section in by_kind(Model).items()},
    **{("model", "preprocessing", kind): section for kind, section in by_kind(Step).items()},
    **{("model", "subnet", kind): section for kind, section in by_kind(Subnet).items()},
    ("evaluation",): Evaluation,
    ("comparison",): Comparison,
    ("comparison", "baselines"): Baselines,
    ("training",): Training,  # last: of two keys with one name it is likelier meant
}


class Loader(yaml.SafeLoader):
    """YAML in which 1e-4 is a number, as in YAML 1.2 and everywhere else, and a key is given once.

    There are no aliases, of which a few lines can stand for more values than memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            problem = f"an alias, *{event.anchor}; write the value itself"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuse what looks like a date or a number and is none, on which PyYAML's own code stumbles."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            problem = f"{shown(node.value)} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a key that is given twice, of which YAML would silently keep the last."""
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {shown(key)} twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: a YAML file. A relative `data.path` or `data.cache` in it is relative to the file's folder; "~"
            and environment variables are expanded, which must be set.
        overrides: "section.key=value" texts, the value in YAML, that replace or add keys. A relative path
            among them is relative to the current folder.

    Raises:
        InputError: the file cannot be read, is large or is not YAML, or a key is unknown, missing or wrong.

    Example:
        >>> load_config("configs/demo.yaml", ["training.epochs=3"]).training.epochs
        3
    """
    path = Path(path)
    try:
        raw = parse(read_small(path).decode(), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected keys and values (name: ..., data: ..., model: ...)")
    given: list[str] = []  # how complaints about what --set gave begin
    bases = dict.fromkeys(("path", "cache"), path.parent)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise InputError(f"--set: expected section.key=value. Received: {shown(override)}")
        made = place(raw, key.split("."), parse(text, f"--set {override[:LONGEST]}"))
        given += [f"{made}:", f"{key}:", f"{key}."]
        bases |= {name: Path.cwd() for name in bases if key in ("data", f"data.{name}")}
    for name, base in bases.items():
        resolve_data_path(raw, name, base, path)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        complaints = map(complaint, error.errors())
        lines = [f"{'--set ' if c.startswith(tuple(given)) else f'{path}: '}{c}" for c in complaints]
        raise InputError("\n".join(lines)) from None


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


def resolve_data_path(raw: dict, key: str, base: Path, source: Path) -> None:
    """Make `data.path`, or another of its folders, absolute where it is there, with ~ and variables expanded.

    A relative one counts from `base`, or from the current folder, as in a shell, where a variable begins it.
    """
    data = raw.get("data")
    if not isinstance(data, dict) or not isinstance(path := data.get(key), str) or not path:
        return
    for name in re.findall(r"\$(\w+|\{\w+\})", path, re.ASCII):
        if not os.environ.get(name.strip("{}")):
            raise InputError(
                f"{source}: data.{key}: the environment variable {name.strip('{}')} is not set, or empty. "
                f"Received: {shown(path)}"
            )
    base = Path.cwd() if path.startswith("$") else base
    data[key] = os.path.abspath(base / os.path.expanduser(os.path.expandvars(path)))


def place(raw: dict, keys: list[str], value: Any) -> str:
    """Put `value` at raw[keys[0]][keys[1]]...; return the dotted name of the first key that was not there.

    What is no mapping on the way is replaced by one, and left to the schema.
    """
    made = len(keys)
    for depth, key in enumerate(keys[:-1], 1):
        if not isinstance(raw.get(key), dict):
            raw[key] = {}
            made = min(made, depth)
        raw = raw[key]
    raw[keys[-1]] = value
    return ".".join(keys[:made])


def shown(value: Any) -> str:
    """Return what a message says was received: so much of it as a person reads."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no numbers of thousands of digits
        return "a number of too many digits"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def complaint(error: dict[str, Any]) -> str:
    """Say in one line what pydantic found."""
    keys: list[str | int] = []
    kind = False
    for part in error["loc"]:
        # pydantic puts the kind of a section into the place; the file does not have it there.
        section = SECTIONS.get((*names(keys), part))
        kind = not kind and section is not None and "kind" in section.model_fields
        if not kind:
            keys.append(part)
    where = ".".join(map(str, keys))
    match error["type"]:
        case "missing":
            return f"{where}: this key is missing"
        case "extra_forbidden":
            return f"{where}: unknown key{suggestion(keys)}"
        case "union_tag_not_found":
            return f"{where}.kind: this key is missing; expected {kinds(keys)}"
        case "union_tag_invalid":
            return f"{where}.kind: expected {kinds(keys)}. Received: {shown(error['input']['kind'])}"
        case "model_type" | "model_attributes_type":
            return f"{where}: expected a section with keys of its own. Received: {shown(error['input'])}"
        case "tuple_type":
            return f"{where}: expected a list of sections. Received: {shown(error['input'])}"
    return f"{where}: {error['msg']}. Received: {shown(error['input'])}"


def names(keys: Iterable[str | int]) -> tuple[str, ...]:
    """Return the keys without the numbers of items in a list."""
    return tuple(key for key in keys if isinstance(key, str))


def kinds(keys: list[str | int]) -> str:
    """Return the kinds that a section may have."""
    *first, last = (loc[-1] for loc in SECTIONS if len(loc) > 1 and loc[:-1] == names(keys))
    return f"{', '.join(first)} or {last}"


def suggestion(keys: list[str | int]) -> str:
    """Return "; did you mean ...?" for the known key nearest to an unknown one, or nothing."""
    known: dict[str, tuple[str, ...]] = {}
    here = names(keys[:-1])
    # Of two keys with one name, the one of the same section.
    for loc, section in sorted(SECTIONS.items(), key=lambda item: places(item[0]) == here):
        known |= {key: (*places(loc), key) for key in section.model_fields}
    near = [known[key] for key in difflib.get_close_matches(str(keys[-1]), known, n=1)]
    # A known key that is unknown here belongs to another kind.
    return f"; did you mean {'.'.join(near[0])}?" if near and near[0] != names(keys) else ""


def places(loc: tuple[str, ...]) -> tuple[str, ...]:
    """Return where a section of SECTIONS stands in the file: without its kind."""
    return loc[:-1] if "kind" in SECTIONS[loc].model_fields else loc
