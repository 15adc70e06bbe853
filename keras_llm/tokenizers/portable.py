"""Engines of core ops: tokenizers for graphs that load where TensorFlow Text is not.

The engines of the tokenizers are ops of TensorFlow Text. Here each is written once more in
TensorFlow's own string, lookup and ragged ops, slower and with the same ids: for a phone, or for a
server that was built without it.

Notable:

- what a character is to an engine, a space, a word of its own or made of others, is asked of that
  engine: there is no second table of Unicode that could differ;
- pieces are looked up as strings: all places of all words at once, one length after the other;
- where pieces follow each other in a chain it is followed by doubling, in as many steps as the
  logarithm of its length;
- a batch has few different words. Each is cut once.
"""

import functools
import struct
import sys

import numpy as np
import tensorflow as tf
import tensorflow_text
from sentencepiece import sentencepiece_model_pb2

PIECE = sentencepiece_model_pb2.ModelProto.SentencePiece
SPACE = "▁"
UNKNOWN_PENALTY = 10.0  # how much less likely than the rarest piece an unknown character is
_EDGE = b"\xff"  # a byte that UTF-8 never has
_UNKNOWN = "\uffff"  # no character, by Unicode's word


class LongestMatch(tf.Module):
    """WordPiece: of a word the longest token, then the longest of the rest, and so on.

    "Google's Neural Machine Translation System" (Wu et al., 2016), section 4.1, in the place of
    TensorFlow Text's `FastWordpieceTokenizer`.

    Args:
        vocabulary: list of str, the tokens in the order of their ids.
        unknown: int, the id of a word that is not made of tokens.
        max_bytes: int, beyond which a word is unknown.

    Example:
        >>> engine = LongestMatch(["[UNK]", "un", "##do", "!"], 0, 100)
        >>> engine.tokenize(tf.constant(["undo! undone"]))
        <tf.RaggedTensor [[1, 2, 3, 0]]>
    """

    def __init__(self, vocabulary, unknown, max_bytes):
        super().__init__()
        self.unknown = unknown
        self.max_bytes = max_bytes
        self.ids = _table(vocabulary)
        self.longest = max(len(token.removeprefix("##")) for token in vocabulary)
        self.spaces, self.alone = character_classes()

    def tokenize(self, texts):
        """Cuts texts: string (texts,) to ids, int32 ragged (texts, None)."""
        return self.tokenize_with_offsets(texts)[0]

    def tokenize_with_offsets(self, texts):
        """Returns the ids with the bytes at which they start and before which they end."""
        words, starts = self._words(texts)  # (texts, words)
        different, places = tf.unique(words.flat_values)
        pieces = [tf.gather(column, places) for column in self._pieces(different)]
        starts = tf.repeat(starts.flat_values, pieces[0].row_lengths())
        ids, begins, ends = (words.with_flat_values(column).merge_dims(1, 2) for column in pieces)
        shift = ids.with_flat_values(starts)
        return ids, begins + shift, ends + shift

    def _words(self, texts):
        """The words of texts, and the bytes at which they start."""
        edges = f"[{self.spaces}{self.alone}]"
        marked = tf.strings.regex_replace(texts, edges, _EDGE + rb"\0" + _EDGE)
        parts = tf.strings.split(marked, _EDGE)  # nothing is left out
        lengths = tf.strings.length(parts.flat_values)
        starts = parts.with_flat_values(tf.cumsum(lengths, exclusive=True))
        starts -= tf.reduce_min(starts, axis=1, keepdims=True)
        words = ~tf.strings.regex_full_match(parts.flat_values, f"[{self.spaces}]*")
        words = parts.with_flat_values(words)
        return tf.ragged.boolean_mask(parts, words), tf.ragged.boolean_mask(starts, words)

    def _pieces(self, words):
        """Ids, starts and ends of the pieces of words, each int32 ragged (words, pieces)."""
        lengths = tf.strings.length(words)
        too_long = lengths > self.max_bytes
        characters = tf.strings.unicode_split(tf.where(too_long, "", words), "UTF-8")
        row = characters.value_rowids()
        continues = tf.concat([[False], row[1:] == row[:-1]], axis=0)[: tf.size(row)]
        begin = tf.where(continues, "##", "")
        ids, counts = _longest(self.ids, characters, self.longest, begin)
        used = _followed(characters, counts)  # (all characters,)

        failed = tf.cast(used & (counts == 0), tf.int32)
        failed = tf.math.unsorted_segment_max(failed, row, characters.nrows()) > 0
        unknown = failed | too_long  # (words,)
        used = characters.with_flat_values(used & ~tf.gather(unknown, row))
        bytes_before = tf.cumsum(tf.concat([[0], tf.strings.length(characters.flat_values)], 0))
        first = tf.gather(bytes_before, tf.gather(characters.row_starts(), row))
        place = tf.range(tf.size(counts))
        starts = tf.gather(bytes_before, place) - first
        ends = tf.gather(bytes_before, place + counts) - first

        def or_whole(column, whole):
            """What stands at the starts of pieces, or for an unknown word."""
            known = tf.ragged.boolean_mask(characters.with_flat_values(column), used)
            whole = tf.RaggedTensor.from_row_lengths(whole[unknown], tf.cast(unknown, tf.int64))
            return tf.concat([known, whole], axis=1)  # one of the two is empty

        return (
            or_whole(ids, tf.fill(tf.shape(words), self.unknown)),
            or_whole(starts, tf.zeros_like(lengths)),
            or_whole(ends, lengths),
        )


