"""Denoising: spoil a text, and ask for it back (Lewis et al. 2020, BART, section 2.2).

Notable: the noise is made of four steps, each of which may be left out: sentences in another order,
tokens deleted, spans replaced by one mask, a turn to another beginning. What happens to a text is a
function of (seed, epoch, text).
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import tensorflow as tf

from keras_llm import corpora
from keras_llm.objectives import streams


class Denoising:
    """Spoils a text of several sentences, in this order of steps (Lewis et al. 2020, section 2.2).

    - Sentence permutation: the sentences stand in a random order.
    - Token deletion: `deletion_rate` of the tokens are gone.
    - Text infilling: `infilling_rate` of the tokens, in spans of Poisson-distributed length, each
      span replaced by a single mask; a span of length 0 is a mask put between two tokens. Spans
      stand anywhere between the tokens that stay, each arrangement as likely.
    - Document rotation: the text begins at a random token, and what stood before comes last.

    BART itself permutes sentences and fills in 30 % (section 4), as is the default here.

    Args:
        tokenizer: one with `mask_token_id` and `end_token_id`.
        infilling_rate: float, the share of tokens that spans replace.
        mean_span: float, the mean of the Poisson distribution.
        deletion_rate: float, the share of tokens to delete.
        permute: bool. Permute sentences.
        rotate: bool. Rotate the text.
        seed: int.

    Raises:
        ValueError: a rate is not in [0, 1), or `mean_span` is not positive.

    Example:
        >>> from types import SimpleNamespace
        >>> tokenizer = SimpleNamespace(mask_token_id=99, end_token_id=1)
        >>> spoil = Denoising(tokenizer)
        >>> inputs, targets = spoil([[10, 11, 12], [20, 21, 22, 23]], example=1)
        >>> inputs.tolist(), targets.tolist()
        ([20, 21, 99, 10, 11, 12, 1], [10, 11, 12, 20, 21, 22, 23, 1])
    """

    def __init__(
        self,
        tokenizer,
        infilling_rate: float = 0.3,
        mean_span: float = 3.0,
        deletion_rate: float = 0.0,
        permute: bool = True,
        rotate: bool = False,
        seed: int = 0,
    ):
        for name, rate in (("infilling_rate", infilling_rate), ("deletion_rate", deletion_rate)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name}={rate} must be at least 0 and less than 1.")
        if mean_span <= 0:
            raise ValueError(f"mean_span={mean_span} must be greater than 0.")
        self.infilling_rate = infilling_rate
        self.mean_span = mean_span
        self.deletion_rate = deletion_rate
        self.permute = permute
        self.rotate = rotate
        self.seed = seed
        self.mask_token_id = tokenizer.mask_token_id
        self.end = tokenizer.end_token_id

    def __call__(
        self, sentences: Sequence[Sequence[int]], example: int, epoch: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Spoils one text.

        Args:
            sentences: the ids of each sentence.
            example: int, a number that names the text.
            epoch: int.

        Returns:
            The pair of the spoilt text and the text itself, int32, both with an end token. The
            first is never longer than the second.
        """
        rng = np.random.default_rng([self.seed, epoch, example])
        order = rng.permutation(len(sentences)) if self.permute else range(len(sentences))
        tokens = _joined(sentences[i] for i in order)
        tokens = self._delete(tokens, rng)
        tokens = self._infill(tokens, rng)
        if self.rotate and len(tokens):
            tokens = np.roll(tokens, -rng.integers(len(tokens)))
        return np.append(tokens, np.int32(self.end)), _joined([*sentences, [self.end]])

    def span_lengths(self, tokens: int, rng: np.random.Generator) -> np.ndarray:
        """Draws the lengths of spans that replace so many tokens together: int `(spans,)`.

        They are drawn until they are enough, and what is too much is taken off the last; there are
        no more spans than tokens.
        """
        ends = np.minimum(np.cumsum(rng.poisson(self.mean_span, size=tokens)), tokens)
        ends[-1:] = tokens
        return np.diff(ends[: np.searchsorted(ends, tokens) + 1], prepend=0)

    def _delete(self, tokens, rng):
        gone = rng.choice(len(tokens), round(self.deletion_rate * len(tokens)), replace=False)
        return np.delete(tokens, gone)

    def _infill(self, tokens, rng):
        lengths = self.span_lengths(round(self.infilling_rate * len(tokens)), rng)
        # Some places of the result are masks; the tokens that stay fill the others in their order.
        places = len(tokens) - lengths.sum() + len(lengths)
        is_mask = np.zeros(places, bool)
        is_mask[rng.choice(places, len(lengths), replace=False)] = True
        steps = np.ones(places, int)  # how many tokens of the text each place stands for
        steps[is_mask] = lengths
        starts = np.cumsum(steps) - steps
        result = np.full(places, self.mask_token_id, "int32")
        result[~is_mask] = tokens[starts[~is_mask]]
        return result


