"""The notebook of the examples, run from its first cell to its last as a person would."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.repository import REPOSITORY

pytestmark = pytest.mark.thorough


def test_the_notebook_runs_from_files_to_a_model(tmp_path: Path, no_ray: None) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    notebook = nbformat.read(REPOSITORY / "examples" / "notebook" / "first-run.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    data = [output["data"] for output in outputs if "data" in output]
    assert any("finished" in one.get("text/html", "") for one in data), "the facts, as a table"
    assert any("image/png" in one for one in data), "the curves"
    printed = [output["text"] for output in outputs if output.get("name") == "stdout"]
    assert printed[-1].startswith("def "), "a text that the model has written"
