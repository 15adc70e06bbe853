"""Byte-pair encoding beside the reference, the Rust library, and beside the paper's algorithm."""

import json
import pickle
import subprocess
import sys
from itertools import islice, pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split

from keras_llm import corpora
from keras_llm.tokenizers import BytePairTokenizer
from keras_llm.tokenizers.byte_pair import _BYTES, _PATTERNS, split

ODD = "don't  stop,   YOU'LL see\t\t12345 \r\n\n  naïve 你好，世界！ 🙂👩‍💻 \u0301x Ⅷ½ \x00 end  "
LLAMA3 = {"start_token": "<|begin_of_text|>", "end_token": "<|end_of_text|>"}
BYTES = list(_BYTES.values())

anything = st.characters(exclude_categories=["Cs"])
tricky = st.sampled_from(
    "aAzZ09 \t\n\r\x00\x0b\x1c\x85\xa0\u2028\u3000\u200b\ufeff\ufffd\ue000\u0301ßİıſéÅﬁĠĊ"
    "你好𠀀🙂👩''''sdtmrellVE   \n\n.-_$½Ⅷ①\u1c89\U00016d70"
)
texts = st.text(st.one_of(anything, tricky), max_size=40)


@pytest.fixture(scope="module")
def speeches():
    return list(islice(corpora.load("state_of_the_union").texts(), 10))


@pytest.fixture(scope="module")
def tokenizer(speeches):
    return BytePairTokenizer.train([*speeches, *[ODD] * 3], 2000)


@pytest.fixture(scope="module")
def reference(tokenizer, tmp_path_factory):
    """The same files in the library that GPT-2's users have, special tokens aside."""
    folder = tmp_path_factory.mktemp("files")
    tokenizer.save(folder)
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return {space: ByteLevelBPETokenizer(*files, add_prefix_space=space) for space in (False, True)}


# === Beside the reference ===


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_equals_reference(tokenizer, reference, text):
    assert tokenizer.encode(text) == reference[False].encode(text).ids


def test_real_text_equals_reference(tokenizer, reference, speeches):
    batch = [*speeches, ODD, "", " ", "  \n", "\n", "'s's 's"]
    assert tokenizer.encode_batch(batch) == [
        encoding.ids for encoding in reference[False].encode_batch(batch)
    ]


@settings(max_examples=100, deadline=None)
@given(batch=st.lists(texts, max_size=8))
def test_prefix_space_equals_reference(tokenizer, reference, batch):
    spaced = BytePairTokenizer(tokenizer.vocabulary, tokenizer.merges, add_prefix_space=True)
    batch = [text for text in [*batch, "the", " the", "\nthe"] if text]
    assert spaced.encode_batch(batch) == [reference[True].encode(text).ids for text in batch]


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_offsets_equal_reference(tokenizer, reference, text):
    expected = reference[False].encode(text)
    ids, starts, ends = (rows.to_list()[0] for rows in tokenizer.tokenize_with_offsets([text]))
    assert ids == expected.ids
    for token, (start, end), *mine in zip(ids, expected.offsets, starts, ends, strict=True):
        piece = tokenizer.id_to_token(token)
        spaced = piece.startswith("Ġ") and len(piece) > 1  # the space before a word is left out
        assert mine == [start + spaced, end]


