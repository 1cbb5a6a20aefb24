"""The notebooks, run from their first cell to their last as a reader does."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "notebooks"
SHOWN = {"learning_rates": 5, "own_network": 4}  # objects that show themselves


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own making
@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parents[1]))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # as they are kept: what they show is made here
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output["data"] for output in outputs if "text/html" in output.get("data", {})]
    assert len([data for data in shown if data["text/html"].startswith("<div")]) == SHOWN[name]
    assert all(len(data["text/plain"]) < 500 for data in shown)
    assert all(len(data["text/html"]) < 500_000 for data in shown)
