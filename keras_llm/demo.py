"""The main job, end to end: raw text, tokenizer, pretrained BERT, fine-tuned classifier, export.

Notable: every figure of the report is measured on documents that no step before has seen, and
beside its baseline: the most frequent token, a coin, the largest class, the same classifier not
pretrained.
"""

import collections
import dataclasses
import json
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from keras_llm import corpora, objectives, serving, training
from keras_llm.models import BertBackbone, BertForPretraining, mimetic_initialization
from keras_llm.tasks import TextClassifier
from keras_llm.tokenizers import WordPieceTokenizer

CONSOLE = Console(stderr=True)
CLASSES = ["negative", "positive"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the job does, in sizes for two CPU cores and minutes.

    Args:
        corpus: Name of the data set to pretrain on.
        reviews: Name of the data set to fine-tune on, with labels "negative" and "positive".
        examples: Tuple of texts to classify at the end.
        vocabulary_size: Int, tokens.
        sequence_length: Int, tokens of a pair of segments in pretraining.
        mask_rate: Float, share of tokens to guess in pretraining. More than BERT's 0.15, at which
            the model is measured: a short run learns more from more targets (Wettig et al. 2022,
            "Should You Mask 15% in Masked Language Modeling?").
        num_layers: Int, encoder blocks.
        hidden_dim: Int, features of a token.
        batch_size: Int, pairs a pretraining step.
        epochs: Int, stretches of pretraining, each with an evaluation and a checkpoint.
        steps_per_epoch: Int, pretraining steps a stretch.
        learning_rate: Float, highest rate in pretraining.
        review_length: Int, the most tokens of a review.
        review_epochs: Int, passes over the reviews.
        reviews_at_most: Int, reviews to train on.
        review_learning_rate: Float, highest rate in fine-tuning.

    Example:
        >>> Plan.for_language("zh").corpus
        'peoples_daily_1998'
    """

    corpus: str
    reviews: str
    examples: tuple
    vocabulary_size: int = 8000
    sequence_length: int = 64
    mask_rate: float = 0.4
    num_layers: int = 2
    hidden_dim: int = 128
    batch_size: int = 16
    epochs: int = 12
    steps_per_epoch: int = 200
    learning_rate: float = 1e-3
    review_length: int = 64
    review_epochs: int = 3
    reviews_at_most: int = 4_000
    review_learning_rate: float = 5e-4

    @classmethod
    def for_language(cls, language):
        """Returns the plan for "en" or "zh"."""
        if language not in LANGUAGES:
            raise ValueError(f"language must be one of {sorted(LANGUAGES)}, not {language!r}.")
        return LANGUAGES[language]


LANGUAGES = {
    "en": Plan(
        corpus="state_of_the_union",
        reviews="movie_snippets",
        examples=(
            "A moving, beautifully acted film.",
            "A dull and predictable mess.",
            "One of the best films of the year.",
        ),
    ),
    "zh": Plan(
        corpus="peoples_daily_1998",
        reviews="product_reviews_zh",
        examples=("质量很好，非常喜欢！", "太差了，很失望。", "内容很精彩，值得一看。"),
        vocabulary_size=5000,  # mostly ideographs; the corpus has few more pieces
    ),
}


def run(language="en", folder="runs/demo", seed=0, plan=None):
    """Runs the main job and writes all it makes to a folder.

    The folder receives `tokenizer/`, `examples/`, `pretraining/` (checkpoint, log, curves,
    TensorBoard), `bert.keras`, `classifier.keras`, `export/sentiment/1/` and `report.json`. A run
    that was stopped while it pretrained goes on there when it is started again.

    Args:
        language: String, "en" or "zh".
        folder: Path of the folder.
        seed: Int, of everything random.
        plan: A `Plan`, or None for the one of the language.

    Returns:
        The report, a dict.

    Raises:
        ValueError: no such language, or the folder holds a run with other settings.

    Example:
        >>> run("fr")
        Traceback (most recent call last):
        ValueError: language must be one of ['en', 'zh'], not 'fr'.
    """
    started = time.monotonic()
    plan = plan or Plan.for_language(language)
    folder = _open_folder(Path(folder), plan, seed)
    keras.utils.set_random_seed(seed)

    corpus = corpora.load(plan.corpus)
    CONSOLE.rule("1. Corpus")
    CONSOLE.print(corpus)
    CONSOLE.rule("2. Tokenizer")
    tokenizer = _tokenizer(corpus, plan, folder)
    CONSOLE.rule("3. Examples: sentence pairs for masked LM and next sentence")
    examples = _examples(corpus, tokenizer, plan, folder, seed)
    CONSOLE.rule("4. Pretraining BERT")
    model, pretraining = _pretrain(tokenizer, examples, plan, folder, seed)
    CONSOLE.rule("5. Fine-tuning on reviews, pretrained and from scratch")
    classifier, finetuning = _finetune(model, tokenizer, plan, folder, seed)
    CONSOLE.rule("6. Export")
    version = serving.export(classifier, folder / "export" / "sentiment")
    served = serving.check(version, plan.examples)
    _check_served(classifier, served, plan.examples)

    report = {
        "language": language,
        **pretraining,
        **finetuning,
        "wall_seconds": round(time.monotonic() - started, 1),
        "export": str(version),
        "seed": seed,
        "plan": dataclasses.asdict(plan),
        "versions": training.versions(),
    }
    training.write_json(folder / "report.json", report)
    _show(report, served, plan, folder)
    return report


def _open_folder(folder, plan, seed):
    """Makes the folder, or opens it to go on; another run's results are not mixed with ours."""
    settings = {"seed": seed, **dataclasses.asdict(plan), "examples": list(plan.examples)}
    path = folder / "plan.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise ValueError(
            f"{folder} holds a run with other settings ({path}). Choose another folder, or delete "
            "this one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    training.write_json(path, settings)
    return folder


def _tokenizer(corpus, plan, folder):
    """Trains a tokenizer on the training part, or loads the one of a stopped run."""
    path = folder / "tokenizer"
    if not path.exists():
        with CONSOLE.status(f"Learning {plan.vocabulary_size:,} tokens"):
            WordPieceTokenizer.train(corpus.train, plan.vocabulary_size).save(path)
    tokenizer = WordPieceTokenizer.load(path)
    sample = next(iter(corpus.train)).text[:60]
    tokens = [tokenizer.id_to_token(i) for i in tokenizer.encode(sample)]
    CONSOLE.print(f"{tokenizer.vocabulary_size():,} tokens. {sample!r} is", tokens)
    return tokenizer


def _examples(corpus, tokenizer, plan, folder, seed):
    """Writes the pairs of each part to disk and returns the folders of their shards."""
    folders = {}
    for part in ("train", "validation", "test"):
        folders[part] = folder / "examples" / part
        if not folders[part].exists():
            objectives.write_pairs(
                getattr(corpus, part), tokenizer, folders[part], plan.sequence_length, seed=seed
            )
    return folders


def _pretrain(tokenizer, examples, plan, folder, seed):
    """Pretrains BERT and measures it on the test part."""

    def batches(part):
        return objectives.bert_examples(
            examples[part],
            tokenizer,
            plan.batch_size,
            plan.sequence_length,
            rate=plan.mask_rate if part == "train" else 0.15,
            seed=seed,
            training=part == "train",
        )

    steps = plan.epochs * plan.steps_per_epoch
    with training.strategy().scope():
        model = BertForPretraining(_backbone(tokenizer, plan))
        mimetic_initialization(model.backbone, seed)
        schedule = training.WarmupLinearDecay(plan.learning_rate, steps)
        model.compile(training.AdamW(schedule, beta_2=0.98))
    stopwatch = _Stopwatch()
    training.fit(
        model,
        batches("train"),
        folder=folder / "pretraining",
        epochs=plan.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        validation_data=batches("validation"),
        callbacks=[stopwatch],
    )
    model.save(folder / "bert.keras")
    sample, test = batches("train").take(100).cache(), batches("test").cache()
    hidden = hidden_only(test, tokenizer)
    measured = model.evaluate(test, return_dict=True, verbose=0)
    measured_hidden = model.evaluate(hidden, return_dict=True, verbose=0)
    manifest = json.loads((examples["train"] / "manifest.json").read_text(encoding="utf-8"))
    tokens = manifest["tokens"] / manifest["examples"] * plan.batch_size * stopwatch.steps
    return model, {
        "mlm_accuracy": measured["masked_lm_accuracy"],
        "mlm_unigram_accuracy": unigram_accuracy(sample, test),
        "mlm_hidden_accuracy": measured_hidden["masked_lm_accuracy"],
        "mlm_hidden_unigram_accuracy": unigram_accuracy(sample, hidden),
        "nsp_accuracy": measured["next_sentence_accuracy"],
        "tokens_per_second": round(tokens / stopwatch.seconds) if stopwatch.seconds else None,
    }


def _backbone(tokenizer, plan):
    return BertBackbone(
        tokenizer.vocabulary_size(),
        num_layers=plan.num_layers,
        num_heads=plan.hidden_dim // 64,
        hidden_dim=plan.hidden_dim,
        intermediate_dim=4 * plan.hidden_dim,
        dropout=0.0,  # a run of minutes never sees a pair often enough to overfit
        max_sequence_length=plan.sequence_length,
        dtype=training.fast_dtype_policy(),
    )


class _Stopwatch(keras.callbacks.Callback):
    """Counts training steps and the seconds they take, without evaluation and the first step."""

    def __init__(self):
        super().__init__()
        self.steps, self.seconds = -1, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        self.started = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps:  # the first step compiles the graph
            self.seconds += time.monotonic() - self.started


def hidden_only(batches, tokenizer):
    """Leaves out the tokens to guess that can be seen, as they were or replaced by another.

    Of the tokens to guess one in ten stays as it was, and to copy it is no art.

    Args:
        batches: Dataset as `keras_llm.objectives.bert_examples` gives it.
        tokenizer: The tokenizer of the batches.

    Returns:
        The dataset with a weight of 0 for each token to guess that is not behind `[MASK]`.

    Example:
        >>> import tensorflow as tf
        >>> tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine"])
        >>> x = {"token_ids": [[2, 5, 4, 3]], "mask_positions": [[1, 2]]}
        >>> y, weights = {"masked_lm": [[5, 5]]}, {"masked_lm": [[1.0, 1.0]]}
        >>> batches = tf.data.Dataset.from_tensors((x, y, weights))
        >>> _, _, weights = next(iter(hidden_only(batches, tokenizer)))
        >>> weights["masked_lm"].numpy().tolist()
        [[0.0, 1.0]]
    """

    def leave_out_visible(x, y, weights):
        shown = tf.gather(x["token_ids"], x["mask_positions"], batch_dims=1)
        is_hidden = tf.cast(shown == tokenizer.mask_token_id, tf.float32)  # (batch, predictions)
        return x, y, {**weights, "masked_lm": weights["masked_lm"] * is_hidden}

    return batches.map(leave_out_visible)


def unigram_accuracy(train, test):
    """Measures the simplest language model: always the most frequent token.

    Args:
        train: Iterable of batches as `keras_llm.objectives.bert_examples` gives them, from which
            the token is chosen.
        test: Iterable of batches to measure on.

    Returns:
        Float, the share of masked tokens that it guesses.

    Example:
        >>> import tensorflow as tf
        >>> y, weights = {"masked_lm": tf.constant([[7, 7, 9]])}, {"masked_lm": tf.ones((1, 3))}
        >>> round(unigram_accuracy([(None, y, weights)], [(None, y, weights)]), 2)
        0.67
    """
    (top, _), *_ = _targets(train).most_common(1)
    targets = _targets(test)
    return targets[top] / targets.total()


def _targets(batches):
    """Counts how often each token is to be guessed."""
    return collections.Counter(
        token
        for _, y, weights in batches
        for token in np.array(y["masked_lm"])[np.array(weights["masked_lm"]) > 0].tolist()
    )


def _finetune(model, tokenizer, plan, folder, seed):
    """Fine-tunes on reviews twice, from the pretrained and from a new backbone."""
    parts = corpora.load(plan.reviews).split(validation=0.05, test=0.15)
    train = _sample(*parts.train.labelled(classes=CLASSES), plan.reviews_at_most, seed)
    test = parts.test.labelled(classes=CLASSES)
    CONSOLE.print(f"{len(train[0]):,} reviews to train on, {len(test[0]):,} to test on")

    accuracy = {}
    for start, backbone in (("from scratch", None), ("pretrained", model.backbone)):
        CONSOLE.print(f"{start}:")
        classifier = _classifier(backbone, tokenizer, plan, len(train[0]))
        classifier.fit(*train, batch_size=32, epochs=plan.review_epochs, seed=seed)
        accuracy[start] = classifier.evaluate(*test, verbose=0)["accuracy"]
    classifier.save(folder / "classifier.keras")
    majority = max(CLASSES, key=train[1].count)
    return classifier, {
        "sentiment_accuracy": accuracy["pretrained"],
        "sentiment_accuracy_from_scratch": accuracy["from scratch"],
        "sentiment_majority_accuracy": test[1].count(majority) / len(test[1]),
    }


def _sample(texts, labels, at_most, seed):
    """Takes some reviews at random: in the data set they stand sorted by their class."""
    order = np.random.default_rng(seed).permutation(len(texts))[:at_most]
    return [texts[i] for i in order], [labels[i] for i in order]


def _classifier(pretrained, tokenizer, plan, reviews):
    """Builds a classifier on a copy of the pretrained backbone, or on a new one.

    It computes in float32, for it is to be served on machines that know no bfloat16.
    """
    with training.strategy().scope():
        config = _backbone(tokenizer, plan).get_config()
        backbone = BertBackbone.from_config({**config, "dtype": "float32", "dropout": 0.1})
        if pretrained is not None:
            backbone.set_weights(pretrained.get_weights())
        # In minutes [CLS] does not learn to sum up a text: the mean over the tokens does it.
        classifier = TextClassifier(
            backbone, tokenizer, CLASSES, plan.review_length, pooling="mean"
        )
        steps = -(-reviews // 32) * plan.review_epochs
        schedule = training.WarmupLinearDecay(plan.review_learning_rate, steps)
        classifier.compile(training.AdamW(schedule))
    return classifier


def _check_served(classifier, served, texts):
    """Raises RuntimeError unless the export answers as the model does."""
    expected = classifier.predict(list(texts), verbose=0)
    if not np.allclose(served["probabilities"], expected["probabilities"], atol=1e-5):
        raise RuntimeError(
            f"The export answers {served['probabilities']} and the model "
            f"{expected['probabilities']}. Please report this with your versions: "
            f"{training.versions()}."
        )


def _show(report, served, plan, folder):
    """Prints the figures beside their baselines, some answers, and where everything lies."""
    table = Table(title="Measured on held-out text")
    for heading in ("", "accuracy", "baseline", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = (
        ("tokens to guess", "mlm_accuracy", "mlm_unigram_accuracy", "the most frequent token"),
        ("  those hidden", "mlm_hidden_accuracy", "mlm_hidden_unigram_accuracy", "the same"),
        ("next sentence", "nsp_accuracy", None, "a coin"),
        ("sentiment", "sentiment_accuracy", "sentiment_majority_accuracy", "the larger class"),
        ("", "sentiment_accuracy", "sentiment_accuracy_from_scratch", "not pretrained"),
    )
    for what, figure, baseline, name in rows:
        floor = report[baseline] if baseline else 0.5
        table.add_row(what, f"{report[figure]:.1%}", f"{floor:.1%}", name)
    CONSOLE.print(table)
    for text, label, row in zip(
        plan.examples, served["label"], served["probabilities"], strict=True
    ):
        CONSOLE.print(f"  {text}  [bold]{label}[/bold] ({max(row):.0%})")
    if report["tokens_per_second"]:  # None where all of the pretraining was done before
        CONSOLE.print(f"{report['tokens_per_second']:,} tokens a second in pretraining")
    CONSOLE.print(f"{report['wall_seconds']:.0f} seconds in all")
    for name in ("report.json", "pretraining/curves.png", "bert.keras", "classifier.keras"):
        CONSOLE.print(f"  {folder / name}", highlight=False)
    CONSOLE.print(f"  {report['export']}", highlight=False)
