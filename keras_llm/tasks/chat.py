"""Chat: a causal language model that replies, and remembers what was said."""

import numpy as np

from keras_llm.objectives.dialogue import lay_turns


class Chat:
    """A conversation with a model that learned from `objectives.dialogue_examples`.

    "DialoGPT" (Zhang et al., 2019): the model goes on with all turns so far, each closed by the
    end token, until it ends its own. When the conversation grows longer than the model reads, the
    oldest turns are forgotten.

    Args:
        model: `GPT2CausalLM` or `LlamaCausalLM` with a preprocessor; its sampler, which `compile`
            sets, chooses the words.
        max_reply: int, tokens of a reply at most; by default a quarter of what the model reads.
        turns: list of str, what was said before; people and model take turns, people first.

    Raises:
        ValueError: `max_reply` leaves no room for what people say, or the last of `turns` awaits
            a reply.

    Example:
        >>> import keras, keras_hub
        >>> from keras_llm import objectives, training
        >>> from keras_llm.models import GPT2Backbone, GPT2CausalLM
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> dialogues = [["hello", "good morning"], ["bye", "see you"]] * 8
        >>> tokenizer = WordPieceTokenizer.train(sum(dialogues, []), 40)
        >>> backbone = GPT2Backbone(40, 1, 2, 32, 64, dropout=0.0, max_sequence_length=16)
        >>> preprocessor = keras_hub.models.CausalLMPreprocessor(tokenizer, 16)
        >>> model = GPT2CausalLM(backbone, preprocessor)
        >>> model.compile(training.AdamW(1e-2), sampler="greedy", weighted_metrics=[])
        >>> examples = objectives.dialogue_examples(dialogues, tokenizer, 8, 16)
        >>> history = model.fit(examples, steps_per_epoch=40, verbose=0)
        >>> chat = Chat(model, max_reply=8)
        >>> chat.reply("hello"), chat.reply("bye")
        ('good morning', 'see you')
        >>> chat.turns
        ['hello', 'good morning', 'bye', 'see you']
    """

    def __init__(self, model, max_reply=None, turns=()):
        self.tokenizer = model.tokenizer
        self.length = model.preprocessor.sequence_length
        max_reply = self.length // 4 if max_reply is None else max_reply
        if not 1 <= max_reply <= self.length - 3:
            raise ValueError(
                f"max_reply={max_reply} must be at least 1 and leave three of the "
                f"{self.length} tokens that the model's preprocessor allows."
            )
        if len(turns) % 2:
            raise ValueError(f"The last turn, {turns[-1]!r}, has no reply: pass it to `reply`.")
        self.max_reply = max_reply
        self.turns = list(turns)
        # The same weights without a preprocessor: it goes on with ids, in which turns are closed.
        self.writer = type(model)(model.backbone)
        self.writer.compile(sampler=model.sampler)

    def reply(self, text, seed=None):
        """Says something and returns what the model replies; both are remembered.

        Args:
            text: str.
            seed: int, another seed draws another reply. None goes on drawing where the last reply
                stopped.

        Returns:
            Str.

        Raises:
            TypeError: something else than a string.
            ValueError: there is nothing in the text.
        """
        if not isinstance(text, str):
            raise TypeError(f"A turn is a string, not {text!r}.")
        if not text.strip():
            raise ValueError("There is nothing to reply to: the text is empty.")
        reply = self._written([*self.turns, text], seed)
        self.turns += [text, reply]
        return reply

    def forget(self):
        """Begins a new conversation."""
        self.turns = []

    def _written(self, turns, seed):
        end, room = self.tokenizer.end_token_id, self.length - self.max_reply
        ids = lay_turns(self.tokenizer.encode_batch(turns), self.tokenizer, room)
        inputs = {
            "token_ids": np.pad(ids, (0, self.length - len(ids)))[None].astype("int32"),
            "padding_mask": np.arange(self.length)[None] < len(ids),  # (1, length)
        }
        written = self.writer.generate(inputs, stop_token_ids=[end], seed=seed)
        reply = written["token_ids"][0][len(ids) :][written["padding_mask"][0][len(ids) :]]
        reply = reply[: self.max_reply]
        return self.tokenizer.decode([int(token) for token in reply if token != end]).strip()