def denoising_examples(
    source: Iterable[corpora.Document | str],
    tokenizer,
    batch_size: int,
    sequence_length: int = 512,
    infilling_rate: float = 0.3,
    mean_span: float = 3.0,
    deletion_rate: float = 0.0,
    permute: bool = True,
    rotate: bool = False,
    dynamic: bool = True,
    seed: int = 0,
    epochs: int | None = None,
    training: bool = True,
) -> tf.data.Dataset:
    """Makes the examples that BART is pretrained on (Lewis et al. 2020).

    A row is a document, or as many of its whole sentences as there is room for.

    For training, rows are shuffled anew in every epoch, and an epoch's last rows share a batch with
    the next epoch's first. Otherwise there is one pass in order, with noise that never changes, and
    the last batch may be smaller.

    Args:
        source: a `keras_llm.corpora.Corpus`, or an iterable of documents or strings that can be
            read again from the start.
        tokenizer: one with `encode_batch`, `mask_token_id`, `end_token_id`, `pad_token_id`, and
            `start_token_id` where it has one.
        batch_size: int, rows a batch, over all replicas and hosts.
        sequence_length: int, to which texts, spoilt and whole, are padded.
        infilling_rate: float, as in `Denoising`.
        mean_span: float, as in `Denoising`.
        deletion_rate: float, as in `Denoising`.
        permute: bool, as in `Denoising`.
        rotate: bool, as in `Denoising`.
        dynamic: bool. Other noise in every epoch.
        seed: int.
        epochs: int, passes through the data; endless by default.
        training: bool. False for validation and test.

    Returns:
        A dataset of `(x, y, sample_weight)`:

        - x, a dict: `encoder_token_ids` int32 and `encoder_padding_mask` bool, the spoilt text,
          `decoder_token_ids` int32 and `decoder_padding_mask` bool, the text after a start token,
          all `(batch, sequence_length)`;
        - y: int32 `(batch, sequence_length)`, the text;
        - sample_weight: float32 `(batch, sequence_length)`, 0 at padding.

    Raises:
        TypeError: the source can be read only once.
        ValueError: the source has no text, or an argument is out of range.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        >>> tokenizer = WordPieceTokenizer([*specials, "a", "cat", "sat", "rain", "fell", "."])
        >>> texts = ["A cat sat. Rain fell."]
        >>> x, y, _ = next(iter(denoising_examples(texts, tokenizer, 1, 8, training=False)))
        >>> x["encoder_token_ids"].numpy()[0], y.numpy()[0]
        (array([ 5,  4,  7,  4,  8,  9, 10,  3], dtype=int32),
         array([ 5,  6,  7, 10,  8,  9, 10,  3], dtype=int32))
    """
    spoil = Denoising(tokenizer, infilling_rate, mean_span, deletion_rate, permute, rotate, seed)
    streams.check(source, tokenizer, sequence_length, least=2)

    def examples(epoch):
        rows = streams.full_sentences(source, tokenizer, sequence_length - 1)
        for number, sentences in enumerate(rows):
            pair = spoil(sentences, number, epoch if dynamic else 0)
            yield streams.encoder_decoder(*pair, tokenizer, sequence_length, sequence_length)

    signature = streams.encoder_decoder_signature(sequence_length, sequence_length)
    return streams.stream(examples, signature, batch_size, sequence_length, seed, epochs, training)


def _joined(sentences: Iterable[Sequence[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(sentences), "int32")
