"""The chapters and their solutions: as committed, and executed anew."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

import keras_llm

ROOT = Path(keras_llm.__file__).parent.parent
FOLDER = ROOT / "notebooks"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
README = (ROOT / "README.md").read_text()

FIGURES = 2  # that a chapter shows at least
BUDGET = 600  # seconds for one cell, on a busy machine

ABSOLUTE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|Users|usr|opt|var|mnt|private)/")
WARNING = re.compile(r"[A-Z]\w*Warning: |\bWARNING:|^[WEI]\d{4} ", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def name(path):
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def budget(cell, notebook):
    """Seconds that a cell may take: `timeout` in its metadata or the notebook's, or the default."""
    return cell.metadata.get("timeout", notebook.metadata.get("timeout", BUDGET))


def execute(notebook, folder):
    """Executes a copy of a notebook in an empty folder; a cell that takes too long is an error."""
    executed = copy.deepcopy(notebook)
    client = NotebookClient(
        executed,
        timeout_func=lambda cell: budget(cell, executed),
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return executed


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def figures(cell):
    """Number of plots in a cell's outputs: of data with a PNG among its formats."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def missing_figures(notebook, executed):
    """The cells that show fewer plots when executed than they were committed with."""
    pairs = zip(code_cells(notebook), code_cells(executed), strict=True)
    return [cell.id for cell, anew in pairs if figures(anew) < figures(cell)]


def printed(output):
    """The texts that an output shows, in all its formats."""
    formats = output.get("data", {}).items()
    texts = [text for format, text in formats if isinstance(text, str) and "image" not in format]
    return [output.get("text", ""), *texts]


def faults(notebook, path, least_figures=0):
    """What is wrong with a committed notebook."""
    cells = code_cells(notebook)
    if [cell.id for cell in notebook.cells] != [f"cell-{i:02}" for i in range(len(notebook.cells))]:
        yield "the cells' ids are not cell-00, cell-01, ..."
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        yield "its cells were not executed in order, each once"
    if not any(cell.outputs for cell in cells):
        yield "it has no outputs"
    if sum(map(figures, cells)) < least_figures:
        yield f"it shows fewer than {least_figures} figures"
    for cell in cells:
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"{cell.id}: an error"
            if output.get("name") == "stderr":
                yield f"{cell.id}: stderr"
            if any("widget" in format for format in output.get("data", {})):
                yield f"{cell.id}: a widget, such as a progress bar; execute again, with the data"
            if any(WARNING.search(text) for text in printed(output)):
                yield f"{cell.id}: a warning"
    for cell in notebook.cells:
        texts = [cell.source, *(text for o in cell.get("outputs", []) for text in printed(o))]
        if any(ABSOLUTE_PATH.search(text) for text in texts):
            yield f"{cell.id}: an absolute path"
        if cell.cell_type == "markdown":
            targets = [target for target in LINK.findall(cell.source) if "://" not in target]
            for target in targets:
                if not (path.parent / target).exists():
                    yield f"{cell.id}: a link to {target}, which does not exist"


def unlisted(readme, chapters, solutions):
    """The chapters without solutions and the reverse, and what the table of the README omits."""
    chapters, solutions = ({path.name for path in paths} for paths in (chapters, solutions))
    for file in sorted(chapters ^ solutions):
        yield f"{file}: a chapter without solutions, or solutions without a chapter"
    for file in sorted(chapters & solutions):
        links = (f"](notebooks/{file})", f"](notebooks/solutions/{file})")
        rows = [line for line in readme.splitlines() if line.startswith("|")]
        if not any(all(link in row for link in links) for row in rows):
            yield f"{file}: no row of the README's table links to it and to its solutions"


def in_groups(paths):
    return [pytest.param(path, marks=pytest.mark.xdist_group(name(path))) for path in paths]


# Each notebook is a group of its own, so that they run side by side: see conftest.py.
@pytest.mark.parametrize("path", in_groups(CHAPTERS + SOLUTIONS), ids=name)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not missing_figures(notebook, execute(notebook, tmp_path))


@pytest.mark.parametrize("path", CHAPTERS + SOLUTIONS, ids=name)
def test_a_notebook_was_committed_whole(path):
    notebook = nbformat.read(path, as_version=4)
    assert not list(faults(notebook, path, FIGURES if path in CHAPTERS else 0))


def test_every_chapter_has_solutions_and_a_row_in_the_readme():
    assert CHAPTERS
    assert not list(unlisted(README, CHAPTERS, SOLUTIONS))


# That each check can fail, on a notebook of two cells.


def printing(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def showing(format, data):
    return nbformat.v4.new_output("display_data", {format: data})


def small_notebook(code="print('seen')", prose="A [link](notebook.ipynb).", output=None):
    """A notebook without faults, executed on paper."""
    cells = [
        nbformat.v4.new_markdown_cell(prose, id="cell-00"),
        nbformat.v4.new_code_cell(code, id="cell-01", execution_count=1),
    ]
    cells[1].outputs = [output or printing("seen\n")]
    return nbformat.v4.new_notebook(cells=cells)


FIGURE = showing("image/png", "iVBORw0KGgo=")
WIDGET = showing("application/vnd.jupyter.widget-view+json", {})


@pytest.fixture
def path(tmp_path):
    """Where the small notebook is said to lie."""
    file = tmp_path / "notebook.ipynb"
    file.touch()
    return file


def test_a_notebook_without_faults_has_none(path):
    assert not list(faults(small_notebook(), path))
    assert not list(faults(small_notebook(output=FIGURE), path, least_figures=1))
    url = small_notebook(prose="[A page](https://example.org/home/page), ./tmp/x, ~/work/y")
    assert not list(faults(url, path))


@pytest.mark.parametrize(
    ("notebook", "fault"),
    [
        (small_notebook(prose="See [this](missing.ipynb#there)."), "a link to missing.ipynb"),
        (small_notebook(prose="It lies in /home/me/texts."), "an absolute path"),
        (small_notebook(code="open('/tmp/x')"), "an absolute path"),
        (small_notebook(output=printing("read /root/x\n")), "an absolute path"),
        (small_notebook(output=showing("text/html", "<i>/work/x</i>")), "an absolute path"),
        (small_notebook(output=printing("slow", "stderr")), "stderr"),
        (small_notebook(output=printing("x.py:1: UserWarning: slow\n")), "a warning"),
        (small_notebook(output=printing("fine\nW0000 00:00:17 port.cc:153] slow")), "a warning"),
        (small_notebook(output=showing("text/plain", "WARNING:tensorflow:slow")), "a warning"),
        (small_notebook(output=WIDGET), "a widget"),
        (small_notebook(output=nbformat.v4.new_output("error")), "an error"),
        (small_notebook(), "fewer than 1 figures"),
    ],
)
def test_a_fault_is_found(notebook, fault, path):
    (found,) = faults(notebook, path, least_figures=int("figures" in fault))
    assert fault in found


@pytest.mark.parametrize("count", [None, 2])
def test_cells_that_were_not_executed_in_order_are_found(count, path):
    notebook = small_notebook()
    notebook.cells[1].execution_count = count
    assert list(faults(notebook, path)) == ["its cells were not executed in order, each once"]


def test_missing_outputs_and_other_ids_are_found(path):
    notebook = small_notebook()
    notebook.cells[1].outputs = []
    assert list(faults(notebook, path)) == ["it has no outputs"]
    notebook = small_notebook()
    notebook.cells[0].id = "intro"
    assert list(faults(notebook, path)) == ["the cells' ids are not cell-00, cell-01, ..."]


def test_the_copy_is_executed_and_the_notebook_stays(tmp_path):
    notebook = small_notebook(code="open('file', 'w').write('1'); print(6 * 7)")
    executed = execute(notebook, tmp_path)
    assert executed.cells[1].outputs[0].text == "42\n"
    assert notebook.cells[1].outputs[0].text == "seen\n"
    assert (tmp_path / "file").exists()


def test_an_error_in_a_cell_is_found(tmp_path):
    with pytest.raises(CellExecutionError, match="division by zero"):
        execute(small_notebook(code="1 / 0"), tmp_path)


@pytest.mark.parametrize("place", ["cell", "notebook"])
def test_a_cell_over_its_budget_is_found(place, tmp_path):
    notebook = small_notebook(code="while True: pass")
    owner = notebook if place == "notebook" else notebook.cells[1]
    owner.metadata["timeout"] = 1
    with pytest.raises(CellTimeoutError):
        execute(notebook, tmp_path)


def test_a_figure_that_is_no_longer_drawn_is_found(tmp_path):
    drawing = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    committed = small_notebook(code=drawing, output=FIGURE)
    assert not missing_figures(committed, execute(committed, tmp_path))
    committed.cells[1].source = "print('nothing')"
    assert missing_figures(committed, execute(committed, tmp_path)) == ["cell-01"]


@pytest.mark.parametrize(
    ("readme", "solutions", "found"),
    [
        ("| [a](notebooks/a.ipynb) | [s](notebooks/solutions/a.ipynb) |", ["s/a.ipynb"], None),
        ("| [a](notebooks/a.ipynb) | [s](notebooks/solutions/a.ipynb) |", [], "without solutions"),
        ("| [a](notebooks/a.ipynb) |", ["s/a.ipynb"], "no row"),
        ("| a | [s](notebooks/solutions/a.ipynb) |", ["s/a.ipynb"], "no row"),
        ("[a](notebooks/a.ipynb) [s](notebooks/solutions/a.ipynb)", ["s/a.ipynb"], "no row"),
    ],
)
def test_a_chapter_without_solutions_or_row_is_found(readme, solutions, found):
    problems = list(unlisted(readme, [Path("a.ipynb")], [Path(file) for file in solutions]))
    assert (not problems) if found is None else (found in problems[0])
