"""Summarization: a headline, or another short text, from a long one; and how it is measured."""

import re
import statistics

import keras
import tensorflow as tf

from keras_llm import corpora
from keras_llm.corpora.cleaning import words
from keras_llm.tasks.sequence_to_sequence import SequenceToSequence
from keras_llm.tasks.text_task import as_strings

ROUGE = ("rouge1", "rouge2", "rougeL")
END_OF_CLAUSE = re.compile(r"[，。、；：！？]|[,;:](?=\s)|[.!?]+$")  # "Dr." does not end one


@keras.saving.register_keras_serializable(package="keras_llm")
class Summarizer(SequenceToSequence):
    """An encoder-decoder that learns from texts and their summaries, and summarizes texts.

    "T5" (Raffel et al., 2020), section 2.4: text in, text out, with a prefix that names the task.
    Summaries of news are measured by ROUGE beside the first sentence: `rouge_scores`,
    `lead_baseline`. A new T5 learns them in minutes if it starts as a copier,
    `models.mimetic_initialization`, and from `first_clauses` before.

    Args:
        backbone: an `EncoderDecoder`: `keras_llm.models.Transformer` or `T5Backbone`.
        tokenizer: a tokenizer of `keras_llm.tokenizers`. In a decoded text of `WordPieceTokenizer`
            spaces and capitals are a guess; `UnigramTokenizer`, T5's own, keeps them.
        sequence_length: int, the most tokens of a text, with the end token; the rest of a longer
            one is cut off at its end, and the summary knows nothing of it.
        target_length: int, the most tokens of a summary.
        prefix: str, stands before each text; published T5 knows "summarize: ".
        num_beams: int, as in `SequenceToSequence`, as are the others.
        length_penalty: float.
        no_repeat_ngram: int or None.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: the tokenizer has more tokens than the backbone; a length is less than 2.
        TypeError: the backbone is no `EncoderDecoder`.

    Example:
        >>> from keras_llm.models import T5Backbone
        >>> from keras_llm.tokenizers import UnigramTokenizer
        >>> from keras_llm.training import AdamW
        >>> keras.utils.set_random_seed(0)
        >>> texts = ["It rains, and it rains all day.", "The sun shines, and we sit outside."] * 8
        >>> summaries = ["Rain", "Sun"] * 8
        >>> tokenizer = UnigramTokenizer.train(texts + summaries, 50)
        >>> model = Summarizer(T5Backbone(50, 1, 2, 32, 64, dropout=0.0), tokenizer)
        >>> model.compile(AdamW(1e-2))
        >>> history = model.fit(texts, summaries, batch_size=8, epochs=6, verbose=0)
        >>> model.summarize(["The sun shines, and we sit outside."])
        ['Sun']
    """

    target_name, targets_name = "summary", "summaries"

    def __init__(
        self,
        backbone,
        tokenizer,
        sequence_length=512,
        target_length=64,
        prefix="",
        num_beams=1,
        length_penalty=0.6,
        no_repeat_ngram=None,
        **kwargs,
    ):
        super().__init__(
            backbone,
            tokenizer,
            sequence_length,
            target_length,
            prefix,
            num_beams,
            length_penalty,
            no_repeat_ngram,
            **kwargs,
        )

    def summarize(self, texts, **kwargs):
        """Summarizes texts.

        Args:
            texts: list of str.
            **kwargs: as in `write`: `num_beams`, `length_penalty`, `max_length` and so on.

        Returns:
            List of str, one summary a text. The summary of a text does not depend on the others.
        """
        return self.write(texts, **kwargs)

    def evaluate(self, x, y=None, batch_size=32, sample_weight=None, return_dict=True, **kwargs):
        """Measures loss, accuracy of the next token and ROUGE on texts and their summaries.

        Args:
            x: list of str; or a dataset as in `fit`, which is measured without ROUGE.
            y: list of str.
            batch_size: int, texts a step.
            sample_weight: list of float, or None; ROUGE is of all texts alike.
            return_dict: bool. False gives Keras' list without names, and without ROUGE.
            **kwargs: further arguments of `keras.Model.evaluate`.

        Returns:
            A dict of `loss`, `accuracy` and what `rouge_scores` returns.
        """
        figures = super().evaluate(x, y, batch_size, sample_weight, return_dict, **kwargs)
        by_fit = "_use_cached_eval_dataset" in kwargs  # which asks after each epoch
        if by_fit or not return_dict or isinstance(x, tf.data.Dataset):
            return figures
        verbose = kwargs.get("verbose", "auto")
        return figures | rouge_scores(self.write(x, batch_size=batch_size, verbose=verbose), y)


