"""Sentence pairs on disk: compressed TFRecords, made by several processes.

Notable: block i of the corpus goes to shard i modulo the number of shards, and its pairs depend on
nothing but the seed and i. So the files are the same to the byte for any number of processes; each
reads the whole corpus, which is cheap, and makes the pairs of its own shards. The folder appears
under its name only when all of it is written.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keras_llm import corpora
from keras_llm.objectives.next_sentence import (
    NUM_SPECIALS,
    SentencePair,
    check_source,
    pair_blocks,
)

MANIFEST = "manifest.json"
SHARDS_AT_ONCE = 16


def write_pairs(
    corpus: Iterable[corpora.Document],
    tokenizer,
    folder: str | Path,
    sequence_length: int = 128,
    shards: int = 8,
    processes: int = 1,
    seed: int = 0,
    verbose: bool = True,
) -> dict:
    """Writes the sentence pairs of a corpus as `pairs-00000-of-00008.tfrecord.gz` and so on.

    Masks are not written: they are made on reading, new ones in every epoch.

    Args:
        corpus: as in `sentence_pairs`; picklable if there are several processes.
        tokenizer: as in `sentence_pairs`; picklable likewise.
        folder: str or Path, new or empty.
        sequence_length: int, tokens of a pair with its three special tokens at most.
        shards: int, number of files.
        processes: int. With several, a script must guard its main part by `if __name__ ==
            "__main__":`. Each takes some seconds to start, so one is best for up to about 50 MB of
            text.
        seed: int.
        verbose: bool. Show a progress bar.

    Returns:
        The manifest, which is also written as `manifest.json`: sequence length, seed, vocabulary,
        examples and tokens of each shard, and the share of pairs that follow.

    Raises:
        FileExistsError: the folder holds something already.
        TypeError: the corpus can be read only once.
        ValueError: the corpus has no text, or only one document; `sequence_length` is too short.

    Example:
        >>> import tempfile
        >>> from keras_llm.corpora import Document
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> texts = ["A cat sat. It purred.", "Rain fell. It was cold."]
        >>> corpus = [Document(text, id=str(i)) for i, text in enumerate(texts)]
        >>> tokenizer = WordPieceTokenizer.train(texts * 9, 52)
        >>> manifest = write_pairs(corpus, tokenizer, tempfile.mkdtemp(), 16, shards=1)
        >>> manifest["sequence_length"], sorted(manifest["shards"])
        (16, ['pairs-00000-of-00001.tfrecord.gz'])
    """
    folder = Path(folder).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} holds something already. To train on shards that are there, pass the folder "
            "to `bert_examples`; to make new ones, remove it or choose another name."
        )
    if shards < 1 or processes < 1:
        raise ValueError(f"shards={shards} and processes={processes} must each be at least 1.")
    check_source(corpus, tokenizer, sequence_length)  # raises before any work is done
    processes = min(processes, shards)
    part = folder.with_name(folder.name + ".part")  # what a run left that was killed
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        names = [f"pairs-{i:05d}-of-{shards:05d}.tfrecord.gz" for i in range(shards)]
        paths = [str(part / name) for name in names]
        job = (corpus, tokenizer, paths, sequence_length, seed)
        total = getattr(corpus, "num_documents", None)
        with _progress(total, verbose) as advance:
            counts = _in_processes(job, processes, advance)
        manifest = _manifest(
            dict(zip(names, counts, strict=True)), tokenizer, sequence_length, seed
        )
        _write(part / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def read_pairs(folder: str | Path) -> tf.data.Dataset:
    """Reads back what `write_pairs` wrote, shard by shard.

    Args:
        folder: str or Path.

    Returns:
        A dataset of dicts, one a pair: `first` and `second` int32 `(None,)`, `follows` int32 `()`.

    Raises:
        FileNotFoundError: the folder holds no complete shards.

    Example:
        >>> import tempfile
        >>> from keras_llm.corpora import Document
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> texts = ["A cat sat. It purred.", "Rain fell. It was cold."]
        >>> corpus = [Document(text, id=str(i)) for i, text in enumerate(texts)]
        >>> tokenizer = WordPieceTokenizer.train(texts * 9, 52)
        >>> folder = tempfile.mkdtemp()
        >>> _ = write_pairs(corpus, tokenizer, folder, 16)
        >>> pair = next(read_pairs(folder).as_numpy_iterator())
        >>> tokenizer.decode(pair["first"])
        'a cat sat.'
    """
    return serialized_pairs(folder).map(lambda pair: parse_pairs(pair[None])).unbatch()


def read_manifest(folder: str | Path) -> dict:
    """Reads the manifest of a folder of shards, and checks that none is missing.

    Args:
        folder: str or Path.

    Returns:
        As `write_pairs` returns.

    Raises:
        FileNotFoundError: the folder holds no complete shards.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {MANIFEST}, so no complete shards. Make them with `write_pairs`."
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    missing = [name for name in manifest["shards"] if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks the shards {', '.join(missing)}. Copy them there, or make all anew "
            "with `write_pairs`."
        )
    return manifest


