import csv
import gzip
import io
import json
import pickle
import re
import tracemalloc

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_llm.corpora import files, from_files

LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=10)
SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def texts(path, **options):
    return list(from_files(path, **options).texts())


@SHARED_FOLDER
@given(st.lists(LINES | st.just(""), max_size=20), st.sampled_from(["\n", "\r\n"]))
def test_blank_lines_separate_documents(tmp_path, lines, line_end):
    path = tmp_path / "text.txt"
    path.write_bytes(line_end.join(lines).encode())
    blocks = re.split(r"\n(?:\n)+", "\n".join(line if line.strip() else "" for line in lines))
    expected = [block.strip("\n") for block in blocks if block.strip("\n")]
    if expected:
        assert texts(path) == expected
    else:
        with pytest.raises(ValueError, match="empty"):
            texts(path)


ROWS = st.lists(
    st.fixed_dictionaries({"text": st.text(min_size=1), "label": st.integers(0, 9)}), min_size=1
).filter(lambda rows: any(row["text"].strip() for row in rows))


@SHARED_FOLDER
@given(ROWS)
def test_jsonl_and_parquet_give_the_rows_that_were_written(tmp_path, rows):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    expected = [
        ("\n".join(line.rstrip("\r") for line in row["text"].split("\n")), {"label": row["label"]})
        for row in rows
        if row["text"].strip()
    ]
    for name in ("rows.jsonl", "rows.parquet"):
        documents = from_files(tmp_path / name)
        assert [(document.text, document.metadata) for document in documents] == expected


@SHARED_FOLDER
@given(st.lists(st.tuples(LINES.filter(str.strip), LINES), min_size=1))
def test_csv_agrees_with_pyarrow(tmp_path, rows):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("label", "text"), *rows])
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(("label", "text"), "string"))
    expected = pyarrow.csv.read_csv(path, convert_options=as_text).to_pylist()
    expected = [row for row in expected if row["text"].strip()]
    if expected:
        documents = from_files(path)
        got = [{"text": document.text, **document.metadata} for document in documents]
        assert got == expected


def test_csv_keeps_line_breaks_in_quotes_and_takes_another_column(tmp_path):
    (tmp_path / "a.csv").write_text('id,review\n1,"two\nlines"\n2,one\n')
    assert texts(tmp_path, text_field="review") == ["two\nlines", "one"]


def test_labels_come_with_the_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nfine,1\nbad,0\n")
    assert from_files(tmp_path).labelled(classes=("0",)) == (["bad"], ["0"])


def test_gzip_and_byte_order_mark(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("\ufeff你好".encode()))
    assert texts(tmp_path) == ["你好"]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"hello" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"a\.txt\.gz, line 1.*damaged"):
        texts(tmp_path)


def test_folders_and_patterns_are_read_in_order(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "folder.txt").mkdir()
    for name in ("b.txt", "a.txt", "sub/c.txt", "a.jsonl", "notes.md"):
        content = json.dumps({"text": name}) if name.endswith("jsonl") else name
        (tmp_path / name).write_text(content)
    assert texts(tmp_path) == ["a.jsonl", "a.txt", "b.txt", "sub/c.txt"]
    assert texts(str(tmp_path / "*.txt")) == ["a.txt", "b.txt"]
    assert texts(str(tmp_path / "**/*.txt")) == ["a.txt", "b.txt", "sub/c.txt"]
    monkeypatch.chdir(tmp_path)
    corpus = pickle.dumps(from_files("b.txt", language="en"))
    monkeypatch.chdir("/")
    assert pickle.loads(corpus).language == "en"
    assert list(pickle.loads(corpus).texts()) == ["b.txt"]
    assert len({document.id for document in from_files(tmp_path)}) == 4


def test_long_documents_come_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_PART_CHARACTERS", 100)
    lines = [f"line {number} " + "x" * (number % 37) for number in range(60)]
    (tmp_path / "a.txt").write_text("short\n\n" + "\n".join(lines))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "\n".join(lines), "label": 1}))
    documents = list(from_files(tmp_path))
    for suffix in ("a.txt:3", "b.jsonl:1"):
        parts = [document for document in documents if document.id.endswith(suffix)]
        assert [document.part for document in parts] == list(range(len(parts)))
        assert len(parts) > 5
        assert all(len(document.text) <= 100 for document in parts)
        assert "\n".join(document.text for document in parts).split("\n") == lines


