"""The notebooks run from the first cell to the last, and their stored outputs are small."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_three_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["inside_itm", "quickstart", "read_results"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_small_complete_and_of_the_whole_notebook(path):
    assert path.stat().st_size < 100_000
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("ITM_HOME", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    pictures = [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()  # raises CellExecutionError with the cell and its traceback
    shown = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert [bool(outputs) for outputs in shown] == [bool(count) for count in pictures], "a cell has lost its output"
