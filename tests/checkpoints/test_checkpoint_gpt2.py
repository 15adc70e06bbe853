import json

import numpy as np
import pytest
from checkpoint_parity import (
    assert_same,
    call,
    inputs,
    randomized,
    round_trip,
    transformers,
)
from decoder_parity import LENGTH, MAX_LENGTH, assert_same_states_and_logits, assert_same_texts

from keras_llm.checkpoints import load_hugging_face, save_hugging_face
from keras_llm.models import GPT2Backbone, GPT2CausalLM
from keras_llm.tokenizers import BytePairTokenizer

VOCABULARY = 37


def make(cls, **settings):
    sizes = {"n_embd": 15, "n_layer": 2, "n_head": 3, "n_inner": 22, "n_positions": MAX_LENGTH}
    return randomized(cls(transformers.GPT2Config(vocab_size=VOCABULARY, **sizes | settings)))


@pytest.mark.parametrize(("side", "inner"), [("left", 22), ("right", None)])
def test_equals_the_reference(tmp_path, side, inner):
    theirs = make(transformers.GPT2LMHeadModel, n_inner=inner)
    ours = round_trip(theirs, tmp_path, GPT2CausalLM)
    assert ours.backbone.intermediate_dim == (inner or 60)
    assert_same_states_and_logits(ours, theirs, side)
    assert_same_texts(ours, theirs, side)


def test_backbone_alone_and_of_a_file_with_a_head(tmp_path):
    theirs = make(transformers.GPT2Model)
    ours = round_trip(theirs, tmp_path)
    x = inputs(VOCABULARY, LENGTH, "right")
    expected = call(theirs, x).last_hidden_state
    assert_same(ours(x), expected, x["padding_mask"])

    model = GPT2CausalLM(ours)
    save_hugging_face(model, tmp_path / "with_head")
    again, _ = load_hugging_face(tmp_path / "with_head")
    assert type(again) is GPT2Backbone
    assert_same(again(x), expected, x["padding_mask"])
    # As the files of the first models are: a language model without prefix and head.
    again, _ = load_hugging_face(tmp_path / "ours", GPT2CausalLM)
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("activation_function", "gelu"),
        ("layer_norm_epsilon", 1e-6),
        ("scale_attn_by_inverse_layer_idx", True),
        ("tie_word_embeddings", False),
    ],
)
def test_settings_that_ours_has_not_are_refused(tmp_path, setting, value):
    make(transformers.GPT2LMHeadModel).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {setting: value}))
    with pytest.raises(ValueError, match=f"the setting {setting} is {value!r}"):
        load_hugging_face(tmp_path)


def test_tokenizer(tmp_path):
    texts = ["The cat sat on the mat, didn't it?", "  Two  spaces; 世界 and\nlines. "]
    tokenizer = BytePairTokenizer.train(texts * 2, 290)
    model = GPT2CausalLM(GPT2Backbone(tokenizer.vocabulary_size(), 1, 2, 8, 16))
    save_hugging_face(model, tmp_path / "gpt2", tokenizer)
    ours, loaded = load_hugging_face(tmp_path / "gpt2", GPT2CausalLM)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    for text in texts:
        assert loaded.encode(text) == tokenizer.encode(text) == theirs(text)["input_ids"]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "gpt2")
    assert config.eos_token_id == loaded.end_token_id
    np.testing.assert_array_equal(
        ours.backbone.token_embedding.embeddings, model.backbone.token_embedding.embeddings
    )
