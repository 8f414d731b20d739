"""Results are read as they were written, and what is none is refused in one line."""

import datetime
import json
import math
import subprocess
import sys

import pytest

from patchnet_tf.errors import InputError
from patchnet_tf.evaluation import metrics
from patchnet_tf.evaluation.results import Comparison, Mean, Run

MEAN = Mean(0.75, 0.5, 1.0, 4, 1)
UNDEFINED = Mean(math.nan, math.nan, math.nan, 0, 5)
IN_JSON = {"mean": 0.75, "low": 0.5, "high": 1.0, "images": 4, "skipped": 1}
UNDEFINED_IN_JSON = {"mean": None, "low": None, "high": None, "images": 0, "skipped": 5}


@pytest.fixture
def run():
    return Run(
        date=datetime.date(2020, 2, 29),
        versions={"keras": "3.15.1"},
        validation={"loss": MEAN, "auroc": UNDEFINED},
        masks="collages",
        localization={"auroc": MEAN, "of_tomorrow": MEAN},
    )


@pytest.fixture
def comparison():
    faithfulness = {
        "deletion": MEAN,
        "insertion": UNDEFINED,
        "curves": {"share": [0, 1], "deletion": [0.9, 0.1], "insertion": [0.1, 0.9]},
    }
    return Comparison(
        date=datetime.date(2020, 2, 29),
        name="pets",
        class_names=("cat", "dog"),
        models=[
            {"slug": "patchnet5", "label": "PatchNet 5", "kind": "patchnet", "validation": {"loss": MEAN}}
        ],
        methods=[
            {
                "slug": "map",
                "label": "Map",
                "model": "patchnet5",
                "min_max_normalized": False,
                "faithfulness": faithfulness,
            },
        ],
        images=[
            {
                "name": "a",
                "label": None,
                "probability": {"patchnet5": 0.5},
                "localization": {"map": {"auroc": None, "recall": 1.0}},
            }
        ],
        config={"name": "pets", "data": {"size": None}},
    )


def test_a_run_in_json(run, tmp_path):
    path = tmp_path / "metrics.json"
    run.write(path)
    assert json.loads(path.read_text()) == {
        "date": "2020-02-29",
        "versions": {"keras": "3.15.1"},
        "validation": {"loss": IN_JSON, "auroc": UNDEFINED_IN_JSON},
        "test": None,
        "masks": "collages",
        "localization": {"auroc": IN_JSON, "of_tomorrow": IN_JSON},
    }
    assert Run.read(path) == run
    assert Run.read(path).validation["loss"] == MEAN
    assert math.isnan(Run.read(path).validation["auroc"].mean)


def test_a_comparison_is_read_as_it_was_written(comparison, tmp_path):
    path = tmp_path / "comparison.json"
    comparison.write(path)
    assert Comparison.read(path) == comparison
    content = json.loads(path.read_text())
    assert content["models"][0]["validation"] == {"loss": IN_JSON}
    assert content["models"][0]["seconds_per_epoch"] is None
    assert content["methods"][0]["faithfulness"]["insertion"] == UNDEFINED_IN_JSON
    assert content["images"][0]["localization"] == {"map": {"auroc": None, "recall": 1.0}}
    assert math.isnan(comparison.images[0].localization["map"]["auroc"])


def test_measures_of_both_kinds_are_results(tmp_path):
    run = Run(
        validation=metrics.classification([0.2, 0.9], [0, 0]),
        localization=metrics.localization([[[0.2, 0.9]]], [[[0, 1]]]),
    )
    run.write(tmp_path / "metrics.json")
    assert Run.read(tmp_path / "metrics.json") == run
    assert run.validation["accuracy"].mean == 0.5
    assert set(run.localization) == set(metrics.MEASURES)


BINS = {"error": 0.1, "temperature": 1, "counts": [1, 2], "probability": [0.2, 0.7], "share": [1, 0]}


def several(**fields):
    """A run of three classes, or what else is given."""
    names = ("crack", "dent", "smooth")
    kept = {
        "validation": {"loss": MEAN},
        "classes": names,
        "per_class": {name: {"auroc": MEAN} for name in names},
        "confusion": [[3, 0, 1], [0, 4, 0], [0, 2, 2]],
    }
    return {name: value for name, value in (kept | fields).items() if value is not None}


