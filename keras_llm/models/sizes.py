"""What the sizes of every model must be, and what its tokenizer."""


def check_sizes(**sizes):
    """Refuses sizes that are not positive integers, before anything is built from them.

    Args:
        **sizes: int, by the names of the constructor's arguments.

    Raises:
        ValueError: one of them is not a positive integer.

    Example:
        >>> check_sizes(num_layers=2, hidden_dim=0)
        Traceback (most recent call last):
        ValueError: hidden_dim must be a positive integer. Got 0.
    """
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a positive integer. Got {size!r}.")


def check_vocabulary(tokenizer, backbone):
    """Refuses a tokenizer whose ids the backbone has no embedding for.

    Args:
        tokenizer: tokenizer with a `vocabulary`.
        backbone: backbone with a `vocabulary_size`.

    Raises:
        ValueError: the tokenizer has more tokens than the backbone.
    """
    tokens = getattr(tokenizer, "vocabulary", None)  # None: Keras loads a file and sets it later
    if tokens is not None and len(tokens) > backbone.vocabulary_size:
        raise ValueError(
            f"The tokenizer has {len(tokens)} tokens and the backbone only "
            f"{backbone.vocabulary_size}. Use the tokenizer that the backbone was trained with."
        )