def rouge_scores(predictions, references):
    """Measures what summaries have in common with those that people wrote (library `rouge-score`).

    "ROUGE" (Lin, 2004): the F1 of single words (`rouge1`), of pairs of words (`rouge2`) and of the
    longest common subsequence (`rougeL`), each the mean over all texts. The library's own words are
    of Latin letters only; here an ideograph or kana is a word, other words are those of any script,
    without regard to case and width, and not stemmed.

    Args:
        predictions: list of str, the summaries to be measured.
        references: list of str, as many.

    Returns:
        A dict of `rouge1`, `rouge2` and `rougeL`, floats from 0 to 1.

    Raises:
        ValueError: there are none, or not as many references as predictions.
        TypeError: a single string, or something else than strings.

    Example:
        >>> scores = rouge_scores(["北京有雪", "rain"], ["北京大雪", "Rain!"])
        >>> {name: round(score, 2) for name, score in scores.items()}
        {'rouge1': 0.88, 'rouge2': 0.17, 'rougeL': 0.88}
    """
    from rouge_score.rouge_scorer import RougeScorer

    predictions = as_strings(predictions, "predictions")
    references = as_strings(references, "references")
    if len(predictions) != len(references):
        raise ValueError(
            f"There must be as many references as predictions; got {len(predictions)} predictions, "
            f"{len(references)} references."
        )
    scorer = RougeScorer(ROUGE, tokenizer=_Words())
    scored = [scorer.score(r, p) for p, r in zip(predictions, references, strict=True)]
    return {name: statistics.fmean(s[name].fmeasure for s in scored) for name in ROUGE}


class _Words:
    """How texts become words, in the form that the library asks for."""

    def tokenize(self, text):
        return words(text)


def lead_baseline(articles, max_length, language="en"):
    """Summarizes articles by their first sentence: news say first what matters most.

    Args:
        articles: list of str.
        max_length: int, characters; what is longer is cut off. A fair choice is the mean length of
            the summaries to train on.
        language: str, ISO 639-1 code, of the rules by which sentences end.

    Returns:
        List of str.

    Raises:
        ValueError: there are no articles; `max_length` is less than 1.
        TypeError: a single string, or something else than strings.

    Example:
        >>> lead_baseline(["今晚下雪。明天放晴，气温回升。"], max_length=4, language="zh")
        ['今晚下雪']
    """
    if max_length < 1:
        raise ValueError(f"max_length={max_length} must be at least 1: characters of a summary.")
    articles = as_strings(articles, "articles")
    first = (next(iter(corpora.sentences(article, language)), "") for article in articles)
    return [sentence[:max_length] for sentence in first]


def first_clauses(articles, language="en", per_article=3):
    """Makes questions that need no label: what is the first clause of a passage?

    To answer is to begin at the right place, to copy and to stop. A summarizer that learns so
    before it learns from summaries needs fewer of these, as after "PEGASUS" (Zhang et al., 2020),
    which asks for whole sentences.

    Args:
        articles: list of str.
        language: str, ISO 639-1 code, of the rules by which sentences end.
        per_article: int, passages of an article: from its first sentence on, from its second, ...

    Returns:
        Two lists of str, the passages, each up to the end of its article, and their first clauses.

    Raises:
        ValueError: there are no articles.
        TypeError: a single string, or something else than strings.

    Example:
        >>> passages, clauses = first_clauses(["今晚下雪。明天放晴，气温回升。"], language="zh")
        >>> passages, clauses
        (['今晚下雪。明天放晴，气温回升。', '明天放晴，气温回升。'], ['今晚下雪', '明天放晴'])
    """
    passages, clauses = [], []
    for article in as_strings(articles, "articles"):
        found = corpora.sentences(article, language)
        for i, sentence in enumerate(found[:per_article]):
            clause = END_OF_CLAUSE.split(sentence, maxsplit=1)[0].strip()
            if clause:
                passages.append(("" if language == "zh" else " ").join(found[i:]))
                clauses.append(clause)
    return passages, clauses