def test_a_run_of_several_classes(tmp_path):
    q = [[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]]
    whole, by_class = metrics.classification_of_classes(q, [0, 1, 2])
    run = Run(
        **several(
            validation=whole,
            per_class=dict(zip(("crack", "dent", "smooth"), by_class, strict=True)),
            confusion=metrics.confusion_matrix(q, [0, 1, 2]).tolist(),
            calibration=metrics.calibration(q, [0, 1, 2]),
        )
    )
    run.write(tmp_path / "metrics.json")
    assert Run.read(tmp_path / "metrics.json") == run
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert {"thresholds", "multilabel", "test_confusion"}.isdisjoint(content)
    labels = Run(**several(confusion=None, multilabel=True, thresholds=[0.5, 0.25, 0.75], thresholds_by="f1"))
    labels.write(tmp_path / "metrics.json")
    assert Run.read(tmp_path / "metrics.json") == labels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ("crack", "crack", "smooth")}, "one name twice"),
        ({"classes": ("crack",)}, "classes"),
        ({"per_class": {"crack": {}, "smooth": {}, "dent": {}}}, "in their order"),
        ({"confusion": [[1, 0], [0, 1]]}, "a row and a column"),
        ({"confusion": [[1, 0, 0], [0, 1, 0], [0, 1]]}, "a row and a column"),
        ({"confusion": [[1, 0, 0], [0, -1, 0], [0, 1, 0]]}, "confusion.1.1"),
        ({"multilabel": True}, "labels have none"),
        ({"thresholds": [0.5, 0.5, 0.5]}, "none for exclusive classes"),
        ({"multilabel": True, "confusion": None, "thresholds": [0.5]}, "one for each label"),
        ({"test_confusion": [[1]]}, "test_confusion"),
        ({"calibration": {**BINS, "probability": [0.5]}}, "bins differ"),
        ({"calibration": {**BINS, "temperature": 0}}, "calibration.temperature"),
    ],
)
def test_figures_of_other_classes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Run(**several(**fields))


@pytest.mark.parametrize(
    ("label", "probability", "multilabel", "message"),
    [
        (2, [0.1, 0.2, 0.7], False, None),
        ([0, 2], [0.9, 0.2, 0.7], True, None),
        ([], [0.1, 0.2, 0.3], True, None),
        (3, [0.1, 0.2, 0.7], False, "images.0.label"),
        ([0, 3], [0.1, 0.2, 0.7], True, "images.0.label"),
        ([0], [0.1, 0.2, 0.7], False, "images.0.label"),
        (0, [0.1, 0.9], False, "images.0.probability.net: expected 3 numbers"),
        (0, 0.5, False, "images.0.probability.net: expected 3 numbers"),
    ],
)
def test_images_of_several_classes(label, probability, multilabel, message, tmp_path):
    fields = {
        "name": "steel",
        "class_names": ("crack", "dent", "smooth"),
        "multilabel": multilabel,
        "models": [],
        "images": [{"name": "a", "label": label, "probability": {"net": probability}}],
    }
    if message:
        with pytest.raises(ValueError, match=message):
            Comparison(**fields)
    else:
        compared = Comparison(**fields)
        compared.write(tmp_path / "comparison.json")
        assert Comparison.read(tmp_path / "comparison.json") == compared
        assert compared.images[0].label == label


def test_two_classes_have_one_probability_and_nothing_new(comparison, tmp_path):
    comparison.write(tmp_path / "comparison.json")
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert "multilabel" not in content
    assert {"classes", "confusion", "calibration"}.isdisjoint(content["models"][0])
    content["images"][0]["probability"]["patchnet5"] = [0.5, 0.5]
    with pytest.raises(ValueError, match="expected one number"):
        Comparison.model_validate(content)


def test_keys_of_tomorrow_are_passed_over(run, tmp_path):
    path = tmp_path / "metrics.json"
    run.write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": [1]}))
    assert Run.read(path) == run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON (not text)"),
        (b"[1]", "content: "),
        (b"{}", "validation: Field required"),
        (b'{"validation": {"loss": 0.5}}', "validation.loss: "),
        (b'{"validation": {"loss": {"mean": 1e999}}}', "validation.loss.mean: "),
        (b'{"validation": {"loss": {"mean": NaN}}}', "not JSON (NaN is not a number in JSON)"),
        (b'{"validation": {"images": 8, "loss": 0.5, "intervals": {}}}', "validation.images: "),
    ],
)
def test_damage_is_one_line(tmp_path, content, message):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Run.read(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_what_was_expected_instead(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    for results in (Run, Comparison):
        with pytest.raises(InputError, match=f"expected what `{results.writer}` writes$"):
            results.read(tmp_path / "metrics.json")
        with pytest.raises(InputError, match=r"absent\.json: cannot be read \(No such file"):
            results.read(tmp_path / "absent.json")


def test_results_need_no_tensorflow():
    code = (
        "import patchnet_tf.evaluation.results, sys; sys.exit(bool({*sys.modules} & {'keras', 'tensorflow'}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
