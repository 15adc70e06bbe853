"""The book's website, built once and opened page by page in Chromium."""

import contextlib
import functools
import http.server
import importlib.util
import re
import runpy
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from test_architecture import public_names

import keras_llm

ROOT = Path(keras_llm.__file__).parent.parent
MATHJAX = importlib.util.find_spec("sphinx-mathjax-offline").submodule_search_locations[0]
# A page when its scripts are done: MathJax typesets once the page has loaded.
LOOK = """async () => {
    await window.MathJax?.startup?.promise;
    const all = (selector) => [...document.querySelectorAll(selector)];
    return {
        title: document.title,
        text: (document.querySelector("article") ?? document.body).innerText.trim(),
        formulas: all(".math").length,
        typeset: all(".math mjx-container").length,
        errors: all("mjx-merror[data-mjx-error]").map((formula) => formula.dataset.mjxError),
        images: all("img").length,
        broken: all("img").filter((image) => !image.naturalWidth).map((image) => image.src),
        links: all("a[href]").map((link) => link.href),
        ids: all("[id]").map((element) => element.id),
    };
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def served(folder):
    """Serves a folder on a free port of this machine; gives its address."""
    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def visit(browser, folder):
    """Opens every page of a website; returns what is seen on each, and all that is wrong."""
    seen, wrong = {}, []

    def only_from_the_site(route):
        if route.request.url.startswith((origin, "data:", "blob:")):
            return route.continue_()
        wrong.append(f"{address}: asks for {route.request.url}")
        return route.abort()

    def answered(response):
        if response.status >= 400:
            wrong.append(f"{address}: {response.status} for {response.url}")

    with served(folder) as origin, browser.new_context() as context:
        context.route("**/*", only_from_the_site)
        context.set_default_timeout(120_000)  # milliseconds; the machine may be busy
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"{address}: script: {error}"))
        page.on("response", answered)
        files = (file.relative_to(folder) for file in folder.rglob("*.html"))
        for address in sorted(file.as_posix() for file in files if file.parts[0] != "_static"):
            page.goto(origin + address)
            seen[address] = page.evaluate(LOOK)

    for address, found in seen.items():
        found["links"] = [link.removeprefix(origin) for link in found["links"]]
        problems = [*problems_on(found), *dead_links(found, seen, folder)]
        wrong += [f"{address}: {problem}" for problem in problems]
    return seen, wrong


def problems_on(found):
    """What is wrong with a page by itself."""
    if not found["title"] or not found["text"]:
        yield "no title or no text"
    if found["typeset"] != found["formulas"]:
        yield f"{found['typeset']} of {found['formulas']} formulas typeset"
    yield from (f"formula: {error}" for error in found["errors"])
    yield from (f"image not shown: {image}" for image in found["broken"])


def parts(link):
    """The page, or file, and the place in it that a link within the site leads to."""
    address, anchor = urldefrag(unquote(link))
    return address.partition("?")[0] or "index.html", anchor


def dead_links(found, seen, folder):
    """The links of a page to files that are not there, and to places that their page lacks."""
    for link in found["links"]:
        if re.match("https?:", link):
            continue
        address, anchor = parts(link)
        if not (folder / address).is_file():
            yield f"link to {address}, which does not exist"
        elif anchor and anchor not in seen[address]["ids"]:
            yield f"link to {address}#{anchor}, a place that does not exist"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the website, built as `make book` does."""
    folder = tmp_path_factory.mktemp("site") / "book"
    command = [sys.executable, str(ROOT / "docs" / "build.py"), str(folder)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def visited(site, browser):
    """What is seen on each page, and what is wrong."""
    return visit(browser, site)


def test_nothing_is_wrong_on_any_page(visited):
    seen, wrong = visited
    assert not wrong
    assert {"index.html", "README.html", "docs/api.html", "docs/architecture.html"} <= seen.keys()


def test_every_notebook_is_a_page_with_its_formulas_and_plots(visited):
    seen, _ = visited
    notebooks = {path.relative_to(ROOT) for path in (ROOT / "notebooks").rglob("[0-9]*.ipynb")}
    pages = {path.with_suffix(".html").as_posix() for path in notebooks}
    assert pages <= seen.keys()
    tour = seen["notebooks/00_tour.html"]
    assert tour["formulas"] > 20
    assert tour["images"] >= 6
    assert "注意力" in tour["text"]


def test_the_start_page_leads_to_every_page(visited):
    seen, _ = visited
    reached, new = set(), {"index.html"}
    while new:
        reached |= new
        links = (link for page in new for link in seen[page]["links"])
        new = {parts(link)[0] for link in links} & seen.keys() - reached
    assert reached == seen.keys() - {"search.html"}  # which the search field leads to


@pytest.mark.parametrize("room", [room for room in keras_llm.ROOMS if room != "cli"])
def test_every_public_name_is_described(room, site):
    page = (site / "docs" / "api" / f"keras_llm.{room}.html").read_text()
    names = public_names(room)
    assert names
    assert not [name for name in names if f'id="keras_llm.{room}.{name}"' not in page]


def test_formulas_in_docstrings_are_typeset(visited):
    seen, _ = visited
    assert seen["docs/api/keras_llm.training.html"]["typeset"] > 0


@pytest.mark.parametrize(
    ("docstring", "markup"),
    [
        ("The root $\\sqrt d$ of d.", "The root :math:`\\sqrt d` of d."),
        ("So\n    $$ a\n       = b $$\nhere", "So\n\n    .. math:: a = b\n\nhere"),
        ("Notable:\n- one,\n  or\n- two", "Notable:\n\n- one,\n  or\n\n- two"),
        ("Path: `$CACHE` or `$HOME`.", "Path: `$CACHE` or `$HOME`."),
    ],
)
def test_docstrings_may_have_dollars_and_lists(docstring, markup):
    lines = docstring.splitlines()
    runpy.run_path(str(ROOT / "docs" / "conf.py"))["typeset"](None, "", "", None, None, lines)
    assert lines == markup.splitlines()


def test_the_search_finds_a_chapter_and_a_class(site, browser):
    with served(site) as origin, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        for term, target in (("wordpiece", "00_tour.html"), ("EncoderBlock", "layers.html")):
            page.goto(f"{origin}search.html?q={term}")
            page.locator(f"#search-results a[href*='{target}']").first.wait_for()


def test_a_chapter_is_whole_without_a_server(site, browser):
    with browser.new_context() as context:
        page = context.new_page()
        page.goto((site / "notebooks" / "00_tour.html").as_uri())
        found = page.evaluate(LOOK)
    assert found["formulas"] > 20
    assert not list(problems_on(found))


# That each check can fail, on a page of one line.

PAGE = """<!DOCTYPE html><html><head><title>{title}</title>
<script>window.MathJax = {{tex: {{packages: {{"[-]": ["noundefined"]}}}}}}</script>
<script defer src="mathjax/tex-chtml.js"></script></head>
<body id="top"><p>Text</p>{body}</body></html>"""


def tiny_site(folder, body, title="A title"):
    (folder / "index.html").write_text(PAGE.format(title=title, body=body))
    (folder / "mathjax").symlink_to(Path(MATHJAX, "static", "mathjax"))
    return folder


GOOD = r"""<a href="index.html#top">here</a> <a href="https://example.org/">elsewhere</a>
<a href="mathjax/latest.js">a file</a> <span class="math">\(x^2\)</span>
<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">"""


def test_a_good_page_has_no_problem(browser, tmp_path):
    seen, wrong = visit(browser, tiny_site(tmp_path, GOOD))
    assert not wrong
    assert seen["index.html"]["typeset"] == seen["index.html"]["images"] == 1


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="missing.html">there</a>', "link to missing.html, which does not exist"),
        ('<a href="#missing">there</a>', "link to index.html#missing, a place that does not exist"),
        (
            '<a href="file:///etc/hosts">there</a>',
            "link to file:///etc/hosts, which does not exist",
        ),
        ('<img src="data:image/png;base64,AAAA">', "image not shown: data:image/png;base64,AAAA"),
        (r'<span class="math">\(\frac{x}\)</span>', "formula: Missing argument for \\frac"),
        (r'<span class="math">\(\unknown{x}\)</span>', "formula: Undefined control sequence"),
        ('<span class="math">x^2</span>', "0 of 1 formulas typeset"),
        ("<script>throw new Error('no')</script>", "script: no"),
        ('<script src="https://example.org/a.js"></script>', "asks for https://example.org/a.js"),
        ('<style>@import "https://example.org/a.css"</style>', "asks for https://example.org/a.c"),
    ],
)
def test_a_problem_is_found(body, problem, browser, tmp_path):
    _, wrong = visit(browser, tiny_site(tmp_path, body))
    assert len(wrong) == 1
    assert wrong[0].startswith(f"index.html: {problem}")


def test_a_missing_image_a_missing_title_and_an_empty_page_are_found(browser, tmp_path):
    _, wrong = visit(browser, tiny_site(tmp_path, '<img src="missing.png">'))
    assert any("404 for" in problem for problem in wrong)
    assert any("image not shown" in problem for problem in wrong)
    (tmp_path / "index.html").write_text("<p>Text</p>")
    assert visit(browser, tmp_path)[1] == ["index.html: no title or no text"]
    (tmp_path / "index.html").write_text("<title>A title</title>")
    assert visit(browser, tmp_path)[1] == ["index.html: no title or no text"]
