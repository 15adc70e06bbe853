"""Compares a decoder of ours with the one of `transformers` that it was loaded from."""

import numpy as np
from checkpoint_parity import assert_same, call, inputs, torch

LENGTH, MAX_LENGTH, END = 7, 16, 3


def assert_same_states_and_logits(ours, theirs, side):
    """At the real tokens, with padding on either side."""
    x = inputs(ours.backbone.vocabulary_size, LENGTH, side)
    expected = call(theirs, x, output_hidden_states=True)
    assert_same(ours.backbone(x), expected.hidden_states[-1], x["padding_mask"])
    assert_same(ours(x), expected.logits, x["padding_mask"])


def assert_same_texts(ours, theirs, side):
    """Greedy, token for token. Theirs want prompts padded on the left; ours may have either."""
    x = inputs(ours.backbone.vocabulary_size, LENGTH, "left")
    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(x["token_ids"]),
            attention_mask=torch.tensor(x["padding_mask"].astype("int64")),
            do_sample=False,
            max_new_tokens=MAX_LENGTH - LENGTH,
            eos_token_id=END,
            pad_token_id=1,
        ).numpy()

    lengths = x["padding_mask"].sum(axis=1)
    prompts = {
        "token_ids": np.zeros((len(lengths), MAX_LENGTH), "int32"),
        "padding_mask": np.zeros((len(lengths), MAX_LENGTH), bool),
    }
    for row, length in enumerate(lengths):
        place = slice(length) if side == "right" else slice(MAX_LENGTH - length, None)
        prompts["token_ids"][row, place] = x["token_ids"][row, LENGTH - length :]
        prompts["padding_mask"][row, place] = True
    ours.compile(sampler="greedy", run_eagerly=True)
    texts = ours.generate(prompts, stop_token_ids=[END])

    for row, length in enumerate(lengths):
        text = texts["token_ids"][row][texts["padding_mask"][row]]
        # Our limit is on the whole text, theirs on what is added: short prompts go on for longer.
        count = min(len(text), MAX_LENGTH - LENGTH + length)
        assert count > length
        start = LENGTH - length
        np.testing.assert_array_equal(text[:count], expected[row, start : start + count])
