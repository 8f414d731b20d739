import datetime
import shutil

import pytest
import yaml

from patchnet_tf.config import load_config
from patchnet_tf.errors import InputError
from patchnet_tf.evaluation.evaluate import evaluate
from patchnet_tf.evaluation.results import Mean, Run
from patchnet_tf.reporting.card import CARD, render_card, write_card


@pytest.fixture
def evaluated(run, tmp_path):
    """A run with figures that belongs to one test."""
    folder = shutil.copytree(run, tmp_path / "run")
    evaluate(folder)
    return folder


def head_of(card):
    """The YAML that a model hub reads."""
    start, head, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head)


def test_a_card_has_the_figures_of_the_run(evaluated):
    path = write_card(evaluated, license="mit")
    assert path == evaluated / "export" / "README.md"
    card, measured = path.read_text(), Run.read(evaluated / "metrics.json")
    head = head_of(card)
    assert head["license"] == "mit"
    assert head["library_name"] == "keras"
    [result] = head["model-index"][0]["results"]
    assert result["dataset"]["split"] == "validation"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == round(measured.validation["accuracy"].mean, 4)
    accuracy = measured.validation["accuracy"]
    assert f"{accuracy.mean:.3f} ({accuracy.low:.2f} to {accuracy.high:.2f})" in card
    exact = measured.localization["exact_match"]
    assert f"| exact match | {exact.mean:.3f} (" in card
    config = load_config(evaluated / "config.yaml")
    zero, one = config.data.classes
    count = measured.counts["training"]
    assert f"| training images | {count[zero]} {zero}, {count[one]} {one} |" in card
    assert f"{config.model.patch_size} x {config.model.patch_size} pixels" in card
    assert "There were 8 validation images" in card


def test_names_in_a_card_are_shown_and_are_no_markup():
    names = ("a|b", "<script>", "*bold* `x`", "line\nbreak")
    mean = Mean(0.5, 0.4, 0.6, 200, 0)
    figures = dict.fromkeys(("recall", "precision", "auroc", "average_precision"), mean)
    measured = Run(
        date=datetime.date(2020, 2, 29),
        versions={"keras": "3"},
        classes=names,
        multilabel=True,
        validation=dict.fromkeys(("loss", "accuracy", "auroc"), mean),
        per_class=dict.fromkeys(names, figures),
        thresholds=[0.1, 0.2, 0.3, 0.4],
        thresholds_by="f1",
        counts={"training": dict.fromkeys(names, 3)},
    )
    config = load_config("configs/folder.yaml", ["name=x"])
    config = config.model_copy(update={"data": config.data.model_copy(update={"classes": names})})
    card = render_card(config, measured, 7, "other")
    assert head_of(card)["license"] == "other"
    body = card.split("---\n", 2)[2]
    assert r"Classes: a\|b, \<script\>, \*bold\* \`x\`, line\\nbreak." in body
    assert r"| a\|b | 0.500 (0.40 to 0.60) | 0.500 (0.40 to 0.60) |" in body
    assert "| 0.300 |" in body
    assert "<script>" not in body
    assert "line\n" not in body
    assert "efficientnet_lite0 (imagenet)" in body
    assert "Apache-2.0" in body
    assert "There were" not in body  # 200 images are not few
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_what_has_no_card(evaluated, tmp_path):
    with pytest.raises(InputError, match=r"one word .* Received: 'my licence'"):
        write_card(evaluated, license="my licence")
    (evaluated / "metrics.json").unlink()
    with pytest.raises(InputError, match="not evaluated yet"):
        write_card(evaluated)
    with pytest.raises(InputError, match="not a run folder"):
        write_card(tmp_path)
    assert not (evaluated / CARD).exists()


def test_the_command(evaluated, patchnet):
    code, out, _ = patchnet("report", evaluated, "--card")
    assert code == 0
    assert "Model card: " in out
    assert head_of((evaluated / CARD).read_text())["license"] == "other"
    code, _, err = patchnet("report", evaluated, "--license", "mit")
    assert code == 2
    assert "--card" in err
