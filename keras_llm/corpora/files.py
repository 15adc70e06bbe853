"""The user's own text: .txt, .jsonl, .csv (each also as .gz) and .parquet files.

Notable: everything streams. No line is read before its length is known to be bearable, and a
document too long to hold is passed on in parts. Text is decoded line by line, so that every error
can name file and line; Parquet, which has no lines, is read by pyarrow.
"""

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, count, groupby
from pathlib import Path
from typing import BinaryIO

import pyarrow
import pyarrow.parquet

from keras_llm.corpora.corpus import Corpus, Document

MAX_LINE_BYTES = 10_000_000
MAX_PART_CHARACTERS = 1_000_000
PARQUET_BATCH_ROWS = 256


def from_files(path: str | Path, language: str | None = None, text_field: str = "text") -> Corpus:
    r"""Reads the user's own text.

    In .txt files, UTF-8, documents are separated by blank lines. In .jsonl, .csv and .parquet files
    each row is a document: one column is its text, all others its metadata, so that a column
    "label" works with `Corpus.labelled`. A .csv file's metadata are strings. Rows without text are
    left out. A document of more than a million characters arrives in parts, cut at line ends.

    Args:
        path: str or Path, a file, a folder (with all its folders) or a glob pattern such as
            `texts/**/*.txt`. Folders and patterns are read in the order of the file names.
        language: str, ISO 639-1 code of the text, such as "en" or "zh", if known.
        text_field: str, the column that is the text.

    Returns:
        `Corpus` that reads the files anew each time it is iterated. Iterating raises ValueError,
        with the name of the file and the line, for text that cannot be read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another kind.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = Path(folder.name, "poems.txt").write_text("Tyger Tyger,\nburning bright\n\nO Rose")
        >>> [document.text for document in from_files(folder.name)]
        ['Tyger Tyger,\nburning bright', 'O Rose']
        >>> folder.cleanup()
    """
    return Corpus(
        name=str(path),
        read=partial(_read_files, _find_files(Path(path).expanduser()), text_field),
        description="The user's own text.",
        language=language,
        source=str(path),
    )


def _find_files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        if _kind(path) not in KINDS:
            raise ValueError(
                f"{path} is of no kind that can be read; these are {', '.join(KINDS)}."
            )
        return (path.absolute(),)
    pattern = glob.iglob(str(path), recursive=True)
    candidates = path.rglob("*") if path.is_dir() else map(Path, pattern)
    found = sorted(
        file.absolute() for file in candidates if _kind(file) in KINDS and file.is_file()
    )
    if not found:
        raise FileNotFoundError(
            f"Found no text at {str(path)!r}. Pass a file, a folder or a glob pattern with files "
            f"of the kinds {', '.join(KINDS)}."
        )
    return tuple(found)


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _read_files(paths: Iterable[Path], text_field: str) -> Iterator[Document]:
    documents = chain.from_iterable(_read_file(path, text_field) for path in paths)
    first = next(documents, None)
    if first is None:
        raise ValueError(
            f"The corpus is empty: no text in {', '.join(map(str, paths))[:1000]}. Pass files with "
            "text."
        )
    yield from chain([first], documents)


def _read_file(path: Path, text_field: str) -> Iterator[Document]:
    if _kind(path) == ".txt":
        return _paragraphs(path)
    return _row_documents(path, ROWS[_kind(path)](path), text_field)


def _paragraphs(path: Path) -> Iterator[Document]:
    """Streams the documents of a .txt file, which blank lines separate."""
    for is_blank, lines in groupby(numbered_lines(path), key=lambda item: not item[1].strip()):
        if not is_blank:
            number, first = next(lines)
            rest = (line for _, line in lines)
            yield from _in_parts(chain([first], rest), {}, f"{path}:{number}")


def _row_documents(
    path: Path, rows: Iterable[tuple[int, dict]], text_field: str
) -> Iterator[Document]:
    """Turns (line or row number, columns) into documents."""
    for number, row in rows:
        if text_field not in row:
            raise ValueError(
                f"{path}, line {number}: there is no column {text_field!r}; the columns are "
                f"{list(row)}. Pass the one with the text as `text_field`."
            )
        text = row.pop(text_field)
        if not isinstance(text, str | None):
            raise ValueError(
                f"{path}, line {number}: {text_field!r} must be a text but is {text!r:.100}."
            )
        if text and not text.isspace():
            yield from _in_parts(text.split("\n"), row, f"{path}:{number}")


def _in_parts(lines: Iterable[str], metadata: dict, document_id: str) -> Iterator[Document]:
    """Joins the lines of one document, or of bearable parts of it if it is over-long."""
    part, held, length = 0, [], 0
    for line in (line.rstrip("\r\n") for line in lines):
        if held and length + len(line) > MAX_PART_CHARACTERS:
            yield Document("\n".join(held), metadata, document_id, part)
            part, held, length = part + 1, [], 0
        held.append(line)
        length += len(line) + 1  # and the line's end
    yield Document("\n".join(held), metadata, document_id, part)


def _json_rows(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in numbered_lines(path):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: this is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: expected a JSON object such as "
                f'{{"text": "..."}}, got {line.strip():.100}.'
            )
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    csv.field_size_limit(MAX_LINE_BYTES)  # the module's own limit is 131,072 characters
    rows = csv.reader((line for _, line in numbered_lines(path)), strict=True)
    try:
        columns = next(rows, [])
        for values in filter(None, rows):  # a blank line is no row
            if len(values) != len(columns):
                raise csv.Error(f"{len(values)} values for the {len(columns)} columns {columns}")
            yield rows.line_num, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {rows.line_num}: this is not CSV: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=PARQUET_BATCH_ROWS)
            yield from enumerate(
                chain.from_iterable(map(pyarrow.RecordBatch.to_pylist, batches)), start=1
            )
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: this is not a Parquet file that can be read: {error}") from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Streams (number from 1, line with its end) from UTF-8 text, checking each line first."""
    offset = 0
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number in count(1):
            line = _read_line(file, path, number)
            if not line:
                return
            yield number, _decode(line, path, number, offset)
            offset += len(line)


def _read_line(file: BinaryIO, path: Path, number: int) -> bytes:
    try:
        line = file.readline(MAX_LINE_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, line {number}: the gzip file is damaged: {error}.") from error
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(
            f"{path}, line {number} is longer than {MAX_LINE_BYTES:,} bytes. Break it into lines, "
            "for instance one a paragraph; or check that this is a text file."
        )
    return line


def _decode(line: bytes, path: Path, number: int, offset: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, line {number}: byte {line[error.start]:#04x} at offset "
            f"{offset + error.start} of the file is not UTF-8. Convert the file to UTF-8, for "
            "instance with `iconv -f LATIN1 -t UTF-8`."
        ) from error
    # Some editors begin a file with the byte order mark.
    return text.removeprefix("\ufeff") if number == 1 else text


ROWS = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
KINDS = (".txt", *ROWS)
