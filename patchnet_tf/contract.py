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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import InputError

# Keys in a file's metadata, which are texts: the contract, and the version of this package that wrote it.
KEY = "patchnet_tf.contract"
VERSION = "patchnet_tf.version"

IMAGE = "image"  # pixels, (batch, height, width, channels)
IMAGE_BYTES = "image_bytes"  # whole image files, (batch,); of SavedModels
HEATMAP_WANTED = "heatmap_wanted"  # bool, true unless given; of ONNX files
PROBABILITY = "probability"
HEATMAP = "heatmap"
OUTPUTS = (PROBABILITY, HEATMAP)

# Of TF Serving: what each signature returns. The last takes image files, the others pixels.
SERVING_DEFAULT = "serving_default"
SIGNATURES = {
    SERVING_DEFAULT: OUTPUTS,
    PROBABILITY: (PROBABILITY,),
    HEATMAP: (HEATMAP,),
    IMAGE_BYTES: OUTPUTS,
}

Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """What all parts of a contract have in common: no unknown key, no converted value."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a name that is given twice."""
    if len(set(names)) < len(names):
        raise ValueError("one name twice")
    return names


class Classes(Part):
    """The classes.

    Attributes:
        names: of class 0, black in heatmaps, and class 1, white.
        exclusive: whether an image has just one of them.
    """

    names: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        Field(strict=False, min_length=2, max_length=2),
        AfterValidator(each_once),
    ]
    exclusive: Literal[True] = True


class Pixels(Part):
    """The pixels that a model takes.

    Attributes:
        dtype: of numpy.
        range: least and largest value.
        channels: 1, grey; 3, RGB.
    """

    dtype: Literal["uint8"] = "uint8"
    range: Annotated[tuple[int, int], Field(strict=False)] = (0, 255)
    channels: Size


class Tensor(NamedTuple):
    """An input or output: its name, its numpy dtype, and the names or sizes of its axes."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


class Contract(Part):
    """What a model takes and answers.

    Attributes:
        classes: what it tells apart.
        pixels: of the images that it takes.
        smallest: (height, width) that an image must have at least.
        thresholds: the probability of class 1 above which an image is called class 1.

    Example:
        >>> contract = Contract(classes={"names": ["cat", "dog"]}, pixels={"channels": 3}, smallest=[17, 17])
        >>> Contract.from_json(contract.to_json()) == contract
        True
        >>> contract.class_of(0.7)
        'dog'
    """

    classes: Classes
    pixels: Pixels
    smallest: Annotated[tuple[Size, Size], Field(strict=False)]
    thresholds: Annotated[tuple[Share, ...], Field(strict=False)] = (0.5,)

    @model_validator(mode="after")
    def one_threshold(self) -> "Contract":
        """Refuse other than one threshold, which two classes have."""
        if len(self.thresholds) != 1:
            raise ValueError("expected one threshold for two classes")
        return self

    @property
    def image(self) -> Tensor:
        """The input that holds pixels."""
        return Tensor(IMAGE, self.pixels.dtype, ("batch", "height", "width", self.pixels.channels))

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by their names, in the order of `OUTPUTS`."""
        return {
            PROBABILITY: Tensor(PROBABILITY, "float32", ("batch",)),
            HEATMAP: Tensor(HEATMAP, "float32", ("batch", "height", "width")),
        }

    def class_of(self, probability: float) -> str:
        """Return the name of the class that a probability of class 1 means."""
        return self.classes.names[probability > self.thresholds[0]]

    def to_json(self) -> str:
        """Return the contract as JSON on one line."""
        return self.model_dump_json()

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


def make_classes(names: Sequence[str] | Any) -> Classes:
    """Return the classes of these names.

    Raises:
        InputError: they are not two different texts.
    """
    try:
        return Classes(names=None if isinstance(names, str) else names)
    except ValidationError:
        raise InputError(
            f"`class_names` must be two different names. Received: class_names={names!r}"
        ) from None
