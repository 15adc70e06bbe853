"""Sequence labelling: a tag for each word of a sentence, and the names that the tags mark.

Notable:

- the words are judged at their first piece, gathered before the tags are scored: a `CRF` sees a
  chain of words, whatever the tokenizer makes of them;
- the loss of a CRF is per word, as that of a classifier is, so learning rates carry over; it is a
  sum over all replicas divided by the number of words on all of them;
- a scheme such as BIO is a set of pairs of tags that may follow each other. The CRF obeys it, the
  tags in `fit` are checked by it, and the names are read off by it;
- strings are cut into words in a graph, by the same rule in `fit`, `predict` and an export.
"""

from typing import NamedTuple

import keras
import numpy as np
import seqeval.metrics.v1
import seqeval.scheme
import sklearn.metrics
import tensorflow as tf
from keras import ops

from keras_llm.layers import CRF, crf_decode, crf_log_likelihood
from keras_llm.models.encoder import kernel_initializer, sequence_output
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.preprocessing import (
    TokenClassifierPreprocessor,
    batch_by_batch,
    running_ends,
)
from keras_llm.tasks.text_task import (
    ReadsTokens,
    TextTask,
    as_strings,
    batches_of_like_length,
    check_sequence_length,
)
from keras_llm.training import AdamW, GlobalMeanCrossentropy
from keras_llm.training.distribution import global_sum

# Of each scheme: the prefixes of its tags, those that end a name, and the name of it in seqeval.
SCHEMES = {"BIO": ("BI", "BI", "IOB2"), "BIOES": ("BIES", "ES", "IOBES")}

REPORTED = ("precision", "recall", "f1", "support")

_SPACE = r"[\s\p{Z}\p{Cc}]+"
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\x{FF00}-\x{FFEF}\p{P}\p{S}]"
_EDGE = b"\xff"  # a byte that UTF-8 never has


class Entity(NamedTuple):
    """A name in a text.

    Args:
        text: str, the name.
        label: str, its class.
        start: int, the character of the text at which it starts.
        end: int, the character before which it ends.

    Example:
        >>> Entity("北京", "place", 3, 5).label
        'place'
    """

    text: str
    label: str
    start: int
    end: int


