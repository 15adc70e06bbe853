"""Question answering: the span of a text that answers a question, or that there is none.

Notable:

- answers are spans of the context as it was given: `context[start:end]` is the answer, to the
  letter, whatever the tokenizer lowercases, strips or splits;
- a context may be longer than the model. It is cut into windows that overlap, and a span may begin
  only in the window that shows the most around its first token, so that no span is met twice;
- that the context holds no answer is a span too, of `[CLS]` alone. The best span is the answer if
  it scores more than that by `na_threshold`, which is tuned on validation data.
"""

import collections
import math
import re
import string

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_llm.corpora import Answer, Question
from keras_llm.models.encoder import sequence_output
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.preprocessing import QuestionAnswererPreprocessor, Windows, batch_by_batch
from keras_llm.tasks.text_task import ReadsTokens, TextTask, as_strings, check_sequence_length
from keras_llm.tokenizers.subword import SubwordTokenizer
from keras_llm.training import AdamW, GlobalMeanCrossentropy

_NEVER = -1e9  # the logit of what cannot be: padding, a span that is none


@keras.saving.register_keras_serializable(package="keras_llm")
class QuestionAnswerer(ReadsTokens, TextTask):
    """A backbone with a layer that finds where an answer starts and ends.

    "BERT" (Devlin et al., 2018), sections 4.2 and 4.3: a dense layer gives each token a score as
    the start and one as the end of the answer; the best span is that of the greatest sum.

    Args:
        backbone: an encoder such as `keras_llm.models.BertBackbone`, ours or KerasHub's.
        tokenizer: the tokenizer that the backbone was pretrained with, a `WordPieceTokenizer` or a
            `BytePairTokenizer` of `keras_llm.tokenizers`, which say where tokens stand.
        sequence_length: int, the most tokens of a question and a window of its context. By default
            what the backbone takes, 384 at most.
        stride: int, how many tokens after a window of a long context the next one begins.
        max_answer_length: int, the most tokens of an answer.
        na_threshold: float. The best span is the answer where its score is greater than that of no
            answer by more than this; see `tune_na_threshold`. None always answers, as data such as
            SQuAD 1.1 want it.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: `sequence_length` is less than 8 or more than the backbone has positions;
            `stride` or `max_answer_length` is less than 1; the tokenizer has more tokens than the
            backbone.
        TypeError: the tokenizer is not one of this package.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> questions, contexts = ["Who?", "What?"] * 8, ["Ada came."] * 16
        >>> tokenizer = WordPieceTokenizer.train(questions + contexts, 28)
        >>> model = QuestionAnswerer(BertBackbone.tiny(28), tokenizer)
        >>> model.compile(optimizer=AdamW(1e-3))
        >>> history = model.fit(questions, contexts, ["Ada", "came"] * 8, epochs=20, verbose=0)
        >>> model.predict(["What?"], ["Ada came."])["answer"].tolist()
        ['came']
    """

    targets_name = "answers"

    def __init__(
        self,
        backbone,
        tokenizer,
        sequence_length=None,
        stride=128,
        max_answer_length=30,
        na_threshold=0.0,
        **kwargs,
    ):
        limit = getattr(backbone, "max_sequence_length", None) or 384
        sequence_length = sequence_length or min(limit, 384)
        check_sequence_length(sequence_length, limit)
        if sequence_length < 8 or stride < 1 or max_answer_length < 1:
            raise ValueError(
                f"sequence_length={sequence_length} must be at least 8, stride={stride} and "
                f"max_answer_length={max_answer_length} at least 1."
            )
        if not isinstance(tokenizer, SubwordTokenizer):
            raise TypeError(
                f"{type(tokenizer).__name__} does not say where its tokens stand in a text. Use a "
                "tokenizer of keras_llm.tokenizers with the same vocabulary."
            )
        check_vocabulary(tokenizer, backbone)

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = QuestionAnswererPreprocessor(
            tokenizer, sequence_length, stride, segments="segment_ids" in backbone.input
        )
        self.span_dense = keras.layers.Dense(
            2,
            kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            dtype="float32",  # logits keep their digits under every precision
            name="span_dense",
        )

        # === Functional Model ===
        x = sequence_output(backbone(backbone.input))  # (windows, length, hidden_dim)
        logits = ops.transpose(self.span_dense(x), (0, 2, 1))  # (windows, start and end, length)
        real = ops.cast(backbone.input["padding_mask"], "bool")
        logits = ops.where(real[:, None, :], logits, _NEVER)
        super().__init__(inputs=backbone.input, outputs=logits, **kwargs)

        # === Config ===
        self.sequence_length = sequence_length
        self.stride = stride
        self.max_answer_length = max_answer_length
        self.na_threshold = na_threshold

        self._find_spans = tf.function(self._spans, autograph=False, reduce_retracing=True)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "sequence_length": self.sequence_length,
            "stride": self.stride,
            "max_answer_length": self.max_answer_length,
            "na_threshold": self.na_threshold,
            "name": self.name,
        }

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with the cross-entropy of start and end.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(5e-5)`, the paper's
                rate for SQuAD.
            loss: as in `keras.Model.compile`.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the accuracy of the positions.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(
            AdamW(5e-5) if optimizer == "auto" else optimizer,
            GlobalMeanCrossentropy() if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def fit(
        self,
        x,
        contexts=None,
        answers=None,
        batch_size=32,
        epochs=2,
        validation_data=None,
        seed=0,
        **kwargs,
    ):
        """Trains on questions, their contexts and their answers.

        A window without the answer is one without an answer (section 4.3).

        Args:
            x: iterable of `corpora.Question`, whose first answers are learnt; or list of str, the
                questions.
            contexts: list of str, the text that each question is about.
            answers: list, for each question the answer, a str, which is taken where it first
                stands in the context; or `corpora.Answer`, a pair of text and first character; or
                None, where the context does not answer.
            batch_size: int, windows a step, of all replicas together.
            epochs: int, passes over the windows.
            validation_data: iterable of `corpora.Question`, or a triple (questions, contexts,
                answers).
            seed: int, of the order of the windows, anew each epoch.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`, with loss and accuracy of the positions.

        Raises:
            ValueError: no questions, an empty question or context, a question that is too long, an
                answer that is not in its context or in no window. The message says which; nothing
                is trained then.
        """
        columns = self._examples(as_questions(x, contexts, answers, "fit"))
        if validation_data is not None:
            given = validation_data if isinstance(validation_data, tuple) else (validation_data,)
            validation = self._examples(as_questions(*given))
            validation_data = tf.data.Dataset.from_tensor_slices(validation).batch(batch_size)
        return super().fit(
            self._batches(columns, batch_size, epochs, seed),
            epochs=epochs,
            validation_data=validation_data,
            steps_per_epoch=math.ceil(len(columns[1]) / batch_size),
            **kwargs,
        )

    def evaluate(self, x, contexts=None, answers=None, batch_size=32, **kwargs):
        """Measures answers as the official script of SQuAD does; see `squad_scores`.

        Args:
            x: as in `fit`; all answers of a `corpora.Question` count as right.
            contexts: as in `fit`.
            answers: as in `fit`.
            batch_size: int, windows a step.
            **kwargs: `verbose` of `predict`.

        Returns:
            A dict of `exact_match` and `f1`, in per cent; where some questions have answers and
            others have none, also of either kind.
        """
        if kwargs.get("_use_cached_eval_dataset"):  # `fit` measures loss and accuracy of windows
            return super().evaluate(x, batch_size=batch_size, **kwargs)
        questions = as_questions(x, contexts, answers, "evaluate")
        found = self.predict(questions, batch_size=batch_size, **kwargs)
        return squad_scores(found["answer"], questions)

    def predict(self, x, contexts=None, top_k=1, batch_size=32, verbose="auto"):
        """Answers questions.

        Args:
            x: iterable of `corpora.Question`, or list of str.
            contexts: list of str, as in `fit`.
            top_k: int, how many different spans to return for each question, the best first.
            batch_size: int, windows a step.
            verbose: 1 for a progress bar, 0 for none, "auto" for one where there are several
                batches.

        Returns:
            A dict of arrays (questions,), or (questions, top_k) where that is more than 1:
            `answer`, str, "" for no answer; `start` and `end`, int: the answer is
            `context[start:end]`; `score`, float, by how much the span scores more than no answer;
            and, always (questions,), `no_answer_probability`, float. Of an unanswered question
            `start` and `end` are 0.
        """
        questions = as_questions(x, contexts)
        windows = self._windows(questions)
        order = np.argsort(windows.token_ids.row_lengths(), kind="stable")
        batches = np.array_split(order, np.arange(batch_size, len(order), batch_size))
        verbose = int(len(batches) > 1) if verbose == "auto" else verbose
        progress = keras.utils.Progbar(len(batches), unit_name="batch", verbose=verbose)
        found = []
        for rows in batches:
            rows = Windows(*(tf.gather(column, rows) for column in windows))
            found.append(self._find_spans(rows, tf.constant(top_k)))
            progress.add(1)
        back = np.argsort(order)
        spans = _Spans(
            *(tf.gather(tf.concat(column, 0), back) for column in zip(*found, strict=True))
        )
        best = self._best(spans, windows.question, len(questions))
        best = {name: value.numpy() for name, value in best.items()}
        texts = [
            [question.context[start:end] for start, end in zip(*places, strict=True)]
            for question, *places in zip(questions, best["start"], best["end"], strict=True)
        ]
        best = {"answer": np.array(texts, dtype=object), **best}
        return {k: v[:, 0] if top_k == 1 and v.ndim == 2 else v for k, v in best.items()}

    def serve(self, question, context):
        """What an export computes, as a graph.

        Args:
            question: string tensor (batch,).
            context: string tensor (batch,).

        Returns:
            A dict of `answer`, string (batch,), `start` and `end`, int32 (batch,), in characters
            (code points), `score` and `no_answer_probability`, float32 (batch,), as `predict` has
            them.
        """
        windows = self.preprocessor.windows(question, context)

        def found(some):
            return self._spans(Windows(*(tf.gather(column, some) for column in windows)), 1)

        spans = batch_by_batch(found, windows.token_ids.nrows(), _SPAN)
        best = self._best(spans, windows.question, tf.size(question))
        best = {
            name: value[:, 0] if value.shape.rank == 2 else value for name, value in best.items()
        }
        context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8")
        start, length = best["start"], best["end"] - best["start"]
        return {"answer": tf.strings.substr(context, start, length, unit="UTF8_CHAR"), **best}

    def serve_inputs(self, question, context):
        """What the model reads: string tensors (batch,) to the dict of all windows."""
        return self.preprocessor.pack(self.preprocessor.windows(question, context).token_ids)

    def serve_tokens(self, inputs):
        """Scores each token of windows as the first and as the last of the answer.

        Args:
            inputs: the dict of `serve_inputs`.

        Returns:
            A dict of `start_logits` and `end_logits`, float32 (windows, length).
        """
        start, end = tf.unstack(self(inputs, training=False), axis=1)
        return {"start_logits": start, "end_logits": end}

    def tune_na_threshold(self, x, contexts=None, answers=None, **kwargs):
        """Sets `na_threshold` to what gives the greatest F1 (section 4.3).

        Args:
            x: as in `fit`; questions of validation data, some with and some without answers.
            contexts: as in `fit`.
            answers: as in `fit`.
            **kwargs: `batch_size`, `verbose` of `predict`.

        Returns:
            The threshold, float.
        """
        questions = as_questions(x, contexts, answers, "tune_na_threshold")
        self.na_threshold = None
        found = self.predict(questions, **kwargs)
        answered = [_best_of(f1, *pair) for pair in zip(found["answer"], questions, strict=True)]
        silent = [_best_of(f1, "", question) for question in questions]
        order = np.argsort(-found["score"], kind="stable")  # the surest first
        gain = np.subtract(answered, silent)[order]
        count = int(np.argmax(np.concatenate([[0.0], np.cumsum(gain)])))  # how many to answer
        scores = found["score"][order]
        # Halfway between the last that is answered and the first that is not.
        bounds = np.concatenate([[scores[0] + 2.0], scores, [scores[-1] - 2.0]])
        self.na_threshold = float(bounds[count] + bounds[count + 1]) / 2
        return self.na_threshold

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """Pads a batch of windows; KerasHub calls it."""
        return keras.utils.pack_x_y_sample_weight(self.preprocessor.pack(x), y, sample_weight)

    # === Windows ===

    def _windows(self, questions):
        """Cuts all contexts into windows, after a look at the lengths of the questions."""
        asked = _tensor([question.question for question in questions])
        most = self.preprocessor.max_question_length
        lengths = self.preprocessor.tokenizer(asked).row_lengths().numpy()
        longest = int(lengths.argmax())
        if lengths[longest] > most:
            raise ValueError(
                f"Question {questions[longest].id!r} has {lengths[longest]} tokens; with "
                f"sequence_length={self.sequence_length} it may have {most}. Shorten it, or allow "
                "a greater sequence_length."
            )
        return self.preprocessor.windows(asked, _tensor([q.context for q in questions]))

    def _examples(self, questions):
        """Returns the tokens of all windows and, (windows, 2), where the answer starts and ends."""
        windows = self._windows(questions)
        spans = [
            (start, start + len(text))
            for text, start in (q.answers[0] if q.answers else Answer("", -1) for q in questions)
        ]
        first, last = (
            tf.gather(tf.constant(spans), windows.question)[..., None].numpy().swapaxes(0, 1)
        )
        starts, ends = windows.starts.to_tensor(), windows.ends.to_tensor()  # (windows, length)
        covered = ((starts < last) & (ends > first)).numpy()
        rows = np.arange(len(covered))
        start = covered.argmax(axis=1)
        end = covered.shape[1] - 1 - covered[:, ::-1].argmax(axis=1)

        # A window has the whole answer if it covers as many characters as all windows together.
        whole = np.array([[np.iinfo("int32").max, -1]] * len(questions))
        places = np.stack([starts.numpy()[rows, start], ends.numpy()[rows, end]], axis=1)
        some = covered.any(axis=1)
        question = windows.question.numpy()
        np.minimum.at(whole[:, 0], question[some], places[some, 0])
        np.maximum.at(whole[:, 1], question[some], places[some, 1])
        has_answer = some & (places == whole[question]).all(axis=1)
        self._check_in_a_window(questions, set(question[has_answer]))
        targets = np.where(has_answer[:, None], np.stack([start, end], axis=1), 0)
        return windows.token_ids, tf.constant(targets, tf.int32)

    def _check_in_a_window(self, questions, found):
        for i, question in enumerate(questions):
            if question.answers and i not in found:
                raise ValueError(
                    f"Question {question.id!r}: no window of sequence_length="
                    f"{self.sequence_length} holds all of the answer "
                    f"{question.answers[0].text[:80]!r}. Give a shorter answer, a greater "
                    "sequence_length or a smaller stride."
                )

    # === Spans ===

    def _spans(self, windows, top_k):
        """Finds the best spans of each window, as a graph."""
        logits = self(self.preprocessor.pack(windows.token_ids), training=False)
        start, end = logits[:, 0], logits[:, 1]  # (windows, length)
        length = tf.shape(start)[1]
        starts, ends, central = (
            column.to_tensor(shape=tf.stack([-1, length]))
            for column in (windows.starts, windows.ends, windows.central)
        )
        may_end = ends > starts  # no token of the context has 0 for both
        may_start = may_end & central

        scores = start[:, :, None] + end[:, None, :]  # (windows, start, end)
        distance = tf.range(length)[None, :] - tf.range(length)[:, None]  # (start, end)
        near = (distance >= 0) & (distance < self.max_answer_length)
        scores = tf.where(may_start[:, :, None] & may_end[:, None, :] & near, scores, _NEVER)
        scores = tf.reshape(scores, (-1, length * length))
        enough = tf.fill((tf.shape(scores)[0], top_k), _NEVER)  # a window may have too few spans
        best, place = tf.math.top_k(tf.concat([scores, enough], axis=1), top_k)  # (windows, top_k)
        place = tf.minimum(place, length * length - 1)
        return _Spans(
            score=best,
            start=tf.gather(starts, place // length, batch_dims=1),
            end=tf.gather(ends, place % length, batch_dims=1),
            no_answer=start[:, 0] + end[:, 0],
        )

    def _best(self, spans, question, num_questions):
        """Returns the best spans of all windows of each question, as a graph."""
        count, top_k = tf.unstack(tf.shape(spans.score))
        windows = tf.RaggedTensor.from_value_rowids(
            tf.range(count), question, nrows=tf.cast(num_questions, question.dtype)
        )
        most = tf.maximum(tf.cast(windows.bounding_shape(1), tf.int32), 1)
        windows = windows.to_tensor(count, shape=tf.stack([-1, most]))  # (questions, windows)

        def of_questions(column, filler):
            """Lays the spans of all windows of a question side by side."""
            column = tf.concat([column, tf.fill((1, top_k), filler)], axis=0)
            return tf.reshape(tf.gather(column, windows), (num_questions, most * top_k))

        score, place = tf.math.top_k(of_questions(spans.score, _NEVER), top_k)
        # Section 4.3 has one window; of several the one least sure that there is no answer counts.
        no_answer = tf.math.segment_min(spans.no_answer, question)  # (questions,)
        score -= no_answer[:, None]
        least = 0.1 * _NEVER if self.na_threshold is None else self.na_threshold
        answered = tf.cast(score > least, tf.int32)
        return {
            "start": answered * tf.gather(of_questions(spans.start, 0), place, batch_dims=1),
            "end": answered * tf.gather(of_questions(spans.end, 0), place, batch_dims=1),
            "score": score,
            "no_answer_probability": tf.sigmoid(-score[:, 0]),
        }


class _Spans(collections.namedtuple("_Spans", "score start end no_answer")):
    """Scores and places (windows, top_k) of spans, and the score of no answer (windows,)."""


_SPAN = _Spans(  # one of each window
    score=tf.TensorSpec([None, 1], tf.float32),
    start=tf.TensorSpec([None, 1], tf.int32),
    end=tf.TensorSpec([None, 1], tf.int32),
    no_answer=tf.TensorSpec([None], tf.float32),
)


def as_questions(x, contexts=None, answers=None, method=None):
    """Returns questions as `corpora.Question`, checked.

    Args:
        x: iterable of `corpora.Question`, or of str.
        contexts: iterable of str, or None beside `Question`s.
        answers: list of str, `corpora.Answer` or None; or None.
        method: str, what it is for, where answers must be given beside strings.

    Returns:
        List of `Question`; what was given as strings has its number as `id`.

    Raises:
        TypeError: something is of another type.
        ValueError: there are none, the lists are not of the same length, or one is not right.

    Example:
        >>> as_questions(["Who?"], ["Ada."], ["Max"])
        Traceback (most recent call last):
        ValueError: Question '0': the answer 'Max' is not in the context 'Ada.'.
    """
    if contexts is None:
        questions = [x] if isinstance(x, str) else list(x)
        for i, question in enumerate(questions):
            if not isinstance(question, Question):
                raise TypeError(
                    f"questions[{i}] is {question!r}. Pass strings with their contexts, or a list "
                    "of keras_llm.corpora.Question."
                )
        if not questions:
            raise ValueError("The list of questions is empty.")
        return questions
    asked, contexts = as_strings(x, "questions"), as_strings(contexts, "contexts")
    if method and answers is None:
        raise ValueError(
            f"Answers are missing: pass them beside the contexts, `{method}(questions, contexts, "
            "answers)`, None for a question without answer."
        )
    answers = [None] * len(asked) if answers is None else list(answers)
    if not len(asked) == len(contexts) == len(answers):
        raise ValueError(
            "There must be as many contexts and answers as questions; got "
            f"{len(asked)} questions, {len(contexts)} contexts, {len(answers)} answers."
        )
    return [
        Question(question, context, _answers(i, context, answer), id=str(i))
        for i, (question, context, answer) in enumerate(zip(asked, contexts, answers, strict=True))
    ]


def _answers(i, context, answer):
    """Returns the answers of a question as `Question` has them."""
    if answer is None:
        return ()
    if isinstance(answer, str):
        if not answer or answer not in context:
            raise ValueError(
                f"Question '{i}': the answer {answer!r} is not in the context {context[:80]!r}."
            )
        answer = (answer, context.index(answer))
    return (Answer(*answer),)


def _tensor(texts):
    """Returns strings as a tensor, lone surrogates as "?", which keeps the characters' places."""
    return tf.constant([text.encode("utf-8", "replace") for text in texts])


