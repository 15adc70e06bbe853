import inspect
import math

import battery
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.models import GPT2Backbone, GPT2CausalLM, gpt2


def test_same_signature_as_keras_hub():
    ours = inspect.signature(GPT2Backbone.__init__)
    theirs = inspect.signature(keras_hub.models.GPT2Backbone.__init__)
    assert list(ours.parameters.values()) == list(theirs.parameters.values())


@pytest.mark.parametrize(
    ("name", "millions"),  # as the authors name the published files
    [("small", 124), ("medium", 355), ("large", 774), ("xl", 1558)],
)
def test_published_sizes(name, millions, monkeypatch):
    monkeypatch.setattr(gpt2, "_scale_residual_projections", lambda blocks: None)
    with keras.StatelessScope(initialize_variables=False):  # shapes only
        one, two = (getattr(GPT2Backbone, name)(num_layers=n) for n in (1, 2))
        rest, layer = one.count_params(), two.count_params() - one.count_params()
    keras.utils.clear_session()  # or Keras would initialize the variables later on
    monkeypatch.setattr(GPT2Backbone, "_sized", lambda vocabulary_size, layers, *_: layers)
    layers = getattr(GPT2Backbone, name)()
    count = rest + (layers - 1) * layer
    assert round(count / 1e6) == millions

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=layers, n_head=one.num_heads, n_embd=one.hidden_dim)
    with torch.device("meta"):
        assert count == transformers.GPT2Model(config).num_parameters()


def test_gelu_formula():
    x = np.linspace(-5, 5, 101).astype("float32")
    expected = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    battery.assert_close(battery.numpy(gpt2.gelu_tanh(keras.ops.array(x))), expected, 1e-6)


def test_what_is_added_to_the_residual_path_starts_smaller():
    backbone = GPT2Backbone(100, 8, 4, 64, 256)
    for block in backbone.transformer_layers:
        for dense in (block.self_attention.output_dense, block.feed_forward.output_dense):
            deviation = battery.numpy(dense.kernel.value).std()
            assert deviation == pytest.approx(0.02 / math.sqrt(16), rel=0.1)
        for dense in (block.self_attention.value_dense, block.feed_forward.intermediate_dense):
            assert battery.numpy(dense.kernel.value).std() == pytest.approx(0.02, rel=0.1)


def test_output_matrix_is_tied_to_the_token_table():
    model = GPT2CausalLM(GPT2Backbone(30, 1, 3, 12, 20, max_sequence_length=10))
    assert sum(w.shape == (30, 12) for w in model.weights) == 1
    x = {"token_ids": np.arange(8)[None], "padding_mask": np.ones((1, 8), bool)}
    table = battery.numpy(model.backbone.token_embedding.embeddings.value)
    battery.assert_close(battery.numpy(model(x)), battery.numpy(model.backbone(x)) @ table.T, 1e-5)


def test_longer_than_the_positions():
    backbone = GPT2Backbone(30, 1, 3, 12, 20, max_sequence_length=10)
    x = {"token_ids": np.zeros((1, 11), "int32"), "padding_mask": np.ones((1, 11), bool)}
    with pytest.raises(ValueError, match=r"reaches position 11.*max_sequence_length=10"):
        backbone(x)


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="hidden_dim=12, num_heads=5"):
        GPT2Backbone(30, 1, 5, 12, 20)