def write_long_text(path, megabytes, blank_line_every):
    line = "The quick brown fox jumps over the lazy dog. " * 20 + "\n"
    with path.open("w") as file:
        for number in range(megabytes * 1_000_000 // len(line)):
            file.write(line + ("\n" if number % blank_line_every == 0 else ""))


@pytest.mark.parametrize("blank_line_every", [10, 10**9])
def test_memory_does_not_grow_with_the_file(tmp_path, blank_line_every):
    write_long_text(tmp_path / "a.txt", 30, blank_line_every)
    tracemalloc.start()
    length = sum(map(len, from_files(tmp_path).texts()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert length > 29_000_000
    # A part of a million characters is held as lines and, for a moment, joined.
    assert peak < 5_000_000


def test_a_line_without_end_is_refused_unread(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.write(b"fine\n")
        file.truncate(50_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"a\.txt, line 2 is longer than 10,000,000 bytes.*Break"):
        texts(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25_000_000


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_undecodable_bytes_are_located(tmp_path, name):
    content = 'text\n{"text": "é"}\n'.encode() + b"caf\xe9 au lait\n"
    if name == "a.jsonl":
        content = content.removeprefix(b"text\n")
    (tmp_path / name).write_bytes(content)
    line = content.count(b"\n")
    offset = content.index(b"\xe9 au")
    expected = rf"{name}, line {line}: byte 0xe9 at offset {offset} .* UTF-8"
    with pytest.raises(ValueError, match=expected):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"body": "x", "label": 1}',
            r"line 1.*'text'.*\['body', 'label'\].*text_field",
        ),
        ("a.csv", "body,label\nx,1\n", r"'text'.*\['body', 'label'\]"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"a\.jsonl, line 2: this is not JSON"),
        ("a.jsonl", '["x"]\n', r"line 1: expected a JSON object"),
        ("a.jsonl", '{"text": 3}\n', r"line 1: 'text' must be a text but is 3"),
        (
            "a.csv",
            "text,label\nx,1\ny\n",
            r"a\.csv, line 3: this is not CSV: 1 values for the 2 columns",
        ),
        ("a.csv", "text,label\nx,1,2\n", r"line 2: .* 3 values for the 2 columns"),
        ("a.csv", 'text\n"x\n', r"a\.csv, line 2: this is not CSV"),
        ("a.parquet", "no", r"a\.parquet: this is not a Parquet file"),
        ("a.txt", " \n\n\t\n", r"The corpus is empty.*a\.txt"),
        ("a.csv", "", "The corpus is empty"),
        ("a.jsonl", '{"text": " "}\n{"text": null}', "The corpus is empty"),
    ],
)
def test_bad_content(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path / name)


def test_parquet_without_the_column(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"'text'.*\['body'\]"):
        texts(tmp_path)


def test_fields_longer_than_the_csv_module_allows(tmp_path):
    content = io.StringIO()
    csv.writer(content).writerows([["text"], ["word " * 50_000]])
    (tmp_path / "a.csv").write_text(content.getvalue())
    assert [len(text) for text in texts(tmp_path)] == [250_000]


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Found no text .*\.txt, \.jsonl"):
        from_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        from_files(tmp_path / "missing.txt")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match=r"a\.pdf is of no kind that can be read"):
        from_files(tmp_path / "a.pdf")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_rows_are_all_there_and_know_their_places(tmp_path, name):
    rows = [{"text": "one", "label": "a"}, {"text": "", "label": "b"}]
    lines = {
        "rows.jsonl": "\n".join(json.dumps(row) for row in rows),
        "rows.csv": "text,label\none,a\n,b\n",
    }
    if name in lines:
        (tmp_path / name).write_text(lines[name])
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    places, found = zip(*files.read_rows(tmp_path / name), strict=True)
    assert list(found) == rows
    first = 2 if name == "rows.csv" else 1  # line 1 of a .csv file is its header
    assert list(places) == [f"{tmp_path / name}, line {first + i}" for i in range(2)]


def test_a_file_without_columns_has_no_rows(tmp_path):
    (tmp_path / "text.txt").write_text("To be, or not to be.")
    with pytest.raises(ValueError, match="has no columns"):
        files.read_rows(tmp_path)
