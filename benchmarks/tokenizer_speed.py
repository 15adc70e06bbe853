"""How fast are the tokenizers in a graph, beside KerasHub's there and the reference libraries?

Trains byte pairs, unigram and WordPiece on the State of the Union addresses and tokenizes them, all
in one run and in turns: ours and KerasHub's inside a `tf.function`, the libraries `tokenizers` and
`sentencepiece` in Python on all cores. KerasHub's byte pairs keep the words that they have merged,
so a new tokenizer in each round gets the text twice: all speeches in one call, and their sentences
in batches of 32, where what a call costs weighs more. Prints tokens a second, the best of the
rounds, as a number and in relation to ours. It fails where the ids of ours and of the library are
not equal, or our byte pairs less than 20 times as fast as KerasHub's with speeches that are new.

    python benchmarks/tokenizer_speed.py [--speeches 40] [--vocabulary-size 8000] [--rounds 3]
"""

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import keras_hub
import sentencepiece
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer

from keras_llm import corpora
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer

OURS = "keras_llm, graph"
HUB = "keras_hub, graph, new text"
HUB_AGAIN = "keras_hub, graph, once more"
BATCHES = "byte pairs, 32 sentences a call"
AT_LEAST = 20  # times KerasHub's byte pairs


def in_graph(tokenizer):
    """A function from texts to ids that runs as a graph."""
    graph = tf.function(tokenizer.tokenize, input_signature=[tf.TensorSpec((None,), tf.string)])
    return lambda texts: graph(tf.constant(texts))


def in_batches(tokenize, size=32):
    """The same, some texts at a time."""
    return lambda texts: tf.concat(
        [tokenize(texts[i : i + size]) for i in range(0, len(texts), size)], axis=0
    )


def in_rust(tokenizer):
    """The same of the library `tokenizers`."""
    return lambda texts: tokenizer.encode_batch(texts, add_special_tokens=False)


def as_lists(rows):
    """Ids as lists, whatever a library returns."""
    if isinstance(rows, tf.RaggedTensor):
        return rows.to_list()
    return [getattr(row, "ids", row) for row in rows]


def kinds(speeches, vocabulary_size, folder):
    """The ways to tokenize by kind of tokenizer: ours, and others with the same vocabulary."""
    pairs = BytePairTokenizer.train(speeches, vocabulary_size)
    unigram = UnigramTokenizer.train(speeches, vocabulary_size)
    wordpiece = WordPieceTokenizer.train(speeches, vocabulary_size)
    pairs.save(folder)
    files = [str(Path(folder) / name) for name in ("vocab.json", "merges.txt")]
    words = {token: id for id, token in enumerate(wordpiece.vocabulary)}
    pieces = sentencepiece.SentencePieceProcessor(model_proto=unigram.proto)

    def hub(call=lambda tokenize: tokenize):
        tokenize = call(in_graph(keras_hub.tokenizers.BytePairTokenizer(*files)))
        return {HUB: tokenize, HUB_AGAIN: tokenize}

    return {
        "byte pairs": {
            OURS: in_graph(pairs),
            HUB: hub,
            "tokenizers": in_rust(ByteLevelBPETokenizer(*files)),
        },
        BATCHES: {
            OURS: in_batches(in_graph(pairs)),
            HUB: lambda: hub(in_batches),
            "tokenizers": in_rust(ByteLevelBPETokenizer(*files)),
        },
        "unigram": {
            OURS: in_graph(unigram),
            "sentencepiece": lambda texts: pieces.encode(texts, num_threads=-1),
        },
        "WordPiece": {
            OURS: in_graph(wordpiece),
            "tokenizers": in_rust(BertWordPieceTokenizer(words)),
        },
    }


def measure(ways, texts, rounds):
    """Tokens a second of each way, the best of the rounds, and the ids."""
    speeds, ids = {}, {}
    for _ in range(rounds):
        for name, tokenize in ways.items():
            timed = tokenize() if name == HUB else {name: tokenize}
            for way, function in timed.items():
                function(["a text"])  # traces the graph
                start = time.perf_counter()
                rows = function(texts)
                seconds = time.perf_counter() - start
                ids[way] = as_lists(rows)
                speed = sum(map(len, ids[way])) / seconds
                speeds[way] = max(speeds.get(way, 0.0), speed)
    return speeds, ids


def main():
    """Measures all, prints the table and fails where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speeches", type=int, default=40)
    parser.add_argument("--vocabulary-size", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    speeches = list(islice(corpora.load("state_of_the_union").texts(), arguments.speeches))
    sentences = [sentence for speech in speeches for sentence in corpora.sentences(speech, "en")]
    table = Table("", "", "tokens / s", "to ours", title=f"{len(speeches)} addresses")
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        tokenizers = kinds(speeches, arguments.vocabulary_size, folder)
        compared = {
            kind: measure(ways, sentences if kind == BATCHES else speeches, arguments.rounds)
            for kind, ways in tokenizers.items()
        }
    for kind, (speeds, ids) in compared.items():
        for name, speed in speeds.items():
            table.add_row(kind, name, f"{speed:,.0f}", f"{speed / speeds[OURS]:.4f}")
        library = list(ids)[-1]
        if ids[OURS] != ids[library]:
            failures.append(f"{kind}: the ids of {OURS} and {library} differ.")
        if kind == "byte pairs" and speeds[OURS] < AT_LEAST * speeds[HUB]:
            failures.append(f"{kind}: less than {AT_LEAST} times as fast as {HUB}.")
    Console(width=100).print(table)
    sys.exit("\n".join(failures) or 0)


if __name__ == "__main__":
    main()
