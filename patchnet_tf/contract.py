"""What a model takes and what it answers: the contract that every exported file carries, as JSON.

The model, its exported files, predictors, protocols, the page and the report read the names, shapes and
classes here, and nowhere else. It needs neither Keras nor TensorFlow.

    {"classes": {"names": ["benign", "melanoma"], "exclusive": true},
     "pixels": {"dtype": "uint8", "range": [0, 255], "channels": 3},
     "smallest": [17, 17],
     "thresholds": [0.5]}
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from .errors import InputError

# Keys in a file's metadata, which are texts: the contract, the version of this package that wrote it, the
# digest of the model's weights and classes, and that of the file itself.
KEY = "patchnet_tf.contract"
VERSION = "patchnet_tf.version"
IDENTITY = "patchnet_tf.identity"
CONTENT = "patchnet_tf.content"

IMAGE = "image"  # pixels, (batch, height, width, channels)
IMAGE_BYTES = "image_bytes"  # whole image files, (batch,); of SavedModels
HEATMAP_WANTED = "heatmap_wanted"  # bool, true unless given; of ONNX files
PROBABILITY = "probability"
HEATMAP = "heatmap"
FAMILIAR = "familiar"  # of models that keep what training's patches are like
OUTPUTS = (PROBABILITY, HEATMAP)

# Of TF Serving: what each signature returns. The last takes image files, the others pixels; SavedModels for
# pixels of which TensorFlow decodes no files do not have it.
SERVING_DEFAULT = "serving_default"
SIGNATURES = {
    SERVING_DEFAULT: OUTPUTS,
    PROBABILITY: (PROBABILITY,),
    HEATMAP: (HEATMAP,),
    IMAGE_BYTES: OUTPUTS,
}

MOST_CLASSES = 1000  # a map of each is drawn

Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """What all parts of a contract have in common: no unknown key, no converted value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def each_once(values: tuple) -> tuple:
    """Refuse a value, such as a name, that is given twice."""
    if len(set(values)) < len(values):
        raise ValueError("one name twice")
    return values


class Classes(Part):
    """The classes, of one of three kinds.

    binary      two exclusive classes: one probability, that of class 1
    exclusive   more than two, of which an image has just one: their probabilities sum to 1
    labels      any number at once, or none: each has a probability of its own

    Attributes:
        names: from 2 to 1000, all different; of two exclusive classes, class 0 is black in heatmaps and
            class 1 white.
        exclusive: whether an image has just one of them.

    Example:
        >>> Classes(names=["cat", "dog"]).binary, Classes(names=["cat", "dog"], exclusive=False).binary
        (True, False)
    """

    names: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(strict=False, min_length=2, max_length=MOST_CLASSES),
        AfterValidator(each_once),
    ]
    exclusive: bool = True

    @property
    def binary(self) -> bool:
        """Whether they are two of which an image has just one."""
        return self.exclusive and len(self.names) == 2

    @property
    def outputs(self) -> int:
        """How many probabilities an image has: 1 for two exclusive classes, or else one for each class."""
        return 1 if self.binary else len(self.names)

    @property
    def threshold_count(self) -> int:
        """How many thresholds decide: as many as outputs; none where the most probable class wins."""
        return 0 if self.exclusive and not self.binary else self.outputs


LARGEST = {"uint8": 255, "uint16": 65535, "float32": 1.0}


def _range_of_dtype(fields: dict[str, Any]) -> tuple[int | float, int | float]:
    """Return the range that a dtype has unless another is given."""
    largest = LARGEST[fields.get("dtype", "uint8")]
    return type(largest)(0), largest


MOST_CHANNELS = 16
Number = Annotated[int | float, Field(allow_inf_nan=False)]


