"""Messages of JupyterLab in English and Chinese: a small parallel corpus for translation.

Menus, buttons, settings and questions, translated by JupyterLab's community; inside the source
distribution of `jupyterlab-language-pack-zh-CN`.

Notable: software says the same thing many times ("Close", "close", "Close…"). Were such copies
kept, a split would put some of them into train and others into test, and a model would be praised
for what it has by heart. Only the first of them is kept.
"""

import re
from collections.abc import Iterator

from babel.messages.pofile import read_po

from keras_llm.corpora.corpus import Corpus, Document
from keras_llm.corpora.packages import Member, Package

# The core first: of messages that several components share, its translation is kept.
COMPONENTS = {
    "jupyterlab": "b817f11e6e8e0a579b433ff98120e0e84ba2253b9b788180fc0090471a11fe3a",
    "dask_labextension": "998cd17631db65dbfa37ff8a986d3363c8d7a11d8e148404d1bec836c0d1ebcc",
    "jupyter_archive": "d0436b8ce2197e85a5a704de0e0c99e09ae99beb1df3de0a3271dd9368bd287b",
    "jupyter_collaboration": "40ca49ed355e03ec54072eba7d7636d1f37e6f9e1ec109ec9c13754db55aaa51",
    "jupyter_resource_usage": "75a1a9f3adc09ba7eec5315d82c9b0c984d729ae395eb211047ebdc542190e0c",
    "jupyterlab_git": "407d5de90a7876b19ebb3841dc636c3031296a7b2efc4ee8a5d7ac7604b261a0",
    "jupyterlab_lsp": "00450162497ed12a5044bb40acf3bcc6d3d9e40dadf79ca5be8bbe833d986f94",
    "jupyterlab_recents": "1d71884915ce714cdf39d6f0f79f601ecb4520394f6a1e71222458c208632d76",
    "jupyterlab_search_replace": "b1890b2138fed51b8469a54f28032e37a63a757f410b3583db08b2d1920a6ef0",
    "jupyterlab_spreadsheet_editor": (
        "1c9084bdbc333b1073c6e1fe3105802054e0669d62b4e95926213ebec4dba0db"
    ),
    "jupyterlab_tour": "ec40ea99bf2e62f207ef2c2e602470fc4fd5f87e6763ddfae16f5c14e9410e35",
    "jupyterlab_widgets": "515cfa753aa1c2c6130c62b4af15d9a3ff9afe076e908861185baa37b5ad41d5",
    "jupytext": "66ede1da33a75c62716425ea483c77b94935e709593933d2375b2b4485ecd0a5",
    "nbdime": "a617c526d08826cf853e08c712890d90e08814669eee879feb8e1a2c385cf238",
    "notebook": "0c17d01855dda4693c9a71e266d41a4e18b32d467de29015fde7bb37d8bdafd5",
    "retrolab": "f2a696920bff6ba5a5610d631b5c1cc73d8523bb31388654b04172b08eaec88c",
    "spellchecker": "8b1d43c0cad48e30e001c9f4c2efec55efc7d4673bd80aed572aa5c788bd6f2e",
}

LANGUAGE_PACK = Package(
    name="jupyterlab-language-pack-zh-CN",
    version="4.5.post3",
    sha256="1fe0070c44c49c2ea15e4cd129a46c8359169a8ad04677891a64f3af73a63756",
    members={
        f"{component}.po": Member(
            (
                "jupyterlab_language_pack_zh_cn-4.5.post3/jupyterlab_language_pack_zh_CN/locale/"
                f"zh_CN/LC_MESSAGES/{component}.po",
            ),
            sha256=sha256,
        )
        for component, sha256 in COMPONENTS.items()
    },
)

CHINESE = re.compile("[\u4e00-\u9fff]")


def message_key(message: str) -> str:
    """Returns the letters and digits of a message, in lower case.

    Args:
        message: str.

    Returns:
        str, the same for messages that say the same thing.

    Example:
        >>> message_key("Open File"), message_key("Open  file...")
        ('openfile', 'openfile')
    """
    return re.sub(r"[\W_]", "", message).casefold()


def read_jupyterlab() -> Iterator[Document]:
    """Streams the messages with their translations.

    Placeholders (%1), `code` and line breaks are kept as they are. Left out are messages without a
    Chinese character in their translation, such as names ("Julia"), and messages that equal an
    earlier one but for case, white space and punctuation. Of "%1 item" and "%1 items", which
    Chinese does not tell apart, the plural is kept.

    Returns:
        Iterator of `Document`: the text is the English message; metadata `translation`, Chinese,
        and `component`, the part of JupyterLab, such as "jupyterlab_git".

    Raises:
        ConnectionError: if the data are not cached and cannot be fetched.
        ValueError: if what the index offers has another hash.
    """
    seen = set()
    for component in COMPONENTS:
        with LANGUAGE_PACK.path(f"{component}.po").open(encoding="utf-8") as file:
            messages = read_po(file)
        for number, message in enumerate(messages):
            english, chinese = _last_form(message.id), _last_form(message.string)
            key = message_key(english)
            if CHINESE.search(chinese) and key not in seen:
                seen.add(key)
                metadata = {"translation": chinese.strip(), "component": component}
                yield Document(english.strip(), metadata, id=f"{component} {number}")


def _last_form(message: str | tuple[str, ...]) -> str:
    """The plural of a message in two forms; of one in one form, that one."""
    return message if isinstance(message, str) else message[-1]


JUPYTERLAB_EN_ZH = Corpus(
    name="jupyterlab_en_zh",
    read=read_jupyterlab,
    description="Messages of JupyterLab in English, each with its Chinese translation and the "
    "component that says it.",
    language="en",
    licence="BSD-3-Clause",
    source="PyPI package jupyterlab-language-pack-zh-CN 4.5.post3 (source distribution)",
    num_documents=2_934,
    package=LANGUAGE_PACK,
)
