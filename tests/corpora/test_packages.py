import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from keras_llm.corpora.package_index import pip_settings, sources
from keras_llm.corpora.packages import Member, Package, cache_folder


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def tar_of(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    # Without the time of day: other processes must make the same file.
    return gzip.compress(buffer.getvalue(), mtime=0)


PLAIN, NESTED = "plain 你好\n".encode(), b"nested\n"
SDIST = tar_of(
    {
        "toy-1.0/setup.py": b"raise SystemExit('set-up code ran')",
        "toy-1.0/data/plain.txt": PLAIN,
        "toy-1.0/data/more.tar.gz": tar_of({"more/nested.txt": NESTED}),
    }
)
TOY = Package(
    "toy",
    "1.0",
    sha256(SDIST),
    {
        "plain.txt": Member(("toy-1.0/data/plain.txt",), sha256(PLAIN)),
        "nested.txt": Member(("toy-1.0/data/more.tar.gz", "more/nested.txt"), sha256(NESTED)),
    },
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """pip looks only into this folder, and the cache is empty."""
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    found = tmp_path / "wheelhouse"
    found.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found))
    monkeypatch.setenv("KERAS_LLM_CACHE", str(tmp_path / "cache"))
    return found


def offer(folder, content=SDIST):
    (folder / "toy-1.0.tar.gz").write_bytes(content)


def test_members_are_fetched_once_and_whole(folder):
    offer(folder)
    assert not TOY.is_cached()
    assert TOY.path("nested.txt").read_bytes() == NESTED
    assert TOY.is_cached()
    (folder / "toy-1.0.tar.gz").unlink()
    assert pickle.loads(pickle.dumps(TOY)).path("plain.txt").read_bytes() == PLAIN
    assert sorted(file.name for file in TOY.folder.iterdir()) == ["nested.txt", "plain.txt"]


def test_a_cached_file_with_another_hash_is_fetched_again(folder):
    offer(folder)
    TOY.path("plain.txt").write_bytes(b"tampered with")
    assert not TOY.is_cached()
    assert TOY.path("plain.txt").read_bytes() == PLAIN


def test_another_hash_again_is_an_error_and_leaves_nothing_wrong(folder):
    offer(folder)
    TOY.path("plain.txt").write_bytes(b"tampered with")
    other = tar_of({"toy-1.0/data/plain.txt": b"tampered with"})
    offer(folder, other)
    with pytest.raises(ValueError, match=f"{sha256(other)}, not {TOY.sha256}"):
        TOY.path("plain.txt")
    assert [file.name for file in TOY.folder.iterdir()] == ["nested.txt"]


def test_offline(monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(ConnectionError) as caught:
        TOY.path("plain.txt")
    message = str(caught.value)
    for expected in ("toy 1.0", "127.0.0.1:9", str(TOY.folder), "KERAS_LLM_CACHE", "index-url"):
        assert expected in message
    assert "secret" not in message
    assert list(TOY.folder.iterdir()) == []


def test_not_offered():
    with pytest.raises(ConnectionError, match="it is not offered there"):
        TOY.path("plain.txt")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_an_index_over_http(folder, monkeypatch, capsys):
    page = folder / "simple" / "toy"
    page.mkdir(parents=True)
    offer(page)
    (page / "index.html").write_text('<a href="toy-1.0.tar.gz">toy-1.0.tar.gz</a>')
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        assert TOY.path("plain.txt").read_bytes() == PLAIN
        server.shutdown()
    assert "toy 1.0" in capsys.readouterr().err


def content_of(name):
    return TOY.path(name).read_bytes()


def test_two_processes_at_once(folder):
    offer(folder)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert set(pool.map(content_of, ["plain.txt"] * 4)) == {PLAIN}
    assert sorted(file.name for file in TOY.folder.iterdir()) == ["nested.txt", "plain.txt"]


def test_pip_settings_in_pips_order(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text(
        "[global]\nindex-url = https://global.example/simple\ncert = a.pem\n"
        "extra-index-url = https://one.example\n    https://two.example\n"
        "[install]\ncert = b.pem\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_NO_INDEX")
    setting = pip_settings()
    assert setting("cert") == "b.pem"
    assert setting("proxy") == ""
    urls = [(place["type"], place["url"]) for place in sources(setting)]
    assert urls == [
        ("index", "https://global.example/simple"),
        ("index", "https://one.example"),
        ("index", "https://two.example"),
        ("find_links", os.environ["PIP_FIND_LINKS"]),
    ]
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example/simple")
    assert pip_settings()("index-url") == "https://variable.example/simple"


def test_cache_folder_of_the_system(monkeypatch):
    monkeypatch.delenv("KERAS_LLM_CACHE")
    assert cache_folder().name == "keras_llm"
