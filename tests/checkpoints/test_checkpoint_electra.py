import numpy as np
import pytest
from checkpoint_parity import (
    assert_same,
    assert_same_at,
    call,
    inputs,
    randomized,
    round_trip,
    transformers,
)

from keras_llm.checkpoints import load_hugging_face, save_hugging_face
from keras_llm.models import ElectraDiscriminator, ElectraGenerator
from keras_llm.tokenizers import WordPieceTokenizer

VOCABULARY, LENGTH = 33, 9


def make(cls, embedding_dim=12):
    config = transformers.ElectraConfig(
        vocab_size=VOCABULARY,
        embedding_size=embedding_dim,
        hidden_size=35,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=17,
        max_position_embeddings=LENGTH,
    )
    return randomized(cls(config))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("embedding_dim", [12, 35])
def test_discriminator_equals_the_reference(tmp_path, side, embedding_dim):
    theirs = make(transformers.ElectraForPreTraining, embedding_dim)
    ours = round_trip(theirs, tmp_path, ElectraDiscriminator)
    x = inputs(VOCABULARY, LENGTH, side, segments=2)
    expected = call(theirs, x, output_hidden_states=True)
    assert_same(ours.backbone(x), expected.hidden_states[-1], x["padding_mask"])
    assert_same(ours(x), expected.logits, x["padding_mask"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_generator_equals_the_reference(tmp_path, side):
    theirs = make(transformers.ElectraForMaskedLM)
    ours = round_trip(theirs, tmp_path, ElectraGenerator)
    x = inputs(VOCABULARY, LENGTH, side, segments=2)
    places = np.argsort(~x["padding_mask"])[:, :2]
    assert_same_at(places, ours(x | {"mask_positions": places}), call(theirs, x).logits)


def test_backbone_alone_and_of_either_file(tmp_path):
    theirs = make(transformers.ElectraModel)
    ours = round_trip(theirs, tmp_path)
    x = inputs(VOCABULARY, LENGTH, "right", segments=2)
    assert_same(ours(x), call(theirs, x).last_hidden_state, x["padding_mask"])
    for cls in (transformers.ElectraForPreTraining, transformers.ElectraForMaskedLM):
        theirs = make(cls)
        theirs.save_pretrained(tmp_path / cls.__name__)
        ours, _ = load_hugging_face(tmp_path / cls.__name__)
        expected = call(theirs.electra, x).last_hidden_state
        assert_same(ours(x), expected, x["padding_mask"])


def test_a_generator_is_no_discriminator(tmp_path):
    make(transformers.ElectraForMaskedLM).save_pretrained(tmp_path)
    with pytest.raises(ValueError) as error:
        load_hugging_face(tmp_path, ElectraDiscriminator)
    assert "missing: discriminator_predictions.dense.bias" in str(error.value)
    assert "unknown: generator_lm_head.bias" in str(error.value)


def test_tokenizer(tmp_path):
    tokenizer = WordPieceTokenizer.train(["the cat sat"] * 3, 20)
    backbone = load_small(tmp_path)
    save_hugging_face(backbone, tmp_path / "saved", tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    ids = theirs("The cat")["input_ids"]
    assert ids[1:-1] == load_hugging_face(tmp_path / "saved")[1].encode("The cat")
    assert theirs.model_max_length == LENGTH


def load_small(folder):
    make(transformers.ElectraModel).save_pretrained(folder / "small")
    return load_hugging_face(folder / "small")[0]
