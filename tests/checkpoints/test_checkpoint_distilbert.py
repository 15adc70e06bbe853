import numpy as np
import pytest
from checkpoint_parity import (
    assert_same,
    assert_same_at,
    call,
    inputs,
    randomized,
    round_trip,
    torch,
    transformers,
)

from keras_llm.checkpoints import load_hugging_face, save_hugging_face
from keras_llm.models import DistilBertMaskedLM
from keras_llm.tokenizers import WordPieceTokenizer

VOCABULARY, LENGTH = 33, 9


def make(cls, **settings):
    config = transformers.DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=35,
        n_layers=3,
        n_heads=5,
        hidden_dim=17,
        max_position_embeddings=LENGTH,
        **settings,
    )
    return randomized(cls(config))


@pytest.mark.parametrize("side", ["left", "right"])
def test_equals_the_reference(tmp_path, side):
    theirs = make(transformers.DistilBertForMaskedLM)
    ours = round_trip(theirs, tmp_path, DistilBertMaskedLM)
    x = inputs(VOCABULARY, LENGTH, side)
    expected = call(theirs, x, output_hidden_states=True)
    assert_same(ours.backbone(x), expected.hidden_states[-1], x["padding_mask"])
    places = np.argsort(~x["padding_mask"])[:, :2]
    assert_same_at(places, ours(x | {"mask_positions": places}), expected.logits)


def test_backbone_alone(tmp_path):
    theirs = make(transformers.DistilBertModel)
    ours = round_trip(theirs, tmp_path)
    x = inputs(VOCABULARY, LENGTH, "right")
    assert_same(ours(x), call(theirs, x).last_hidden_state, x["padding_mask"])


def test_backbone_of_a_classifier(tmp_path):
    theirs = make(transformers.DistilBertForSequenceClassification)
    theirs.save_pretrained(tmp_path)
    ours, _ = load_hugging_face(tmp_path)
    x = inputs(VOCABULARY, LENGTH, "right")
    assert_same(ours(x), call(theirs.distilbert, x).last_hidden_state, x["padding_mask"])


def test_sine_positions_are_a_table_like_any_other(tmp_path):
    theirs = make(transformers.DistilBertModel, sinusoidal_pos_embds=True)
    ours = round_trip(theirs, tmp_path)
    x = inputs(VOCABULARY, LENGTH, "right")
    assert_same(ours(x), call(theirs, x).last_hidden_state, x["padding_mask"])


def test_tokenizer_gives_what_the_model_takes(tmp_path):
    make(transformers.DistilBertModel).save_pretrained(tmp_path / "theirs")
    backbone, _ = load_hugging_face(tmp_path / "theirs")
    tokenizer = WordPieceTokenizer.train(["the cat sat"] * 3, 20)
    save_hugging_face(backbone, tmp_path / "ours", tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    model = transformers.AutoModel.from_pretrained(tmp_path / "ours")
    encoded = theirs(["the cat", "sat"], return_tensors="pt", padding=True)
    assert sorted(encoded) == ["attention_mask", "input_ids"]
    with torch.no_grad():
        assert model(**encoded).last_hidden_state.shape == (2, encoded["input_ids"].shape[1], 35)
