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

from keras_llm.models import BertForPretraining

# layers, heads, features, features inside, vocabulary, positions, segments
SIZES = {
    "two layers": (2, 4, 24, 40, 61, 20, 2),
    "odd sizes": (1, 5, 35, 17, 33, 9, 3),
    "one head, one segment": (3, 1, 8, 8, 12, 50, 1),
    "more heads than layers": (4, 12, 96, 384, 300, 128, 2),
}


def make(cls, layers, heads, hidden, intermediate, vocabulary, positions, segments):
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=segments,
    )
    return randomized(cls(config))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", SIZES)
def test_equals_the_reference(tmp_path, name, side):
    _, _, _, _, vocabulary, positions, segments = SIZES[name]
    theirs = make(transformers.BertForPreTraining, *SIZES[name])
    ours = round_trip(theirs, tmp_path, BertForPretraining)

    x = inputs(vocabulary, min(positions, 17), side, segments)
    expected = call(theirs, x, output_hidden_states=True)
    encoded = ours.backbone(x)
    assert_same(encoded["sequence_output"], expected.hidden_states[-1], x["padding_mask"])
    pooled = theirs.bert.pooler(expected.hidden_states[-1])
    battery.assert_close(battery.numpy(encoded["pooled_output"]), pooled.detach().numpy(), 1e-4)

    places = np.argsort(~x["padding_mask"])[:, :2]  # two real tokens of each row
    logits = ours(x | {"mask_positions": places})
    assert_same_at(places, logits["masked_lm"], expected.prediction_logits)
    # Theirs: (follows, random). Ours: (random, follows).
    swapped = expected.seq_relationship_logits.numpy()[:, ::-1]
    battery.assert_close(battery.numpy(logits["next_sentence"]), swapped, 1e-4)


def test_backbone_alone(tmp_path):
    theirs = make(transformers.BertModel, *SIZES["odd sizes"])
    ours = round_trip(theirs, tmp_path)
    x = inputs(33, 9, "right", 3)
    expected = call(theirs, x)
    encoded = battery.numpy(ours(x))
    assert_same(encoded["sequence_output"], expected.last_hidden_state, x["padding_mask"])
    battery.assert_close(encoded["pooled_output"], expected.pooler_output.numpy(), 1e-4)
