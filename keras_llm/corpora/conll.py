r"""Tagged sentences in columns: the files of the CoNLL shared tasks, read and written.

Notable:

- a line is a word with its columns, such as part of speech and name; a blank line ends a sentence.
  Columns are separated by tabs where the file has any, else by spaces (CoNLL-2003);
- lines "-DOCSTART- ..." (CoNLL-2003) and, in files with tabs, comments (CoNLL-U) are left out;
- a line that lacks the column that is asked for is an error with its number.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from keras_llm.corpora.files import numbered_lines
from keras_llm.storage import whole_file


def read_conll(
    path: str | Path, word_column: int = 0, tag_column: int = -1
) -> tuple[list[list[str]], list[list[str]]]:
    r"""Reads words and their tags, as `fit` and `evaluate` of a token classifier want them.

    Args:
        path: str or Path of a UTF-8 file, which may be a .gz.
        word_column: int, the column that is the word, from 0; 1 in CoNLL-U.
        tag_column: int, the column that is the tag; by default the last. 3 is the part of speech
            in CoNLL-U.

    Returns:
        Tuple of two lists of the same length, sentences and tags, each a list of lists of str.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has fewer columns, or there are no sentences; the message says where.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "names.conll")
        >>> _ = path.write_text("Ada NNP B-person\nspoke VBD O\n\nRome NNP B-place\n")
        >>> read_conll(path)
        ([['Ada', 'spoke'], ['Rome']], [['B-person', 'O'], ['B-place']])
        >>> folder.cleanup()
    """
    path = Path(path)
    lines = [(number, line.rstrip("\r\n")) for number, line in numbered_lines(path)]
    separator = "\t" if any("\t" in line for _, line in lines) else None
    sentences, tags, goes_on = [], [], False
    for number, line in lines:
        comment = separator and line.startswith("#") and separator not in line
        if not line.strip() or line.startswith("-DOCSTART-"):
            goes_on = False
        elif not comment:
            columns = line.split(separator)
            if len(columns) <= max(word_column, tag_column, 1):
                raise ValueError(
                    f"{path}, line {number}: expected a word and its tag in the columns "
                    f"{word_column} and {tag_column}, got {line!r:.100}."
                )
            if not goes_on:
                sentences.append([])
                tags.append([])
                goes_on = True
            sentences[-1].append(columns[word_column])
            tags[-1].append(columns[tag_column])
    if not sentences:
        raise ValueError(f"{path} holds no sentences. Expected a word and its tag on each line.")
    return sentences, tags


def write_conll(
    path: str | Path, sentences: Iterable[Sequence[str]], tags: Iterable[Sequence[str]]
) -> None:
    r"""Writes words and their tags, a word a line, a blank line after each sentence.

    The file appears whole or not at all.

    Args:
        path: str or Path.
        sentences: list of lists of str, the words.
        tags: list of lists of str, as many as there are words.

    Raises:
        ValueError: the numbers of words and tags differ, a sentence is empty, or a word or tag is
            empty or holds a tab or the end of a line; the message says in which record.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name, "names.conll")
        >>> write_conll(path, [["New", "York"]], [["B-place", "I-place"]])
        >>> path.read_text()
        'New\tB-place\nYork\tI-place\n\n'
        >>> folder.cleanup()
    """
    sentences, tags = list(sentences), list(tags)
    if len(sentences) != len(tags):
        raise ValueError(f"There are {len(sentences)} sentences and tags for {len(tags)}.")
    blocks = map(_block, range(len(tags)), sentences, tags)
    content = "".join(blocks).encode()  # all is checked before anything is written
    with whole_file(path) as partial:
        partial.write_bytes(content)


def _block(record: int, words: Sequence[str], tags: Sequence[str]) -> str:
    if len(words) != len(tags) or not words:
        raise ValueError(
            f"Sentence {record} has {len(words)} words and {len(tags)} tags. Each word has a tag, "
            "and a sentence has a word."
        )
    for column in (*words, *tags):
        if not column.strip() or not set("\t\r\n").isdisjoint(column):
            raise ValueError(
                f"Sentence {record}: {column!r} cannot be written. A word and a tag are not empty "
                "and hold neither tabs nor ends of lines."
            )
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n"
