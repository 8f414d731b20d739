"""What was measured: the types that commands write, and that tables and the report read.

    Mean            one figure, averaged over images, with its interval
    Run             metrics.json, what `patchnet evaluate` measured
    Comparison      comparison.json, what `patchnet compare` measured

A measure is a `Mean` under its name: "loss", "accuracy" and "auroc" of a classifier, those of
`metrics.MEASURES` of maps. In Python an undefined figure is NaN; in JSON, which has no NaN, it is null. This
module needs neither Keras nor TensorFlow, so that the report does without them.
"""

import datetime
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from ..errors import InputError
from ..files import parse_json, write_json


def from_json(value: Any) -> Any:
    """Return NaN for null."""
    return math.nan if value is None else value


def to_json(value: float) -> float | None:
    """Return null for NaN."""
    return None if math.isnan(value) else value


def finite_or_nan(value: float) -> float:
    """Refuse infinity; return always the same NaN, so that results which hold it can be equal."""
    if math.isinf(value):
        raise ValueError("expected a finite number or null")
    return math.nan if math.isnan(value) else value


Figure = Annotated[
    float, BeforeValidator(from_json), AfterValidator(finite_or_nan), PlainSerializer(to_json)
]  # NaN where it is undefined
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Slug = Annotated[str, Field(pattern=r"^\w[\w-]*$")]  # part of a file's name


class Mean(NamedTuple):
    """The mean of a measure over images, and how sure it is.

    Attributes:
        mean: over the images where the measure is defined; NaN where it is defined for none.
        low: lower end of the 95 % interval; NaN below two images.
        high: upper end.
        images: the number of images that the mean is over.
        skipped: the number of the others.
    """

    mean: Figure
    low: Figure
    high: Figure
    images: Count
    skipped: Count


def mean_to_json(mean: Mean) -> dict[str, float | None]:
    """Return a mean as an object; pydantic would write a list."""
    return {name: to_json(value) for name, value in mean._asdict().items()}


NamedMean = Annotated[Mean, PlainSerializer(mean_to_json)]
Measures = dict[str, NamedMean]


def count_images(measures: Measures) -> int:
    """Return how many images were measured, counting those where a measure is undefined."""
    return max((mean.images + mean.skipped for mean in measures.values()), default=0)


class Part(BaseModel):
    """What all results have in common: they are frozen, and keys that are not read may stand beside."""

    model_config = ConfigDict(frozen=True)


class Results(Part):
    """Results that have a file of their own.

    Attributes:
        date: when they were measured.
        versions: of the packages that measured them.
    """

    writer: ClassVar[str]  # the command that writes the file

    date: datetime.date | None = None
    versions: dict[str, str] = {}

    def write(self, path: Path) -> None:
        """Write the file, as JSON.

        Raises:
            OSError: it cannot be written.
        """
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            InputError: the file cannot be read, or holds something else, such as the results of an earlier
                version.
        """
        try:
            content = parse_json(path.read_bytes(), str(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "content"
            raise InputError(
                f"{path}: {where}: {first['msg']}; expected what `{cls.writer}` writes"
            ) from None


class Run(Results):
    """metrics.json: the figures of a trained network and of its maps.

    Attributes:
        validation: what `metrics.classification` measured on the validation images.
        test: the same on the test images; None where there are none.
        masks: what the masks show, in one word; None where there are no masks.
        localization: what `metrics.localization` measured on the images with masks; None without masks.

    Example:
        >>> Run.read(Path("runs/demo/metrics.json")).validation["accuracy"].mean
        1.0
    """

    writer = "patchnet evaluate"

    validation: Measures
    test: Measures | None = None
    masks: str | None = None
    localization: Measures | None = None


class Model(Part):
    """A trained network of a comparison.

    Attributes:
        slug: name of its folder.
        label: as tables call it.
        kind: as in `model.kind` of a configuration.
        patch_size: in pixels; None where the network has no patches.
        parameters: number of them.
        epochs: number of those that it was trained for.
        best_epoch: whose weights were kept.
        seconds_per_epoch: the median.
        ended: what ended the training.
        validation: as in `Run`; None where it was not measured.
        test: as in `Run`.
    """

    slug: Slug
    label: str
    kind: str
    patch_size: int | None = None
    parameters: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    seconds_per_epoch: Figure = math.nan
    ended: str | None = None
    validation: Measures | None = None
    test: Measures | None = None


class Curves(Part):
    """The mean probability of class 1 over the share of pixels that are deleted or inserted."""

    share: list[Number]
    deletion: list[Number]
    insertion: list[Number]

    @model_validator(mode="after")
    def equally_long(self) -> Self:
        """Refuse curves without a value for each share."""
        if not len(self.share) == len(self.deletion) == len(self.insertion):
            raise ValueError("curves differ in length")
        return self


class Faithfulness(Part):
    """Areas below the deletion and the insertion curves, and the mean curves."""

    deletion: NamedMean
    insertion: NamedMean
    curves: Curves | None = None


class Method(Part):
    """A way to draw maps of a network.

    Attributes:
        slug: name of its files.
        label: as tables call it.
        model: slug of the network.
        min_max_normalized: whether each map is scaled from its own lowest to its own highest value; the
            others are decisions, where 0.5 means undecided.
        localization: as in `Run`.
        faithfulness: None without an image of class 1.
    """

    slug: Slug
    label: str
    model: Slug
    min_max_normalized: bool
    localization: Measures | None = None
    faithfulness: Faithfulness | None = None


class Image(Part):
    """An image that maps were drawn of.

    Attributes:
        name: as tables call it.
        label: its class; None where it shows both.
        probability: of class 1, by the slug of the network.
        localization: the figure of each measure, by the slug of the method; None without masks.
    """

    name: str
    label: Literal[0, 1] | None = None
    probability: dict[str, Figure] = {}
    localization: dict[str, dict[str, Figure]] | None = None


class Comparison(Results):
    """comparison.json: the figures of several networks and their maps of the same images.

    Attributes:
        name: of the configuration.
        class_names: of class 0, black in maps, and class 1, white.
        masks: as in `Run`.
        models: the networks.
        methods: the ways to draw maps, in the order of the networks.
        images: those of maps/*.npy, in their order.
        config: the configuration.

    Example:
        >>> [model.label for model in Comparison.read(Path("runs/demo-comparison/comparison.json")).models]
        ['PatchNet 17', 'VGG-19, CAM', 'VGG-11']
    """

    writer = "patchnet compare"

    name: str
    class_names: tuple[str, str]
    masks: str | None = None
    models: list[Model]
    methods: list[Method] = []
    images: list[Image] = []
    config: dict[str, Any] = {}
