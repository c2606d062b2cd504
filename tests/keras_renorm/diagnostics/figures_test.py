"""Files, their size in pixels, no window and nothing left open; names below the axis."""

import numpy as np
import pytest

from keras_renorm.diagnostics import figures


def draw(figure):
    figure.subplots().plot([1, 2, 4])


def pixels(path):
    """Width and height, from the header of a PNG file."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return tuple(int.from_bytes(data[i : i + 4], "big") for i in (16, 20))


@pytest.mark.parametrize("as_text", [False, True])
def test_a_file_that_is_there_is_replaced(as_text, tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("another file")
    figure = figures.figure(draw, str(path) if as_text else path)
    assert pixels(path) == (1200, 900)  # 150 in an inch
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [1, 2, 4])
    assert [one.name for one in tmp_path.iterdir()] == ["figure.png"]


def test_the_name_says_the_format(tmp_path):
    figures.figure(draw, tmp_path / "figure.svg")
    assert "<svg" in (tmp_path / "figure.svg").read_text()


def test_a_drawing_that_fails_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("another file")

    def fails(figure):
        draw(figure)
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        figures.figure(fails, path)
    assert path.read_text() == "another file"


def test_no_window_opens_and_nothing_is_left_to_close(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    for number in range(25):  # pyplot warns from 21 open figures on
        figure = figures.figure(draw, tmp_path / "figure.png" if not number else None)
    assert pyplot.get_fignums() == before
    assert figure.canvas.manager is None


def labelled(names, axes_count=1):
    def draw(figure):
        axes = np.ravel(figure.subplots(axes_count))
        for one in axes:
            one.plot(range(len(names)))
        figures.label_layers(axes[-1], names)

    return draw


@pytest.mark.parametrize(
    ("count", "shown", "size"),
    [
        (0, 0, "small"),
        (1, 1, "small"),
        (19, 19, "small"),
        (20, 20, "x-small"),
        (40, 40, "x-small"),
        (41, 21, "x-small"),
        (81, 27, "x-small"),
        (1000, 40, "x-small"),
    ],
)
def test_at_most_forty_names_each_at_its_place(count, shown, size):
    from matplotlib.text import Text

    figure = figures.figure(labelled([f"norm{i}" for i in range(count)]), None)
    axis = figure.axes[0].xaxis
    labels = axis.get_majorticklabels()
    assert [label.get_text() for label in labels] == [f"norm{t:g}" for t in axis.get_ticklocs()]
    assert len(labels) == shown
    assert {label.get_fontsize() for label in labels} <= {Text(fontsize=size).get_fontsize()}
    assert {label.get_rotation() for label in labels} <= {90.0}


@pytest.mark.parametrize("length", [40, 60, 100, 300])
@pytest.mark.parametrize("count", [3, 30])
def test_long_names_leave_room_for_the_axes(length, count, tmp_path):
    """Names of 100 letters left none at all; their ends tell layers of nested models apart."""
    names = [f"{'encoder/' * length}"[-length + 4 :] + f"/n{i:02}" for i in range(count)]
    path = tmp_path / "names.png"
    figure = figures.figure(labelled(names, axes_count=2), path)
    assert min(axes.get_position().height for axes in figure.axes) > 0.2
    for label, name in zip(figure.axes[-1].get_xticklabels(), names, strict=True):
        text = label.get_text()
        assert text == name if length <= 40 else name.endswith(text.removeprefix("…"))
        assert len(text) == min(length, 40)
