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
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
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
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
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


def frequent_mistakes(confusion: Sequence[Sequence[int]], most: int) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, images) of the most frequent mistakes in a confusion matrix."""
    mistakes = [
        (k, j, count) for k, row in enumerate(confusion) for j, count in enumerate(row) if k != j and count
    ]
    return sorted(mistakes, key=lambda mistake: -mistake[2])[:most]


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


def without(written: dict[str, Any], optional: Collection[str]) -> dict[str, Any]:
    """Return what is written without those optional fields that say nothing."""
    return {
        name: value
        for name, value in written.items()
        if name not in optional or not (value is None or value is False)
    }


class Calibration(Part):
    """How far the probabilities of a network are from how often it is right.

    Attributes:
        error: the expected calibration error, over bins of equal width.
        temperature: that calibrates the probabilities best; it is not applied.
        counts: of probabilities in each bin.
        probability: the mean in each bin; NaN where it is empty.
        share: of those in each bin that are true; NaN where it is empty.
    """

    error: Share
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    counts: Annotated[list[Count], Field(min_length=1)]
    probability: list[Figure]
    share: list[Figure]

    @model_validator(mode="after")
    def equally_long(self) -> Self:
        """Refuse other than one value for each bin."""
        if not len(self.counts) == len(self.probability) == len(self.share):
            raise ValueError("bins differ in number")
        return self


class ByClass(Part):
    """What a network of several classes or labels has besides; where it is not given, it is not written.

    Attributes:
        classes: their names; None for two exclusive classes.
        multilabel: whether an image may have several of them, or none: they are labels.
        per_class: what `metrics.classification_of_classes` measured of each class on the validation images.
        test_per_class: the same on the test images.
        confusion: on the validation images, a row for each true class, a column for each predicted one;
            None for labels.
        test_confusion: the same on the test images.
        thresholds: of each label, above which an image gets it.
        thresholds_by: the rule that chose them on the validation images; None for those that were given.
        calibration: on the validation images; two classes may have it too.
        test_calibration: the same on the test images, except its temperature, which should not be used.
    """

    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    multilabel: bool = False
    per_class: dict[str, Measures] | None = None
    test_per_class: dict[str, Measures] | None = None
    confusion: list[list[Count]] | None = None
    test_confusion: list[list[Count]] | None = None
    thresholds: list[Share] | None = None
    thresholds_by: Literal["youden", "f1"] | None = None
    calibration: Calibration | None = None
    test_calibration: Calibration | None = None

    @model_validator(mode="after")
    def one_for_each_class(self) -> Self:
        """Refuse figures of other classes."""
        names = self.classes or ()
        if len(set(names)) < len(names):
            raise ValueError("classes: one name twice")
        for field in type(self).model_fields:
            value = getattr(self, field)
            if field.endswith("per_class") and value is not None and tuple(value) != names:
                raise ValueError(f"{field}: expected the names in `classes`, in their order")
            if field.endswith("confusion") and value is not None:
                if self.multilabel:
                    raise ValueError(f"{field}: labels have none")
                if [len(row) for row in value] != [len(names)] * len(names):
                    raise ValueError(f"{field}: expected a row and a column for each name in `classes`")
        if self.thresholds is not None and (not self.multilabel or len(self.thresholds) != len(names)):
            raise ValueError("thresholds: expected one for each label, and none for exclusive classes")
        return self

    @model_serializer(mode="wrap")
    def without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not given, so that files of two classes have only what they need."""
        optional = ByClass.model_fields.keys() | {"counts", "localization_per_class"}
        return without(write(self), optional)


class Run(Results, ByClass):
    """metrics.json: the figures of a trained network and of its maps.

    Attributes, beside those of `ByClass`:
        validation: what `metrics.classification` measured on the validation images.
        test: the same on the test images; None where there are none.
        counts: of the images of each class, by split; an image with several labels counts at each.
        masks: what the masks show, in one word; None where there are no masks.
        localization: what `metrics.localization` measured on the images with masks; None without masks.
        localization_per_class: the same over the maps and masks of each class.

    Example:
        >>> Run.read(Path("runs/demo/metrics.json")).validation["accuracy"].mean
        1.0
    """

    writer = "patchnet evaluate"

    validation: Measures
    test: Measures | None = None
    counts: dict[str, dict[str, Count]] | None = None
    masks: str | None = None
    localization: Measures | None = None
    localization_per_class: dict[str, Measures] | None = None


class Model(ByClass):
    """A trained network of a comparison.

    Attributes, beside those of `ByClass`:
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
        localization_per_class: as in `Run`; None for two classes.
        faithfulness: None without an image of class 1.
    """

    slug: Slug
    label: str
    model: Slug
    min_max_normalized: bool
    localization: Measures | None = None
    localization_per_class: dict[str, Measures] | None = None
    faithfulness: Faithfulness | None = None

    @model_serializer(mode="wrap")
    def without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what two classes do not have."""
        return without(write(self), {"localization_per_class"})


class Image(Part):
    """An image that maps were drawn of.

    Attributes:
        name: as tables call it.
        label: the number of its class, or those of its labels; None where it shows several, or none is
            given.
        probability: by the slug of the network: of class 1, or a list of those of all classes.
        localization: the figure of each measure, by the slug of the method; None without masks.
    """

    name: str
    label: Count | list[Count] | None = None
    probability: dict[str, Figure | list[Figure]] = {}
    localization: dict[str, dict[str, Figure]] | None = None


class Comparison(Results):
    """comparison.json: the figures of several networks and their maps of the same images.

    Attributes:
        name: of the configuration.
        class_names: of two classes class 0, black in maps, and class 1, white; of others in their order.
        multilabel: as in `ByClass`; left out where it is false.
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
    class_names: Annotated[tuple[str, ...], Field(min_length=2)]
    multilabel: bool = False
    masks: str | None = None
    models: list[Model]
    methods: list[Method] = []
    images: list[Image] = []
    config: dict[str, Any] = {}

    @model_validator(mode="after")
    def one_for_each_class(self) -> Self:
        """Refuse images and networks of other classes."""
        classes = len(self.class_names)
        binary = classes == 2 and not self.multilabel
        for k, image in enumerate(self.images):
            several = isinstance(image.label, list)
            numbers = image.label if several else [image.label or 0]
            if (several and not self.multilabel) or not all(number < classes for number in numbers):
                raise ValueError(f"images.{k}.label: expected the number of a class, below {classes}")
            for slug, value in image.probability.items():
                if isinstance(value, list) == binary or (not binary and len(value) != classes):
                    expected = "one number" if binary else f"{classes} numbers"
                    raise ValueError(f"images.{k}.probability.{slug}: expected {expected}")
        for k, model in enumerate(self.models):
            if model.classes is not None and model.classes != self.class_names:
                raise ValueError(f"models.{k}.classes: expected those in `class_names`")
        return self

    @model_serializer(mode="wrap")
    def without_empty(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what two classes do not have."""
        return without(write(self), {"multilabel"})