class PairMerger(tf.Module):
    """Byte pairs: of the neighbours in a word those that were learnt first become one, and so on.

    "Neural Machine Translation of Rare Words with Subword Units" (Sennrich et al., 2016), in the
    place of TensorFlow Text's `SentencepieceTokenizer`.

    Args:
        vocabulary: list of str, the tokens in the order of their ids.
        ranks: dict from each token that a merge makes to the merge's place, the first learnt first.

    Example:
        >>> engine = PairMerger(["l", "o", "w", "lo", "low"], {"lo": 0, "low": 1})
        >>> engine.tokenize(tf.constant(["lowlo"]))
        <tf.RaggedTensor [[4, 3]]>
    """

    def __init__(self, vocabulary, ranks):
        super().__init__()
        self.ids = _table(vocabulary)
        self.ranks = _table(sorted(ranks, key=ranks.get))

    def tokenize(self, words):
        """Merges words: string (words,) to ids, int32 ragged (words, None)."""
        characters = tf.strings.unicode_split(words, "UTF-8")
        pieces, rows = characters.flat_values, characters.value_rowids()
        count = tf.size(words, tf.int64)

        def merge(pieces, rows, due):
            pieces, rows = self._merge(pieces, rows, due)
            return pieces, rows, self._due(pieces, rows, count)

        pieces, rows, _ = tf.while_loop(
            lambda pieces, rows, due: tf.reduce_any(due),
            merge,
            (pieces, rows, self._due(pieces, rows, count)),
            shape_invariants=(tf.TensorShape([None]),) * 3,
        )
        return tf.RaggedTensor.from_value_rowids(self.ids.lookup(pieces), rows, count)

    def _due(self, pieces, rows, count):
        """Which pieces are merged with the next: those whose merge is the first of their word's."""
        ranks = self.ranks.lookup(tf.strings.join([pieces[:-1], pieces[1:]]))
        merges = (ranks >= 0) & (rows[:-1] == rows[1:])
        ranks = tf.where(merges, ranks, tf.int32.max)
        first = tf.math.unsorted_segment_min(ranks, rows[:-1], count)  # (words,)
        due = merges & (ranks == tf.gather(first, rows[:-1]))
        # Of neighbours, as in "a a a", the first, the third, ... are merged.
        begins = due & ~tf.concat([[False], due[:-1]], axis=0)[: tf.size(due)]
        place = tf.range(tf.size(due))
        begin = tf.gather(tf.concat([[0], place[begins]], 0), tf.cumsum(tf.cast(begins, tf.int32)))
        return due & ((place - begin) % 2 == 0)

    def _merge(self, pieces, rows, due):
        nothing = tf.fill([tf.minimum(tf.size(pieces), 1)], False)
        following = tf.concat([pieces[1:], pieces[:1]], axis=0)
        merged = tf.strings.join([pieces, following])
        pieces = tf.where(tf.concat([due, nothing], axis=0), merged, pieces)
        kept = ~tf.concat([nothing, due], axis=0)
        return pieces[kept], rows[kept]


