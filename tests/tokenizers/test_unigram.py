"""Unigram beside the reference, SentencePiece's Python interface, and the paper's formula."""

import math
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from keras_llm import corpora
from keras_llm.tokenizers import UnigramTokenizer
from keras_llm.tokenizers.unigram import drop_accents

ODD = "don't  stop,   you'LL see\t12345 \n\n naïve ﬁne Ⅷ½ 你好，世界！ 🙂 x\u0301 \x00 end  "

anything = st.characters(exclude_categories=["Cs"])
tricky = st.sampled_from(
    "aAzZ09 \t\n\r\x00\x0b\x1c\x85\xa0\u2028\u3000\u200b\ufeff\ufffd\ue000\u0301▁ßİıſΣςéÅﬁｅ，"
    "你好𠀀🙂👩thean   .-_$½Ⅷ①<>/"
)
texts = st.text(st.one_of(anything, tricky), max_size=40)


@pytest.fixture(scope="module")
def speeches():
    return list(islice(corpora.load("state_of_the_union").texts(), 10))


@pytest.fixture(scope="module")
def tokenizer(speeches):
    return UnigramTokenizer.train([*speeches, *[ODD] * 3], 1500, num_sentinels=10)


@pytest.fixture(scope="module")
def reference(tokenizer):
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.proto)


@pytest.fixture(scope="module")
def scores(tokenizer):
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    return {piece.piece: piece.score for piece in model.pieces}


# === Beside the reference ===


def assert_same(ids, expected, tokenizer, scores):
    """The same ids, or others that make the same text and are as likely: a tie."""
    if ids != expected:
        tokens, others = (list(map(tokenizer.id_to_token, row)) for row in (ids, expected))
        assert "".join(tokens) == "".join(others)
        likelihoods = [sum(scores[token] for token in row) for row in (tokens, others)]
        assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-3)


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_equals_reference(tokenizer, reference, scores, text):
    ids = tokenizer.encode(text)
    assert_same(ids, reference.encode(text), tokenizer, scores)
    assert tokenizer.decode(ids) == reference.decode(ids)


def test_real_text_equals_reference(tokenizer, reference, scores, speeches):
    batch = [*speeches, ODD, "", " ", "\n"]
    ids = tokenizer.encode_batch(batch)
    assert ids[: len(speeches)] == reference.encode(speeches)
    for row, expected in zip(ids, reference.encode(batch), strict=True):
        assert_same(row, expected, tokenizer, scores)
    assert tokenizer.detokenize(ids) == reference.decode(ids)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc_cf"])
