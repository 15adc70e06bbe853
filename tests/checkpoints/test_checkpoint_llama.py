import json

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
from keras_llm.models import LlamaBackbone, LlamaCausalLM
from keras_llm.tokenizers import BytePairTokenizer

VOCABULARY = 37
# A context of 12 positions puts the frequencies of this small model on both sides of the limits.
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}


def make(cls, **settings):
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 17,
        "max_position_embeddings": MAX_LENGTH,
        **settings,
    }
    return randomized(cls(transformers.LlamaConfig(**config)))


@pytest.mark.parametrize(
    ("side", "settings"),
    [
        ("left", {"rms_norm_eps": 1e-2}),
        ("right", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
        ("left", {"attention_bias": True, "head_dim": 6, "num_key_value_heads": 6}),
        ("right", {"mlp_bias": True, "rope_parameters": STRETCHED, "head_dim": 10}),
    ],
    ids=["grouped", "tied", "attention bias", "stretched"],
)
def test_equals_the_reference(tmp_path, side, settings):
    theirs = make(transformers.LlamaForCausalLM, **settings)
    ours = round_trip(theirs, tmp_path, LlamaCausalLM)
    assert_same_states_and_logits(ours, theirs, side)
    assert_same_texts(ours, theirs, side)


def test_settings_of_older_files(tmp_path):
    theirs = make(transformers.LlamaForCausalLM, rope_parameters=STRETCHED)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    for name in ("head_dim", "attention_bias", "mlp_bias"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, _ = load_hugging_face(tmp_path, LlamaCausalLM)
    assert_same_states_and_logits(ours, theirs, "right")


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_other_positions_are_refused(tmp_path, kind):
    make(transformers.LlamaModel).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"Positions of the type '{kind}'"):
        load_hugging_face(tmp_path)


def test_backbone_alone_and_of_a_file_with_a_head(tmp_path):
    theirs = make(transformers.LlamaForCausalLM)
    theirs.model.save_pretrained(tmp_path / "alone")
    theirs.save_pretrained(tmp_path / "with_head")
    x = inputs(VOCABULARY, LENGTH, "right")
    expected = call(theirs.model, x).last_hidden_state
    for folder, is_tied in (("alone", True), ("with_head", False)):
        ours, _ = load_hugging_face(tmp_path / folder)
        assert type(ours) is LlamaBackbone and ours.tie_word_embeddings is is_tied
        assert_same(ours(x), expected, x["padding_mask"])
    logits = call(theirs, x).logits
    assert_same(LlamaCausalLM(ours)(x), logits, x["padding_mask"])


def test_tokenizer(tmp_path):
    texts = ["The cat sat on 12345 mats, didn't it?", "  Two  spaces; 世界 and\n\nlines. "]
    specials = {"start_token": "<|begin_of_text|>", "end_token": "<|end_of_text|>"}
    tokenizer = BytePairTokenizer.train(texts * 2, 300, specials, pattern="llama3")
    model = LlamaCausalLM(LlamaBackbone(tokenizer.vocabulary_size(), 1, 2, 8, 16, 1))
    save_hugging_face(model, tmp_path / "llama", tokenizer)
    _, loaded = load_hugging_face(tmp_path / "llama", LlamaCausalLM)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "llama")
    for text in texts:
        ids = loaded.encode(text)
        assert ids == tokenizer.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    config = transformers.AutoConfig.from_pretrained(tmp_path / "llama")
    assert config.bos_token_id == loaded.start_token_id
