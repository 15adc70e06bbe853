import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from keras_llm.corpora import Document
from keras_llm.objectives import read_pairs, sentence_pairs, shards, streams, write_pairs
from keras_llm.tokenizers import WordPieceTokenizer


@pytest.fixture(scope="module")
def written(speeches, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_DOCUMENTS", 1)
        manifest = write_pairs(speeches, tokenizer, folder, 64, shards=3)
    return folder, manifest


def _pair(pair):
    return pair["first"].tolist(), pair["second"].tolist(), bool(pair["follows"])


def test_shards_hold_the_pairs(speeches, tokenizer, tmp_path):
    write_pairs(speeches, tokenizer, tmp_path, 64, shards=1, seed=7)
    pairs = [_pair(pair) for pair in read_pairs(tmp_path).as_numpy_iterator()]
    assert pairs == list(sentence_pairs(speeches, tokenizer, 64, seed=7))


def test_manifest(written, tokenizer):
    folder, manifest = written
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert sorted(os.listdir(folder)) == ["manifest.json", *sorted(manifest["shards"])]
    assert next(iter(manifest["shards"])) == "pairs-00000-of-00003.tfrecord.gz"
    pairs = [_pair(pair) for pair in read_pairs(folder).as_numpy_iterator()]
    assert manifest["examples"] == len(pairs) > 500
    assert manifest["tokens"] == sum(len(first) + len(second) + 3 for first, second, _ in pairs)
    assert manifest["share_follows"] == sum(follows for *_, follows in pairs) / len(pairs)
    assert manifest["sequence_length"] == 64
    for name, counts in manifest["shards"].items():
        records = tf.data.TFRecordDataset(str(folder / name), "GZIP")
        assert counts["examples"] == sum(1 for _ in records) > 0


def test_same_bytes_from_one_and_two_processes(speeches, tokenizer, tmp_path):
    corpus = [Document(d.text[:2000], id=d.id) for d in speeches] * 20  # four blocks
    manifests = [
        write_pairs(corpus, tokenizer, tmp_path / str(n), 64, shards=3, processes=n) for n in (1, 2)
    ]
    assert manifests[0] == manifests[1]
    for name in ["manifest.json", *manifests[0]["shards"]]:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.parametrize("verbose", [True, False])
def test_progress_is_shown_unless_it_is_not_wanted(speeches, tokenizer, tmp_path, capsys, verbose):
    write_pairs(speeches[:2], tokenizer, tmp_path, 64, shards=1, verbose=verbose)
    shown = capsys.readouterr()
    assert ("Sentence pairs" in shown.err) == verbose
    assert shown.out == ""


def test_another_seed_writes_other_pairs(speeches, tokenizer, tmp_path):
    for seed in (0, 1):
        write_pairs(speeches, tokenizer, tmp_path / str(seed), 64, shards=1, seed=seed)
    name = "pairs-00000-of-00001.tfrecord.gz"
    assert (tmp_path / "0" / name).read_bytes() != (tmp_path / "1" / name).read_bytes()


def test_killed_run_leaves_nothing_that_looks_complete(speeches, tokenizer, tmp_path):
    """Killed when the pairs are written, then run again."""
    code = """
import os, signal, sys
from keras_llm.corpora import Document
from keras_llm.objectives import shards, write_pairs
from keras_llm.tokenizers import WordPieceTokenizer
corpus = [Document("A cat sat. It purred.", id="1"), Document("Rain fell. It was cold.", id="2")]
shards._fsync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
write_pairs(corpus, WordPieceTokenizer(sys.argv[2]), sys.argv[1], 16, shards=2)
"""
    tokenizer.save(tmp_path / "tokenizer")
    folder = tmp_path / "new" / "shards"
    command = [sys.executable, "-c", code, folder, tmp_path / "tokenizer" / "vocab.txt"]
    assert subprocess.run(command, check=False).returncode == -9
    assert os.listdir(tmp_path / "new") == ["shards.part"]
    with pytest.raises(FileNotFoundError, match="no complete shards"):
        read_pairs(folder)
    write_pairs(speeches[:2], tokenizer, folder, 64)
    assert os.listdir(tmp_path / "new") == ["shards"]
    assert sum(1 for _ in read_pairs(folder)) > 1


def test_error_leaves_nothing(speeches, tokenizer, tmp_path):
    class Broken:
        def __iter__(self):
            yield from speeches
            raise UnicodeError("line 7")

    with pytest.raises(UnicodeError, match="line 7"):
        write_pairs(Broken(), tokenizer, tmp_path / "shards", 64)
    assert not any(tmp_path.iterdir())


class FailsOnSecondReading:
    """Checked in this process, it fails in a worker."""

    def __iter__(self):
        yield Document("One. Two.", id="1")
        yield Document("Three. Four.", id="2")
        raise UnicodeError("line 7")


def test_error_in_a_worker_is_raised_here(tokenizer, tmp_path):
    with pytest.raises(UnicodeError, match="line 7"):
        write_pairs(FailsOnSecondReading(), tokenizer, tmp_path / "shards", 64, processes=2)
    assert not any(tmp_path.iterdir())


def test_folder_in_use(written, speeches, tokenizer, tmp_path):
    folder, _ = written
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(FileExistsError, match="holds something already"):
        write_pairs(speeches, tokenizer, folder, 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="holds something already"):
        write_pairs(speeches, tokenizer, tmp_path / "file", 64)


def test_bad_arguments(speeches, tokenizer, tmp_path):
    folder = tmp_path / "shards"
    with pytest.raises(ValueError, match="is empty"):
        write_pairs([], tokenizer, folder)
    with pytest.raises(ValueError, match="need at least two"):
        write_pairs(speeches[:1], tokenizer, folder)
    with pytest.raises(ValueError, match="must be at least 5"):
        write_pairs(speeches, tokenizer, folder, sequence_length=4)
    with pytest.raises(ValueError, match="shards=0"):
        write_pairs(speeches, tokenizer, folder, shards=0)
    assert not any(tmp_path.iterdir())


def test_missing_shard(speeches, tokenizer, tmp_path):
    write_pairs(speeches[:3], tokenizer, tmp_path, 64, shards=2)
    (tmp_path / "pairs-00001-of-00002.tfrecord.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks the shards pairs-00001-of-00002"):
        read_pairs(tmp_path)


def test_vocabulary_hash():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    one, same = WordPieceTokenizer(words), WordPieceTokenizer(words, name="other")
    other = WordPieceTokenizer([*words[:5], "b", "a"])
    assert shards.vocabulary_hash(one) == shards.vocabulary_hash(same)
    assert shards.vocabulary_hash(one) != shards.vocabulary_hash(other)
