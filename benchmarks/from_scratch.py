"""Does every model of the family learn from raw text, within a minute?

Each model, small and new, learns by its own objective from the State of the Union addresses of the
training part, for `--seconds` of wall time, in which its graph is built too, and is then judged on
the speeches of the test part. Examples are made before, once and a half the text, and shown again
when they have been used up. Prints one table. Its numbers are:

- loss: the mean of -log p(token), in nats, over all tokens of the held-out text that the objective
  asks for, where p is what the model says. For ELECTRA, whose objective is another, this is what
  its generator says, which is trained beside.
- unigram: the same mean over the same tokens, where p(token) = (count(token) + 1) / (n + v) of the
  n tokens of the training text and the v tokens of the vocabulary: the best guess of a model that
  does not look at the context, up to smoothing.

Special tokens and sentinels, which an objective may ask for too, count in neither, nor do the
labels of a masked LM that do not stand under a mask: both are easier to say than a word. The
vocabulary has as many tokens for all models, but is of the kind that each was published with, so
that losses of different rows must not be compared.

    python benchmarks/from_scratch.py [--models BERT T5] [--seconds 60] [--vocabulary-size 2000]
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_llm import corpora, models, objectives, training
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer

SIZES = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 128,
    "intermediate_dim": 512,
    "dropout": 0.0,  # no text is seen often enough to be learned by heart
}
LENGTH, BATCH_SIZE, BATCHES = 64, 16, 2000
WARM_UP = 0.35  # of the time: masked LMs that are rushed stay with the most frequent tokens


class Recipe(NamedTuple):
    """How a model is made and trained.

    Args:
        objective: str.
        tokenizer: function of a corpus and a vocabulary size.
        model: function of a vocabulary size.
        examples: function of a corpus, a tokenizer and sizes.
        in_training: dict of arguments of `examples` that differ in training. A short run learns
            more from more targets than the published 15 %, at which all are judged (Wettig et al.,
            2022, "Should You Mask 15% in Masked Language Modeling?").
        peak: float, the highest learning rate.
    """

    objective: str
    tokenizer: Callable
    model: Callable
    examples: Callable
    in_training: dict = {}  # noqa: RUF012 (not changed)
    peak: float = 1.5e-3


def encoder(pretraining, backbone, **sizes):
    """Makes an encoder whose attention begins at the neighbours, and what trains it around it."""

    def make(vocabulary_size):
        new = backbone(vocabulary_size, **{**SIZES, **sizes})
        models.mimetic_initialization(new)
        return pretraining(new)

    return make


def with_segments(examples):
    """Adds the one segment of all tokens, for models that are told of segments."""

    def add(x, y, weights):
        return {**x, "segment_ids": tf.zeros_like(x["token_ids"])}, y, weights

    return lambda *args, **kwargs: examples(*args, **kwargs).map(add)


POSITIONS = {"max_sequence_length": LENGTH}
LLAMA_SIZES = {name: size for name, size in SIZES.items() if name != "num_heads"}
BYTE_PAIRS = partial(BytePairTokenizer.train, special_tokens=BytePairTokenizer.GPT2)

RECIPES = {
    "BERT": Recipe(
        "masked LM, next sentence",
        WordPieceTokenizer.train,
        encoder(models.BertForPretraining, models.BertBackbone, **POSITIONS),
        objectives.bert_examples,
        {"rate": 0.4},
    ),
    "RoBERTa": Recipe(
        "masked LM",
        partial(BytePairTokenizer.train, special_tokens=BytePairTokenizer.ROBERTA),
        encoder(models.RobertaMaskedLM, models.RobertaBackbone, **POSITIONS),
        objectives.masked_lm_examples,
        {"rate": 0.4},
    ),
    "DistilBERT": Recipe(
        "masked LM",
        WordPieceTokenizer.train,
        encoder(models.DistilBertMaskedLM, models.DistilBertBackbone, **POSITIONS),
        objectives.masked_lm_examples,
        {"rate": 0.4},
    ),
    "ELECTRA": Recipe(
        "replaced tokens",
        WordPieceTokenizer.train,
        encoder(
            partial(models.ElectraForPretraining, generator_size=1.0),
            models.ElectraBackbone,
            embedding_dim=SIZES["hidden_dim"],
            **POSITIONS,
        ),
        with_segments(objectives.masked_lm_examples),
        {"rate": 0.4},
    ),
    "XLNet": Recipe(
        "permutation LM",
        partial(UnigramTokenizer.train, special_tokens=UnigramTokenizer.XLNET),
        encoder(models.XLNetForPretraining, models.XLNetBackbone),
        objectives.permutation_lm_examples,
        {"rate": 0.4},
    ),
    "GPT-2": Recipe(
        "causal LM",
        BYTE_PAIRS,
        lambda size: models.GPT2CausalLM(models.GPT2Backbone(size, **SIZES, **POSITIONS)),
        objectives.causal_lm_examples,
    ),
    "Llama": Recipe(
        "causal LM",
        BYTE_PAIRS,
        lambda size: models.LlamaCausalLM(
            models.LlamaBackbone(
                size,
                **LLAMA_SIZES,
                num_query_heads=2,
                num_key_value_heads=1,
                tie_word_embeddings=True,
            )
        ),
        objectives.causal_lm_examples,
    ),
    "T5": Recipe(
        "span corruption",
        partial(UnigramTokenizer.train, num_sentinels=20),
        # As in version 1.1: an output matrix of its own.
        lambda size: models.T5Seq2SeqLM(
            models.T5Backbone(size, **SIZES, tie_embedding_weights=False)
        ),
        objectives.span_corruption_examples,
        {"rate": 0.4},
    ),
}


class Minute(keras.callbacks.Callback):
    """Ends training after so many seconds; by then the rate has risen to its peak and fallen to 0.

    Args:
        seconds: float.
        peak: float, the highest learning rate.
    """

    def __init__(self, seconds, peak):
        super().__init__()
        self.seconds = seconds
        self.peak = peak
        self.steps = 0

    def on_train_begin(self, logs=None):
        """Starts the clock: the model's graph is yet to be built."""
        self.start = time.perf_counter()

    @property
    def elapsed(self):
        """The seconds since then."""
        return time.perf_counter() - self.start

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the rate."""
        share = min(self.elapsed / self.seconds, 1.0)
        rising, falling = share / WARM_UP, (1 - share) / (1 - WARM_UP)
        self.model.optimizer.learning_rate = self.peak * min(rising, falling)

    def on_train_batch_end(self, batch, logs=None):
        """Ends training where another step might come too late."""
        self.steps += 1
        self.model.stop_training = self.elapsed * (1 + 1 / self.steps) > self.seconds


def unigram_log_probabilities(tokenizer, corpus):
    """Returns the log-probability of each token, float (vocabulary,); of special ones NaN."""
    ids = np.concatenate([np.array(row) for row in tokenizer.encode_batch(list(corpus.texts()))])
    counts = np.bincount(ids, minlength=tokenizer.vocabulary_size()) + 1.0
    counts[[*tokenizer.special_token_ids, *getattr(tokenizer, "sentinel_ids", ())]] = np.nan
    return np.log(counts / np.nansum(counts))


def is_hidden(x, y, tokenizer):
    """Tells which labels a model cannot read in its input; masking leaves some visible."""
    if "mask_positions" not in x or "attention_mask" in x:  # XLNet's attention hides them all
        return np.ones(y.shape, bool)
    shown = np.take_along_axis(x["token_ids"].numpy(), x["mask_positions"].numpy(), axis=1)
    return shown == tokenizer.mask_token_id


def judge(model, examples, tokenizer, log_probabilities):
    """Returns the model's loss, the unigram's, and of how many tokens."""
    never = np.where(np.isnan(log_probabilities), -1e9, 0.0).astype("float32")  # (vocabulary,)

    @tf.function(reduce_retracing=True)
    def losses(x, y):
        logits = model(x, training=False)
        logits = logits["masked_lm"] if isinstance(logits, dict) else logits
        logits += never  # neither the unigram nor the model may answer with a special token
        return keras.ops.sparse_categorical_crossentropy(y, logits, from_logits=True)

    sums = np.zeros(3)  # loss, unigram's loss, tokens
    for x, y, weights in examples:
        y, weights = (v["masked_lm"] if isinstance(v, dict) else v for v in (y, weights))
        unigram = -log_probabilities[y.numpy()]
        counted = (weights.numpy() > 0) & ~np.isnan(unigram) & is_hidden(x, y, tokenizer)
        sums += losses(x, y).numpy()[counted].sum(), unigram[counted].sum(), counted.sum()
    return sums[0] / sums[2], sums[1] / sums[2], int(sums[2])


def measure(name, corpus, arguments):
    """Trains a model and judges it; returns the cells of its row, and whether it has learned."""
    recipe = RECIPES[name]
    keras.utils.clear_session()
    keras.utils.set_random_seed(arguments.seed)
    tokenizer = recipe.tokenizer(corpus.train, arguments.vocabulary_size)
    model = recipe.model(tokenizer.vocabulary_size())
    model.compile(training.AdamW(recipe.peak, beta_2=0.98))
    settings = {"batch_size": BATCH_SIZE, "sequence_length": LENGTH, "seed": arguments.seed}
    examples = recipe.examples(corpus.train, tokenizer, **{**settings, **recipe.in_training})
    examples = examples.take(BATCHES).cache()
    for _ in examples:  # fills the cache
        pass
    clock = Minute(arguments.seconds, recipe.peak)
    model.fit(examples, epochs=10**6, callbacks=[clock], shuffle=False, verbose=0)
    seconds = clock.elapsed

    held_out = recipe.examples(corpus.test, tokenizer, **settings, training=False)
    log_probabilities = unigram_log_probabilities(tokenizer, corpus.train)
    loss, unigram, tokens = judge(model, held_out, tokenizer, log_probabilities)
    below = loss < unigram
    row = (
        name,
        recipe.objective,
        f"{model.count_params() / 1e6:.2f} M",
        f"{clock.steps:,}",
        f"{seconds:.0f}",
        f"{tokens:,}",
        f"{loss:.3f}",
        f"{unigram:.3f}",
        "yes" if below else "no",
    )
    return row, below


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each model")
    parser.add_argument("--vocabulary-size", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    corpus = corpora.load("state_of_the_union")
    table = Table(
        "model",
        "objective",
        "weights",
        "steps",
        "seconds",
        "held-out tokens",
        "loss",
        "unigram",
        "below",
    )
    have_learned = []
    for name in arguments.models:
        row, below = measure(name, corpus, arguments)
        print(*row, sep="  ", flush=True)
        table.add_row(*row)
        have_learned.append(below)
    Console(width=110).print(table)
    sys.exit(not all(have_learned))


if __name__ == "__main__":
    main()
