"""What a page shows of an export's answers: plain functions, without the page.

Notable: an export does not say which words an answer hangs on. That is found by asking it again,
without each of them.
"""

import html
import itertools
import zlib

import numpy as np
import tensorflow as tf

from keras_llm.tasks.token_classification import split_words


def parts(text, most=64):
    """Cuts a text into words.

    Args:
        text: str.
        most: int, how many parts at most: of longer texts neighbours stay together.

    Returns:
        List of str, which together are the text: each word with the space before it. A Chinese
        character is a word, and so is a punctuation mark.

    Example:
        >>> parts("Hi, 北京!"), parts("one two three four", most=2)
        (['Hi', ',', ' 北', '京', '!'], ['one two', ' three four'])
    """
    _, _, ends = split_words(tf.constant([text]))
    ends = ends[0].numpy()
    if not len(ends):
        return []
    groups = np.array_split(ends, min(most, len(ends)))
    cuts = [0, *(int(group[-1]) for group in groups[:-1]), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(cuts)]


def occlusion(classify, texts):
    """Says by how much each word raises the probability of the most probable class.

    The word is left out and the model asked again, for all words in one batch: "Visualizing and
    Understanding Convolutional Networks" (Zeiler and Fergus, 2014), section 4.2, for words
    "Understanding Neural Networks through Representation Erasure" (Li et al., 2016).

    Args:
        classify: function of a dict of lists of str that returns probabilities, float
            (texts, classes).
        texts: dict from the names of the inputs to a text each.

    Returns:
        For each input a list of pairs: a word, and the probability with it less the one without
        it, of the class that is the most probable with all words; as `parts` cuts them.

    Example:
        >>> def classify(columns):  # by how often a text says "good"
        ...     share = np.array([text.count("good") for text in columns["text"]]) / 2
        ...     return np.stack([1 - share, share], axis=1)
        >>> occlusion(classify, {"text": "so good good"})
        {'text': [('so', 0.0), (' good', 0.5), (' good', 0.5)]}
    """
    words = {name: parts(text) for name, text in texts.items()}
    rows = [texts] + [
        {**texts, name: "".join(pieces[:place] + pieces[place + 1 :])}
        for name, pieces in words.items()
        for place in range(len(pieces))
    ]
    whole, *others = classify({name: [row[name] for row in rows] for name in texts})
    first = np.argmax(whole)
    changes = iter([float(whole[first] - other[first]) for other in others])
    return {name: [(word, next(changes)) for word in pieces] for name, pieces in words.items()}


def spans(text, starts, ends, labels):
    """Cuts a text at the bounds of spans.

    Args:
        text: str.
        starts: iterable of int, ascending, the first character of each span; negative for none.
        ends: iterable of int, the character before which each ends.
        labels: iterable of str.

    Returns:
        List of pairs: a piece of the text and its label, None between spans; the pieces together
        are the text.

    Example:
        >>> spans("Ann saw Rome", [0, 8, -1], [3, 12, -1], ["PER", "LOC", ""])
        [('Ann', 'PER'), (' saw ', None), ('Rome', 'LOC')]
    """
    pieces, place = [], 0
    for start, end, label in zip(starts, ends, labels, strict=True):
        if start >= 0:
            pieces += [(text[place:start], None), (text[start:end], label)]
            place = end
    return [(piece, label) for piece, label in [*pieces, (text[place:], None)] if piece]


def places(text, words):
    """Finds words in their text.

    Args:
        text: str.
        words: iterable of str in the order of the text, "" for none.

    Returns:
        Two lists of int: where each word starts, -1 where it is not found, and where it ends.

    Example:
        >>> places("to be or not to be", ["to", "be", "to", ""])
        ([0, 3, 13, -1], [2, 5, 15, -1])
    """
    starts, ends, place = [], [], 0
    for word in words:
        start = text.find(word, place) if word else -1
        place = end = start + len(word) if start >= 0 else place
        starts.append(start)
        ends.append(end if start >= 0 else -1)
    return starts, ends


