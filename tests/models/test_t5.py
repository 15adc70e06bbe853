import json

import battery
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.layers import RelativePositionBias
from keras_llm.models import T5Backbone, T5Seq2SeqLM

# Odd on purpose: 3 heads of 5 features beside 12.
SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "key_value_dim": 5,
}
VERSIONS = {
    "1.0": {},
    "1.1": {
        "activation": "gelu_approximate",
        "use_gated_activation": True,
        "tie_embedding_weights": False,
    },
}

END = {"1.0": 21, "1.1": 10}  # what one of three texts of random weights comes to


def inputs(batch=3, source=7, target=6):
    rng = np.random.default_rng(0)
    return {
        "encoder_token_ids": rng.integers(3, 30, (batch, source), dtype="int32"),
        "encoder_padding_mask": np.arange(source) < [[source], [4], [1]],
        "decoder_token_ids": rng.integers(3, 30, (batch, target), dtype="int32"),
        "decoder_padding_mask": np.arange(target) < [[3], [target], [1]],
    }


def model_with_random_weights(version="1.0", **overrides):
    keras.utils.set_random_seed(0)
    model, rng = T5Backbone(**{**SIZES, **VERSIONS[version], **overrides}), np.random.default_rng(1)
    model.set_weights([w + 0.3 * rng.normal(size=w.shape) for w in model.get_weights()])
    return model


def copied(model):
    """Returns transformers' model with the weights of ours."""
    import torch
    import transformers

    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=model.vocabulary_size,
            d_model=model.hidden_dim,
            d_kv=model.key_value_dim,
            d_ff=model.intermediate_dim,
            num_layers=model.num_layers,
            num_heads=model.num_heads,
            feed_forward_proj="gated-gelu" if model.use_gated_activation else "relu",
            tie_word_embeddings=model.tie_embedding_weights,
            decoder_start_token_id=0,
        )
    ).eval()

    def copy(parameter, array):
        with torch.no_grad():
            parameter.copy_(torch.tensor(np.ascontiguousarray(array)))

    def dense(linear, layer):
        copy(linear.weight, layer.kernel.numpy().T)

    def attention(module, layer):
        for name, kernel in zip("qkvo", ("query", "key", "value", "output"), strict=True):
            dense(getattr(module, name), getattr(layer, f"{kernel}_dense"))

    copy(theirs.shared.weight, model.token_embedding.embeddings.numpy())
    if not model.tie_embedding_weights:
        # Theirs share it until a file says otherwise.
        theirs.lm_head.weight = torch.nn.Parameter(
            torch.zeros(model.vocabulary_size, model.hidden_dim)
        )
        dense(theirs.lm_head, model.output_dense)
    for name in ("encoder", "decoder"):
        stack = getattr(theirs, name)
        bias = getattr(model, f"{name}_position_bias").embeddings
        copy(stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight, bias.numpy())
        copy(stack.final_layer_norm.weight, getattr(model, f"{name}_norm").scale.numpy())
        for block, layer in zip(stack.block, getattr(model, f"{name}_layers"), strict=True):
            attention(block.layer[0].SelfAttention, layer.self_attention)
            norms = [layer.attention_norm, layer.feed_forward_norm]
            if name == "decoder":
                attention(block.layer[1].EncDecAttention, layer.cross_attention)
                norms.insert(1, layer.cross_attention_norm)
            for part, norm in zip(block.layer, norms, strict=True):
                copy(part.layer_norm.weight, norm.scale.numpy())
            theirs_dense, ours = block.layer[-1].DenseReluDense, layer.feed_forward
            dense(theirs_dense.wo, ours.output_dense)
            if model.use_gated_activation:
                dense(theirs_dense.wi_0, ours.intermediate_dense)
                dense(theirs_dense.wi_1, ours.gated_dense)
            else:
                dense(theirs_dense.wi, ours.intermediate_dense)
    return theirs


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("version", VERSIONS)
def test_equals_transformers(version, padding):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model, x = model_with_random_weights(version), inputs()
    if padding == "left":
        x = {name: array[:, ::-1].copy() for name, array in x.items()}
    with torch.no_grad():
        theirs = copied(model)(
            input_ids=torch.tensor(x["encoder_token_ids"]).long(),
            attention_mask=torch.tensor(x["encoder_padding_mask"]),
            decoder_input_ids=torch.tensor(x["decoder_token_ids"]).long(),
            decoder_attention_mask=torch.tensor(x["decoder_padding_mask"]),
            output_hidden_states=True,
        )
    ours = battery.numpy(model(x))
    logits = battery.numpy(model.logits(ours["decoder_sequence_output"]))
    # What a padding token sees is nobody's business.
    source, target = x["encoder_padding_mask"], x["decoder_padding_mask"]
    encoded, decoded = ours["encoder_sequence_output"], ours["decoder_sequence_output"]
    battery.assert_close(encoded[source], theirs.encoder_last_hidden_state.numpy()[source], 1e-4)
    battery.assert_close(decoded[target], theirs.decoder_hidden_states[-1].numpy()[target], 1e-4)
    battery.assert_close(logits[target], theirs.logits.numpy()[target], 1e-4)


