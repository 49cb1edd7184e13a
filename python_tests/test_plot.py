"""The picture: true to scale, every lead there, whole or absent."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from ecg_samples import CHEST, sample_record
from matplotlib.figure import Figure
from PIL import Image

from ecgtwin_fast import plot
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.errors import LeadError
from ecgtwin_fast.plot import condition_text, plot_twins

CONDITION = {"report": "atrial fibrillation|costs $5 and $6", "heart_rate": 120.4, "age": 71.0, "sex": "F"}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that plot_twins would save."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: figures.append(figure))
    return figures


def twins(count):
    return [
        sample_record(102.4, bpm=60 + 10 * number, leads=MODEL_LEADS, **CONDITION) for number in range(count)
    ]


def millimetres(figure, axes):
    """Millimetres on paper per unit of the axes, horizontally and vertically."""
    box = axes.get_position()
    width, height = figure.get_size_inches() * 25.4
    return box.width * width / np.ptp(axes.get_xlim()), box.height * height / np.ptp(axes.get_ylim())


def test_eight_twins_make_one_png_in_time(tmp_path):
    start = time.process_time()
    path = plot_twins(sample_record(source="PTB-XL ecg_id 1"), twins(8), tmp_path / "out" / "twins.png")
    assert time.process_time() - start < 10
    assert path.stat().st_size < 5e6 and [entry.name for entry in path.parent.iterdir()] == ["twins.png"]
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 2000
        assert image.info["dpi"] == pytest.approx((127, 127), abs=0.1)
        assert image.info["Comment"] == "synthetic, not for diagnosis"
        assert len(image.convert("L").getcolors()) > 20


def test_paper_is_true_to_scale(tmp_path, drawn):
    reference = sample_record(500)
    reference.signal[:] = 0
    reference.signal[1000, reference.leads.index("II")] = 1.5
    plot_twins(reference, twins(1), tmp_path / "t.png")
    axes = drawn[0].axes[0]
    assert millimetres(drawn[0], axes) == pytest.approx((1.0, 1.0))
    rhythm = max(
        (line for line in axes.lines if len(line.get_xdata()) > 4000), key=lambda line: len(line.get_xdata())
    )
    x, y = rhythm.get_data()
    assert x[-1] - x[0] == pytest.approx(25 * (4999 / 500))
    assert y.max() - np.median(y) == pytest.approx(15, rel=1e-5)
    assert x[y.argmax()] - x[0] == pytest.approx(50)
    pixels = drawn[0].dpi / 25.4
    assert pixels == pytest.approx(5)


def test_without_a_reference_there_are_generated_ecgs_alone(tmp_path, drawn):
    plot_twins(None, twins(3), tmp_path / "t.png")
    assert len(drawn[0].axes) == 3
    texts = [text.get_text() for text in drawn[0].texts]
    assert texts[0] == "Generated ECGs" and "ECG 3 of 3: synthetic, not for diagnosis" in texts
    assert not any(word in text for text in texts for word in ("Reference", "Patient's own", "Twin"))


def test_every_lead_is_drawn_in_its_column_and_labelled(tmp_path, drawn):
    plot_twins(sample_record(), twins(2), tmp_path / "t.png")
    for axes in drawn[0].axes:
        labels = [text.get_text() for text in axes.texts]
        assert sorted(label for label in labels if label in MODEL_LEADS) == sorted([*MODEL_LEADS, "II"])
        assert "25 mm/s   10 mm/mV" in labels
        traces = [line for line in axes.lines if len(line.get_xdata()) > 200]
        assert len(traces) == 13
        for line in traces[:12]:
            assert np.ptp(line.get_xdata()) == pytest.approx(62.5, abs=0.5)


def test_captions_state_the_condition_and_that_twins_are_synthetic(tmp_path, drawn):
    plot_twins(
        sample_record(source="PTB-XL ecg_id 1", age=56, sex="M"),
        twins(3),
        tmp_path / "t.png",
        title="A title",
    )
    texts = "\n".join(text.get_text() for text in drawn[0].texts)
    assert "A title" in texts and "Reference: PTB-XL ecg_id 1" in texts and "56 years  ·  male" in texts
    assert texts.count("synthetic, not for diagnosis") == 4 and "Twin 3 of 3" in texts
    assert texts.count("atrial fibrillation, costs $5 and $6") == 4


@pytest.mark.parametrize(
    "fields, text",
    [
        (CONDITION, "atrial fibrillation, costs $5 and $6  ·  120 bpm  ·  71 years  ·  female"),
        ({"sex": "M"}, "male"),
        ({}, "condition not stated"),
    ],
)
def test_condition_text(fields, text):
    assert condition_text(sample_record(**fields)) == text


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_blocks_lie_on_the_page_without_overlap(tmp_path, drawn, count):
    plot_twins(sample_record(), twins(count), tmp_path / "t.png")
    boxes = [axes.get_position() for axes in drawn[0].axes]
    assert len(boxes) == count + 1
    for index, box in enumerate(boxes):
        assert 0 < box.x0 < box.x1 < 1 and 0 < box.y0 < box.y1 < 1
        for other in boxes[index + 1 :]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 < other.y1 and other.y0 < box.y1)


def test_a_long_report_is_shortened_not_spilled(tmp_path, drawn):
    twin = replace(twins(1)[0], report="a very long statement|" * 40)
    plot_twins(sample_record(), [twin], tmp_path / "t.png")
    page = drawn[0].get_size_inches()[0] * drawn[0].dpi
    for text in drawn[0].texts:
        assert text.get_window_extent().x1 <= page


def test_too_few_leads_leave_no_file(tmp_path):
    with pytest.raises(LeadError, match="missing leads I, II"):
        plot_twins(sample_record(), [sample_record(leads=CHEST)], tmp_path / "t.png")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_leaves_the_older_picture(tmp_path, monkeypatch):
    (tmp_path / "t.png").write_bytes(b"older")

    def half(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="no space"):
        plot_twins(sample_record(), twins(1), tmp_path / "t.png")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("t.png", b"older")]


def test_pyplots_state_is_left_alone(tmp_path):
    import matplotlib.pyplot

    plot_twins(sample_record(), [], tmp_path / "t.png")
    assert matplotlib.pyplot.get_fignums() == [] and plot.MM_PER_SECOND == 25 and plot.MM_PER_MILLIVOLT == 10
