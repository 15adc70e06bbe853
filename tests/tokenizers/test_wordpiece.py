import os
import subprocess
import sys
import unicodedata
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import BertWordPieceTokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from keras_llm import corpora
from keras_llm.tokenizers import WordPieceTokenizer
from keras_llm.tokenizers.wordpiece import SPECIAL_TOKENS, normalize

SPECIALS = list(SPECIAL_TOKENS.values())

CHINESE = (
    "北京时间1月1日，新年的钟声响了。同志们、朋友们：“你好，世界！”"
    "《人民日报》１９９８年第１版……全国人大——讨论了ＧＤＰ增长8.8%；"
    "（新华社记者）要不要继续努力？要！他说：‘好的。’电话：010-12345678。"
)
ACCENTS = (
    "Ångström façade naïve ΟΔΟΣ Σίσυφος Привет İstanbul straße ﬁn Ⅷ ½ "
    "ｆｕｌｌ カタカナ 한국어 हिन्दी ไทย"
)

# What the module's docstring says in words: code points newer than Unicode 8.0 or reclassified
# since, and the ideographs U+2B820 to U+2B91F. Only those on which the two do differ are listed.
DIFFERENCES = """
61D 7FD 890-891 898-89F 8CA-8E2 9FD-9FE A76 AFA-AFF B55 C04 C3C C77 C84 D00 D3B-D3C D81 EBA
ECE 166D 1734 180F 1885-1886 1ABF-1ACE 1B4E-1B4F 1B7D-1B7F 1C89 1DF6-1DFB 2C2F 2E43-2E4F
2E52-2E5D A7C0 A7CB-A7CC A7CE A7D0 A7D2 A7D4 A7D6 A7D8 A7DA A7DC A82C A8C5 A8FF A9BD
10570-1057A 1057C-1058A 1058C-10592 10594-10595 105C9 105E4 10D24-10D27 10D50-10D65 10D6E
10EAB-10EAD 10EFD-10EFF 10F46-10F50 10F55-10F59 10F82-10F89 11070 11073-11074 110C2 110CD
111C9 111CF 1123E 11241 1133B 11383 11385 1138E 11391 113C5 113C7-113C8 113D4-113D5
113D7-113D8 11438-1143F 11442-11444 11446 1144B-1144F 1145A-1145B 1145D-1145E 11660-1166C
116B9 1182F-11837 11839-1183B 11938 1193B-1193C 1193E 11943-11946 119D4-119D7 119DA-119DB
119E0 119E2 11A01-11A0A 11A33-11A38 11A3B-11A47 11A51-11A56 11A59-11A5B 11A8A-11A96
11A98-11A9C 11A9E-11AA2 11B00-11B09 11BE1 11C30-11C36 11C38-11C3D 11C3F 11C41-11C45
11C70-11C71 11C92-11CA7 11CAA-11CB0 11CB2-11CB3 11CB5-11CB6 11D31-11D36 11D3A 11D3C-11D3D
11D3F-11D45 11D47 11D90-11D91 11D95 11D97 11EF3-11EF4 11EF7-11EF8 11F00-11F01 11F36-11F3A
11F40 11F42-11F4F 11FFF 12FF1-12FF2 13430-13440 13447-13455 16121-16128 16D68-16D6A
16D6D-16D6F 16E97-16E9A 16EA0-16EB8 16F4F 16FE2 16FE4 1CF00-1CF2D 1CF30-1CF46 1E000-1E006
1E008-1E018 1E01B-1E021 1E023-1E024 1E026-1E02A 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF
1E4EC-1E4EF 1E5FF 1E944-1E94A 1E95E-1E95F 2B820-2B91F
"""


def _code_points(listed):
    for part in listed.split():
        first, _, last = part.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


DIFFERENT = frozenset(map(chr, _code_points(DIFFERENCES)))


@pytest.fixture(scope="module")
def speeches():
    return list(islice(corpora.load("state_of_the_union").texts(), 30))


