"""Files and folders appear whole or not at all."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from keras_llm.storage import whole_file, whole_folder


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
        assert partial.name == path.name
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_after_an_error_the_old_file_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_a_file_that_is_not_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "note.txt"):
        pass
    assert not os.listdir(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "note.txt"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"), whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_a_killed_process_leaves_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    code = f"""
import os, signal
from keras_llm.storage import whole_file
with whole_file({str(path)!r}) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_folder_appears_whole_with_all_below_it(tmp_path):
    folder = tmp_path / "models" / "small"
    with whole_folder(folder) as partial:
        (partial / "assets").mkdir()
        (partial / "assets" / "vocabulary.txt").write_text("[PAD]")
        assert not folder.exists()
    assert (folder / "assets" / "vocabulary.txt").read_text() == "[PAD]"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert os.listdir(folder.parent) == ["small"]


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with whole_folder(tmp_path / "empty") as partial:
        (partial / "note.txt").write_text("new")
    for there in ("empty", "empty/note.txt"):
        with (
            pytest.raises(FileExistsError, match="choose another folder"),
            whole_folder(tmp_path / there),
        ):
            pass
    assert (tmp_path / "empty" / "note.txt").read_text() == "new"


def test_after_an_error_there_is_no_folder(tmp_path):
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model") as partial:
        (partial / "half.txt").write_text("half")
        raise RuntimeError
    assert not os.listdir(tmp_path)