class MostProbable(tf.Module):
    """Unigram: the pieces whose product of probabilities is the greatest.

    "Subword Regularization" (Kudo, 2018), section 3.2, by Viterbi's algorithm, in the place of
    TensorFlow Text's `SentencepieceTokenizer`.

    Args:
        model: bytes, a SentencePiece model of the unigram type.

    Raises:
        ValueError: the model merges pairs, falls back to bytes, has symbols that its user defined
            or puts spaces behind words.

    Example:
        >>> from keras_llm.tokenizers import UnigramTokenizer
        >>> tokenizer = UnigramTokenizer.train(["low lower lowest"] * 3, 14)
        >>> MostProbable(tokenizer.proto).tokenize(tf.constant(["lower"]))[0].numpy().tolist()
        [13, 9]
    """

    def __init__(self, model):
        super().__init__()
        model = sentencepiece_model_pb2.ModelProto.FromString(model)
        _check_unigram(model)
        kinds = np.array([piece.type for piece in model.pieces])
        normal = kinds == PIECE.NORMAL
        texts = np.array([piece.piece for piece in model.pieces], object)
        scores = np.array([piece.score for piece in model.pieces], "float32")
        self.unknown = len(texts)
        self.scores = tf.constant([*scores, scores[normal].min() - UNKNOWN_PENALTY])
        self.ids = _table(np.where(normal, texts, None))
        self.longest = max(map(len, texts[normal]))
        self.words_are_cut = not any(SPACE in text[1:] for text in texts[normal])
        self.spaces = model.normalizer_spec
        replaced = read_replacements(model.normalizer_spec.precompiled_charsmap)
        self.replace = Replacements(replaced) if replaced else tf.identity
        shown = [text.replace(SPACE, " ") for text in np.where(normal, texts, "")]
        shown[kinds.tolist().index(PIECE.UNKNOWN)] = _UNKNOWN
        self.texts = tf.constant(shown)

    def tokenize(self, texts):
        """Cuts texts: string (texts,) to ids, int32 ragged (texts, None).

        A character that no piece has gets the id that follows those of the pieces.
        """
        texts = self._normalize(texts)
        if self.words_are_cut:  # no piece has a space within: words do not touch each other
            texts = tf.strings.regex_replace(texts, SPACE, _EDGE + SPACE.encode())
        words = tf.strings.split(texts, _EDGE)
        different, places = tf.unique(words.flat_values)
        return words.with_flat_values(tf.gather(self._pieces(different), places)).merge_dims(1, 2)

    def detokenize(self, ids):
        """Writes ids, int32 ragged (texts, None), as texts, string (texts,)."""
        pieces = ids.with_flat_values(tf.gather(self.texts, ids.flat_values))
        texts = tf.strings.reduce_join(pieces, axis=-1)
        if self.spaces.add_dummy_prefix or self.spaces.remove_extra_whitespaces:
            texts = tf.strings.regex_replace(texts, "^ +", "")
        return tf.strings.regex_replace(texts, _UNKNOWN, " ⁇ ")

    def _normalize(self, texts):
        texts = self.replace(texts)
        if self.spaces.remove_extra_whitespaces:
            texts = tf.strings.regex_replace(texts, f"^ +|[ {SPACE}]+$", "")
            texts = tf.strings.regex_replace(texts, " +", " ")
        if self.spaces.add_dummy_prefix:
            texts = tf.where(texts == "", "", tf.strings.join([" ", texts]))
        return tf.strings.regex_replace(texts, " ", SPACE)

    def _pieces(self, words):
        """The ids of the best pieces of words, int32 ragged (words, None)."""
        characters = tf.strings.unicode_split(words, "UTF-8")
        found = [ids for _, ids in _matches(self.ids, characters, self.longest)]
        found[0] = tf.where(found[0] < 0, self.unknown, found[0])
        ids = tf.stack(found, axis=1)  # (all characters, lengths)
        counts = self._best_lengths(characters, ids)
        used = _followed(characters, counts, backward=True)
        last = tf.range(tf.size(counts))
        chosen = tf.gather_nd(ids, tf.stack([last - counts + 1, counts - 1], axis=1))
        return tf.ragged.boolean_mask(*map(characters.with_flat_values, (chosen, used)))

    def _best_lengths(self, characters, ids):
        """How long the last of the best pieces up to each character is, int32 (all characters,)."""
        lengths = tf.range(self.longest, 0, -1)  # the longest first, for it wins a tie
        scores = tf.where(ids < 0, -np.inf, tf.gather(self.scores, tf.maximum(ids, 0)))
        scores = tf.pad(scores, [[0, 1], [0, 0]])  # (all characters + 1, lengths)
        first = tf.cast(characters.row_starts(), tf.int32)  # (words,)
        steps = tf.reduce_max(tf.concat([[1], tf.cast(characters.row_lengths(), tf.int32)], axis=0))

        def step(end, best, chosen):
            start = tf.clip_by_value(first[:, None] + end - lengths, 0, tf.shape(ids)[0])
            length = tf.broadcast_to(lengths - 1, tf.shape(start))
            ways = best + tf.gather_nd(scores, tf.stack([start, length], axis=2))
            chosen = chosen.write(end - 1, tf.gather(lengths, tf.argmax(ways, axis=1)))
            best = tf.concat([best[:, 1:], tf.reduce_max(ways, axis=1, keepdims=True)], axis=1)
            return end + 1, best, chosen

        # The best scores of the words so many characters ago: (words, lengths)
        best = tf.fill([tf.size(first), self.longest - 1], -np.inf)
        best = tf.concat([best, tf.zeros([tf.size(first), 1])], axis=1)
        chosen = tf.TensorArray(tf.int32, steps, element_shape=[None])
        *_, chosen = tf.while_loop(lambda end, *_: end <= steps, step, [1, best, chosen])
        row = tf.cast(characters.value_rowids(), tf.int32)
        place = tf.range(tf.size(row)) - tf.gather(first, row)
        return tf.gather_nd(chosen.stack(), tf.stack([place, row], axis=1))


