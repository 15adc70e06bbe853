import gzip
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_llm import corpora
from keras_llm.corpora import Document, named_entities, parts_of_speech, read_conll, write_conll

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# # B-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""
CONLL_U = """# newdoc
# sent_id = 1
# text = Dogs bark
1\tDogs\tdog\tNOUN\tNNS
2\tbark\tbark\tVERB\tVBP

# sent_id = 2
1\t#\t#\tSYM\tNN
"""


def test_the_files_of_2003_and_of_universal_dependencies(tmp_path):
    path = tmp_path / "eng.train"
    path.write_text(CONLL_2003)
    sentences, tags = read_conll(path)
    assert sentences == [["EU", "rejects", "#"], ["Peter", "Blackburn"]]
    assert tags == [["B-ORG", "O", "O"], ["B-PER", "I-PER"]]
    assert read_conll(path, tag_column=1)[1][1] == ["NNP", "NNP"]
    path = tmp_path / "en.conllu.gz"
    path.write_bytes(gzip.compress(CONLL_U.replace("\n", "\r\n").encode()))
    assert read_conll(path, 1, 3) == (
        [["Dogs", "bark"], ["#"]],
        [["NOUN", "VERB"], ["SYM"]],
    )


column = st.text(
    st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), min_size=1
).filter(lambda text: text.strip() and not text.startswith(("-DOCSTART-", "\ufeff")))


@given(st.lists(st.lists(st.tuples(column, column), min_size=1), min_size=1))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("conll") / "tags.conll"
    sentences, tags = ([[pair[i] for pair in row] for row in rows] for i in (0, 1))
    write_conll(path, sentences, tags)
    assert read_conll(path) == (sentences, tags)
    assert [file.name for file in path.parent.iterdir()] == ["tags.conll"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU B-ORG\n\nrejects\n", r"line 3: expected a word and its tag .* 'rejects'"),
        ("\n\n", "holds no sentences"),
        ("-DOCSTART- O\n", "holds no sentences"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "tags.conll"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_conll(path)


@pytest.mark.parametrize(
    ("sentences", "tags", "message"),
    [
        ([["a"]], [["O"], ["O"]], "1 sentences and tags for 2"),
        ([["a"], ["b", "c"]], [["O"], ["O"]], "Sentence 1 has 2 words and 1 tags"),
        ([[]], [[]], "Sentence 0 has 0 words"),
        ([["a\tb"]], [["O"]], "Sentence 0: 'a\\\\tb' cannot be written"),
        ([["a"]], [[" "]], "Sentence 0: ' ' cannot be written"),
    ],
)
def test_what_cannot_be_written(tmp_path, sentences, tags, message):
    path = tmp_path / "tags.conll"
    path.write_text("what was there")
    with pytest.raises(ValueError, match=message):
        write_conll(path, sentences, tags)
    assert path.read_text() == "what was there"


@pytest.fixture(scope="module")
def articles():
    return list(corpora.load("peoples_daily_1998"))


def test_names_of_the_peoples_daily(articles):
    sentences, tags = named_entities(articles)
    assert len(sentences) == len(tags) == 44_542
    assert "".join(map("".join, sentences)) == "".join(
        article.text.replace("\n", "") for article in articles
    )
    assert all(len(s) == len(t) for s, t in zip(sentences, tags, strict=True))
    counts = Counter(tag for row in tags for tag in row)
    words = Counter(tag for article in articles for p in article.metadata["words"] for _, tag in p)
    assert counts["B-place"] == words["ns"]
    assert counts["B-organisation"] == words["nt"]
    assert words["nr"] * 0.5 < counts["B-person"] < words["nr"] * 0.6  # surname and given name

    marked = Counter()
    for characters, row in zip(sentences, tags, strict=True):
        text = "".join(tag[0] for tag in row)
        for name in re.finditer("BI*", text):
            label = row[name.start()][2:]
            assert set(row[name.start() + 1 : name.end()]) <= {f"I-{label}"}
            marked["".join(characters[name.start() : name.end()]), label] += 1
        assert not re.search("(^|O)I", text)
    assert marked["江泽民", "person"] == 446  # as grep counts "江/nr  泽民/nr", and so on
    assert marked["北京", "place"] == 1377
    assert marked["国务院", "organisation"] == 475
    assert marked["欧阳修", "person"] == 4


def test_sentences_end_after_what_closes_them():
    words = [[c, "w"] for c in "好！”他说。（完。）再"]
    sentences, _ = parts_of_speech([Document("", {"words": [words, [["新", "a"]]]})])
    assert ["".join(sentence) for sentence in sentences] == [
        "好！”",
        "他说。",
        "（完。）",
        "再",
        "新",
    ]


def test_names_that_follow_each_other():
    words = [["乔", "nr"], ["石", "nr"], ["朱", "nr"], ["镕基", "nr"], ["欧阳", "nr"], ["修", "nr"]]
    words += [
        ["马克思", "nr"],
        ["列宁", "nr"],
        ["江", "nr"],
        ["主席", "n"],
        ["北京", "ns"],
        ["中国", "ns"],
    ]
    _, tags = named_entities([Document("", {"words": [words]})])
    assert "".join(tag[0] for tag in tags[0]) == "BIBIIBIIBIIBIBOOBIBI"


def test_parts_of_speech_of_the_peoples_daily(articles):
    sentences, tags = parts_of_speech(articles)
    assert sum(map(len, sentences)) == sum(map(len, tags)) == 1_121_447
    assert len({tag for row in tags for tag in row}) > 35


def test_no_article_is_in_two_parts():
    parts = corpora.load("peoples_daily_1998").split(0.1, 0.1)
    texts = [{document.text for document in part} for part in parts]
    assert all(texts)
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]


def test_other_documents_have_no_tags():
    with pytest.raises(ValueError, match="'greeting' has no tagged words"):
        named_entities([Document("Hello", {"language": "en"}, id="greeting")])
