import json

import battery
import numpy as np
import pytest
from checkpoint_parity import assert_same, randomized, round_trip, torch, transformers

from keras_llm.checkpoints import load_hugging_face, save_hugging_face
from keras_llm.models import T5Backbone, T5Seq2SeqLM
from keras_llm.tokenizers import UnigramTokenizer

VOCABULARY, END = 33, 1
VERSIONS = {
    "1.0": {"feed_forward_proj": "relu"},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def make(version="1.0", apart=True, **settings):
    """A model of theirs; of version 1.1, with an output matrix that was trained apart, or not."""
    sizes = {"d_model": 14, "num_heads": 3, "d_kv": 5, "d_ff": 17, "num_layers": 2}
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        decoder_start_token_id=0,
        **{**sizes, **VERSIONS[version], **settings},
    )
    model = transformers.T5ForConditionalGeneration(config)
    if version == "1.1" and apart:
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 14))
    return randomized(model)


def inputs(side):
    rng = np.random.default_rng(0)
    masks = {"encoder": np.arange(7) < [[7], [4], [1]], "decoder": np.arange(5) < [[5], [2], [4]]}
    x = {}
    for name, mask in masks.items():
        x[f"{name}_token_ids"] = rng.integers(2, VOCABULARY, mask.shape, dtype="int32")
        x[f"{name}_padding_mask"] = mask if side == "right" else mask[:, ::-1]
    return x


def call(theirs, x):
    with torch.no_grad():
        return theirs(
            input_ids=torch.tensor(x["encoder_token_ids"]).long(),
            attention_mask=torch.tensor(x["encoder_padding_mask"].astype("int64")),
            decoder_input_ids=torch.tensor(x["decoder_token_ids"]).long(),
            decoder_attention_mask=torch.tensor(x["decoder_padding_mask"].astype("int64")),
            output_hidden_states=True,
        )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("version", VERSIONS)
def test_states_logits_and_texts_equal_the_reference(tmp_path, version, side):
    theirs = make(version)
    ours, x = round_trip(theirs, tmp_path, T5Seq2SeqLM), inputs(side)
    assert ours.backbone.tie_embedding_weights == (version == "1.0")
    expected, actual = call(theirs, x), ours.backbone(x)
    source, target = x["encoder_padding_mask"], x["decoder_padding_mask"]
    assert_same(actual["encoder_sequence_output"], expected.encoder_last_hidden_state, source)
    assert_same(actual["decoder_sequence_output"], expected.decoder_hidden_states[-1], target)
    assert_same(ours(x), expected.logits, target)

    with torch.no_grad():
        expected = theirs.generate(
            torch.tensor(x["encoder_token_ids"]).long(),
            attention_mask=torch.tensor(source.astype("int64")),
            do_sample=False,
            max_new_tokens=15,
            eos_token_id=END,
            pad_token_id=0,
        ).numpy()
    ours.compile(run_eagerly=True)
    prompt = {
        "decoder_token_ids": np.zeros((3, 16), "int32"),
        "decoder_padding_mask": np.arange(16) < np.ones((3, 1)),
    }
    texts = ours.generate({**x, **prompt}, stop_token_ids=[END])
    for ids, mask, text in zip(*texts.values(), expected, strict=True):
        np.testing.assert_array_equal(np.where(mask, ids, 0)[: len(text)], text)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_encoder_alone_equals_the_reference(tmp_path, version):
    make(version).save_pretrained(tmp_path)
    theirs, x = transformers.T5EncoderModel.from_pretrained(tmp_path).eval(), inputs("right")
    ours, _ = load_hugging_face(tmp_path)
    assert type(ours) is T5Backbone
    ids, mask = x["encoder_token_ids"], x["encoder_padding_mask"]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids).long(), torch.tensor(mask).long()).last_hidden_state
    assert_same(ours.encode(ids, mask), expected, mask)


def test_an_output_matrix_that_was_never_apart(tmp_path):
    theirs = make("1.1", apart=False)
    ours, x = round_trip(theirs, tmp_path, T5Seq2SeqLM), inputs("right")
    assert "lm_head.weight" not in open_names(tmp_path / "theirs")
    assert not ours.backbone.tie_embedding_weights
    assert_same(ours(x), call(theirs, x).logits, x["decoder_padding_mask"])


def open_names(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        return set(file.keys())


def test_the_first_published_files(tmp_path):
    """They hold a table that nothing uses, and less in `config.json`."""
    from safetensors.numpy import load_file, save_file

    theirs = make()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file({**tensors, unused: np.zeros((32, 3), "float32")}, tmp_path / "model.safetensors")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    needed = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size", "dropout_rate")
    needed = (*needed, "layer_norm_epsilon", "model_type")
    path.write_text(json.dumps({name: config[name] for name in needed}))
    ours, x = load_hugging_face(tmp_path, T5Seq2SeqLM)[0], inputs("right")
    assert_same(ours(x), call(theirs, x).logits, x["decoder_padding_mask"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relative_attention_num_buckets": 16}, "relative_attention_num_buckets is 16"),
        ({"relative_attention_max_distance": 64}, "relative_attention_max_distance is 64"),
        ({"num_decoder_layers": 1}, "num_decoder_layers=1, the encoder num_layers=2"),
        ({"feed_forward_proj": "gelu"}, "feed_forward_proj='gelu' is none of T5's"),
    ],
)
def test_other_settings_are_refused(tmp_path, settings, message):
    make(**settings).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_hugging_face(tmp_path)


def test_other_activations_are_not_written(tmp_path):
    backbone = T5Backbone(VOCABULARY, 1, 2, 8, 16, activation="tanh")
    with pytest.raises(ValueError, match="activation=tanh, use_gated_activation=False has no name"):
        save_hugging_face(backbone, tmp_path / "ours")


def test_tokenizer(tmp_path):
    texts = ["The cat sat on the mat.", "A dog, too; it barked."] * 9
    tokenizer = UnigramTokenizer.train(texts, 29, num_sentinels=3)
    backbone = T5Backbone(tokenizer.vocabulary_size(), 1, 2, 8, 16)
    save_hugging_face(backbone, tmp_path / "t5", tokenizer)

    ours, loaded = load_hugging_face(tmp_path / "t5")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "t5")
    assert loaded.sentinel_ids == tokenizer.sentinel_ids
    assert theirs.convert_tokens_to_ids("<extra_id_2>") == tokenizer.sentinel_ids[2]
    for text in texts[:2]:
        assert loaded.encode(text) == tokenizer.encode(text)
        assert theirs(text)["input_ids"] == [*tokenizer.encode(text), tokenizer.end_token_id]
    battery.assert_close(ours.get_weights(), backbone.get_weights())
