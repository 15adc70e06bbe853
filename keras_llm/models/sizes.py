"""What the sizes of every model must be."""


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