class Pixels(Part):
    """The pixels that a model takes, and how a file becomes them.

    Attributes:
        dtype: of numpy. Signed numbers, and those that a file rescales, are float32.
        range: the numbers that become 0 and 1 inside the model; of uint8, 0 and 255 unless given, of uint16
            0 and 65535, of float32 0 and 1.
        channels: from 1 to 16; unless `select` is given, 1 is grey and 3 is RGB.
        select: which of a file's channels they are, by number from 0 or by name; all that there are where it
            is empty.
        clip: whether numbers outside the range become its ends in the model; otherwise they are refused.
        per_image: whether each image's own least and largest number become 0 and 1 instead.
        window: whether the window that a DICOM file has is applied; its ends become those of `range`.
        frame: which of several frames, pages or planes, from 0, or "middle"; None refuses several.

    Example:
        >>> Pixels(dtype="uint16", range=(0, 4095), channels=2, select=("DAPI", "CENPA"))
    """

    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    range: Annotated[tuple[Number, Number], Field(strict=False, default_factory=_range_of_dtype)]
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    select: Annotated[
        tuple[Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)], ...],
        Field(strict=False),
        AfterValidator(each_once),
    ] = ()
    clip: bool = False
    per_image: bool = False
    window: bool = False
    frame: Annotated[int, Field(ge=0)] | Literal["middle"] | None = None

    @model_validator(mode="after")
    def agrees(self) -> "Pixels":
        """Refuse a range that is empty or beyond the dtype, and another number of channels than selected."""
        low, high = self.range
        if not low < high:
            raise ValueError("expected a range from a lower to a higher number")
        if self.dtype != "float32" and (low < 0 or high > LARGEST[self.dtype]):
            raise ValueError(f"expected a range within 0..{LARGEST[self.dtype]}, as {self.dtype} has")
        if self.select and len(self.select) != self.channels:
            raise ValueError(f"expected {self.channels} of the channels to select, as many as `channels`")
        return self

    @model_serializer(mode="wrap")
    def short(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is as it was before it could be chosen."""
        written = write(self)
        first = ("dtype", "range", "channels")
        return {
            key: value
            for key, value in written.items()
            if key in first or getattr(self, key) != type(self).model_fields[key].default
        }


class Tensor(NamedTuple):
    """An input or output: its name, its numpy dtype, and the names or sizes of its axes."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


def _default_thresholds(fields: dict[str, Any]) -> tuple[float, ...]:
    """0.5 for each that the classes have."""
    return (0.5,) * fields["classes"].threshold_count if "classes" in fields else ()


def _count_of_thresholds(classes: Classes) -> str:
    """How many thresholds the classes have, in words."""
    if classes.binary:
        return "one threshold for two classes"
    if classes.exclusive:
        return "no threshold: the most probable class wins"
    return f"{len(classes.names)} thresholds, one for each label"


class Contract(Part):
    """What a model takes and answers.

    Attributes:
        classes: what it tells apart.
        pixels: of the images that it takes.
        smallest: (height, width) that an image must have at least.
        thresholds: the probability of class 1 above which an image is called class 1; one for each of
            several labels; none for three or more exclusive classes, of which the most probable wins. They
            are 0.5 unless given.
        familiar: whether there is a third output, which says where an image is like those of training.
        only: the one output that the file has, where it was exported with one.

    Example:
        >>> contract = Contract(classes={"names": ["cat", "dog"]}, pixels={"channels": 3}, smallest=[17, 17])
        >>> Contract.from_json(contract.to_json()) == contract
        True
        >>> contract.class_of(0.7), contract.names_of([0.7])
        ('dog', ('dog',))
    """

    classes: Classes
    pixels: Pixels
    smallest: Annotated[tuple[Size, Size], Field(strict=False)]
    thresholds: Annotated[tuple[Share, ...], Field(strict=False, default_factory=_default_thresholds)]
    familiar: bool = False
    only: Literal["probability", "heatmap"] | None = None

    @model_validator(mode="after")
    def thresholds_of_classes(self) -> "Contract":
        """Refuse another number of thresholds than the classes have."""
        if len(self.thresholds) != self.classes.threshold_count:
            raise ValueError(f"expected {_count_of_thresholds(self.classes)}")
        return self

    @property
    def image(self) -> Tensor:
        """The input that holds pixels."""
        return Tensor(IMAGE, self.pixels.dtype, ("batch", "height", "width", self.pixels.channels))

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by their names, in the order of `OUTPUTS`; the last axis is that of several classes.

        `FAMILIAR` follows them where there is one.
        """
        last = () if self.classes.binary else (self.classes.outputs,)
        outputs = [
            Tensor(PROBABILITY, "float32", ("batch", *last)),
            Tensor(HEATMAP, "float32", ("batch", "height", "width", *last)),
        ]
        if self.familiar:
            outputs.append(Tensor(FAMILIAR, "bool", ("batch", "height", "width")))
        return {output.name: output for output in outputs if self.only in (None, output.name)}

    @property
    def signatures(self) -> dict[str, tuple[str, ...]]:
        """What each of TF Serving's signatures returns; those of all outputs `FAMILIAR` too."""
        return {
            name: tuple(self.outputs) if outputs == OUTPUTS else outputs
            for name, outputs in SIGNATURES.items()
        }

    def class_of(self, probability: float) -> str:
        """Return the name of the class that a probability of class 1 means, of two exclusive classes.

        Raises:
            ValueError: the classes are others; see `names_of`.
        """
        if not self.classes.binary:
            raise ValueError(
                "One probability tells two exclusive classes apart. "
                f"Received: {len(self.classes.names)} classes, exclusive={self.classes.exclusive}"
            )
        return self.classes.names[int(probability > self.thresholds[0])]

    def names_of(self, probabilities: float | Sequence[float]) -> tuple[str, ...]:
        """Return the names of the classes that an image is called, of any kind of classes.

        Args:
            probabilities: of one image, as many as `classes.outputs`; one may stand without a sequence.

        Returns:
            One name for exclusive classes, the first of the most probable; the labels above their
            thresholds, in the order of the classes, which may be none.

        Raises:
            ValueError: it is another number of probabilities.
        """
        classes = self.classes
        try:
            values = [*probabilities]
        except TypeError:
            values = [probabilities]
        if len(values) != classes.outputs:
            raise ValueError(f"Expected {classes.outputs} probabilities of an image. Received: {len(values)}")
        if classes.binary:
            return (self.class_of(values[0]),)
        if classes.exclusive:
            return (classes.names[values.index(max(values))],)
        return tuple(
            name
            for name, value, threshold in zip(classes.names, values, self.thresholds, strict=True)
            if value > threshold
        )

    def to_json(self) -> str:
        """Return the contract as JSON on one line."""
        # Without the keys files say the same as before there were any.
        return self.model_dump_json(exclude={key for key in ("familiar", "only") if not getattr(self, key)})

    @classmethod
    def from_json(cls, text: str, source: str = "contract") -> "Contract":
        """Read what `to_json` wrote.

        Raises:
            InputError: it is something else; the message begins with `source`.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "content"
            raise InputError(f"{source}: not the contract of a model: {where}: {first['msg']}") from None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str = "metadata") -> "Contract":
        """Read the contract in what an exported file says of itself.

        Raises:
            InputError: there is none, or it is damaged; the message begins with `source`.
        """
        if VERSION not in metadata:
            raise InputError(f"{source}: a model, but not one made by `patchnet export`")
        if KEY not in metadata:
            raise InputError(
                f"{source}: exported by an older version of this package; export it again. "
                f"Received: {VERSION} {metadata[VERSION]}, without {KEY}"
            )
        return cls.from_json(metadata[KEY], source)


def make_classes(names: Sequence[str] | Any, exclusive: bool = True) -> Classes:
    """Return the classes of these names; see `Classes`.

    Raises:
        InputError: they are not at least two different texts, or more than 1000.

    Example:
        >>> make_classes(["scales", "streaks", "globules"], exclusive=False).outputs
        3
    """
    try:
        return Classes(names=None if isinstance(names, str) else names, exclusive=exclusive)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "too_long":
            what = f"must be at most {MOST_CLASSES} names. Received: {first['ctx']['actual_length']}"
        elif exclusive:
            what = f"must be at least two different names. Received: class_names={names!r}"
        else:
            what = (
                "must be at least two different names of labels; one label makes two exclusive classes, "
                f"without it and with it. Received: class_names={names!r}"
            )
        raise InputError(f"`class_names` {what}") from None