def serialized_pairs(folder: str | Path, key: tf.Tensor | None = None) -> tf.data.Dataset:
    """Reads shards without parsing: a dataset of `serialize_pair` strings.

    Args:
        folder: str or Path.
        key: int `(2,)`, the seed of an order in which shards are read, several in turn; shard after
            shard by default.
    """
    paths = [str(Path(folder) / name) for name in sorted(read_manifest(folder)["shards"])]
    if key is None:
        return tf.data.TFRecordDataset(paths, "GZIP")
    paths = tf.random.experimental.stateless_shuffle(tf.constant(paths), key)
    return tf.data.Dataset.from_tensor_slices(paths).interleave(
        lambda path: tf.data.TFRecordDataset(path, "GZIP"), cycle_length=SHARDS_AT_ONCE
    )


def serialize_pair(pair: SentencePair) -> bytes:
    """Writes a pair as a `tf.train.Example`."""

    def ints(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    features = {
        "first": ints(pair.first),
        "second": ints(pair.second),
        "follows": ints([int(pair.follows)]),
    }
    # Deterministic, for a map has no order of its own.
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def parse_pairs(serialized: tf.Tensor) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Reads a batch of `serialize_pair` strings.

    Args:
        serialized: string `(batch,)`.

    Returns:
        A dict of `first` and `second`, ragged int32 `(batch, None)`, and `follows`, int32
        `(batch,)`.
    """
    segment = tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    features = {"first": segment, "second": segment, "follows": tf.io.FixedLenFeature([], tf.int64)}
    pairs = tf.io.parse_example(serialized, features)
    return {name: tf.cast(values, tf.int32) for name, values in pairs.items()}


def vocabulary_hash(tokenizer) -> str:
    """Names a vocabulary, to tell whether shards were made with the tokenizer at hand."""
    text = "\n".join(tokenizer.get_vocabulary())
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _in_processes(job: tuple, processes: int, advance: Callable[[int], None]) -> list[dict]:
    """Does the job, alone or shared out; returns the counts of each shard."""
    if processes == 1:
        counts = _write_shards(*job, 0, 1, advance)
    else:
        counts = {}
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        done_documents = context.Value("q", 0)
        with ProcessPoolExecutor(
            processes, context, initializer=_start_worker, initargs=(done_documents,)
        ) as pool:
            running = {
                pool.submit(_write_shards, *job, worker, processes, _count_documents)
                for worker in range(processes)
            }
            seen = 0
            while running:
                done, running = wait(running, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    counts.update(future.result())
                advance(done_documents.value - seen)
                seen = done_documents.value
    return [counts[shard] for shard in sorted(counts)]


def _write_shards(
    corpus: Iterable[corpora.Document],
    tokenizer,
    paths: list[str],
    sequence_length: int,
    seed: int,
    worker: int,
    workers: int,
    advance: Callable[[int], None],
) -> dict[int, dict]:
    """Writes the shards whose number modulo `workers` is `worker`; returns their counts."""
    mine = range(worker, len(paths), workers)
    counts = {shard: {"examples": 0, "tokens": 0, "follows": 0} for shard in mine}
    blocks = pair_blocks(
        corpus, tokenizer, sequence_length, seed, wanted=lambda i: i % len(paths) in counts
    )
    with ExitStack() as files:
        writers = {i: files.enter_context(tf.io.TFRecordWriter(paths[i], "GZIP")) for i in mine}
        for block in blocks:
            shard = block.number % len(paths)
            for pair in block.pairs:
                writers[shard].write(serialize_pair(pair))
                counts[shard]["examples"] += 1
                counts[shard]["tokens"] += len(pair.first) + len(pair.second) + NUM_SPECIALS
                counts[shard]["follows"] += pair.follows
            advance(block.num_documents)
    for shard in mine:
        _fsync(paths[shard])
    return counts


def _start_worker(done_documents) -> None:
    global _done_documents
    _done_documents = done_documents
    tf.config.set_visible_devices([], "GPU")  # or each worker would take the GPU's memory


def _count_documents(number: int) -> None:
    with _done_documents.get_lock():
        _done_documents.value += number


def _manifest(shards: dict[str, dict], tokenizer, sequence_length: int, seed: int) -> dict:
    examples = sum(counts["examples"] for counts in shards.values())
    return {
        "sequence_length": sequence_length,
        "seed": seed,
        "vocabulary_sha256": vocabulary_hash(tokenizer),
        "examples": examples,
        "tokens": sum(counts["tokens"] for counts in shards.values()),
        "share_follows": sum(counts["follows"] for counts in shards.values()) / examples,
        "shards": shards,
    }


@contextmanager
def _progress(total: int | None, verbose: bool) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), disable=not verbose)
    with bar as progress:
        task = progress.add_task("Sentence pairs, documents", total=total)
        yield lambda number: progress.advance(task, number)


def _fsync(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
