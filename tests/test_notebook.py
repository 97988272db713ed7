"""The notebook runs in its short form; its committed outputs are complete and anonymous."""

import re

import nbclient
import nbformat
import pytest

from cifar10.core.settings import ROOT

NOTEBOOK = ROOT / "notebooks" / "cifar10.ipynb"
BOOK = nbformat.read(NOTEBOOK, as_version=4)


def outputs_of(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def text_of(output: nbformat.NotebookNode) -> str:
    """Everything in an output that a reader sees as text, or that is HTML."""
    kinds = output.get("data", {})
    shown = [content for kind, content in kinds.items() if kind.startswith("text/")]
    text = "".join([output.get("text", ""), *shown])
    return re.sub(r"data:image/png;base64,[\w+/=]+", "", text)


def assert_images_have_alt_texts(book: nbformat.NotebookNode) -> None:
    outputs = outputs_of(book)
    tags = [tag for output in outputs for tag in re.findall("<img .*?>", text_of(output))]
    assert len(tags) >= 15
    for tag in tags:
        assert re.search(r' alt="[^"]{20,}"', tag), tag
    # Another kind of image would have no alt text in JupyterLab.
    assert not any(kind.startswith("image/") for o in outputs for kind in o.get("data", {}))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter; those of the cells are on stderr
def test_the_short_form_runs_without_errors_and_warnings(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFAR10_SHORT", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # beside other tests, more threads are slower
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    stderr = [output.text for output in outputs_of(book) if output.get("name") == "stderr"]
    assert stderr == []
    assert_images_have_alt_texts(book)


def test_the_committed_outputs_come_from_one_run_without_errors():
    code = [cell for cell in BOOK.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = outputs_of(BOOK)
    assert "45,000 training images" in "".join(map(text_of, outputs)), "not the full form"
    assert "error" not in {output.output_type for output in outputs}
    assert "stderr" not in {output.get("name") for output in outputs}


def test_the_committed_outputs_contain_no_absolute_path():
    for output in outputs_of(BOOK):
        assert not re.search(r"(?<![\w.<])/\w+/|[A-Z]:\\", text_of(output))


def test_the_committed_images_have_alt_texts_and_moderate_size():
    assert_images_have_alt_texts(BOOK)
    assert NOTEBOOK.stat().st_size < 3_000_000


def test_every_exercise_has_a_hidden_answer():
    prose = [cell.source for cell in BOOK.cells if cell.cell_type == "markdown"]
    exercises = [text for text in prose if "### Exercise" in text]
    assert len(exercises) == 3
    for text in exercises:
        assert re.search(r"<details>\n<summary>Answer</summary>\n\n.+\n</details>", text, re.DOTALL)
