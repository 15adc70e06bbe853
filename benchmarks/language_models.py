"""Does a recurrent network predict text better than the best counting?

N-gram models and recurrent networks learn from the same speeches, every fourth of the training part
of the State of the Union addresses, with one tokenizer, and are judged on the speeches of the test
part. Counting reads the text once and is done; a network reads it `--epochs` times, which the
column "tokens seen" says. Prints one table; networks with the mean over the seeds and its standard
error. The loss on the validation part, printed after each pass, decides nothing. A run that was
stopped goes on when the benchmark is started again.

Says at the end what holds of what one expects: Kneser-Ney beats add-k, the LSTM the simple RNN and
every n-gram model.

    python benchmarks/language_models.py [--every 4] [--epochs 14] [--hidden-dim 256] [--seeds 1]
"""

import argparse
import statistics
from pathlib import Path
from typing import NamedTuple

import keras
from rich.console import Console
from rich.table import Table

from keras_llm import corpora, training
from keras_llm.models import NGramLM, RecurrentLM
from keras_llm.tokenizers import WordPieceTokenizer

ORDERS = {1: "unigram", 2: "bigram", 3: "trigram", 4: "4-gram", 5: "5-gram"}
SMOOTHINGS = {"add_k": "add-k", "kneser_ney": "Kneser-Ney"}
CELLS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}


class Result(NamedTuple):
    """A model's name, how many tokens it saw, and its scores, one a seed."""

    model: str
    tokens_seen: int
    scores: list

    @property
    def perplexity(self):
        """The mean over the seeds."""
        return statistics.mean(score.perplexity for score in self.scores)

    def row(self):
        """Returns the cells of the table."""
        scores = [
            [score.perplexity for score in self.scores],
            [score.bits_per_byte for score in self.scores],
        ]
        return (
            self.model,
            f"{self.tokens_seen / 1e6:.2f} M",
            with_error(scores[0], 1),
            with_error(scores[1], 3),
        )


def with_error(values, digits):
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


def count(order, smoothing, tokenizer, texts, held_out, tokens):
    model = NGramLM(tokenizer, order, smoothing).fit(texts)
    return Result(f"{ORDERS[order]}, {SMOOTHINGS[smoothing]}", tokens, [model.score(held_out)])


def train(cell, seed, tokenizer, texts, validation, arguments):
    """Trains a network, or goes on where it was stopped; returns how many tokens it saw, and it."""
    keras.utils.set_random_seed(seed)
    model = RecurrentLM(
        tokenizer,
        cell,
        arguments.hidden_dim,
        dropout=arguments.dropout,
        dtype=training.fast_dtype_policy(),
    )
    batches = model.examples(texts, arguments.batch_size, arguments.epochs, seed)
    model.compile(training.AdamW(training.WarmupLinearDecay(arguments.rate, len(batches))))
    chosen = ("every", "vocabulary_size", "hidden_dim", "dropout", "rate", "batch_size", "epochs")
    settings = "-".join(str(getattr(arguments, name)) for name in chosen)
    training.fit(
        model,
        batches,
        folder=arguments.folder / f"{cell}-{settings}-{seed}",
        epochs=arguments.epochs,
        steps_per_epoch=len(batches) // arguments.epochs,
        validation_data=model.examples(validation, arguments.batch_size),
        verbose=2,
    )
    return len(batches) * arguments.batch_size * model.sequence_length, model


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary-size", type=int, default=2000)
    parser.add_argument("--every", type=int, default=4, help="learn from every n-th speech")
    parser.add_argument("--hidden-dim", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--rate", type=float, default=0.01, help="the highest learning rate")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=14, help="passes of the networks")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/language_models"))
    arguments = parser.parse_args()

    corpus = corpora.load("state_of_the_union")
    texts = list(corpus.train.texts())[:: arguments.every]
    validation, held_out = list(corpus.validation.texts()), list(corpus.test.texts())
    tokenizer = WordPieceTokenizer.train(texts, arguments.vocabulary_size)
    tokens = sum(map(len, tokenizer.encode_batch(texts))) + len(texts)
    results = {
        (smoothing, order): count(order, smoothing, tokenizer, texts, held_out, tokens)
        for smoothing in SMOOTHINGS
        for order in ORDERS
    }
    for cell in arguments.cells:
        runs = [
            train(cell, seed, tokenizer, texts, validation, arguments)
            for seed in range(arguments.seeds)
        ]
        scores = [model.score(held_out) for _, model in runs]
        results[cell] = Result(f"{CELLS[cell]}, {arguments.hidden_dim}", runs[0][0], scores)

    tested = next(iter(results.values())).scores[0]
    table = Table(
        "model",
        "tokens seen",
        "perplexity",
        "bits per byte",
        title=f"{tested.tokens:,} held-out tokens, {tokenizer.vocabulary_size():,} in the "
        f"vocabulary, {arguments.seeds} seed(s)",
    )
    for result in results.values():
        table.add_row(*result.row())
    Console().print(table)

    best = min((result for name, result in results.items() if name not in CELLS), key=perplexity)
    expected = {
        "Kneser-Ney beats add-k at every order above 1": all(
            results["kneser_ney", order].perplexity < results["add_k", order].perplexity
            for order in list(ORDERS)[1:]
        )
    }
    if "lstm" in results:
        lstm = results["lstm"].perplexity
        expected[f"LSTM beats the best n-gram model ({best.model})"] = lstm < best.perplexity
        if "rnn" in results:
            expected["LSTM beats RNN"] = lstm < results["rnn"].perplexity
    for claim, holds in expected.items():
        print(f"{claim}: {'yes' if holds else 'NO'}")


def perplexity(result):
    return result.perplexity


if __name__ == "__main__":
    main()
