"""Figures show the numbers they are given, tell lines and marks apart without colour, and save."""

import io

import matplotlib.colors
import numpy as np
import pytest
from PIL import Image

from jaxhash import plots
from jaxhash.evaluation.plots import pr_curve, precision_at_k, training_curves


@pytest.fixture
def results():
    curve = {"ranks": [1, 10, 50], "precision": [0.9, 0.8, 0.5], "recall": [0.1, 0.4, 1.0]}
    one = {
        "mAP": 0.7123,
        "top": 50,
        "mAP_at_top": 0.8,
        "precision_at": {"1": 0.9, "10": 0.8},
        "precision_recall": curve,
    }
    return {
        "protocol": "p-dsh",
        "bits": 12,
        "queries": 1000,
        "database": 5000,
        "seed": 4,
        "rankings": {
            "codes": one,
            "coarse_to_fine": one | {"pool": 60, "mAP": None},
            "predicted_class": one | {"precision_at": {}},
        },
    }


def lines_of(figure):
    return figure.axes[0].get_lines()


def drawn(figure):
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=100)
        return np.asarray(Image.open(file).convert("RGB"))


def test_curves_show_the_results_and_name_the_protocol(results):
    by_recall, by_rank = pr_curve(results), precision_at_k(results)
    assert len(lines_of(by_recall)) == 3
    for line in lines_of(by_recall):
        np.testing.assert_array_equal(line.get_xdata(), [0.1, 0.4, 1.0])
        np.testing.assert_array_equal(line.get_ydata(), [0.9, 0.8, 0.5])
    assert len(lines_of(by_rank)) == 2
    np.testing.assert_array_equal(lines_of(by_rank)[0].get_xdata(), [1, 10])
    np.testing.assert_array_equal(lines_of(by_rank)[0].get_ydata(), [0.9, 0.8])
    for figure in (by_recall, by_rank):
        title = figure.axes[0].get_title()
        for words in ("p-dsh", "12 bits", "1,000 queries", "5,000 in the database", "seed 4"):
            assert words in title
        legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert "0.712" in legend[0]
        assert "pool 60" in legend[1]
        assert "mAP@50 0.800" in legend[1]


def test_lines_differ_in_more_than_colour_and_a_ranking_keeps_its_style(results):
    styles = [
        (line.get_color(), line.get_linestyle(), line.get_marker())
        for line in lines_of(pr_curve(results))
    ]
    for column in zip(*styles, strict=True):
        assert len(set(column)) == 3
    del results["rankings"]["codes"]
    rest = lines_of(pr_curve(results))
    assert [line.get_color() for line in rest] == [style[0] for style in styles[1:]]


def test_training_curves_take_what_the_log_holds():
    rows = [
        {"step": 1, "loss": 2.0, "loss_push": 0.1, "gradient_norm": 3.0, "images_per_second": 9.0},
        {"step": 2, "loss": 1.0, "loss_push": float("nan"), "note": "resumed"},
        {"step": 3, "loss": 0.5, "validation_map": 0.75, "accuracy": 1},
        {"note": "no step"},
    ]
    figure = training_curves(rows)
    shown = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    assert set(shown) == {"loss", "loss push", "gradient norm", "validation map", "accuracy"}
    np.testing.assert_array_equal(shown["loss"].get_ydata(), [2.0, 1.0, 0.5])
    np.testing.assert_array_equal(shown["loss push"].get_xdata(), [1])
    np.testing.assert_array_equal(shown["validation map"].get_xdata(), [3])
    with pytest.raises(ValueError, match="rows"):
        training_curves([{"loss": 1.0}])


def test_a_gallery_marks_right_and_wrong_by_colour_line_and_sign():
    grey, colour = np.full((6, 6), 128, np.uint8), np.zeros((4, 8, 3), np.uint8)
    figure = plots.gallery(
        [grey, colour],
        [[grey, colour, grey[:, :, None]], [colour]],
        [[True, False, None], [False]],
        [[0, 1, 7], [12.3456]],
        query_titles=["three", "a rather long name"],
        titles=[["three", "eight", "?"], ["four"]],
        title="neighbours",
    )
    axes = np.reshape(figure.axes, (2, 4))
    titles = [[one.get_title() for one in row] for row in axes]
    assert titles == [["query", "✔ three", "✘ eight", "?"], ["query", "✘ four", "", ""]]
    below = [[one.get_xlabel() for one in row] for row in axes]
    assert below[0] == ["three", "0 bits", "1 bit", "7 bits"]
    assert below[1][:2] == ["a rather long…", "12.3"]
    right, wrong = axes[0, 1].spines["top"], axes[0, 2].spines["top"]
    assert right.get_edgecolor() != wrong.get_edgecolor()
    assert right.get_linestyle() != wrong.get_linestyle()
    assert not axes[1, 3].axison

    picture = drawn(figure)
    for mark in (plots.RIGHT, plots.WRONG):
        wanted = np.array(matplotlib.colors.to_rgb(mark)) * 255
        assert (np.abs(picture - wanted).max(axis=2) < 2).sum() > 100
    # Grey values are shown as they are, not stretched to black and white.
    assert (picture == 128).all(axis=2).sum() > 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": []}, "neighbours has 1 rows for 0 queries"),
        ({"right": [[True, True]]}, "row 0"),
        ({"titles": [[]]}, "row 0"),
        ({"queries": [np.zeros((2, 2))]}, "queries: images must be uint8"),
        ({"neighbours": [[np.zeros((2, 2, 4), np.uint8)]]}, r"neighbours: .*\(2, 2, 4\)"),
    ],
)
def test_galleries_of_the_wrong_form_are_refused(change, words):
    image = np.zeros((2, 2), np.uint8)
    given = {"queries": [image], "neighbours": [[image]], "right": [[True]], "distances": [[1]]}
    with pytest.raises(ValueError, match=words):
        plots.gallery(**{**given, **change})


def test_saving_is_whole_or_not_at_all(results, tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    plots.save(pr_curve(results), path)
    before = path.read_bytes()
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500
    figure = precision_at_k(results)

    def fail(file, **options):
        file.write(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_figure_is_registered_with_pyplot(results):
    import matplotlib.pyplot as pyplot

    pr_curve(results)
    assert pyplot.get_fignums() == []
