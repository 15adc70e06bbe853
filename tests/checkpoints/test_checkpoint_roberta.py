import battery
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
from keras_llm.models import RobertaBackbone, RobertaMaskedLM
from keras_llm.tokenizers import BytePairTokenizer

VOCABULARY, LENGTH = 33, 9


def make(cls, segments=1, **settings):
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=35,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=17,
        max_position_embeddings=LENGTH + 2,
        type_vocab_size=segments,
        **settings,
    )
    return randomized(cls(config))


def without_segment(theirs):
    """The vector of the one segment is added to each position: then both files are the same."""
    embeddings = theirs.roberta.embeddings
    embeddings.position_embeddings.weight.data += embeddings.token_type_embeddings.weight.data
    embeddings.token_type_embeddings.weight.data.zero_()
    return theirs


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_equals_the_reference(tmp_path, side, epsilon):
    theirs = without_segment(make(transformers.RobertaForMaskedLM, layer_norm_eps=epsilon))
    ours = round_trip(theirs, tmp_path, RobertaMaskedLM)
    x = inputs(VOCABULARY, LENGTH, side)
    expected = call(theirs, x, output_hidden_states=True)
    assert_same(ours.backbone(x), expected.hidden_states[-1], x["padding_mask"])
    places = np.argsort(~x["padding_mask"])[:, :2]
    assert_same_at(places, ours(x | {"mask_positions": places}), expected.logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_backbone_alone_with_a_segment_and_a_pooler(tmp_path, side):
    theirs = make(transformers.RobertaModel)
    theirs.save_pretrained(tmp_path)
    ours, _ = load_hugging_face(tmp_path)
    x = inputs(VOCABULARY, LENGTH, side)
    assert_same(ours(x), call(theirs, x).last_hidden_state, x["padding_mask"])


def test_two_segments_are_refused(tmp_path):
    make(transformers.RobertaModel, segments=2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="the setting type_vocab_size is 2"):
        load_hugging_face(tmp_path)


def test_tokenizer(tmp_path):
    texts = ["The cat sat on the mat, didn't it?", "  Two  spaces; 世界 and\nlines. "]
    tokenizer = BytePairTokenizer.train(texts * 2, 300, special_tokens=BytePairTokenizer.ROBERTA)
    size = tokenizer.vocabulary_size()
    backbone = RobertaBackbone(size, 1, 2, 8, 16, max_sequence_length=60)
    save_hugging_face(backbone, tmp_path / "roberta", tokenizer)

    ours, loaded = load_hugging_face(tmp_path / "roberta")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "roberta")
    assert type(theirs).__name__.startswith("Roberta")
    for text in texts:
        ids = loaded.encode(text)
        assert ids == tokenizer.encode(text)
        assert theirs(text)["input_ids"] == [loaded.start_token_id, *ids, loaded.end_token_id]

    model, report = transformers.RobertaModel.from_pretrained(
        tmp_path / "roberta", output_loading_info=True
    )
    assert sorted(report["missing_keys"]) == ["pooler.dense.bias", "pooler.dense.weight"]
    batch = theirs(texts, return_tensors="pt", padding=True)
    x = {"token_ids": batch["input_ids"].numpy(), "padding_mask": batch["attention_mask"] == 1}
    x["padding_mask"] = x["padding_mask"].numpy()
    assert_same(ours(x), model.eval()(**batch).last_hidden_state.detach(), x["padding_mask"])


def test_tokenizer_with_padding_elsewhere_is_refused(tmp_path):
    tokenizer = BytePairTokenizer.train(["some text"] * 2, 264)
    backbone = RobertaBackbone(tokenizer.vocabulary_size(), 1, 2, 8, 16)
    with pytest.raises(ValueError, match="pad_token_id is 0 with this tokenizer"):
        save_hugging_face(backbone, tmp_path / "roberta", tokenizer)
    assert not list(tmp_path.iterdir())


def test_masked_tokens_of_the_same_file_in_half_precision(tmp_path):
    theirs = without_segment(make(transformers.RobertaForMaskedLM))
    ours = round_trip(theirs, tmp_path, RobertaMaskedLM)
    half, _ = load_hugging_face(tmp_path / "ours", RobertaMaskedLM, dtype="mixed_bfloat16")
    x = inputs(VOCABULARY, LENGTH, "right")
    x["mask_positions"] = np.array([[0], [1], [0]])
    battery.assert_close(battery.numpy(half(x)), battery.numpy(ours(x)), 0.3)
    assert half.backbone.dtype_policy.name == "mixed_bfloat16"