@pytest.mark.parametrize("text", ["the end", " the end", "", " ", "你好 the", "🙂the", "\nthe"])
def test_the_space_that_is_added_has_no_place(tokenizer, text):
    spaced = BytePairTokenizer(tokenizer.vocabulary, tokenizer.merges, add_prefix_space=True)
    ids, starts, ends = (rows.to_list()[0] for rows in spaced.tokenize_with_offsets([text]))
    assert ids == spaced.encode(text)
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    assert "".join(dict.fromkeys(pieces)).replace(" ", "") == text.replace(" ", "")


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.text("ab", min_size=1, max_size=9), min_size=1, max_size=8), text=texts)
def test_any_trained_vocabulary_equals_reference(words, text):
    """Two letters only, so that merges overlap in every way: aa, aaa, aba, abab, ..."""
    with pytest.warns(UserWarning, match="fewer than"):
        tokenizer = BytePairTokenizer.train([" ".join(words * 2)], 400)
    files = {token: id for id, token in enumerate(tokenizer.vocabulary)}
    reference = ByteLevelBPETokenizer(files, [tuple(m.split(" ")) for m in tokenizer.merges])
    for sample in (text, "".join(words), "ab" * 9 + "aab" * 5, "a" * 17 + "b" * 9):
        assert tokenizer.encode(sample) == reference.encode(sample).ids


@pytest.mark.parametrize("pattern", list(_PATTERNS))
def test_words_equal_reference_on_all_of_unicode(pattern):
    """Every code point of a plane in use, between letters, digits, signs and spaces."""
    planes = (*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000))
    reference = Split(Regex(_PATTERNS[pattern].authors), behavior="isolated")
    words = [f"a{chr(c)}b{chr(c)}{chr(c)}1 {chr(c)}! '{chr(c)}s" for c in planes]
    joined = ["\0".join(words[i : i + 4096]) for i in range(0, len(words), 4096)]
    for text, words in zip(joined, split(tf.constant(joined), pattern).to_list(), strict=True):
        expected = [word for word, _ in reference.pre_tokenize_str(text)]
        assert [word.decode() for word in words if word] == expected


@settings(max_examples=300, deadline=None)
@given(text=texts, pattern=st.sampled_from(list(_PATTERNS)))
def test_words_equal_reference(text, pattern):
    reference = Split(Regex(_PATTERNS[pattern].authors), behavior="isolated")
    words = split(tf.constant([text]), pattern).to_list()[0]
    assert [w.decode() for w in words if w] == [w for w, _ in reference.pre_tokenize_str(text)]


def test_alphabet_is_the_reference_s():
    assert sorted(_BYTES.values()) == sorted(ByteLevel.alphabet())
    reference = ByteLevel(add_prefix_space=False, use_regex=False)
    for character in "\x00\n !~\x7f\x80\xa0\xad\xffé你":
        printed = "".join(_BYTES[byte] for byte in character.encode())
        assert reference.pre_tokenize_str(character)[0][0] == printed


# === The algorithm ===


def merge_by_rank(word, ranks):
    """Algorithm 1 of Sennrich et al. (2016), as the paper tells it."""
    symbols = list(word)
    while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
        best = min(pairs, key=ranks.get)
        merged, i = [], 0
        while i < len(symbols):
            if tuple(symbols[i : i + 2]) == best:
                merged.append("".join(best))
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        symbols = merged
    return symbols


def test_merges_as_the_paper_does(tokenizer, speeches):
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(tokenizer.merges)}
    words = split(tf.constant([speeches[0], ODD])).flat_values.numpy()
    expected = [
        token for word in words for token in merge_by_rank([_BYTES[byte] for byte in word], ranks)
    ]
    ids = [id for row in tokenizer.encode_batch([speeches[0], ODD]) for id in row]
    assert [tokenizer.id_to_token(id) for id in ids] == expected


def test_learns_as_the_paper_does():
    """The example of Sennrich et al. (2016), figure 1: low lower newest widest."""
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    tokenizer = BytePairTokenizer.train(words, 257 + 4, special_tokens={"end_token": "<end>"})
    assert tokenizer.vocabulary[0] == "<end>"
    # Counted by hand: es and st appear 9 times, then est; of lo and ow, 7 times, lo is first.
    assert tokenizer.merges[:2] in (("e s", "es t"), ("s t", "e st"))
    assert tokenizer.merges[2:] == ("l o", "lo w")