def test_other_models_equal_reference(speeches, tmp_path, capfd, kind, normalization):
    """Llama 2's are of the kind "bpe", with a piece for each byte."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in speeches for line in text.splitlines()),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type=kind,
        vocab_size=1000,
        byte_fallback=kind == "bpe",
        normalization_rule_name=normalization,
        max_sentence_length=100_000,
        minloglevel=2,
    )
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    tokenizer = UnigramTokenizer.load(tmp_path)
    assert [tokenizer.unk_token_id, tokenizer.start_token_id, tokenizer.end_token_id] == [0, 1, 2]
    assert tokenizer.pad_token == "</s>"
    assert "LOG" not in capfd.readouterr().err
    for text in (speeches[0], "\u3000naïve 你好\u200b 🙂  x\u0301 "):
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == reference.decode(ids)


def test_unknown_letters_are_one_piece_however_many(tokenizer, reference):
    script = "ⴰⵣⵓⵍ"
    texts = [script * 50, f"a{script}b {script} {script}", "", f"{script}end", script]
    ids = tokenizer.encode_batch(texts)
    assert ids == reference.encode(texts)
    assert tokenizer.unk_token_id in ids[0]
    start = time.process_time()
    assert tokenizer.encode(script * 80_000) == ids[0]
    assert time.process_time() - start < 8  # SentencePiece's own joining takes 20 s


# === The model ===


def viterbi(text, scores):
    """The best sum of log-probabilities of pieces that make the text (Kudo 2018, equation 4)."""
    best = [0.0] + [-math.inf] * len(text)
    for end in range(1, len(text) + 1):
        for start in range(end):
            score = scores.get(text[start:end], -math.inf)
            best[end] = max(best[end], best[start] + score)
    return best[-1]


def test_takes_the_likeliest_pieces(tokenizer, scores, speeches):
    for word in speeches[0].split()[:300]:
        pieces = [tokenizer.id_to_token(id) for id in tokenizer.encode(word)]
        assert "".join(pieces) == f"▁{word}"
        found = sum(scores[piece] for piece in pieces)
        assert found == pytest.approx(viterbi(f"▁{word}", scores), abs=1e-3)


def test_training_is_reproducible(tmp_path):
    text = ["the low lower lowest slow slower owl bowl towel naïve 你好你好"] * 3
    code = (
        "import sys; from keras_llm.tokenizers import UnigramTokenizer;"
        "UnigramTokenizer.train([sys.argv[1]] * 3, 26).save(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, text[0], tmp_path], check=True)
    expected = UnigramTokenizer.train(text, 26)
    assert UnigramTokenizer.load(tmp_path).proto == expected.proto


def test_rare_characters_may_be_unknown(capfd):
    text = ["天地玄黄" * 500 + "龘", "宇宙洪荒" * 500]
    full = UnigramTokenizer.train(text, 15)
    assert full.decode(full.encode("天龘地")) == "天龘地"
    tokenizer = UnigramTokenizer.train(text, 14, character_coverage=0.9995)
    assert tokenizer.unk_token_id in tokenizer.encode("天龘地")
    assert tokenizer.decode(tokenizer.encode("天龘")) == "天 ⁇ "
    assert capfd.readouterr().err == ""


def test_long_lines_are_learnt_from():
    line = "abcd efgh " * 2000  # 20,000 bytes, which the trainer would leave out by itself
    assert UnigramTokenizer.train([line], 13).encode("abcd efgh")


def test_normalization(speeches):
    folding = UnigramTokenizer.train([*speeches[:2], "，" * 99, "ﬁ" * 99], 400)
    assert folding.decode(folding.encode("a，ﬁ")) == "a,fi"
    keeping = UnigramTokenizer.train(
        [*speeches[:2], "，" * 99, "ﬁ" * 99], 400, normalization="identity"
    )
    assert keeping.decode(keeping.encode("a，ﬁ")) == "a，ﬁ"


# === Special tokens ===


def test_t5_s_tokens(tokenizer):
    assert tokenizer.get_vocabulary()[:3] == ["<pad>", "</s>", "<unk>"]
    assert [tokenizer.pad_token_id, tokenizer.end_token_id, tokenizer.unk_token_id] == [0, 1, 2]
    assert tokenizer.sep_token_id == 1
    assert not hasattr(tokenizer, "start_token_id")
    assert tokenizer.vocabulary_size() == 1500
    assert tokenizer.sentinel_ids == tuple(range(1499, 1489, -1))
    for k, id in enumerate(tokenizer.sentinel_ids):
        assert tokenizer.id_to_token(id) == f"<extra_id_{k}>"
    ids = tokenizer.encode("the people <extra_id_0> of </s> <pad>")
    assert not {*tokenizer.sentinel_ids, 0, 1} & set(ids)
    first, second, *_ = tokenizer.sentinel_ids
    the, people = tokenizer.encode("the"), tokenizer.encode("people")
    assert tokenizer.decode([0, first, *the, second, *people, 1]) == "the people"


def test_xlnet_s_tokens(speeches):
    tokenizer = UnigramTokenizer.train(speeches[:2], 400, UnigramTokenizer.XLNET)
    first = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]
    assert tokenizer.get_vocabulary()[:7] == first
    names = ("unk", "start", "end", "cls", "sep", "pad", "mask")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [*range(7)]
    named = UnigramTokenizer(tokenizer.proto)  # by the model alone
    assert named.get_config()["special_tokens"] == tokenizer.get_config()["special_tokens"]
    with pytest.raises(ValueError, match="needs an `unk_token`"):
        UnigramTokenizer.train(speeches[:2], 400, {"pad_token": "<pad>"})


def test_tokens_that_a_model_finds_in_texts_can_be_special(speeches, tmp_path):
    """ALBERT's models have [CLS] as a piece that texts can hold."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in speeches[:2] for line in text.splitlines()),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=400,
        user_defined_symbols=["[CLS]", "[MASK]"],
        max_sentence_length=100_000,
        minloglevel=2,
    )
    tokenizer = UnigramTokenizer.load(tmp_path)
    assert [tokenizer.cls_token_id, tokenizer.mask_token_id] == [3, 4]
    assert not {3, 4} & set(tokenizer.encode("[CLS] the [MASK]"))


def test_accents_are_xlnet_s_to_drop(speeches):
    keeping = UnigramTokenizer.train([*speeches[:2], "é" * 99], 400)
    dropping = UnigramTokenizer(keeping.proto, keep_accents=False)
    assert keeping.decode(keeping.encode("é")) == "é"
    assert dropping.decode(dropping.encode("é")) == "e"
    trained = UnigramTokenizer.train([*speeches[:2], "é" * 99], 400, keep_accents=False)
    assert "é" not in "".join(trained.vocabulary)
    assert drop_accents(tf.constant(["``Ångström ﬁ''"])).numpy() == [b'"Angstrom fi"']


