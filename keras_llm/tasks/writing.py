"""Writing: texts longer than the model reads, and measures of what was written.

Notable:

- a decoder has no memory beside its window. `Writer` moves the window on by a stride and reads its
  other part again: linear in the length of the text, where a window that moves on by one token
  would read all of it for each;
- models that do remember, XLNet, need no window: `XLNetForPretraining.generate`;
- what repeats itself is measured by `distinct_n` and kept from it by `generation.RepetitionPenalty`
  and `generation.NoRepeatNGram`;
- code is judged by the interactive prompt of Python itself.
"""

import codeop
import itertools
import warnings

import keras_hub
import numpy as np

from keras_llm.models import GPT2CausalLM, LlamaCausalLM
from keras_llm.models.sizes import check_sizes


def language_model(backbone, tokenizer, sequence_length=256):
    """Builds the language model of a decoder and its tokenizer.

    Args:
        backbone: `GPT2Backbone` or `LlamaBackbone`, ours or KerasHub's.
        tokenizer: one of `keras_llm.tokenizers`.
        sequence_length: int, the most tokens of a row of `fit` and of what `generate` reads and
            writes; at most the backbone's positions.

    Returns:
        `GPT2CausalLM` or `LlamaCausalLM`.

    Raises:
        TypeError: the backbone is no decoder.
        ValueError: the tokenizer has more tokens than the backbone, or texts would be longer than
            it has positions.

    Example:
        >>> from keras_llm.models import LlamaBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer.train(["to be or not to be"], 16)
        >>> backbone = LlamaBackbone(16, 1, 2, 8, 16, num_key_value_heads=1)
        >>> type(language_model(backbone, tokenizer)).__name__
        'LlamaCausalLM'
    """
    preprocessor = keras_hub.models.CausalLMPreprocessor(tokenizer, sequence_length)
    for cls in (GPT2CausalLM, LlamaCausalLM):
        # KerasHub's task, the last base, names KerasHub's backbone.
        if isinstance(backbone, (cls.backbone_cls, cls.__bases__[-1].backbone_cls)):
            return cls(backbone, preprocessor)
    raise TypeError(f"{type(backbone).__name__} is not the decoder of GPT-2 or Llama.")


class Writer:
    """Goes on with a text for more tokens than its model has positions.

    The model reads the last tokens of the text, as many as fit into its window beside `stride` new
    ones, writes these, and so on. Every token is chosen by at least `window - stride` tokens before
    it. What no longer stands in the window is forgotten, by the sampler too.

    Args:
        model: `GPT2CausalLM` or `LlamaCausalLM` with a preprocessor, whose `sequence_length` is the
            window; its sampler, which `compile` sets, chooses the tokens.
        stride: int, tokens that the window moves on by; half of the window by default. Fewer keep
            more in mind and take longer.

    Raises:
        ValueError: `stride` is not between 1 and the window less one.

    Example:
        >>> import keras
        >>> from keras_llm.models import GPT2Backbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> texts = ["a b c d " * 50] * 8
        >>> tokenizer = WordPieceTokenizer.train(texts, 9)
        >>> backbone = GPT2Backbone(9, 1, 2, 32, 64, max_sequence_length=16, dropout=0.0)
        >>> model = language_model(backbone, tokenizer, sequence_length=16)
        >>> model.compile(keras.optimizers.Adam(1e-2), sampler="greedy", jit_compile=False)
        >>> history = model.fit(texts, packed=True, batch_size=2, verbose=0)
        >>> for piece in Writer(model).stream("a b", max_new_tokens=29):
        ...     print(piece.strip())
        a b c d a b c d a b c d a b
        c d a b c d a b
        c d a b c d a b
        c
    """

    def __init__(self, model, stride=None):
        self.tokenizer = model.tokenizer
        self.window = model.preprocessor.sequence_length
        self.stride = self.window // 2 if stride is None else stride
        if not 1 <= self.stride < self.window:
            raise ValueError(
                f"stride={stride} must be at least 1 and less than the window, the "
                f"{self.window} tokens of the model's preprocessor."
            )
        # The same weights without a preprocessor: it goes on with ids.
        self.model = type(model)(model.backbone)
        self.model.compile(
            sampler=model.sampler,
            run_eagerly=model.run_eagerly,
            jit_compile=model.get_compile_config()["jit_compile"],
        )

    def write(self, prompt="", max_new_tokens=256, seed=0, stop_at_end=True):
        """Goes on with a text.

        Args:
            prompt: str, the beginning, of any length; may be empty.
            max_new_tokens: int, the most tokens to write.
            seed: int, another seed draws another text.
            stop_at_end: bool. False writes as many tokens as were asked for: where the model ends
                its text it begins another.

        Returns:
            Str, prompt and continuation, as the tokenizer writes them.

        Raises:
            TypeError: the prompt is not a string.
            ValueError: `max_new_tokens` is not a positive integer.
        """
        ids = self._begun(prompt, max_new_tokens)
        for piece in self._pieces(ids, max_new_tokens, seed, stop_at_end):
            ids = ids + piece
        return self.tokenizer.decode(ids)

    def stream(self, prompt="", max_new_tokens=256, seed=0, stop_at_end=True):
        """Goes on with a text, a stride at a time: what `write` writes, as it grows.

        Args:
            prompt: as in `write`.
            max_new_tokens: as in `write`.
            seed: as in `write`.
            stop_at_end: as in `write`.

        Returns:
            Iterator of str; joined they are the text, prompt included.

        Raises:
            TypeError: the prompt is not a string.
            ValueError: `max_new_tokens` is not a positive integer.
        """
        ids = self._begun(prompt, max_new_tokens)
        return self._texts(ids, self._pieces(ids, max_new_tokens, seed, stop_at_end))

    def _begun(self, prompt, max_new_tokens):
        """Returns the ids of the prompt, checked."""
        if not isinstance(prompt, str):
            raise TypeError(f"The prompt must be one string, not {prompt!r}.")
        check_sizes(max_new_tokens=max_new_tokens)
        return [self.tokenizer.start_token_id, *self.tokenizer.encode(prompt)]

    def _pieces(self, ids, max_new_tokens, seed, stop_at_end):
        """Streams the ids that are written, a window's room at a time."""
        end = self.tokenizer.end_token_id
        while max_new_tokens > 0:
            read = ids if len(ids) < self.window else ids[self.stride - self.window :]
            inputs = {
                "token_ids": np.pad(read, (0, self.window - len(read)))[None].astype("int32"),
                "padding_mask": np.arange(self.window)[None] < len(read),  # (1, window)
            }
            written = self.model.generate(
                inputs, stop_token_ids=[end] if stop_at_end else None, seed=seed
            )
            new = written["token_ids"][0][written["padding_mask"][0]][len(read) :]
            new = new[:max_new_tokens].tolist()
            yield new
            if stop_at_end and new[-1] == end:
                break
            ids, max_new_tokens = ids + new, max_new_tokens - len(new)
            seed = None  # goes on drawing

    def _texts(self, ids, pieces):
        """Streams the text of ids and of what is written, once nothing can change it any more."""
        told = ""
        for piece in pieces:
            ids = ids + piece
            # The next token may end a character, go on with a word or stand close to it.
            texts = self.tokenizer.decode(ids[:-1]), self.tokenizer.decode(ids)
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*texts, strict=False))
            settled = "".join(character for character, _ in same).rstrip("\ufffd")
            yield settled[len(told) :]
            told = settled
        yield self.tokenizer.decode(ids)[len(told) :]


