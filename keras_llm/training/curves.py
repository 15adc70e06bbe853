"""Learning curves, because people would rather look than read."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_llm.storage import whole_file


def plot_curves(history, path=None, title=None):
    """Draws losses and accuracies over the epochs, training beside validation.

    Args:
        history: A dict from the name of a metric to its values, one an epoch; a name that starts
            with `val_` is drawn dashed in its partner's colour.
        path: Path of a PNG to write, or None.
        title: String above the plot, or None.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:
        >>> figure = plot_curves({"loss": [3.0, 2.0], "val_loss": [3.1, 2.4], "accuracy": [0, 1]})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'accuracy']
    """
    panels = [kind for kind in ("loss", "accuracy") if any(name.endswith(kind) for name in history)]
    figure = Figure(figsize=(5.5 * max(len(panels), 1), 3.8), layout="constrained")
    for axes, kind in zip(
        figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False
    ):
        _draw_panel(axes, {name: values for name, values in history.items() if name.endswith(kind)})
        axes.set(xlabel="epoch", ylabel=kind)
        axes.legend(frameon=False)
    if title:
        figure.suptitle(title)
    if path is not None:
        with whole_file(path) as partial:
            figure.savefig(partial, dpi=130)
    return figure


def _draw_panel(axes, curves):
    """Draws curves over epochs 1, 2, ...; validation dashed, in its training curve's colour."""
    names = list(dict.fromkeys(name.removeprefix("val_") for name in curves))
    for name, values in curves.items():
        validation = name.startswith("val_")
        axes.plot(
            range(1, len(values) + 1),
            values,
            color=f"C{names.index(name.removeprefix('val_'))}",
            linestyle="--" if validation else "-",
            marker="o" if len(values) < 15 else None,
            markersize=3,
            label=name.removeprefix("val_").replace("_", " ")
            + (" (validation)" if validation else ""),
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