# === Files ===


def test_what_is_no_model(tmp_path):
    for proto in (b"no model", b"\xff\xff\xff"):
        with pytest.raises(ValueError, match="no SentencePiece model"):
            UnigramTokenizer(proto)
    with pytest.raises(FileNotFoundError, match=r"no SentencePiece model at .*spiece\.model"):
        UnigramTokenizer(tmp_path / "spiece.model")
    with pytest.raises(FileNotFoundError, match=r"Expected one of spiece\.model, tokenizer\.model"):
        UnigramTokenizer.load(tmp_path)


def test_missing_special_token(tokenizer):
    with pytest.raises(ValueError, match="lacks the special tokens <mask>"):
        UnigramTokenizer(tokenizer.proto, {"unk_token": "<unk>", "mask_token": "<mask>"})


def test_too_small_a_vocabulary(speeches):
    with pytest.raises(ValueError, match=r"vocabulary of 30 tokens is too small .* 2\d vs \d\d"):
        UnigramTokenizer.train(speeches[:2], 30, num_sentinels=2)


@pytest.mark.parametrize("family", ["t5", "xlnet"])
def test_transformers_reads_and_writes_it(speeches, tmp_path, family):
    transformers = pytest.importorskip("transformers")
    settings = {
        "t5": {"special_tokens": UnigramTokenizer.T5, "num_sentinels": 100},
        "xlnet": {"special_tokens": UnigramTokenizer.XLNET, "keep_accents": False},
    }[family]
    tokenizer = UnigramTokenizer.train([*speeches[:3], *[ODD] * 3], 800, **settings)
    tokenizer.save(tmp_path / "ours")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(other).__name__ == {"t5": "T5Tokenizer", "xlnet": "XLNetTokenizer"}[family]
    assert len(other) == 800
    for text in (speeches[4], "Ångström naïve ``fine''  你好，世界 end"):
        assert other.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    for name in ("pad", "unk", "mask", "cls"):
        if hasattr(tokenizer, f"{name}_token") and name != "cls":
            assert getattr(other, f"{name}_token_id") == getattr(tokenizer, f"{name}_token_id")
    sentinels = [f"<extra_id_{k}>" for k in range(tokenizer.num_sentinels)]
    assert other.convert_tokens_to_ids(sentinels) == [*tokenizer.sentinel_ids]

    other.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "spiece.model").exists()  # all in tokenizer.json
    again = UnigramTokenizer.load(tmp_path / "theirs")
    assert again.vocabulary == tokenizer.vocabulary
    for text in (speeches[4], ODD):
        assert again.encode(text) == tokenizer.encode(text)
    assert again.sentinel_ids == tokenizer.sentinel_ids
    assert again.keep_accents == tokenizer.keep_accents
    assert again.get_config()["special_tokens"] == tokenizer.get_config()["special_tokens"]


def test_transformers_reads_llama_s(speeches, tmp_path):
    transformers = pytest.importorskip("transformers")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in speeches for line in text.splitlines()),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=100_000,
        minloglevel=2,
    )
    tokenizer = UnigramTokenizer(tmp_path / "tokenizer.model")
    tokenizer.save(tmp_path / "ours")
    assert not (tmp_path / "ours" / "spiece.model").exists()
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(other).__name__ == "LlamaTokenizer"
    text = "Hello  world  你好 x.\n  ok 🙂"
    assert other.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert other.bos_token_id == tokenizer.start_token_id == 1
    assert UnigramTokenizer.load(tmp_path / "ours").proto == tokenizer.proto


def test_old_checkpoints_say_no_number_of_sentinels(speeches, tmp_path):
    """The first T5 checkpoints are `spiece.model` and `config.json`."""
    UnigramTokenizer.train(speeches[:2], 300).save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    assert UnigramTokenizer.load(tmp_path).num_sentinels == 0
    for family, sentinels, accents in (("t5", 100, True), ("xlnet", 0, False), ("mt5", 0, True)):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
        tokenizer = UnigramTokenizer.load(tmp_path)
        assert (tokenizer.num_sentinels, tokenizer.keep_accents) == (sentinels, accents)


def test_tokenizer_file_of_another_kind(tmp_path):
    from tokenizers import Tokenizer, models, normalizers

    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"its steps are Lowercase\. Expected some of Metaspace"):
        UnigramTokenizer.load(tmp_path)
    Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="no tokenizer made of a SentencePiece unigram model"):
        UnigramTokenizer.load(tmp_path)


def test_ids_of_a_padded_batch(tokenizer):
    batch = ["the people", "of"]
    dense = tokenizer(batch).to_tensor(tokenizer.pad_token_id)
    assert tokenizer.detokenize(dense) == tokenizer.detokenize(np.array(dense)) == batch
