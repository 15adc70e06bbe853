import battery
import numpy as np
import pytest
from checkpoint_parity import assert_same, call, inputs, randomized, round_trip, torch, transformers

from keras_llm.checkpoints import load_hugging_face, save_hugging_face
from keras_llm.models import XLNetBackbone, XLNetForPretraining
from keras_llm.tokenizers import UnigramTokenizer

VOCABULARY, LENGTH = 33, 9


def make(cls, **settings):
    sizes = {"d_model": 30, "n_head": 5, "n_layer": 2, "d_inner": 17, "mem_len": None}
    config = transformers.XLNetConfig(vocab_size=VOCABULARY, **{**sizes, **settings})
    return randomized(cls(config))


def factorization(x, predictions=2, seed=1):
    """An order for each row, and its last real positions in that order, which are predicted."""
    rng = np.random.default_rng(seed)
    batch, length = x["token_ids"].shape
    order = np.argsort(rng.random((batch, length)))
    late = np.argsort(np.where(x["padding_mask"], -order, length), axis=1)[:, :predictions]
    return order[:, :, None] > order[:, None, :], np.sort(late)


def two_streams(theirs, x, visible, positions, **kwargs):
    """Calls theirs with our masks: theirs are 1 where a position is hidden."""
    return call(
        theirs,
        x,
        perm_mask=torch.tensor(~visible).float(),
        target_mapping=torch.tensor(np.eye(visible.shape[1])[positions]).float(),
        **kwargs,
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_two_streams_equal_the_reference(tmp_path, side, activation):
    theirs = make(transformers.XLNetLMHeadModel, ff_activation=activation)
    ours = round_trip(theirs, tmp_path, XLNetForPretraining)
    x = inputs(VOCABULARY, LENGTH, side, segments=3)
    content = call(theirs.transformer, x).last_hidden_state
    assert_same(ours.backbone(x), content, x["padding_mask"])

    visible, positions = factorization(x)
    expected = two_streams(theirs, x, visible, positions).logits.numpy()
    logits = ours(x | {"attention_mask": visible, "mask_positions": positions})
    # Where nothing precedes, theirs averages over all, hidden tokens too; ours gets zeros.
    seen = np.take_along_axis(visible & x["padding_mask"][:, None], positions[:, :, None], 1)
    some = seen.any(-1)
    assert some.sum() >= 4
    battery.assert_close(battery.numpy(logits)[some], expected[some], 1e-4)


def test_memory_equals_the_reference(tmp_path):
    theirs = make(transformers.XLNetLMHeadModel)
    ours = round_trip(theirs, tmp_path, XLNetForPretraining)
    first, second = (inputs(VOCABULARY, LENGTH, "right", segments=3, seed=i) for i in range(2))
    # Theirs takes all that it remembers for real and for segment 0.
    first |= {"padding_mask": np.ones((3, LENGTH), bool), "segment_ids": 0 * first["segment_ids"]}
    past = call(theirs.transformer, first)
    vectors, memory = ours.backbone.encode(first)
    assert_same(vectors, past.last_hidden_state, first["padding_mask"])
    for i, states in enumerate(past.mems):
        battery.assert_close(
            battery.numpy(memory["states"])[:, :, i], states.transpose(0, 1).numpy(), 1e-4
        )

    expected = call(theirs.transformer, second, mems=past.mems).last_hidden_state
    vectors, _ = ours.backbone.encode(second, memory)
    assert_same(vectors, expected, second["padding_mask"])

    visible, positions = factorization(second)
    expected = two_streams(theirs, second, visible, positions, mems=past.mems).logits
    x = second | {"attention_mask": visible, "mask_positions": positions}
    logits, _ = ours.call_with_memory(x, memory)
    battery.assert_close(battery.numpy(logits), expected.numpy(), 1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_backbone_alone_and_of_either_file(tmp_path, side):
    x = inputs(VOCABULARY, LENGTH, side, segments=2)
    for cls in (transformers.XLNetModel, transformers.XLNetLMHeadModel):
        theirs = make(cls)
        theirs.save_pretrained(tmp_path / cls.__name__)
        ours, _ = load_hugging_face(tmp_path / cls.__name__)
        assert type(ours) is XLNetBackbone
        base = getattr(theirs, "transformer", theirs)
        assert_same(ours(x), call(base, x).last_hidden_state, x["padding_mask"])

    # A backbone has no query stream: what that begins with is all that its file lacks.
    save_hugging_face(ours, tmp_path / "ours")
    again, report = transformers.XLNetModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert list(report["missing_keys"]) == ["mask_emb"] and not report["unexpected_keys"]
    assert_same(ours(x), call(again.eval(), x).last_hidden_state, x["padding_mask"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("attn_type", "uni"), ("bi_data", True), ("clamp_len", 4), ("layer_norm_eps", 1e-5)],
)
def test_other_settings_are_refused(tmp_path, name, value):
    make(transformers.XLNetModel, **{name: value}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"the setting {name} is {value!r}"):
        load_hugging_face(tmp_path)


def test_other_activations_are_refused(tmp_path):
    make(transformers.XLNetModel, ff_activation="tanh").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'tanh' is none of XLNet's"):
        load_hugging_face(tmp_path)
    backbone = XLNetBackbone(VOCABULARY, 1, 2, 8, 16, activation="tanh")
    with pytest.raises(ValueError, match="tanh has no name"):
        save_hugging_face(backbone, tmp_path / "ours")


def test_tokenizer(tmp_path):
    texts = ["The cat sat on the mat.", "A dog, too; it barked."] * 9
    specials = UnigramTokenizer.XLNET
    tokenizer = UnigramTokenizer.train(texts, 60, specials, keep_accents=False)
    backbone = XLNetBackbone(tokenizer.vocabulary_size(), 1, 2, 8, 16)
    save_hugging_face(backbone, tmp_path / "xlnet", tokenizer)

    _, loaded = load_hugging_face(tmp_path / "xlnet")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "xlnet")
    assert type(theirs).__name__.startswith("XLNet")
    for text in texts[:2]:
        ids = loaded.encode(text)
        assert ids == tokenizer.encode(text)
        assert theirs(text)["input_ids"] == [*ids, loaded.sep_token_id, loaded.cls_token_id]
