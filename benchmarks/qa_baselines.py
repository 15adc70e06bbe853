"""What question answering must beat: a random span, the most similar sentence, no answer at all.

    python benchmarks/qa_baselines.py

prints exact match and F1 of each on the test part of `state_of_the_union_qa`.
"""

import re

import numpy as np

from keras_llm import corpora
from keras_llm.tasks import squad_scores


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


def rows(questions, seed=0):
    """Returns the scores of each baseline."""
    rng = np.random.default_rng(seed)
    answers = {
        "random span": [random_span(question, rng) for question in questions],
        "longest-overlap sentence": [longest_overlap_sentence(q) for q in questions],
        "no answer": [""] * len(questions),
    }
    return {name: squad_scores(answer, questions) for name, answer in answers.items()}


def main():
    questions = list(corpora.load("state_of_the_union_qa").test.questions())
    found = rows(questions)
    print(f"{len(questions)} questions, {sum(bool(q.answers) for q in questions)} with an answer\n")
    print("| | exact match | F1 | exact match where there is an answer | F1 there |")
    print("| --- | --- | --- | --- | --- |")
    columns = ("exact_match", "f1", "has_answer_exact_match", "has_answer_f1")
    for name, scores in found.items():
        print("|", name, "|", " | ".join(f"{scores[c]:.1f}" for c in columns), "|")


if __name__ == "__main__":
    main()