@pytest.fixture(scope="module")
def tokenizer(speeches):
    return WordPieceTokenizer.train([*speeches, *[CHINESE, ACCENTS] * 3], 3000)


@pytest.fixture(scope="module")
def reference(tokenizer):
    return _reference(tokenizer)


def _reference(tokenizer):
    vocabulary = {token: id for id, token in enumerate(tokenizer.get_vocabulary())}
    return BertWordPieceTokenizer(vocabulary, lowercase=tokenizer.lowercase)


# Anything at all, and more of what makes tokenizers differ.
anything = st.characters(exclude_categories=["Cs"])
tricky = st.sampled_from(
    "aAzZ09 \t\n\r\x00\x0b\x1c\x85\xa0\u2028\u3000\u200b\u200d\ufeff\ufffd\ue000\u0301\u0323\u0345"
    "ßİıſΣσςéÅﬁｅＡ。，、·‑—“你好世界𠀀㐀豈🙂👩\u20e3[]#!'.-_$€½Ⅷ①"
)
texts = st.text(st.one_of(anything, tricky), max_size=40)


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_equals_reference_outside_the_list(tokenizer, reference, text):
    text = "".join(character for character in text if character not in DIFFERENT)
    for special in SPECIALS:
        text = text.replace(special, "")
    assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_offsets_equal_reference(tokenizer, reference, text):
    text = "".join(character for character in text if character not in DIFFERENT)
    for special in SPECIALS:
        text = text.replace(special, "")
    expected = reference.encode(text, add_special_tokens=False)
    ids, starts, ends = (rows.to_list()[0] for rows in tokenizer.tokenize_with_offsets([text]))
    assert ids == expected.ids
    for (start, end), mine, my_end in zip(expected.offsets, starts, ends, strict=True):
        assert mine == start
        assert my_end >= end  # what is dropped after a token, such as an accent, goes with it
        assert normalize(tf.constant(text[end:my_end]), lowercase=True).numpy() == b""


@pytest.mark.parametrize("lowercase", [True, False])
def test_list_of_differences_is_complete(lowercase):
    """Every code point between two letters: the words that come out are those of the reference."""
    vocabulary = [*SPECIALS, "x"]  # nothing matches, so each word is one [UNK] with its offsets
    pieces = WordPieceTokenizer(vocabulary)._pieces
    clean = BertNormalizer(lowercase=lowercase)
    split = BertPreTokenizer()
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c <= 0xDFFF]
    texts = [f"a{character}b" for character in characters]
    normal = normalize(tf.constant(texts), lowercase)
    _, starts, ends = pieces.tokenize_with_offsets(normal)
    different = set()
    rows = zip(characters, texts, normal.numpy(), starts.to_list(), ends.to_list(), strict=True)
    for character, text, raw, begin, end in rows:
        words = [raw[i:j].decode() for i, j in zip(begin, end, strict=True)]
        if words != [word for word, _ in split.pre_tokenize_str(clean.normalize_str(text))]:
            different.add(character)
    assert different <= DIFFERENT
    if lowercase:
        assert different == DIFFERENT


def test_differences_are_exotic():
    """Nothing of Latin, Greek, Cyrillic, Hebrew, kana, Hangul or common Chinese is in the list."""
    names = [unicodedata.name(character, "") for character in DIFFERENT]
    common = ("LATIN SMALL", "GREEK", "CYRILLIC", "HEBREW", "HIRAGANA", "KATAKANA", "HANGUL")
    allowed = {
        "COMBINING LATIN SMALL LETTER W BELOW",
        "COMBINING LATIN SMALL LETTER TURNED W BELOW",
    }
    assert not [name for name in names if name.startswith(common) and name not in allowed]
    assert not any("\u4e00" <= character <= "\u9fff" for character in DIFFERENT)


@pytest.mark.parametrize("lowercase", [True, False])
def test_real_text_equals_reference(speeches, lowercase):
    tokenizer = WordPieceTokenizer.train([*speeches, CHINESE, ACCENTS], 2000, lowercase=lowercase)
    reference = _reference(tokenizer)
    for text in [*speeches, CHINESE, ACCENTS]:
        assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False).ids


