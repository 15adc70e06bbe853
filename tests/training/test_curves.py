from keras_llm.training import plot_curves


def test_validation_is_dashed_in_its_training_curve_s_colour():
    history = {"loss": [3.0, 2.0], "val_loss": [3.1, 2.5], "nsp_accuracy": [0.5, 0.6]}
    loss, accuracy = plot_curves(history).axes
    train, validation = loss.lines
    assert (train.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert train.get_color() == validation.get_color()
    assert list(validation.get_ydata()) == [3.1, 2.5]
    assert list(accuracy.lines[0].get_xdata()) == [1, 2]


def test_png_is_written_whole(tmp_path):
    plot_curves({"loss": [1.0]}, tmp_path / "curves.png", title="a run")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
