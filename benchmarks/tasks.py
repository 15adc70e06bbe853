"""How good is each task after minutes of training, beside what knows no language?

One section a task, each from three seeds, on data held out from training:

- names: persons, places and organisations in the People's Daily, by a small XLNet that is new,
  with and without a CRF, and by each character's most frequent tag; F1 of whole names (seqeval);
- snippets: the sentiment of English film reviews, by all-MiniLM-L6-v2 fine-tuned, and by a logistic
  regression of words and pairs of words; accuracy;
- few_labels: the same snippets with no labels, 8, 64 and 512: the class whose description, or the
  mean of whose examples, is nearest to all-MiniLM-L6-v2, and that model fine-tuned;
- reviews: the sentiment of Chinese product reviews, by an encoder of one layer that is new, and by
  a logistic regression of characters, pairs and triples; accuracy;
- headlines: of People's Daily articles, by a new T5 that starts at random or as a copier, and by
  the first words of the article; ROUGE;
- questions: answers as spans of State of the Union passages, by all-MiniLM-L6-v2 fine-tuned on 440
  questions, and by baselines that read nothing; exact match and F1 (SQuAD's script).

The time is that of the process, of all its threads, in which the model was trained.

Of all-MiniLM-L6-v2 the three upper blocks are trained, with few labels all.

    python benchmarks/tasks.py [--tasks names snippets ...] [--seeds 3]
"""

import argparse
import itertools
import re
import statistics
import time
from collections import Counter, defaultdict

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from keras_llm import corpora, models, training
from keras_llm.checkpoints import load_hugging_face
from keras_llm.tasks import (
    QuestionAnswerer,
    Summarizer,
    TextClassifier,
    TextEmbedder,
    TokenClassifier,
    ZeroShotClassifier,
    entity_scores,
    first_clauses,
    lead_baseline,
    rouge_scores,
    squad_scores,
)
from keras_llm.tokenizers import UnigramTokenizer, WordPieceTokenizer

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
CLASSES = ("negative", "positive")
SPECIAL = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "start_token": "<s>",
    "end_token": "</s>",
}