def test_training_is_reproducible(tmp_path):
    """Also in another process, with other hash tables."""
    text = ["the low lower lowest slow slower owl bowl towel naïve 你好你好"] * 3
    code = (
        "import sys; from keras_llm.tokenizers import BytePairTokenizer;"
        "BytePairTokenizer.train([sys.argv[1]] * 3, 280).save(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, text[0], tmp_path], check=True)
    expected = BytePairTokenizer.train(text, 280)
    again = BytePairTokenizer.load(tmp_path)
    assert again.vocabulary == expected.vocabulary
    assert again.merges == expected.merges


def test_long_texts(tokenizer, reference):
    for text in ("the " * 100_000, "a" * 20_000, " " * 20_000 + "x", "你" * 5_000):
        assert tokenizer.encode(text) == reference[False].encode(text).ids


# === Decoding ===


@settings(max_examples=100, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=5))
def test_decoding_is_exact(tokenizer, batch):
    ids = tokenizer.encode_batch(batch)
    assert tokenizer.detokenize(ids) == batch
    assert [tokenizer.decode(row) for row in ids] == batch


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=12))
def test_halves_of_characters_decode_as_in_python(tokenizer, raw):
    ids = [tokenizer.token_to_id(_BYTES[byte]) for byte in raw]
    assert tokenizer.decode(ids) == raw.decode("utf-8", "replace")


def test_unknown_and_added_tokens_are_shown():
    vocabulary = [*BYTES, "<s>", "</s>", "<unk>", "<pad>", "<mask>", "<é>"]
    tokenizer = BytePairTokenizer(vocabulary, [], BytePairTokenizer.ROBERTA)
    ids = [tokenizer.token_to_id(t) for t in ("<s>", "a", "<unk>", "<é>", "<mask>", "</s>")]
    assert tokenizer.decode(ids) == "a<unk><é>"
    assert tokenizer.decode(tokenizer.encode("<é>")) == "<é>"
    assert tokenizer.token_to_id("<é>") not in tokenizer.encode("<é>")


# === Vocabulary ===


def test_one_token_may_have_several_roles(tokenizer):
    names = ("start", "end", "pad", "cls", "sep")
    assert {getattr(tokenizer, f"{name}_token") for name in names} == {"<|endoftext|>"}
    assert tokenizer.special_token_ids == [0]
    assert not hasattr(tokenizer, "mask_token_id")


def test_vocabulary_as_dict_and_in_any_place():
    ids = {character: 300 - i for i, character in enumerate(BYTES)}
    ids |= {f"<{i}>": i for i in range(45)}
    tokenizer = BytePairTokenizer(ids, [], {"end_token": "<7>"})
    assert tokenizer.encode("!\x00") == [ids["!"], ids["Ā"]]
    assert tokenizer.end_token_id == tokenizer.pad_token_id == 7
    with pytest.raises(ValueError, match="from 0 to 301, each once; here 'aa' has 400 where 301"):
        BytePairTokenizer({**ids, "aa": 400}, [], {"end_token": "<7>"})


@pytest.mark.parametrize(
    ("vocabulary", "merges", "message"),
    [
        (["a", "b", "<e>"], [], "lacks 254 of the 256 bytes: '!', "),
        ([*BYTES, "<x>"], [], "lacks the special tokens <e>"),
        ([*BYTES, "<e>", "a"], [], "more than once in the vocabulary: 'a'"),
        ([*BYTES, "<e>"], None, "`merges` is missing"),
        ([*BYTES, "<e>"], ["a b"], "Merge 1, 'a b', .* lacks 'ab'"),
        ([*BYTES, "<e>", "ab"], ["ab"], "Merge 1, 'ab', does not fit"),
        ([*BYTES, "<e>", "ab", "bc", "abc"], ["a b", "b c", "a bc"], "gives 1 .* tokens: 'abc'"),
        ([*BYTES, "<e>", "ab", "bc", "abc"], ["b c", "a bc", "a b", "ab c"], "an earlier one"),
        ([*BYTES, "<e>", "<e"], ["< e", "<e >"], "special tokens '<e>'.* made by a merge"),
    ],
)
def test_what_does_not_fit(vocabulary, merges, message):
    with pytest.raises(ValueError, match=message):
        BytePairTokenizer(vocabulary, merges, {"end_token": "<e>"})