def distinct_n(sequences, n):
    r"""Measures how varied texts are: the share of their n-grams that are different ones.

    "A Diversity-Promoting Objective Function for Neural Conversation Models" (Li et al., 2016),
    section 5.1. What is missing to 1 is how much a text repeats itself, the seq-rep-n of "Neural
    Text Generation with Unlikelihood Training" (Welleck et al., 2020), section 6.1:

    $$ \text{seq-rep-}n = 1 - \frac{|\text{different } n\text{-grams}|}{|n\text{-grams}|} $$

    Longer texts have lower shares; compare texts of one length.

    Args:
        sequences: list of sequences of tokens, ids or words. Their n-grams are counted together;
            for seq-rep-n, measure each sequence by itself and take the mean.
        n: int, at least 1.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: `n` is less than 1, or no sequence has so many tokens.

    Example:
        >>> text = "the cat saw the cat".split()
        >>> distinct_n([text], 1), distinct_n([text], 2)
        (0.6, 0.75)
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1.")
    ngrams = [tuple(s[i : i + n]) for s in map(list, sequences) for i in range(len(s) - n + 1)]
    if not ngrams:
        raise ValueError(f"No sequence has {n} tokens or more: there is no n-gram to count.")
    return len(set(ngrams)) / len(ngrams)


def share_that_parses(prompts, texts):
    r"""Measures how many completions of Python code are code, as far as they go.

    What stands after a text's last line break may be cut and does not count. The rest must be a
    program or the beginning of one, as Python's interactive prompt decides (`codeop`): a block, a
    bracket or a string may be open at the end, but nothing may be wrong. A completion that has not
    one whole line that says something has completed nothing.

    Args:
        prompts: list of str, how each text begins.
        texts: list of str, prompts with their completions.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: there are no texts, not as many as prompts, or a text does not begin with its
            prompt.

    Example:
        >>> prompt = "def area(a, b):\n"
        >>> endings = ["    return a * b\n", "    if a:\n        ret", "    retur"]
        >>> texts = [prompt + ending for ending in endings]
        >>> share_that_parses([prompt] * 2, texts[:2]), share_that_parses([prompt] * 3, texts)
        (1.0, 0.6666666666666666)
    """
    if not texts or len(texts) != len(prompts):
        raise ValueError(f"Expected as many texts as prompts; got {len(texts)} and {len(prompts)}.")
    return sum(map(_completes, prompts, texts)) / len(texts)


def _completes(prompt, text):
    """Says whether a text goes on with a prompt by lines of Python."""
    if not text.startswith(prompt):
        raise ValueError(f"{text[:40]!r} does not begin with its prompt {prompt[:40]!r}.")
    lines, _, _ = text.rpartition("\n")
    if not lines[len(prompt) :].strip():
        return False
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd but valid code
            codeop.compile_command(lines + "\n", "<completion>", "exec")
    except (SyntaxError, ValueError, OverflowError):  # bytes that are no text, huge numbers
        return False
    return True
