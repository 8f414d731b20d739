"""examples/tutorial.ipynb, which a new user starts with."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "tutorial.ipynb"


def cells_of_code():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_tutorial_was_executed_in_order_without_errors():
    cells = cells_of_code()
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "display_data" in kinds or "execute_result" in kinds
    assert "error" not in kinds
    for cell in cells:
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_the_tutorial_runs_from_end_to_end(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()  # raises what a cell raises
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream"
    )
    exported, keras = printed.split("('weed',) ")[1].split()[0], printed.split(" says Keras")[0].split()[-1]
    assert float(exported) == pytest.approx(float(keras), abs=1e-4)
    assert (tmp_path / "weed.onnx").is_file()
