"""The notebook from top to bottom, in its short form."""

import re

import nbclient
import nbformat
import pytest

from cifar10.core.settings import ROOT

NOTEBOOK = ROOT / "notebooks" / "cifar10.ipynb"


@pytest.mark.filterwarnings("default")  # of Jupyter itself; what the cells say is looked at below
def test_it_runs_without_an_error_or_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_SHORT", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    said = [output.text for output in outputs if output.get("name") == "stderr"]
    assert said == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 12


def test_its_outputs_are_committed_whole_and_tell_of_no_machine():
    book = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs}.isdisjoint({"error"})
    for output in outputs:
        said = output.get("text", "") + "".join(
            content for kind, content in output.get("data", {}).items() if kind.startswith("text/")
        )
        assert not re.search(r"(?<![\w.])/\w+/|[A-Z]:\\", said)  # an absolute path
    assert NOTEBOOK.stat().st_size < 4_000_000
