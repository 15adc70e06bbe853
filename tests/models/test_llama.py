import battery
import keras
import numpy as np
import pytest

from keras_llm.models import LlamaBackbone, LlamaCausalLM

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_query_heads": 6,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "num_key_value_heads": 3,
}


def with_random_weights(**options):
    model, rng = LlamaBackbone(**SIZES | options), np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) * 0.5 for w in model.get_weights()])
    return model


def row(*tokens):
    return {"token_ids": np.array([tokens]), "padding_mask": np.ones((1, len(tokens)), bool)}


@pytest.mark.parametrize(
    ("name", "billions", "sizes"),
    [  # "LLaMA", table 2, with the counts of the published files; "Llama 2", table 1
        ("Llama 7B", 6.74, (32000, 32, 32, 4096, 11008, 32)),
        ("Llama 2 70B", 68.98, (32000, 80, 64, 8192, 28672, 8)),
        ("Llama 3 8B", 8.03, (128256, 32, 32, 4096, 14336, 8)),
    ],
)
def test_published_sizes(name, billions, sizes):
    vocabulary, layers, *others = sizes
    with keras.StatelessScope(initialize_variables=False):  # shapes only
        one, two = (LlamaBackbone(vocabulary, n, *others).count_params() for n in (1, 2))
    keras.utils.clear_session()
    assert round((one + (layers - 1) * (two - one)) / 1e9, 2) == billions


def test_positions_are_relative():
    """Of two like texts in one row, each for itself, the second is read as the first."""
    backbone = with_random_weights()
    x = row(5, 9, 7, 5, 9, 7) | {"segment_ids": np.array([[0, 0, 0, 1, 1, 1]])}
    output = battery.numpy(backbone(x))[0]
    battery.assert_close(output[3:], output[:3], 1e-5)
    battery.assert_close(output[:3], battery.numpy(backbone(row(5, 9, 7)))[0], 1e-5)
    assert np.abs(output[0] - output[1]).max() > 0.1  # but the order counts
    swapped = battery.numpy(backbone(row(9, 5, 7)))[0]
    assert np.abs(swapped[2] - output[2]).max() > 1e-3


def test_no_biases_and_one_gain_a_norm():
    names = {w.path.rsplit("/", 1)[1] for w in LlamaBackbone(**SIZES).weights}
    assert names == {"embeddings", "reverse_embeddings", "kernel", "scale"}


@pytest.mark.parametrize("tied", [True, False])
def test_output_matrix_tied_or_not(tied):
    model = LlamaCausalLM(with_random_weights(tie_word_embeddings=tied))
    embedding = model.backbone.token_embedding
    matrix = embedding.embeddings.value if tied else embedding.reverse_embeddings.value
    matrix = battery.numpy(matrix)
    x = row(5, 9, 7)
    expected = battery.numpy(model.backbone(x)) @ (matrix.T if tied else matrix)
    battery.assert_close(battery.numpy(model(x)), expected, 1e-4)


def test_fewer_heads_of_keys_make_a_smaller_cache():
    cache = LlamaBackbone(**SIZES, head_dim=4).start_cache(2, max_length=5)
    assert [tuple(tensor.shape) for tensor in cache] == [(2, 2, 3, 5, 4)] * 2


@pytest.mark.parametrize(("heads", "groups"), [(5, 5), (6, 4)])
def test_heads_that_do_not_divide(heads, groups):
    with pytest.raises(ValueError, match=f"num_heads={heads}"):
        LlamaBackbone(**SIZES | {"num_query_heads": heads, "num_key_value_heads": groups})