def fit(model, examples, rate, epochs, seed, batch_size=32, beta_2=0.999, validation=None):
    """Trains a model, with validation data up to its best epoch; returns the processor minutes."""
    steps = epochs * -(-len(examples[0]) // batch_size)
    model.compile(training.AdamW(training.WarmupLinearDecay(rate, steps), beta_2=beta_2))
    best = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    start = time.process_time()
    model.fit(
        *examples,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=validation,
        seed=seed,
        callbacks=[best] if validation else None,
        verbose=2,
    )
    return (time.process_time() - start) / 60


# === Names in the People's Daily ===


def most_frequent_tags(train, sentences):
    """Gives each character the tag that it has most often in the training part."""
    counts = defaultdict(Counter)
    for words, tags in zip(*train, strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    best = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    return [[best.get(word, "O") for word in words] for words in sentences]


def names(seeds):
    parts = corpora.load("peoples_daily_1998").split()
    train, _, test = (corpora.named_entities(part) for part in parts)
    yield "most frequent tag", entity_scores(test[1], most_frequent_tags(train, test[0])), 0.0
    for crf in (False, True):
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            tokenizer = WordPieceTokenizer.train(map(" ".join, train[0]), 4600)
            # Its positions are relative: a new BERT is 0.1 behind after the same time (Yan et al.,
            # 2019, "TENER", find the same).
            backbone = models.XLNetBackbone(
                tokenizer.vocabulary_size(), 2, 4, 128, 256, dropout=0.0
            )
            models.mimetic_initialization(backbone, seed)
            model = TokenClassifier(
                backbone, tokenizer, ["person", "place", "organisation"], crf=crf
            )
            minutes = fit(model, train, 2e-3, 2, seed, beta_2=0.98)
            yield "new XLNet, CRF" if crf else "new XLNet", model.evaluate(*test), minutes


# === Sentiment ===


def word_counts(train, test, **features):
    """Returns the accuracy of a logistic regression of n-grams."""
    features = TfidfVectorizer(sublinear_tf=True, min_df=2, **features)
    model = make_pipeline(features, LogisticRegression(C=4.0, max_iter=300)).fit(*train)
    return {"accuracy": model.score(*test)}


def snippets(seeds):
    parts = corpora.load("movie_snippets").split()
    train, _, test = (part.labelled("label", CLASSES) for part in parts)
    yield "word pairs, logistic regression", word_counts(train, test, ngram_range=(1, 2)), 0.0
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = TextClassifier(*load_hugging_face(MINILM), CLASSES, sequence_length=64)
        training.freeze(model, num_blocks=3)
        minutes = fit(model, train, 1e-4, 1, seed)
        yield "all-MiniLM-L6-v2, fine-tuned", model.evaluate(*test), minutes


DESCRIPTIONS = {
    "negative": ["a terrible film", "a boring, bad movie"],
    "positive": ["a wonderful film", "a gripping, good movie"],
}
FEW = {8: (8, 10), 64: (8, 6), 512: (16, 3)}  # labels: batch size, epochs


def few_labels(seeds):
    parts = corpora.load("movie_snippets").split()
    (texts, labels), _, test = (part.labelled("label", CLASSES) for part in parts)
    zero_shot = ZeroShotClassifier(TextEmbedder(*load_hugging_face(MINILM), 64), DESCRIPTIONS)
    yield "descriptions, no labels", zero_shot.evaluate(*test), 0.0
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).permutation(len(texts))
        for number, (batch_size, epochs) in FEW.items():
            of_class = ([i for i in drawn if labels[i] == name][: number // 2] for name in CLASSES)
            rows = [i for pair in zip(*of_class, strict=True) for i in pair]
            few = [texts[i] for i in rows], [labels[i] for i in rows]
            zero_shot.adapt(*few)
            yield f"prototypes, {number} labels", zero_shot.evaluate(*test), 0.0
            keras.utils.set_random_seed(seed)
            model = TextClassifier(
                *load_hugging_face(MINILM), CLASSES, sequence_length=64, pooling="mean"
            )
            minutes = fit(model, few, 1e-4, epochs, seed, batch_size)
            yield f"fine-tuned, {number} labels", model.evaluate(*test), minutes


def reviews(seeds):
    parts = corpora.load("product_reviews_zh").split()
    train, validation, test = (part.labelled("label", CLASSES) for part in parts)
    train = tuple(zip(*dict(zip(*train, strict=True)).items(), strict=True))  # half are repeats
    ngrams = word_counts(train, test, analyzer="char", ngram_range=(1, 3))
    yield "character triples, logistic regression", ngrams, 0.0
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        # Rare characters are left out: they would take half of the vocabulary.
        tokenizer = UnigramTokenizer.train(
            train[0], 8000, character_coverage=0.997, special_tokens=SPECIAL
        )
        backbone = models.BertBackbone(8000, 1, 2, 128, 512, 0.3, max_sequence_length=128)
        models.mimetic_initialization(backbone, seed)
        model = TextClassifier(backbone, tokenizer, CLASSES, pooling="mean", dropout=0.3)
        minutes = fit(model, train, 1e-3, 3, seed, validation=validation)
        yield "new encoder, words of a unigram model", model.evaluate(*test), minutes


# === Headlines of the People's Daily ===


def headlines(seeds):
    parts = corpora.load("peoples_daily_1998").split(validation=0.1, test=0.1)
    train, _, test = map(corpora.headlines, parts)
    known = set(train[1])
    unread = [pair for pair in zip(*test, strict=True) if pair[1] not in known]
    articles, references = map(list, zip(*unread, strict=True))
    length = round(statistics.fmean(map(len, train[1])))
    for characters in (length, 40):
        lead = lead_baseline(articles, characters, "zh")
        yield f"lead, {characters} characters", rouge_scores(lead, references), 0.0
    texts = [article[:150] for article in train[0]] + train[1]
    tokenizer = UnigramTokenizer.train(texts, 3000, character_coverage=0.998)
    for seed, copies in itertools.product(range(seeds), (False, True)):
        keras.utils.set_random_seed(seed)
        backbone = models.T5Backbone(tokenizer.vocabulary_size(), 2, 4, 128, 256, dropout=0.0)
        if copies:
            models.mimetic_initialization(backbone, seed)
        model = Summarizer(backbone, tokenizer, sequence_length=48, target_length=20)
        minutes = fit(model, first_clauses(train[0], "zh"), 4e-3, 1, seed, beta_2=0.98)
        minutes += fit(model, train, 2e-3, 3, seed, beta_2=0.98)
        beams = {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram": 2}
        written = model.summarize(articles, batch_size=256, verbose=0, **beams)
        start = "as a copier" if copies else "at random"
        yield f"T5, started {start}, 4 beams", rouge_scores(written, references), minutes


# === Questions on the State of the Union ===


def random_span(question, rng, max_words=5):
    """A span of one to five words, anywhere in the context."""
    words = [(word.start(), word.end()) for word in re.finditer(r"\S+", question.context)]
    first = rng.integers(len(words))
    last = min(first + rng.integers(max_words), len(words) - 1)
    return question.context[words[first][0] : words[last][1]]


def longest_overlap_sentence(question):
    """The sentence of the context that shares most different words with the question."""

    def words(text):
        return set(re.findall(r"\w+", text.lower()))

    asked = words(question.question)
    sentences = corpora.sentences(question.context, "en")
    return max(sentences, key=lambda sentence: len(asked & words(sentence)))


def questions(seeds):
    corpus = corpora.load("state_of_the_union_qa")
    train, validation, test = (list(part.questions()) for part in corpus.split())
    rng = np.random.default_rng(0)
    baselines = {
        "random span": [random_span(question, rng) for question in test],
        "longest-overlap sentence": [longest_overlap_sentence(question) for question in test],
        "no answer": [""] * len(test),
    }
    for name, answers in baselines.items():
        yield name, squad_scores(answers, test), 0.0
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = QuestionAnswerer(*load_hugging_face(MINILM), na_threshold=None)
        training.freeze(model, num_blocks=3)
        minutes = fit(model, (train,), 3e-4, 6, seed, batch_size=8)
        yield "all-MiniLM-L6-v2, always a span", model.evaluate(test), minutes
        model.tune_na_threshold(validation)
        yield "all-MiniLM-L6-v2, a span or none", model.evaluate(test), minutes


SECTIONS = {
    names: ("precision", "recall", "f1"),
    snippets: ("accuracy",),
    few_labels: ("accuracy",),
    reviews: ("accuracy",),
    headlines: ("rouge1", "rouge2", "rougeL"),
    questions: ("exact_match", "f1", "has_answer_exact_match", "has_answer_f1"),
}


def show(title, rows, columns):
    """Prints the mean of each figure over the seeds, and from the least to the greatest."""
    systems = defaultdict(list)
    for system, figures, minutes in rows:
        systems[system].append([*(figures[column] for column in columns), minutes])
        print(f"{title}: {system}: {figures}, {minutes:.1f} min", flush=True)
    table = Table("", *columns, "minutes", title=title)
    for system, values in systems.items():
        cells = (
            f"{statistics.mean(column):.3g} ({min(column):.3g} to {max(column):.3g})"
            for column in zip(*values, strict=True)
        )
        table.add_row(system, *cells)
    Console().print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    by_name = {section.__name__: section for section in SECTIONS}
    parser.add_argument("--tasks", nargs="+", choices=by_name, default=list(by_name))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.tasks:
        section = by_name[name]
        show(name, section(arguments.seeds), SECTIONS[section])


if __name__ == "__main__":
    main()