# === Tokens that no merges lead to ===

letters = st.sampled_from("abcd")


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=14),
    words=st.lists(st.text(letters, max_size=9), max_size=5),
)
def test_any_merges_equal_reference_or_are_refused(pairs, words):
    """Merges drawn at random, in the order of their tokens; with them, all that make the same."""
    tokens = ["a", "b", "c", "d"]
    for left, right in pairs:
        token = tokens[left % len(tokens)] + tokens[right % len(tokens)]
        if token not in tokens and len(token) < 7:
            tokens.append(token)
    merges = [
        (token[:i], token[i:])
        for token in tokens
        for i in range(1, len(token))
        if token[:i] in tokens and token[i:] in tokens
    ]
    vocabulary = [*BYTES, "<|endoftext|>", *tokens[4:]]
    ids = {token: id for id, token in enumerate(vocabulary)}
    tokenizer = BytePairTokenizer(vocabulary, merges, whole_words=True)
    reference = Tokenizer(BPE(ids, merges, ignore_merges=True))
    reference.pre_tokenizer = ByteLevel(add_prefix_space=False)
    for text in ("".join(words), " ".join(words), *tokens, "".join(tokens)):
        assert tokenizer.encode(text) == reference.encode(text).ids
    unreached = [t for t in tokens if len(BPE(ids, merges).tokenize(t)) != 1]
    if unreached:
        with pytest.raises(
            ValueError, match=rf"No text gives {len(unreached)} .* '{unreached[0]}'"
        ):
            BytePairTokenizer(vocabulary, merges)