@keras.saving.register_keras_serializable(package="keras_llm")
class TokenClassifier(ReadsTokens, TextTask):
    """A backbone that gives each word a tag: names, parts of speech.

    "Neural Architectures for Named Entity Recognition" (Lample et al., 2016), with an encoder such
    as BERT (Devlin et al., 2018, section 5.3) in the place of its LSTM.

    A sentence is a list of words, or a string. In a string each ideograph, each full-width
    character and each punctuation mark is a word, and so is a run of other characters without
    space: Chinese is tagged by character.

    Args:
        backbone: an encoder such as `keras_llm.models.BertBackbone`, ours or KerasHub's.
        tokenizer: the tokenizer that the backbone was pretrained with.
        labels: list of str: with a scheme the classes of names, such as "person"; without, the tags
            themselves, such as "noun".
        scheme: str, how tags mark names: "BIO" (begin, inside, outside), "BIOES" (also end and
            single), or None: tags mark no names.
        crf: bool, whether tags are chosen together, by a `CRF`; otherwise each by itself.
        sequence_length: int, the most tokens of a sentence. By default what the backbone takes,
            128 at most. The words of a longer sentence that do not fit are not trained on;
            `predict` and an export tag it in windows.
        dropout: float in [0, 1), on the vectors of the words.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: no labels, or a label twice; another scheme; `sequence_length` is more than the
            backbone has positions; the tokenizer has more tokens than the backbone.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> sentences = ["江在北京", "李在上海"] * 8
        >>> tags = [["B-person", "O", "B-place", "I-place"]] * 16
        >>> tokenizer = WordPieceTokenizer.train(sentences, vocabulary_size=12)
        >>> model = TokenClassifier(BertBackbone.tiny(12), tokenizer, ["person", "place"])
        >>> model.compile(optimizer=AdamW(1e-3))
        >>> history = model.fit(sentences, tags, epochs=8, verbose=0)
        >>> model.predict(["李在北京"])["entities"]
        [[Entity(text='李', label='person', start=0, end=1),
          Entity(text='北京', label='place', start=2, end=4)]]
    """

    targets_name = "tags"

    def __init__(
        self,
        backbone,
        tokenizer,
        labels,
        scheme="BIO",
        crf=True,
        sequence_length=None,
        dropout=0.1,
        **kwargs,
    ):
        limit = getattr(backbone, "max_sequence_length", None) or 128
        sequence_length = sequence_length or min(limit, 128)
        chain = Chain(labels, scheme)
        check_sequence_length(sequence_length, limit)
        check_vocabulary(tokenizer, backbone)

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = TokenClassifierPreprocessor(
            tokenizer,
            chain.tags,
            sequence_length,
            segments="segment_ids" in backbone.input,
            final_classes=[tag for tag, may in zip(chain.tags, chain.ends, strict=True) if may],
        )
        self.output_dropout = keras.layers.Dropout(
            dropout, dtype=backbone.dtype_policy, name="output_dropout"
        )
        self.output_dense = keras.layers.Dense(
            len(chain.tags),
            kernel_initializer=kernel_initializer(),
            dtype="float32",  # logits keep their digits under every precision
            name="output_dense",
        )
        self.crf = None
        if crf:
            self.crf = CRF(len(chain.tags), chain.transitions, chain.starts, chain.ends, name="crf")

        # === Functional Model ===
        positions = keras.Input((None,), dtype="int32", name="word_positions")
        word_mask = keras.Input((None,), dtype="bool", name="word_mask")
        x = sequence_output(backbone(backbone.input))  # (batch, length, hidden_dim)
        x = ops.take_along_axis(x, positions[:, :, None], axis=1)  # (batch, words, hidden_dim)
        outputs = self.output_dense(self.output_dropout(x))  # (batch, words, tags)
        if crf:
            outputs = self.crf(outputs, padding_mask=word_mask)  # (..., tags, tags)
        inputs = {**backbone.input, "word_positions": positions, "word_mask": word_mask}
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)

        # === Config ===
        self.labels = list(labels)
        self.scheme = scheme
        self.sequence_length = sequence_length
        self.dropout = dropout
        self.chain = chain

        words = tf.RaggedTensorSpec((None, None), tf.string, ragged_rank=1)
        self._tag = tf.function(self._numbers_of_tags, input_signature=[words], autograph=False)

    @property
    def tags(self):
        """The tags, in the order of their numbers."""
        return self.chain.tags

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "labels": self.labels,
            "scheme": self.scheme,
            "crf": self.crf is not None,
            "sequence_length": self.sequence_length,
            "dropout": self.dropout,
            "name": self.name,
        }

    # === Learning ===

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with the likelihood of the tags and their accuracy.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(5e-5)`, the highest
                of BERT's rates for fine-tuning (Devlin et al. 2018, appendix A.3).
            loss: as in `keras.Model.compile`; "auto" is the cross-entropy per word, of the whole
                sequence of tags where there is a CRF.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the share of words with the
                right tag.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if loss == "auto":
            loss = CRFCrossentropy() if self.crf else GlobalMeanCrossentropy()
        if weighted_metrics == "auto":
            accuracy = CRFAccuracy if self.crf else keras.metrics.SparseCategoricalAccuracy
            weighted_metrics = [accuracy(name="accuracy")]
        super().compile(
            AdamW(5e-5) if optimizer == "auto" else optimizer,
            loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def evaluate(self, x, y=None, batch_size=32, sample_weight=None, return_dict=True, **kwargs):
        """Measures loss, accuracy and, with a scheme, how many of the names are found.

        Args:
            x: list of sentences; or a batched `tf.data.Dataset` of pairs of ragged string tensors,
                words and tags (batch, words), of which only loss and accuracy are measured.
            y: list of lists of str, a tag a word.
            batch_size: int, sentences a step.
            sample_weight: list of float, or None; names are counted without.
            return_dict: bool. False gives the numbers without names.
            **kwargs: further arguments of `keras.Model.evaluate`.

        Returns:
            A dict of `loss` and `accuracy`, over the words that fit into the model, and with a
            scheme of `precision`, `recall` and `f1` over all names: one counts as found where its
            first and last word and its class are right, as in the CoNLL-2003 shared task, by
            seqeval in its strict mode.
        """
        whole = self.scheme and isinstance(x, (list, tuple)) and y is not None
        logs = super().evaluate(
            x, y, batch_size, sample_weight, return_dict=whole or return_dict, **kwargs
        )
        if not whole:
            return logs
        logs |= entity_scores(y, self.predict(x, batch_size)["tags"], self.scheme)
        return logs if return_dict else list(logs.values())

    def _columns(self, x, y, sample_weight=None):
        """Returns words, tags and, where given, weights, checked before any work is done."""
        words = [sentence.words for sentence in read_sentences(x)]
        if y is None:
            raise ValueError("Tags are missing: pass them beside the sentences, `fit(x, tags)`.")
        tags = list(y)
        if len(tags) != len(words):
            raise ValueError(f"There are {len(words)} sentences and tags for {len(tags)}.")
        for i, (row, row_tags) in enumerate(zip(words, tags, strict=True)):
            if isinstance(row_tags, str):
                raise TypeError(f"{self.targets_name}[{i}] is a string; expected a tag a word.")
            if len(row) != len(row_tags):
                raise ValueError(
                    f"Sentence {i} has {len(row)} words and {len(row_tags)} tags: {row[:20]}. Each "
                    "word has a tag."
                )
            self.chain.check(row_tags, i)
        columns = [_ragged(words), _ragged(tags)]
        if sample_weight is not None:
            columns.append(tf.constant(sample_weight, tf.float32))
        return tuple(columns)

    def _batches(self, columns, batch_size, epochs, seed):
        """Returns the batches of all epochs: sentences of like length."""
        lengths = columns[0].row_lengths().numpy() + 1
        return batches_of_like_length(columns, lengths, batch_size, epochs, seed)

    def report(self, x, y, batch_size=32):
        """Measures each class of names, or each tag where there is no scheme.

        Args:
            x: list of sentences.
            y: list of lists of str, a tag a word.
            batch_size: int, sentences a step.

        Returns:
            A dict from the name of a class to a dict of `precision`, the share of right ones among
            the names found; `recall`, the share of found ones among the right names; `f1`, their
            harmonic mean; and `support`, how many right names there are. A share of nothing is 0.

        Raises:
            ValueError, TypeError: as `fit`.
        """
        self._columns(x, y)
        found = self.predict(x, batch_size)["tags"]
        if self.scheme:
            figures = seqeval.metrics.classification_report(
                [list(tags) for tags in y],
                found,
                mode="strict",
                scheme=seqeval_scheme(self.scheme),
                output_dict=True,
                zero_division=0,
            )
        else:
            figures = sklearn.metrics.classification_report(
                [tag for tags in y for tag in tags],
                [tag for tags in found for tag in tags],
                labels=self.labels,
                output_dict=True,
                zero_division=0,
            )
        nothing = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}
        return {
            label: {
                name: type(zero)(figures.get(label, nothing)[key])
                for name, (key, zero) in zip(REPORTED, nothing.items(), strict=True)
            }
            for label in self.labels
        }

    # === Tagging ===

    def predict(self, x, batch_size=32, verbose=0):
        """Tags the words of sentences and finds the names in them.

        Args:
            x: list of sentences, each a string or a list of words.
            batch_size: int, sentences a step; those of like length go together.
            verbose: 1 for a progress bar, 0 for none.

        Returns:
            A dict of lists with an entry for each sentence: `words`, list of str; `tags`, list of
            str, one a word; and, with a scheme, `entities`, list of `Entity`, whose characters are
            counted in the string, or in the words with a space between them.

        Raises:
            ValueError: there are no sentences, or one has no words.
            TypeError: a single string, or something else than strings.
        """
        sentences = read_sentences(x)
        rows = [sentence.words for sentence in sentences]
        by_length = np.argsort([len(row) for row in rows], kind="stable")
        batches = np.array_split(by_length, np.arange(batch_size, len(rows), batch_size))
        progress = keras.utils.Progbar(len(batches), unit_name="batch", verbose=verbose)
        numbers = [None] * len(rows)
        for batch in batches:
            found = self._tag(_ragged([rows[i] for i in batch])).to_list()
            for i, row in zip(batch, found, strict=True):
                numbers[i] = row
            progress.add(1)
        result = {
            "words": rows,
            "tags": [[self.tags[number] for number in row] for row in numbers],
        }
        if self.scheme:
            spans = self.chain.spans(tf.ragged.constant(numbers, ragged_rank=1))
            result["entities"] = [
                [sentence.entity(*span) for span in zip(*columns, strict=True)]
                for sentence, *columns in zip(
                    sentences, *(column.to_list() for column in spans), strict=True
                )
            ]
        return result

    def serve(self, text):
        """What an export computes, as a graph.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `words` and `tags`, string (batch, words), "" where a text has fewer; with a
            scheme also of `entities` and their `labels`, string (batch, entities), and `starts` and
            `ends`, int32 (batch, entities), in characters, -1 where a text has fewer.
        """
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
        words, starts, ends = split_words(text)
        numbers = self._numbers_of_tags(words)
        tags = words.with_values(tf.gather(self.tags, numbers.values))
        served = {"words": words.to_tensor(""), "tags": tags.to_tensor("")}
        if self.scheme:
            first, last, labels = self.chain.spans(numbers)
            row = first.value_rowids()  # (all names,)
            before = tf.gather(words.row_starts(), row)
            start = tf.gather(starts.values, before + first.values)
            end = tf.gather(ends.values, before + last.values)
            names = first.with_values(characters_between(text, row, start, end))
            served["entities"] = names.to_tensor("")
            served["labels"] = labels.to_tensor("")
            served["starts"] = first.with_values(start).to_tensor(-1)
            served["ends"] = first.with_values(end).to_tensor(-1)
        return served

    def serve_inputs(self, text):
        """What the model reads: string tensor (batch,) to the dict of the texts' windows."""
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
        words, _, _ = split_words(text)
        windows = self.preprocessor.windows(self.preprocessor.pieces(words))
        return self.preprocessor.pack_words(windows)

    def serve_tokens(self, inputs):
        """Tags the words of windows.

        Args:
            inputs: the dict of `serve_inputs`.

        Returns:
            A dict of `window_tags`, string (windows, words), "" where a window has fewer words; and
            of `window_tag_numbers`, int32 (windows, words), their places in `tags`, or -1.
        """
        numbers, is_word = self._decoded(inputs), inputs["word_mask"]
        return {
            "window_tags": tf.where(is_word, tf.gather(self.tags, numbers), ""),
            "window_tag_numbers": tf.where(is_word, numbers, -1),
        }

    def _decoded(self, inputs):
        """Returns the numbers of the tags of words, int32 (windows, words)."""
        outputs = self(inputs, training=False)
        return crf_decode(outputs) if self.crf else tf.argmax(outputs, -1, tf.int32)

    def _numbers_of_tags(self, words):
        """Tags words, as a graph: string ragged (batch, words) to int32 ragged (batch, words)."""
        windows = self.preprocessor.windows(self.preprocessor.pieces(words))

        def tagged(some):
            inputs = self.preprocessor.pack_words(tf.gather(windows, some))
            return tf.boolean_mask(self._decoded(inputs), inputs["word_mask"])

        numbers = batch_by_batch(tagged, windows.nrows(), tf.TensorSpec([None], tf.int32))
        return words.with_values(numbers)


# === Loss and metrics ===


@keras.saving.register_keras_serializable(package="keras_llm")
class CRFCrossentropy(keras.losses.Loss):
    """The negative logarithm of the probability of the right tags, per word of the global batch.

    Lample et al. (2016), equation 1 of section 2.2. As in `GlobalMeanCrossentropy` both sums, over
    sequences and over words, run over all replicas.

    Args:
        name: str.

    Call arguments:
        y_true: int (batch, words), the numbers of the tags.
        y_pred: float (batch, words, tags, tags), potentials of `layers.CRF`.
        sample_weight: float (batch, words), 0 at padding; the same at all words of a sequence.

    Example:
        >>> potentials = CRF(2)(keras.ops.zeros((1, 3, 2)))
        >>> round(float(CRFCrossentropy()([[0, 1, 0]], potentials)), 4)  # log 2
        0.6931
    """

    def __init__(self, name="crf_crossentropy"):
        super().__init__(name=name, reduction="sum")

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Returns this replica's share of the global mean; all the shares add up to it."""
        y_true = ops.convert_to_tensor(y_true)
        if sample_weight is None:
            sample_weight = ops.ones_like(y_true)
        weights = ops.cast(sample_weight, "float32")  # (batch, words)
        losses = -crf_log_likelihood(y_pred, y_true, weights > 0)  # (batch,)
        total = ops.sum(losses * ops.max(weights, axis=1))
        return ops.divide_no_nan(total, global_sum(ops.sum(weights)))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"name": self.name}


@keras.saving.register_keras_serializable(package="keras_llm")
class CRFAccuracy(keras.metrics.MeanMetricWrapper):
    """The share of words whose tag is right in the most probable sequence of tags.

    Args:
        name: str.
        dtype: as in `keras.metrics.Metric`.

    Example:
        >>> metric = CRFAccuracy()
        >>> metric.update_state([[0, 1]], CRF(2)(keras.ops.array([[[1.0, 0.0], [1.0, 0.0]]])))
        >>> float(metric.result())
        0.5
    """

    def __init__(self, name="accuracy", dtype=None):
        super().__init__(_right_tags, name=name, dtype=dtype)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype}


def _right_tags(y_true, y_pred):
    return ops.equal(ops.cast(y_true, "int32"), crf_decode(y_pred))


def entity_scores(expected, found, scheme="BIO"):
    """Counts names that are found, by seqeval in its strict mode.

    Args:
        expected: list of lists of str, the right tags.
        found: list of lists of str, the tags to judge.
        scheme: str, "BIO" or "BIOES".

    Returns:
        A dict of `precision`, `recall` and `f1`, floats: of all names together (micro average). A
        name counts as found where its first and last word and its class are right.

    Example:
        >>> entity_scores([["B-place", "I-place", "O"]], [["B-place", "I-place", "B-place"]])
        {'precision': 0.5, 'recall': 1.0, 'f1': 0.6666666666666666}
    """
    precision, recall, f1, _ = seqeval.metrics.v1.precision_recall_fscore_support(
        [list(tags) for tags in expected],
        [list(tags) for tags in found],
        average="micro",
        zero_division=0,
        scheme=seqeval_scheme(scheme),
    )
    return {"precision": float(precision), "recall": float(recall), "f1": float(f1)}


def seqeval_scheme(scheme):
    """Returns the class of seqeval that reads off the names of a scheme."""
    return getattr(seqeval.scheme, SCHEMES[scheme][2])


# === Schemes ===


class Chain:
    """The tags of a scheme: which may follow which, and which mark one name together.

    Args:
        labels: list of str, classes of names, or the tags where there is no scheme.
        scheme: str, "BIO" or "BIOES", or None.

    Raises:
        ValueError: there are no labels, one is empty or there twice, or the scheme is another.

    Example:
        >>> chain = Chain(["person", "place"], "BIO")
        >>> chain.tags
        ['O', 'B-person', 'I-person', 'B-place', 'I-place']
        >>> chain.transitions[1].tolist()  # after "B-person"
        [True, True, True, True, False]
    """

    def __init__(self, labels, scheme="BIO"):
        labels = as_strings(labels, "labels")
        if len(set(labels)) < len(labels) or "" in labels:
            raise ValueError(f"labels must be different names, none of them empty, not {labels}.")
        if scheme not in (None, *SCHEMES):
            raise ValueError(f"scheme must be one of {list(SCHEMES)} or None, not {scheme!r}.")
        if scheme is None:
            self.tags = labels
            pairs = [("", tag) for tag in labels]
        else:
            prefixes, _, _ = SCHEMES[scheme]
            pairs = [("O", ""), *((prefix, label) for label in labels for prefix in prefixes)]
            self.tags = ["O", *(f"{prefix}-{label}" for prefix, label in pairs[1:])]
        prefix, label = (np.array(column) for column in zip(*pairs, strict=True))
        self.names = label  # (tags,), the class of each tag
        inside = np.isin(prefix, ["I", "E"])  # goes on with a name
        opening = np.isin(prefix, ["B", "I"])  # a name may go on after it
        must_go_on = opening & (scheme == "BIOES")
        # (before, tag): the two mark one name
        self.joined = opening[:, None] & inside & (label[:, None] == label)
        self.transitions = self.joined | ~(must_go_on[:, None] | inside)
        self.starts = ~inside
        self.ends = ~must_go_on
        self.first = np.isin(prefix, ["B", "S"])  # may begin a name
        self.last = np.isin(prefix, list(SCHEMES[scheme][1])) if scheme else self.first

    def check(self, tags, record):
        """Raises ValueError where the tags of a sentence are unknown or break the scheme."""
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        unknown = [tag for tag in tags if tag not in numbers]
        if unknown:
            raise ValueError(
                f"Sentence {record} has the tag {unknown[0]!r}, which is not among {self.tags}. "
                "Correct it, or build the model with all of its labels."
            )
        row = [numbers[tag] for tag in tags]
        wrong = [i for i in range(1, len(row)) if not self.transitions[row[i - 1], row[i]]]
        if not self.starts[row[0]]:
            wrong = [0, *wrong]
        elif not (wrong or self.ends[row[-1]]):
            wrong = [len(row) - 1]
        if wrong:
            at = wrong[0]
            raise ValueError(
                f"Sentence {record} breaks the scheme at word {at}: {tags[at]!r} "
                f"{f'after {tags[at - 1]!r}' if at else 'at the beginning'}"
                f"{' at the end' if at == len(row) - 1 and not self.ends[row[-1]] else ''}. Every "
                "name begins with B, or is a single S, and goes on with its own class."
            )

    def spans(self, numbers):
        """Finds the names that tags mark, as a graph.

        Args:
            numbers: int32 ragged (batch, words), the numbers of tags.

        Returns:
            Three ragged tensors (batch, names): the first word of each name and its last, int64,
            and its class, string. What breaks the scheme is no name.
        """
        tags, row = numbers.values, numbers.value_rowids()  # (all words,)
        joined = tf.gather_nd(self.joined, tf.stack([tags[:-1], tags[1:]], axis=1))
        joined &= row[:-1] == row[1:]  # each word but the last with the one after it
        edge = tf.ones_like(tags[:1], tf.bool)
        first = tf.where(tf.concat([edge, ~joined], axis=0))[:, 0]  # (runs,)
        last = tf.where(tf.concat([~joined, edge], axis=0))[:, 0]
        is_name = tf.gather(self.first, tf.gather(tags, first))
        is_name &= tf.gather(self.last, tf.gather(tags, last))
        first, last = tf.boolean_mask(first, is_name), tf.boolean_mask(last, is_name)
        row = tf.gather(row, first)
        before = tf.gather(numbers.row_starts(), row)
        names = tf.gather(self.names, tf.gather(tags, first))
        rows = tf.RaggedTensor.from_value_rowids(
            first - before, row, numbers.nrows(), validate=False
        )
        return rows, rows.with_values(last - before), rows.with_values(names)


# === Words ===


class Sentence(NamedTuple):
    """A text, its words, and where they start and end in it."""

    text: str
    words: list
    starts: list
    ends: list

    def entity(self, first, last, label):
        """Returns the name from one word to another."""
        start, end = self.starts[first], self.ends[last]
        return Entity(self.text[start:end], label.decode(), start, end)


def split_words(text):
    """Cuts texts into words, as a graph.

    Args:
        text: string tensor (batch,), UTF-8.

    Returns:
        Three ragged tensors (batch, words): the words, string, and the characters of the text at
        which each starts and before which it ends, int32. Each ideograph, kana, full-width
        character, punctuation mark and symbol is a word, and so is each run of others without
        space.

    Example:
        >>> words, starts, ends = split_words(tf.constant(["Hi, 北京!"]))
        >>> [word.decode() for word in words[0].numpy()], starts.to_list(), ends.to_list()
        (['Hi', ',', '北', '京', '!'], [[0, 2, 4, 5, 6]], [[2, 3, 5, 6, 7]])
    """
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")  # undecodable bytes: U+FFFD
    text = tf.strings.regex_replace(text, f"{_SPACE}|{_ALONE}", _EDGE + rb"\0" + _EDGE)
    parts = tf.strings.split(text, _EDGE)  # nothing is left out
    lengths = tf.strings.length(parts.values, unit="UTF8_CHAR")
    ends = running_ends(parts, lengths)
    words = parts.with_values(~tf.strings.regex_full_match(parts.values, f"({_SPACE})?"))
    return tuple(
        tf.ragged.boolean_mask(parts.with_values(column), words)
        for column in (parts.values, ends - lengths, ends)
    )


def characters_between(text, row, start, end):
    """Copies parts of texts, as a graph, without a copy of the whole text for each part.

    Args:
        text: string tensor (batch,), UTF-8.
        row: int64 (parts,), the text that each part is of.
        start: int32 (parts,), the character at which it starts.
        end: int32 (parts,), the character before which it ends.

    Returns:
        String (parts,).

    Example:
        >>> parts = characters_between(tf.constant(["江在北京"]), tf.constant([0]), [2], [4])
        >>> parts.numpy()[0].decode()
        '北京'
    """
    characters = tf.strings.unicode_split(text, "UTF-8")  # (batch, characters)
    before = tf.gather(characters.row_starts(), row)
    places = tf.ragged.range(before + tf.cast(start, tf.int64), before + tf.cast(end, tf.int64))
    return tf.strings.reduce_join(tf.gather(characters.values, places), axis=-1)


def read_sentences(values):
    """Returns sentences with their words, or says what stands there instead.

    Args:
        values: list of sentences, each a string or a list of words.

    Returns:
        List of `Sentence`.

    Raises:
        TypeError: a single string, or something else than strings.
        ValueError: there are none, or one has no words.

    Example:
        >>> read_sentences(["北京。", ["New", "York"]])[1]
        Sentence(text='New York', words=['New', 'York'], starts=[0, 4], ends=[3, 8])
    """
    if isinstance(values, (str, bytes)):
        raise TypeError(f"Expected a list of sentences, got {values!r:.100}: put it in a list.")
    values = list(values)
    if not values:
        raise ValueError("The list of sentences is empty.")
    texts = [value.encode("utf-8", "replace") for value in values if isinstance(value, str)]
    columns = split_words(tf.constant(texts, tf.string))
    split = zip(*(column.to_list() for column in columns), strict=True)
    sentences = []
    for i, value in enumerate(values):
        if isinstance(value, str):
            words, starts, ends = next(split)
            sentence = Sentence(value, [word.decode() for word in words], starts, ends)
        else:
            words = list(value) if isinstance(value, (list, tuple)) else [value]
            wrong = [word for word in words if not isinstance(word, str) or not word.strip()]
            if wrong:
                raise TypeError(
                    f"Sentence {i} must be a string or a list of words, none of them empty; it has "
                    f"{wrong[0]!r}."
                )
            ends = np.cumsum([len(word) + 1 for word in words]) - 1
            starts = [int(end) - len(word) for end, word in zip(ends, words, strict=True)]
            sentence = Sentence(" ".join(words), words, starts, ends.tolist())
        if not sentence.words:
            raise ValueError(f"Sentence {i} has no words: {value!r:.100}.")
        sentences.append(sentence)
    return sentences


def _ragged(rows):
    """Returns rows of strings as a ragged tensor (rows, None)."""
    flat = [word.encode("utf-8", "replace") for row in rows for word in row]
    return tf.RaggedTensor.from_row_lengths(tf.constant(flat, tf.string), [len(r) for r in rows])
