import json
import shutil
import subprocess
import sys

import battery
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_llm.checkpoints import load_hugging_face
from keras_llm.models import BertForPretraining

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "two layers": (2, 4, 24, 40, 61, 20, 2),
    "odd sizes": (1, 5, 35, 17, 33, 9, 3),
    "one head, one segment": (3, 1, 8, 8, 12, 50, 1),
    "more heads than layers": (4, 12, 96, 384, 300, 128, 2),
}


def make_reference(seed, layers, heads, hidden, intermediate, vocabulary, positions, segments):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=positions,
        type_vocab_size=segments,
    )
    model = transformers.BertForPreTraining(config).eval()
    for parameter in model.parameters():  # biases too, which start at zero
        parameter.data = torch.randn_like(parameter) * 0.3
    return model


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    make_reference(0, *SIZES["two layers"]).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of a small BERT's folder, to be spoiled."""
    return shutil.copytree(original, tmp_path / "bert")


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path)


@pytest.mark.parametrize("name", SIZES)
def test_equals_the_reference(tmp_path, name):
    sizes = SIZES[name]
    _, _, _, _, vocabulary, positions, segments = sizes
    reference = make_reference(len(name), *sizes)
    reference.save_pretrained(tmp_path)
    model, tokenizer = load_hugging_face(tmp_path, BertForPretraining)

    rng = np.random.default_rng(0)
    length = min(positions, 17)
    real = rng.integers(2, length + 1, (3, 1))  # real tokens; the others are padding
    x = {
        "token_ids": rng.integers(0, vocabulary, (3, length)),
        "segment_ids": rng.integers(0, segments, (3, length)),
        "padding_mask": np.arange(length) < real,
        "mask_positions": rng.integers(0, real, (3, 4)),
    }
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.tensor(x["token_ids"]),
            token_type_ids=torch.tensor(x["segment_ids"]),
            attention_mask=torch.tensor(x["padding_mask"].astype("int64")),
            output_hidden_states=True,
        )
        pooled = reference.bert.pooler(theirs.hidden_states[-1])
    ours = battery.numpy(model(x))
    encoded = battery.numpy(
        model.backbone({name: x[name] for name in x if name != "mask_positions"})
    )

    battery.assert_close(encoded["sequence_output"], theirs.hidden_states[-1].numpy(), 1e-5)
    battery.assert_close(encoded["pooled_output"], pooled.numpy(), 1e-5)
    logits = np.take_along_axis(
        theirs.prediction_logits.numpy(), x["mask_positions"][:, :, None], axis=1
    )
    battery.assert_close(ours["masked_lm"], logits, 1e-5)
    # Theirs: (follows, random). Ours: (random, follows).
    theirs_swapped = theirs.seq_relationship_logits.numpy()[:, ::-1]
    battery.assert_close(ours["next_sentence"], theirs_swapped, 1e-5)


def test_settings_become_the_backbones(folder):
    change_config(folder, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.25)
    backbone = load_hugging_face(folder, dtype="mixed_bfloat16")[0]
    assert backbone.get_config()["dropout"] == 0.25
    assert backbone.dtype_policy.name == "mixed_bfloat16"
    assert (backbone.num_layers, backbone.num_heads, backbone.vocabulary_size) == (2, 4, 61)


def test_older_names_of_the_norms_buffers_and_tied_copies(original, folder):
    def age(tensors):
        aged = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        }
        aged["bert.embeddings.position_ids"] = np.arange(20)[None]
        word_embeddings = tensors["bert.embeddings.word_embeddings.weight"]
        aged["cls.predictions.decoder.weight"] = word_embeddings.copy()
        aged["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
        return aged

    change_tensors(folder, age)
    battery.assert_close(
        load_hugging_face(folder, BertForPretraining)[0].get_weights(), load_hugging_face(original, BertForPretraining)[0].get_weights()
    )


def test_half_precision_files(folder):
    expected = load_hugging_face(folder, BertForPretraining)[0].get_weights()
    for dtype, tolerance in [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)]:
        make_reference(0, *SIZES["two layers"]).to(dtype).save_pretrained(folder)
        actual = load_hugging_face(folder, BertForPretraining)[0].get_weights()
        assert all(weight.dtype == "float32" for weight in actual)
        battery.assert_close(actual, expected, tolerance)


def test_everything_wrong_with_the_tensors_is_listed(folder):
    def spoil(tensors):
        del tensors["bert.pooler.dense.bias"]
        tensors["adapter.weight"] = np.zeros(3, "float32")
        name = "bert.encoder.layer.1.intermediate.dense.weight"
        tensors[name] = tensors[name].T.copy()
        name = "cls.predictions.transform.LayerNorm.bias"
        tensors[name] = tensors[name][:5].copy()

    change_tensors(folder, spoil)
    with pytest.raises(ValueError, match="does not hold the weights") as error:
        load_hugging_face(folder, BertForPretraining)
    assert str(error.value).split("\n  ")[1:] == [
        "missing: bert.pooler.dense.bias",
        "shape (24, 40) instead of (40, 24): bert.encoder.layer.1.intermediate.dense.weight",
        "shape (5,) instead of (24,): cls.predictions.transform.LayerNorm.bias",
        "unknown: adapter.weight",
    ]


def test_more_layers_in_the_file_than_in_its_settings(folder):
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"unknown: bert\.encoder\.layer\.1\.attention"):
        load_hugging_face(folder, BertForPretraining)


@pytest.mark.parametrize("name", ["decoder.weight", "decoder.bias"])
def test_untied_output_is_refused(folder, name):
    original = {
        "decoder.weight": "bert.embeddings.word_embeddings.weight",
        "decoder.bias": "cls.predictions.bias",
    }

    def untie(tensors):
        tensors[f"cls.predictions.{name}"] = tensors[original[name]] + 1

    change_tensors(folder, untie)
    with pytest.raises(ValueError, match=f"cls.predictions.{name} differs from {original[name]}"):
        load_hugging_face(folder, BertForPretraining)


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_act": "gelu_new"},
        {"layer_norm_eps": 1e-5},
        {"position_embedding_type": "relative_key"},
        {"tie_word_embeddings": False},
        {"is_decoder": True},
    ],
    ids=str,
)
def test_setting_that_our_bert_does_not_have(folder, setting):
    change_config(folder, **setting)
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"config\.json: the setting {name} is {value!r}"):
        load_hugging_face(folder, BertForPretraining)


def test_missing_setting_and_differing_dropouts(folder):
    change_config(folder, attention_probs_dropout_prob=0.3)
    with pytest.warns(UserWarning, match="attention_probs_dropout_prob is 0.3"):
        load_hugging_face(folder, BertForPretraining)
    change_config(folder, vocab_size=None)
    with pytest.raises(ValueError, match=r"lacks the settings \['vocab_size'\]"):
        load_hugging_face(folder, BertForPretraining)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        load_hugging_face(folder, BertForPretraining)


def test_imports_neither_torch_nor_transformers(original):
    code = (
        "import sys\n"
        "from keras_llm.checkpoints import load_hugging_face\n"
        "load_hugging_face(sys.argv[1])\n"
        "print({'torch', 'transformers', 'keras_llm.checkpoints'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, original], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "{'keras_llm.checkpoints'}"