class Replacements(tf.Module):
    """Replaces strings: at each place the longest that starts there, from left to right.

    Args:
        values: dict from str to what it becomes, str; not empty.

    Example:
        >>> replace = Replacements({"a": "1", "aa": "2"})
        >>> replace(tf.constant(["aaab"])).numpy().tolist()
        [b'21b']
    """

    def __init__(self, values):
        super().__init__()
        self.longest = max(map(len, values))
        self.places = _table(values)
        self.values = tf.constant([*values.values()])

    def __call__(self, texts):
        """Returns the texts with what was replaced, string (texts,)."""
        characters = tf.strings.unicode_split(texts, "UTF-8")
        places, counts = _longest(self.places, characters, self.longest)
        used = _followed(characters, tf.maximum(counts, 1))
        replaced = tf.where(
            counts > 0, tf.gather(self.values, tf.maximum(places, 0)), characters.flat_values
        )
        replaced = tf.where(used, replaced, "")
        return tf.strings.reduce_join(characters.with_flat_values(replaced), axis=-1)


def _table(keys):
    """Looks up the place of a string in a list; -1 for one that is not there."""
    places = {key: place for place, key in enumerate(keys) if key is not None}
    entries = tf.lookup.KeyValueTensorInitializer(
        [*places], [*places.values()], tf.string, tf.int32
    )
    return tf.lookup.StaticHashTable(entries, default_value=-1)


def _matches(table, characters, longest, begin=""):
    """Looks up what starts at each character, for each length up to the longest.

    Args:
        table: from strings to int32.
        characters: ragged string (rows, characters).
        longest: int, how many characters a string has at most.
        begin: string, or strings (all characters,), put before what is looked up.

    Yields:
        The length, and what is found for it, int32 (all characters,); -1 where nothing is.
    """
    flat = characters.flat_values
    place = tf.range(tf.size(flat))
    limit = tf.cast(tf.gather(characters.row_limits(), characters.value_rowids()), tf.int32)
    strings = tf.strings.join([begin, flat])
    for length in range(1, longest + 1):
        yield length, tf.where(place + length <= limit, table.lookup(strings), -1)
        following = tf.gather(flat, tf.minimum(place + length, tf.size(flat) - 1))
        strings = tf.strings.join([strings, following])


def _longest(table, characters, longest, begin=""):
    """What the longest match at each character is, and its length; -1 and 0 without a match."""
    ids = tf.fill(tf.shape(characters.flat_values), -1)
    counts = tf.zeros_like(ids)
    for length, found in _matches(table, characters, longest, begin):
        ids = tf.where(found >= 0, found, ids)
        counts = tf.where(found >= 0, length, counts)
    return ids, counts


def _followed(characters, counts, backward=False):
    """Which characters a chain visits that starts at an end of each row.

    Args:
        characters: ragged (rows, characters).
        counts: int32 (all characters,), how many places further the next one is; 0 for none.
        backward: bool, whether the chain goes from the last character to the first.

    Returns:
        bool (all characters,).
    """
    end = tf.size(counts)  # where chains end
    starts, limits = (
        tf.cast(edge, tf.int32) for edge in (characters.row_starts(), characters.row_limits())
    )
    row = characters.value_rowids()
    first = tf.boolean_mask(limits - 1 if backward else starts, limits > starts)
    next = tf.range(end) + (-counts if backward else counts)
    inside = (next >= tf.gather(starts, row)) & (next < tf.gather(limits, row)) & (counts > 0)
    jump = tf.concat([tf.where(inside, next, end), [end]], axis=0)
    visited = tf.scatter_nd(first[:, None], tf.ones_like(first), [end + 1])

    def double(visited, jump):
        visited = tf.tensor_scatter_nd_max(visited, jump[:, None], visited)
        return visited, tf.gather(jump, jump)

    visited, _ = tf.while_loop(lambda _, jump: tf.reduce_any(jump < end), double, [visited, jump])
    return visited[:-1] > 0