def test_whole_words_in_a_server(tmp_path):
    vocabulary = [*BYTES, "<|endoftext|>", "bc", "ab", "cd", "abcd"]
    tokenizer = BytePairTokenizer(vocabulary, ["b c", "a b", "c d", "ab cd"], whole_words=True)
    x, a, d = map(tokenizer.token_to_id, "xad")
    texts, expected = ["abcd", "xabcd", ""], [[260], [x, a, 257, d], []]
    keras.utils.set_random_seed(1)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode_batch(texts) == tokenizer.encode_batch(texts) == expected

    module = tf.Module()
    module.tokenizer = tokenizer
    ids = tf.function(
        lambda text: {"ids": tokenizer(text).values},
        input_signature=[tf.TensorSpec((None,), tf.string, name="text")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=ids)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        model = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        signature = model.signature_def["serving_default"]
        text, answer = signature.inputs["text"].name, signature.outputs["ids"].name
        assert session.run(answer, {text: texts}).tolist() == [260, x, a, 257, d]


def test_ways_that_are_no_merges_are_refused():
    vocabulary = [*BYTES, "<|endoftext|>", "bc", "ab", "cd", "abcd", "abc"]
    with pytest.raises(ValueError, match="some ways to make them are no merges: 'abc d'"):
        BytePairTokenizer(vocabulary, ["b c", "a b", "c d", "ab cd", "ab c"], whole_words=True)


def test_unknown_pattern_and_too_small_vocabularies():
    with pytest.raises(ValueError, match="no pattern 'gpt5'; there are gpt2, llama3"):
        BytePairTokenizer(pattern="gpt5")
    with pytest.raises(ValueError, match="256 bytes and the special tokens need 261"):
        BytePairTokenizer.train(["a"], 260, BytePairTokenizer.ROBERTA)


# === Files ===


def test_files_are_gpt2_s(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert [*vocabulary] == [*tokenizer.vocabulary]
    version, *merges, end = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert version.startswith("#version")
    assert (tuple(merges), end) == (tokenizer.merges, "")
    # Windows' ends of lines, and a merge of "#", which is no comment.
    vocabulary |= {"#v": len(vocabulary)}
    (tmp_path / "merges.txt").write_bytes("\r\n".join([version, *merges, "# v"]).encode())
    again = BytePairTokenizer(vocabulary, tmp_path / "merges.txt")
    assert again.merges == (*tokenizer.merges, "# v")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"no .* at .*{name}"):
            BytePairTokenizer(
                tmp_path / name if name == "vocab.json" else [*BYTES, "<|endoftext|>"],
                tmp_path / "merges.txt",
            )


@pytest.mark.parametrize(
    ("specials", "pattern", "space", "theirs"),
    [
        (BytePairTokenizer.GPT2, "gpt2", False, "GPT2Tokenizer"),
        (BytePairTokenizer.ROBERTA, "gpt2", True, "RobertaTokenizer"),
        (LLAMA3, "llama3", False, "TokenizersBackend"),
    ],
)
def test_transformers_reads_and_writes_the_same(
    speeches, tmp_path, specials, pattern, space, theirs
):
    transformers = pytest.importorskip("transformers")
    tokenizer = BytePairTokenizer.train([*speeches[:3], ODD], 700, specials, pattern, space)
    tokenizer.save(tmp_path / "ours")
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert type(other).__name__ == theirs
    for text in (ODD, speeches[4]):
        assert other.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    for role, name in (("bos", "start"), ("eos", "end"), ("pad", "pad"), ("mask", "mask")):
        expected = getattr(tokenizer, f"{name}_token_id", None)
        assert getattr(other, f"{role}_token_id") == expected
    other.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.json").exists()  # all in tokenizer.json
    again = BytePairTokenizer.load(tmp_path / "theirs")
    assert again.vocabulary == tokenizer.vocabulary
    assert again.encode(ODD) == tokenizer.encode(ODD)
    assert (again.pattern, again.add_prefix_space) == (pattern, space)
    assert again.pad_token == tokenizer.pad_token


def test_old_checkpoints_name_no_special_tokens(tokenizer, tmp_path):
    """GPT-2's first files are `vocab.json` and `merges.txt` alone, and tokens may be added."""
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    again = BytePairTokenizer.load(tmp_path)
    assert again.end_token == "<|endoftext|>"
    (tmp_path / "added_tokens.json").write_text('{"[PAD]": 2000}')
    (tmp_path / "special_tokens_map.json").write_text(
        '{"eos_token": {"content": "<|endoftext|>"}, "pad_token": "[PAD]"}'
    )
    again = BytePairTokenizer.load(tmp_path)
    assert (again.end_token_id, again.pad_token_id, again.vocabulary_size()) == (0, 2000, 2001)
    assert BytePairTokenizer.load(tmp_path, add_prefix_space=True).add_prefix_space


def test_tokenizer_files_of_other_kinds(tmp_path):
    from tokenizers import AddedToken, models, normalizers, pre_tokenizers

    def loads(tokenizer):
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return BytePairTokenizer.load(tmp_path)

    ids = {token: id for id, token in enumerate([*BYTES, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    with pytest.raises(ValueError, match="no byte-level BPE"):
        loads(tokenizer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert loads(tokenizer).add_prefix_space
    tokenizer.add_tokens([AddedToken("<fn>")])
    with pytest.raises(ValueError, match=r"adds tokens that are found in texts .* '<fn>'"):
        loads(tokenizer)
    tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(ValueError, match="cuts words as gpt2 or llama3"):
        loads(tokenizer)


def test_graph_has_no_limit_on_shapes(tokenizer):
    """One trace serves any number and length of texts."""
    graph = tf.function(tokenizer, input_signature=[tf.TensorSpec((None,), tf.string)])
    for batch in ([], [""], ["a b"], ["a", "b c d"] * 50):
        rows = graph(tf.constant(batch, tf.string))
        np.testing.assert_array_equal(
            rows.row_lengths(), [len(ids) for ids in tokenizer.encode_batch(batch)]
        )
    assert graph.experimental_get_tracing_count() == 1