# === Scores ===


def squad_scores(answers, questions):
    """Compares answers with the right ones, as the official script of SQuAD 2.0 does.

    Letters' case, punctuation and the articles a, an and the do not count.

    Args:
        answers: list of str, "" where a question was not answered.
        questions: list of `corpora.Question` in the same order.

    Returns:
        A dict of the means, in per cent, of `exact_match` and of `f1`, the overlap of words with
        the nearest of the right answers. Where some questions have answers and others have none,
        also `has_answer_exact_match`, `has_answer_f1` and `no_answer_exact_match`.

    Raises:
        ValueError: not as many answers as questions.

    Example:
        >>> questions = [Question("Who?", "Ada King Byron did.", (Answer("Ada King Byron", 0),))]
        >>> squad_scores(["the Ada"], questions)
        {'exact_match': 0.0, 'f1': 50.0}
    """
    if len(answers) != len(questions) or not len(questions):
        raise ValueError(
            f"There must be one answer for each question; got {len(answers)} answers, "
            f"{len(questions)} questions."
        )
    has_answer = np.array([bool(question.answers) for question in questions])
    pairs = list(zip(answers, questions, strict=True))
    exact = 100.0 * np.array([_best_of(exact_match, *pair) for pair in pairs])
    overlap = 100.0 * np.array([_best_of(f1, *pair) for pair in pairs])
    scores = {"exact_match": exact.mean(), "f1": overlap.mean()}
    if has_answer.any() and not has_answer.all():
        scores["has_answer_exact_match"] = exact[has_answer].mean()
        scores["has_answer_f1"] = overlap[has_answer].mean()
        scores["no_answer_exact_match"] = exact[~has_answer].mean()
    return {name: float(score) for name, score in scores.items()}


def exact_match(answer, right):
    """Says, as 0 or 1, whether two answers are the same but for what does not count.

    Args:
        answer: str.
        right: str.

    Returns:
        int.

    Example:
        >>> exact_match("the White House.", "white house")
        1
    """
    return int(_words(answer) == _words(right))


def f1(answer, right):
    """Measures how many words two answers share: the harmonic mean of precision and recall.

    Args:
        answer: str.
        right: str.

    Returns:
        float from 0 to 1.

    Example:
        >>> f1("old white house", "the White House")
        0.8
    """
    answer, right = _words(answer), _words(right)
    if not answer or not right:
        return float(answer == right)
    shared = (collections.Counter(answer) & collections.Counter(right)).total()
    return 2 * shared / (len(answer) + len(right))


def _words(answer):
    """The words that count: lower case, without ASCII punctuation, without articles."""
    answer = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", answer).split()


def _best_of(measure, answer, question):
    """The measure against the nearest of the right answers, or against silence."""
    right = [text for text, _ in question.answers if _words(text)] or [""]
    return max(measure(answer, text) for text in right)