def test_long_words(tokenizer, reference):
    for length in (99, 100):
        word = "a" * length
        assert tokenizer.encode(word) == reference.encode(word, add_special_tokens=False).ids
        assert tokenizer.unk_token_id not in tokenizer.encode(word)
    assert tokenizer.encode("é" * 100) == tokenizer.encode("e" * 100)
    assert tokenizer.encode("a" * 400) != [tokenizer.unk_token_id]
    assert tokenizer.encode("a" * 401) == [tokenizer.unk_token_id]
    assert len(tokenizer.encode("the " * 250_000)) == 250_000


def test_bytes_that_are_not_text(tokenizer):
    dirty = tf.constant([b"con\xffgress", b"con\x00gress", b"congress\xe4\xb8", b"", b"\xff\xfe"])
    clean = tokenizer.encode("congress")
    assert tokenizer(dirty).to_list() == [clean, clean, clean, [], []]
    assert tokenizer.encode("con\ud800gress") == clean


# === Training ===


def test_vocabulary_has_the_size_asked_for(tokenizer):
    assert tokenizer.vocabulary_size() == 3000
    assert tokenizer.get_vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(tokenizer.get_vocabulary())) == 3000


def test_every_character_is_covered(tokenizer, speeches):
    for text in [*speeches, CHINESE, ACCENTS]:
        assert tokenizer.unk_token_id not in tokenizer.encode(text)


def test_common_words_are_whole_words(tokenizer):
    assert [len(tokenizer.encode(word)) for word in ("the", "congress", "government")] == [1, 1, 1]


def test_training_is_reproducible(tmp_path):
    """Also in another process, with other hash tables, and in Turkish, where I lowers to ı."""
    text = ["THE LOW lower lowest slow slower owl bowl towel INDIVISIBLE"] * 3
    code = (
        "import sys; from keras_llm.tokenizers import WordPieceTokenizer;"
        "WordPieceTokenizer.train([sys.argv[1]] * 3, 40).save(sys.argv[2])"
    )
    turkish = os.environ | {"LC_ALL": "tr_TR.UTF-8"}
    subprocess.run([sys.executable, "-c", code, text[0], tmp_path], check=True, env=turkish)
    expected = WordPieceTokenizer.train(text, 40).get_vocabulary()
    assert "i" in expected
    assert WordPieceTokenizer.load(tmp_path).get_vocabulary() == expected


def test_too_little_text_warns():
    with pytest.warns(UserWarning, match="only 13 different pieces, fewer than the 100"):
        tokenizer = WordPieceTokenizer.train(["abc abd"], 100)
    assert tokenizer.vocabulary_size() == 13


def test_too_small_vocabulary_names_the_least():
    text = ["abc abd"]  # a, b, c and d; within a word b, c and d: 7 tokens, and 5 special ones
    with pytest.raises(ValueError, match=r"vocabulary of 11 tokens is too small .* need 12\."):
        WordPieceTokenizer.train(text, 11)
    assert WordPieceTokenizer.train(text, 12).vocabulary_size() == 12


def test_rarest_ideographs_make_room():
    tokenizer = WordPieceTokenizer.train(["一一一二二三 a"], 8)
    assert tokenizer.get_vocabulary() == [*SPECIALS, "a", "一", "二"]
    assert tokenizer.decode(tokenizer.encode("二三")) == "二[UNK]"


def test_control_characters_are_no_text():
    with pytest.raises(ValueError, match="no text"):
        WordPieceTokenizer.train(["\x00\u200b"])


# === Vocabulary ===


def test_missing_special_tokens_are_listed():
    with pytest.raises(ValueError, match=r"lacks the special tokens \[UNK\], \[MASK\]"):
        WordPieceTokenizer(["[PAD]", "[CLS]", "[SEP]", "a"])