def prompt(x, length):
    """Returns sources with empty targets of `length` tokens, the start token included."""
    batch = len(x["encoder_token_ids"])
    return {
        "encoder_token_ids": x["encoder_token_ids"],
        "encoder_padding_mask": x["encoder_padding_mask"],
        "decoder_token_ids": np.zeros((batch, length), "int32"),
        "decoder_padding_mask": np.arange(length) < np.ones((batch, 1)),
    }


def without_padding(outputs):
    """Returns what was generated as lists, up to the end token."""
    rows = zip(outputs["decoder_token_ids"], outputs["decoder_padding_mask"], strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


@pytest.mark.parametrize("version", VERSIONS)
def test_greedy_generation_equals_transformers(version):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model, x = model_with_random_weights(version), inputs()
    end = END[version]
    with torch.no_grad():
        expected = (
            copied(model)
            .generate(
                input_ids=torch.tensor(x["encoder_token_ids"]).long(),
                attention_mask=torch.tensor(x["encoder_padding_mask"]).long(),
                do_sample=False,
                max_new_tokens=23,
                eos_token_id=end,
                pad_token_id=0,
            )
            .tolist()
        )
    actual = T5Seq2SeqLM(model).generate(prompt(x, 24), stop_token_ids=[end])
    for ours, theirs in zip(without_padding(actual), expected, strict=True):
        assert theirs == ours + [0] * (len(theirs) - len(ours))
    # One text ends before the others.
    lengths = [len(row) for row in without_padding(actual)]
    assert min(lengths) < max(lengths) == 24


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_transformers(bidirectional):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = np.concatenate([np.arange(-2000, 2001), [-(10**6), -(2**15), 2**15, 10**6]])
    for buckets, farthest in ((32, 128), (32, 20), (8, 128), (64, 999)):
        layer = RelativePositionBias(3, buckets, farthest, bidirectional)
        np.testing.assert_array_equal(
            layer._buckets(keras.ops.convert_to_tensor(distances)),
            t5.T5Attention._relative_position_bucket(
                torch.tensor(distances), bidirectional, buckets, farthest
            ),
        )


# Section 3.7 says 60, 220, 770 million and 2.8 billion; the last three are those of the files of
# version 1.1, of which the authors give no numbers.
@pytest.mark.parametrize(
    ("name", "version", "millions"),
    [
        ("small", "1.0", 60.5),
        ("base", "1.0", 222.9),
        ("large", "1.0", 737.7),
        ("xl", "1.0", 2851.6),
        ("small", "1.1", 77.0),
        ("base", "1.1", 247.6),
        ("large", "1.1", 783.2),
        ("xl", "1.1", 2849.8),
    ],
)
def test_published_sizes(name, version, millions):
    with keras.StatelessScope(initialize_variables=False):  # shapes only
        model = getattr(T5Backbone, name)(vocabulary_size=32128, version=version)
        count = model.count_params()
    keras.utils.clear_session()
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_no_such_version():
    with pytest.raises(ValueError, match=r'version must be "1\.0" or "1\.1"'):
        T5Backbone.small(100, version="2")


def test_each_stack_holds_one_table_of_distances():
    model = T5Backbone(**SIZES)
    shapes = [w.shape for w in model.weights]
    assert shapes.count((32, 3)) == 2
    assert shapes.count((30, 12)) == 1  # source, target and output
    assert not any("bias" in w.name for w in model.weights)
    assert not any("cross_attention/embeddings" in w.path for w in model.weights)


@pytest.mark.parametrize("version", VERSIONS)
def test_starts_as_wide_as_transformers(version):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_dim": 96, "intermediate_dim": 160, "key_value_dim": 48, "num_layers": 1}
    ours = copied(T5Backbone(**{**SIZES, **VERSIONS[version], **sizes, "vocabulary_size": 500}))
    theirs = dict(transformers.T5ForConditionalGeneration(ours.config).named_parameters())
    for name, parameter in ours.named_parameters():
        # Of an output matrix of its own, the authors say the same as of any other kernel.
        expected = 96**-0.5 if name == "lm_head.weight" else theirs[name].std().item()
        assert parameter.std().item() == pytest.approx(expected, rel=0.2), name
