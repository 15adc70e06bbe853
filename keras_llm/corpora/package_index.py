"""Finds and downloads a source distribution from the package index that pip is set to.

Notable: nothing of the package runs. `pip download` would run the set-up of a source distribution;
`unearth` only finds the file and fetches it.
"""

import ast
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from unearth import HashMismatchError, Link, PackageFinder
from unearth.auth import MultiDomainBasicAuth
from unearth.errors import UnpackError
from unearth.fetchers import PyPIClient

PYPI = "https://pypi.org/simple/"


def pip_settings() -> Callable[[str], str]:
    """Reads pip's configuration: its files and its environment variables.

    Returns:
        Function from an option's long name, such as "index-url", to its value, "" if not set. As in
        pip, a `PIP_*` variable comes before a file's `[install]`, and that before `[global]`.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, PIP_INDEX_URL="https://example.org/simple"):
        ...     pip_settings()("index-url")
        'https://example.org/simple'
    """
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    pairs = (line.partition("=") for line in listed.splitlines())
    in_files = {name: ast.literal_eval(value) for name, _, value in pairs}

    def setting(name: str) -> str:
        variable = "PIP_" + name.upper().replace("-", "_")
        return (
            os.environ.get(variable)
            or in_files.get(f"install.{name}")
            or in_files.get(f"global.{name}")
            or ""
        )

    return setting


def sources(setting: Callable[[str], str]) -> list[dict[str, str]]:
    """Lists where pip would look for a package.

    Args:
        setting: what `pip_settings` returned.

    Returns:
        List of `{"url": ..., "type": "index" or "find_links"}`, as `unearth` wants it.

    Example:
        >>> settings = {"extra-index-url": "https://example.org/simple"}
        >>> sources(lambda name: settings.get(name, ""))
        [{'url': 'https://pypi.org/simple/', 'type': 'index'},
         {'url': 'https://example.org/simple', 'type': 'index'}]
    """
    indexes = [setting("index-url") or PYPI, *setting("extra-index-url").split()]
    if setting("no-index").lower() in ("1", "true", "yes", "on"):
        indexes = []
    folders = setting("find-links").split()
    return [
        *({"url": url, "type": "index"} for url in indexes),
        *({"url": url, "type": "find_links"} for url in folders),
    ]


def download_sdist(name: str, version: str, sha256: str, folder: Path) -> Path:
    """Downloads the source distribution of one version of a package, with a progress bar.

    Args:
        name: str, the package.
        version: str, the exact version.
        sha256: str, what the file must hash to, in hexadecimal.
        folder: Path, the folder to write it to.

    Returns:
        Path of the file: in `folder`, or where it lies already if pip's find-links is a folder.

    Raises:
        ConnectionError: if the index cannot be reached or does not offer this version.
        ValueError: if the file has another hash.
    """
    setting = pip_settings()
    places = sources(setting)
    shown = ", ".join(Link(place["url"]).redacted for place in places) or "no index (no-index)"
    wanted = f"the source distribution of {name} {version}"
    try:
        with _session(setting, places) as session, _progress_bar() as bar:
            # Any Python will do: the package is read, not installed.
            finder = PackageFinder(session, no_binary=[name], ignore_compatibility=True)
            finder.sources = places
            found = next(iter(finder.find_matches(f"{name}=={version}")), None)
            if found is None:
                raise ConnectionError("it is not offered there")
            task = bar.add_task(f"{name} {version}", total=None)
            return finder.download(
                found.link,
                folder,
                hashes={"sha256": [sha256]},
                download_reporter=lambda link, completed, total: bar.update(
                    task, completed=completed, total=total
                ),
            )
    except HashMismatchError as error:
        raise ValueError(
            f"{found.link.redacted} is not {wanted} that is expected: its SHA-256 is "
            f"{error.actual['sha256']}, not {sha256}. Look at what pip's index-url and find-links "
            f"name: {shown}."
        ) from error
    except (httpx2.HTTPError, UnpackError, OSError) as error:
        raise ConnectionError(f"Cannot fetch {wanted} from {shown}: {error}.") from error


def _session(setting: Callable[[str], str], places: list[dict[str, str]]) -> PyPIClient:
    certificates = setting("cert")
    session = PyPIClient(
        verify=ssl.create_default_context(cafile=certificates) if certificates else True,
        trusted_hosts=setting("trusted-host").split(),
        follow_redirects=True,
    )
    indexes = [place["url"] for place in places if place["type"] == "index"]
    session.auth = MultiDomainBasicAuth(prompting=False, index_urls=indexes)
    return session


def _progress_bar() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True))