def growing(generate, most):
    """Streams a text while it is written: asks for a few tokens, then for some more.

    A model draws the same tokens for the same seed, so each text begins with the one before. Each
    is written from the start; the steps grow with the text to keep the sum of the work small.

    Args:
        generate: function of a number of tokens that returns the text and how many tokens were
            written.
        most: int, how many tokens to ask for in the end.

    Yields:
        str, texts.

    Example:
        >>> list(growing(lambda count: ("abcdefgh"[:count], min(count, 8)), 7))
        ['ab', 'abcd', 'abcdef', 'abcdefg']
    """
    asked, written = 0, -1
    while asked < most:
        asked = min(most, asked + max(2, asked // 4))
        text, now_written = generate(asked)
        yield text
        if now_written == written:  # the model has ended the text, or can read no further
            return
        written = now_written


def colored(changes, label):
    """Draws words by what they do: blue raises, orange lowers, the strongest is the darkest.

    Args:
        changes: what `occlusion` returns.
        label: str, whose probability they raise or lower.

    Returns:
        str, HTML with a legend.

    Example:
        >>> drawn = colored({"text": [("not", -0.1), (" <good>", 0.5)]}, "positive")
        >>> "&lt;good&gt;" in drawn, "raises the probability of positive" in drawn
        (True, True)
    """
    words = [pair for pairs in changes.values() for pair in pairs]
    strongest = max((abs(change) for _, change in words), default=0)
    texts = "".join(
        f'<div class="words">{"".join(_drawn(*pair, strongest) for pair in pairs)}</div>'
        for pairs in changes.values()
    )
    shades = [_drawn(f"{share * strongest:+.2f}", share, 1) for share in (-1, -0.5, 0.5, 1)]
    raises = f"raises the probability of {html.escape(label)}"
    return f'{texts}<div class="legend">The word lowers {" ".join(shades)} {raises}</div>'


def _drawn(word, change, strongest):
    """Draws a word, with the space before it outside of the color."""
    space = word[: len(word) - len(word.lstrip())]
    color = f'title="{change:+.3f}" style="background: {_color(change, strongest)}"'
    return f'{space}<span class="word" {color}>{html.escape(word.lstrip())}</span>'


def _color(change, strongest):
    """Blue for more, orange for less: told apart by those who do not see red or green."""
    hue = "37, 99, 235" if change > 0 else "234, 120, 12"
    return f"rgba({hue}, {0.75 * abs(change) / strongest if strongest else 0:.2f})"


def marked(pieces):
    """Draws pieces of a text, those with a label in a color of the label's own.

    Args:
        pieces: what `spans` returns.

    Returns:
        str, HTML.

    Example:
        >>> marked([("in ", None), ("Rome", "LOC")])
        '<div class="words">in <span ...>Rome&nbsp;<small>LOC</small></span></div>'
    """
    drawn = "".join(
        html.escape(piece) if label is None else _mark(piece, label) for piece, label in pieces
    )
    return f'<div class="words">{drawn}</div>'


def _mark(piece, label):
    color = f"hsl({zlib.crc32(label.encode()) % 360} 80% 50% / 0.25)"
    words = f"{html.escape(piece)}&nbsp;<small>{html.escape(label)}</small>"
    return f'<span class="word" style="background: {color}">{words}</span>'


def numbered(tokens):
    """Draws tokens with their ids below.

    Args:
        tokens: list of pairs of a str and an int.

    Returns:
        str, HTML.

    Example:
        >>> numbered([("##s", 97)])
        '<div class="words"><span class="token">##s<small>97</small></span></div>'
    """
    drawn = "".join(
        f'<span class="token">{html.escape(token)}<small>{number}</small></span>'
        for token, number in tokens
    )
    return f'<div class="words">{drawn}</div>'


def cosines(vectors):
    """Compares vectors with the first.

    Args:
        vectors: float (texts, dimensions).

    Returns:
        float (texts - 1,), the cosine of the angle between the first and each of the others.

    Example:
        >>> cosines(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])).tolist()
        [1.0, 0.0]
    """
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[1:] @ vectors[0]