def test_tokens_that_appear_twice_are_listed():
    with pytest.raises(ValueError, match=r"'a' on lines 6, 8; 'b' on lines 7, 9"):
        WordPieceTokenizer([*SPECIALS, "a", "b", "a", "b"])


def test_empty_token():
    with pytest.raises(ValueError, match="empty token on line 6"):
        WordPieceTokenizer([*SPECIALS, "", "a"])


def test_vocabulary_of_special_tokens_alone():
    with pytest.raises(ValueError, match="holds nothing but special tokens"):
        WordPieceTokenizer(SPECIALS)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocabulary at .*vocab\.txt"):
        WordPieceTokenizer.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="one token a line"):
        WordPieceTokenizer(tmp_path / "other.txt")


def test_special_tokens_may_stand_anywhere():
    tokenizer = WordPieceTokenizer(["a", "[MASK]", "b", "[SEP]", "[UNK]", "[CLS]", "[PAD]"])
    names = ("mask", "sep", "unk", "cls", "pad")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [1, 3, 4, 5, 6]
    assert tokenizer.encode("b c a") == [2, 4, 0]


# === Decoding ===


@pytest.mark.parametrize(
    "text",
    [
        "we don't (yet) know: 3.5% of $10,000, or 1/2?",
        'he said "so be it" to the twenty-first congress; nobody answered.',
        "你好，世界！我们有2只cat。",
    ],
)
def test_decode_restores_spacing(text):
    characters = sorted(set(text) - {" "})
    letters = [c for c in characters if c.isascii() and c.isalnum()]
    tokenizer = WordPieceTokenizer([*SPECIALS, *characters, *(f"##{c}" for c in letters)])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_decode_leaves_out_special_tokens(tokenizer):
    ids = [tokenizer.cls_token_id, *tokenizer.encode("the congress"), tokenizer.sep_token_id, 0, 0]
    assert tokenizer.decode(ids) == "the congress"
    assert tokenizer.decode(np.array(ids)) == "the congress"
    assert tokenizer.detokenize(tf.constant([ids])) == ["the congress"]


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_decoding_then_encoding_keeps_ids(tokenizer, text):
    """Spaces apart, decoding loses nothing, so that ids of known words come back."""
    ids = [id for id in tokenizer.encode(text) if id != tokenizer.unk_token_id]
    once = tokenizer.decode(ids)
    assert once.replace(" ", "") == "".join(
        tokenizer.id_to_token(id).removeprefix("##") for id in ids
    ).replace(" ", "")


# === Files ===


@pytest.mark.parametrize("lowercase", [True, False])
def test_save_and_load(speeches, tmp_path, lowercase):
    tokenizer = WordPieceTokenizer.train(speeches[:5], 500, lowercase=lowercase)
    tokenizer.save(tmp_path / "new" / "folder")
    again = WordPieceTokenizer.load(tmp_path / "new" / "folder")
    assert again.get_vocabulary() == tokenizer.get_vocabulary()
    assert again.lowercase == lowercase
    assert again.encode(ACCENTS) == tokenizer.encode(ACCENTS)
    (tmp_path / "new/folder/tokenizer_config.json").unlink()
    assert WordPieceTokenizer.load(tmp_path / "new/folder").lowercase == lowercase
    assert os.listdir(tmp_path / "new/folder") == ["vocab.txt"]  # nothing left beside


def test_transformers_reads_the_same_folder(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(CHINESE, add_special_tokens=False) == tokenizer.encode(CHINESE)


@pytest.mark.parametrize("lowercase", [True, False])
def test_reads_what_transformers_writes(tokenizer, tmp_path, lowercase):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=lowercase)
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.txt").exists()
    loaded = WordPieceTokenizer.load(tmp_path / "theirs")
    assert loaded.vocabulary == tokenizer.vocabulary
    assert loaded.lowercase is lowercase


def test_windows_line_ends_and_odd_separators(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes("\r\n".join([*SPECIALS, "a", "\u2028b", "c\x85"]).encode())
    assert WordPieceTokenizer(path).get_vocabulary() == [*SPECIALS, "a", "\u2028b", "c\x85"]
