"""Tables for the terminal: every figure, and nothing wider than 80 columns."""

import io

import pytest
from rich.console import Console

from patchnet_tf.cli.tables import LONGEST, comparison_tables, evaluation_tables
from patchnet_tf.evaluation.results import ByClass, Run

from .test_report import several


def lines(tables):
    """The lines of tables on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO())
    for table in tables:
        console.print(table)
    return console.file.getvalue().splitlines()


def run_of(compared):
    """What `patchnet evaluate` would have written of the network."""
    (model,), (method,) = compared.models, compared.methods
    return Run(
        validation=model.validation,
        masks=compared.masks,
        localization=method.localization,
        localization_per_class=method.localization_per_class,
        **{name: getattr(model, name) for name in ByClass.model_fields},
    )


@pytest.mark.parametrize(("classes", "multilabel"), [(2, True), (6, False), (20, False), (8, True)])
def test_each_class_has_its_line(tmp_path, classes, multilabel):
    compared, _ = several(tmp_path / "cells", classes, multilabel=multilabel)
    model = compared.models[0]
    shown = lines(evaluation_tables(run_of(compared)))
    assert max(map(len, shown)) <= 80
    rows = [line.strip("│").split("│") for line in shown if line.startswith("│")]
    rows = [[cell.strip() for cell in row] for row in rows]
    for k, (name, measured) in enumerate(model.per_class.items()):
        figures = [
            f"{measured[key].mean:.3f}" for key in ("recall", "precision", "auroc", "average_precision")
        ]
        limit = [f"{model.thresholds[k]:.3f}"] if multilabel else []
        heading = f"{k}: {name}"
        heading = heading if len(heading) <= LONGEST else heading[: LONGEST - 1] + "…"
        expected = [heading, str(measured["recall"].images), *figures, *limit]
        assert [
            cell.replace("–", "nan") for cell in next(row for row in rows if row[0] == heading)
        ] == expected
    if classes == 6:
        counts = [[str(count or "·") for count in row] for row in model.confusion]
        assert all(any(row[1:] == of_class for row in rows) for of_class in counts)
    assert any("most frequent mistakes" in line for line in shown) == (classes > 8)
    assert ["validation", f"{model.calibration.error:.3f}", f"{model.calibration.temperature:.2f}"] in rows

    shown = lines(comparison_tables(compared))
    assert max(map(len, shown)) <= 80
    assert any("balanced accuracy" in line for line in shown)
    assert not any("\\n" in line for line in shown)


def test_two_classes_have_one_table(tmp_path):
    compared, _ = several(tmp_path / "cells", 3)
    (table,) = evaluation_tables(Run(validation=compared.models[0].validation))
    assert len(lines([table])) == 4 + len(compared.models[0].validation)