# === What the engines know of characters ===


def _all_characters():
    return [chr(point) for point in range(1, sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]


@functools.cache
def character_classes():
    r"""Asks TensorFlow Text which characters separate words, and which are words of their own.

    Returns:
        Two strings, what stands within the brackets of a regular expression.

    Example:
        >>> spaces, alone = character_classes()
        >>> spaces.startswith(r"\x{9}-\x{d}\x{20}")
        True
    """
    engine = tensorflow_text.FastWordpieceTokenizer(["[UNK]", "##a"], unknown_token="[UNK]")
    characters = _all_characters()
    words = engine.tokenize([f"a{character}a" for character in characters]).row_lengths().numpy()
    return tuple(
        _ranges([ord(c) for c, count in zip(characters, words, strict=True) if count == kind])
        for kind in (2, 3)  # "a", "a"; and "a", the character, "a"
    )


def _ranges(points):
    """Code points as the ranges of a character class."""
    points = np.array(points)
    cuts = np.flatnonzero(np.diff(points) > 1) + 1
    ends = [(run[0], run[-1]) for run in np.split(points, cuts)]
    return "".join(
        rf"\x{{{first:x}}}" if first == last else rf"\x{{{first:x}}}-\x{{{last:x}}}"
        for first, last in ends
    )


@functools.cache
def decompositions(form):
    """Asks TensorFlow Text what the characters are made of.

    Args:
        form: str, "NFD" or "NFKD" (Unicode Standard Annex 15).

    Returns:
        A dict from the characters that are made of others to these.

    Example:
        >>> decompositions("NFKD")["ﬁ"]
        'fi'
    """
    characters = _all_characters()
    parts = tensorflow_text.normalize_utf8(tf.constant(characters), form).numpy()
    parts = zip(characters, (part.decode() for part in parts), strict=True)
    return {character: made_of for character, made_of in parts if character != made_of}


def read_replacements(table):
    r"""Reads the table of a SentencePiece normalizer (google/sentencepiece, `normalizer.cc`).

    A trie of the strings that are replaced, as a double array of `darts-clone`; then what replaces
    them, each closed by a zero.

    Args:
        table: bytes, `precompiled_charsmap`.

    Returns:
        A dict from str to str.

    Example:
        >>> read_replacements(b"")
        {}
    """
    if not table:
        return {}
    (size,) = struct.unpack_from("<I", table)
    units = np.frombuffer(table, "<u4", size // 4, offset=4).astype("int64")
    texts = table[4 + size :]
    base = (units >> 10) << ((units & 0x200) >> 6)  # its children are there, by exclusive or
    label = units & 0x800000FF  # the byte that leads to a unit; a value has the highest bit
    found, waiting = {}, [(base[0], b"")]
    while waiting:
        place, key = waiting.pop()
        children = place ^ np.arange(1, 256)
        children = children[children < len(units)]
        for child in children[label[children] == (place ^ children)]:
            text = key + bytes([child ^ place])
            below = child ^ base[child]
            if units[child] & 0x100:  # it has a value
                start = units[below] & 0x7FFFFFFF
                found[text.decode()] = texts[start : texts.index(b"\0", start)].decode()
            waiting.append((below, text))
    return found


def _check_unigram(model):
    """Refuses what `MostProbable` does not know."""
    kinds = {piece.type for piece in model.pieces}
    trainer = model.trainer_spec
    what = {
        "merges pairs": trainer.model_type != trainer.UNIGRAM,
        "falls back to bytes": PIECE.BYTE in kinds,
        "has symbols that its user defined": PIECE.USER_DEFINED in kinds,
        "puts spaces behind words": trainer.treat_whitespace_as_suffix,
        "leaves spaces as they are": not model.normalizer_spec.escape_whitespaces,
    }
    wrong = [reason for reason, holds in what.items() if holds]
    if wrong:
        raise ValueError(
            f"This SentencePiece model {' and '.join(wrong)}: there is no form of core ops for it. "
            "Export it without `portable`."
        )
