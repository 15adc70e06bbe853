"""Source code: the standard library of the Python that runs, read where it is installed.

Notable: nothing is shipped or fetched; another version of Python has another library. Left out are
its tests, which repeat themselves, what was generated from tables, and what `pip` put beside it.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from keras_llm.corpora.corpus import Corpus, Document

# Tests; packages of others; Python 2 code to be translated; encodings, keywords and pydoc's topics,
# which programs wrote.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "encodings"}
GENERATED = {"token.py", "keyword.py", "topics.py", "_sysconfigdata"}


def read_standard_library() -> Iterator[Document]:
    """Streams the modules of the standard library.

    Returns:
        Iterator of `Document`: the text is a module's source, its lines as they are; metadata
        `module`, the path within the library, such as "json/decoder.py".

    Raises:
        FileNotFoundError: this Python has no library in source files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    found = False
    for path in sorted(library.rglob("*.py")):
        module = path.relative_to(library)
        generated = any(path.name.startswith(name) for name in GENERATED)
        if LEFT_OUT.isdisjoint(module.parts) and not generated:
            source = path.read_text("utf-8", errors="replace").strip()
            if source:
                found = True
                yield Document(source, {"module": module.as_posix()}, id=module.as_posix())
    if not found:
        raise FileNotFoundError(
            f"{library} has no source files. Use a Python that is installed with its library, or "
            "`corpora.from_files` with code of your own."
        )


PYTHON_STANDARD_LIBRARY = Corpus(
    name="python_standard_library",
    read=read_standard_library,
    description="Source code of the standard library of the Python that runs, without tests.",
    licence="PSF-2.0",
    source="the Python that runs",
)
