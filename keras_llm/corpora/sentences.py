"""Sentences of a text, by the rules of its language (library `sentencex`)."""

import sentencex


def sentences(text: str, language: str) -> list[str]:
    r"""Splits a text into sentences.

    Args:
        text: str.
        language: str, ISO 639-1 code such as "en" or "zh". In Chinese a line's end also ends a
            sentence; in other languages a sentence may go on in the next line.

    Returns:
        List of str without surrounding white space, none empty.

    Example:
        >>> sentences("Dr. Watson came at 5 p.m. sharp.  He knocked.", "en")
        ['Dr. Watson came at 5 p.m. sharp.', 'He knocked.']
        >>> sentences("新年讲话\n同志们！过去的一年很好。", "zh")
        ['新年讲话', '同志们！', '过去的一年很好。']
    """
    blocks = text.splitlines() if language == "zh" else [text]
    found = (piece.strip() for block in blocks for piece in sentencex.segment(language, block))
    return [sentence for sentence in found if sentence]
