"""Files and folders that appear when they are whole.

Notable: what is written stands beside the final place until it is on the disk, then it is renamed.
A process that is killed, or a full disk, leaves what was there before.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["whole_file", "whole_folder"]


@contextlib.contextmanager
def whole_file(path):
    """Lets a file be written beside, and puts it in its place when the block ends without error.

    Args:
        path: str or Path of the file; one that is there is replaced.

    Yields:
        `pathlib.Path` to write to, of the same name and on the same disk.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(f"{folder}/note.txt") as partial:
        ...         _ = partial.write_text("Ada came.")
        ...     os.listdir(folder)
        ['note.txt']
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        partial = Path(folder, path.name)
        yield partial
        _sync(partial)
        os.replace(partial, path)


@contextlib.contextmanager
def whole_folder(folder):
    """Lets a folder be filled beside, and puts it in its place when the block ends without error.

    Args:
        folder: str or Path; not there yet, or empty.

    Yields:
        `pathlib.Path` of a folder to write into.

    Raises:
        FileExistsError: the folder holds something, or is a file.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with whole_folder(f"{place}/model") as partial:
        ...         _ = (partial / "config.json").write_text("{}")
        ...     os.listdir(f"{place}/model")
        ['config.json']
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already, and not empty: choose another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        partial.chmod(0o755)  # mkdtemp's 0o700 would lock other users out
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sync(file):
    """Waits until a file is on the disk."""
    with open(file, "rb") as written:
        os.fsync(written.fileno())
