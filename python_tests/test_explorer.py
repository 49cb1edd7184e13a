"""The explorer without a browser: what it accepts, draws, measures and hands out."""

from __future__ import annotations

import argparse
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import wfdb
from ecg_samples import CHEST, real_records, sample_record
from PIL import Image
from tiny_model import tree, write_tiny_model

from ecgtwin_fast.commands import explore
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.record import read_record, write_wfdb
from ecgtwin_fast.errors import ConditionError, RecordError
from ecgtwin_fast.explorer.downloads import write_download
from ecgtwin_fast.explorer.model import REFERENCE, Explorer, Findings, Trace, Wish
from ecgtwin_fast.explorer.paper import FORMATS, paper, rhythm_table
from ecgtwin_fast.explorer.uploads import read_upload
from ecgtwin_fast.explorer.view import OVERLAID, SIDE_BY_SIDE, STACKED, View, problem, sheets, status
from ecgtwin_fast.generate import Condition

CONDITION = Condition("sinus tachycardia", 110, 63, "F")


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    return Explorer(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def findings(explorer):
    """Two twins of the simulated patient."""
    return explorer.generate(explorer.simulated_patient(), Wish(CONDITION, count=2, steps=2, seed=3))


def npz(path, record, **arrays):
    np.savez_compressed(path, **({"signal": record.signal, "sampling_rate": 500.0, "leads": record.leads} | arrays))
    return path


def csv(path, record):
    time = np.arange(len(record.signal)) / record.sampling_rate
    table = np.column_stack([time, record.signal])
    np.savetxt(path, table, "%.5f", ",", header=",".join(("time", *record.leads)), comments="")
    return path


def wfdb_pair(folder, record, name="mine"):
    """As a browser hands them over: each file in a folder of its own."""
    header = write_wfdb(record, folder, name)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    return [header, header.with_suffix(".dat").rename(elsewhere / f"{name}.dat")]


@pytest.mark.parametrize("kind", ["wfdb", "csv", "npz"])
def test_an_upload_is_prepared(tmp_path, kind):
    record = sample_record(bpm=84)
    if kind == "wfdb":
        files = wfdb_pair(tmp_path, replace(record, age=47, sex="M"))
    else:
        files = [csv(tmp_path / "mine.csv", record) if kind == "csv" else npz(tmp_path / "mine.npz", record)]
    before = tree(tmp_path)
    read = read_upload(files)
    assert (read.signal.shape, read.leads, read.sampling_rate) == ((1024, 12), MODEL_LEADS, 102.4)
    assert read.heart_rate == pytest.approx(84, abs=1) and read.source == files[0].name
    assert read.age == (47 if kind == "wfdb" else None)
    assert tree(tmp_path) == before


def text_file(folder):
    (folder / "notes.txt").write_text("hello")
    return ["notes.txt"]


def header_alone(folder):
    write_wfdb(sample_record(), folder, "mine")
    return ["mine.hea"]


def two_tables(folder):
    return [csv(folder / f"{name}.csv", sample_record()).name for name in "ab"]


def too_large(folder):
    (folder / "large.csv").write_bytes(b"0" * 5_000_001)
    return ["large.csv"]


def unpacking_far(folder):
    npz(folder / "bomb.npz", sample_record(), more=np.zeros(7_000_000))
    return ["bomb.npz"]


def no_archive(folder):
    (folder / "bad.npz").write_bytes(b"not a zip")
    return ["bad.npz"]


def other_files_header(folder):
    """Names a file of this computer instead of the uploaded one."""
    header = write_wfdb(sample_record(), folder, "sly")
    header.write_text(header.read_text().replace("sly.dat", "/etc/hostname"))
    return ["sly.hea", "sly.dat"]


def segments(folder):
    header = write_wfdb(sample_record(), folder, "sly")
    header.write_text("sly/2 12 500 5000\na 2500\nb 2500\n")
    return ["sly.hea", "sly.dat"]


def short(folder):
    return [npz(folder / "short.npz", sample_record(seconds=8)).name]


def chest_only(folder):
    return [npz(folder / "chest.npz", sample_record(leads=CHEST)).name]


def flat(folder):
    record = sample_record()
    record.signal[:, 3] = 0
    return [npz(folder / "flat.npz", record).name]


@pytest.mark.parametrize(
    "write, message",
    [
        (text_file, "notes.txt: expected a WFDB pair (.hea and .dat), a .csv or a .npz"),
        (header_alone, "mine.hea: expected a .hea and its .dat together, or one .csv or .npz"),
        (two_tables, "a.csv, b.csv: expected a .hea and its .dat together"),
        (too_large, "large.csv: 5.0 MB, expected at most 5 MB"),
        (unpacking_far, "bomb.npz: unpacks to 56 MB, expected at most 50 MB"),
        (no_archive, "bad.npz: not readable as NumPy"),
        (other_files_header, "sly.hea: names the signal file /etc/hostname, which was not uploaded with it"),
        (segments, "sly.hea: expected the header of one record in one segment"),
        (short, "short.npz: 8 s long, expected at least 10 s"),
        (chest_only, "chest.npz: missing leads I, II"),
        (flat, "flat.npz: lead aVR is flat"),
    ],
)
def test_a_bad_upload_is_one_line_without_its_folder(tmp_path, write, message):
    names = write(tmp_path)
    with pytest.raises(RecordError) as caught:
        read_upload([tmp_path / name for name in names])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value) and "/tmp" not in str(caught.value)


def test_twins_are_measured_and_repeatable(explorer, findings):
    assert list(findings.traces) == [REFERENCE, "Twin 1", "Twin 2"]
    assert findings.patient.trace.heart_rate == pytest.approx(68, abs=1)
    assert all(-1 <= trace.similarity <= 1.0001 for trace in findings.twins) and findings.seconds > 0
    again = explorer.generate(findings.patient, Wish(CONDITION, count=1, steps=2, seed=3))
    np.testing.assert_array_equal(again.twins[0].record.signal, findings.twins[0].record.signal)


def test_ptbxl_patients_come_by_number(explorer):
    real_records()
    patient = explorer.ptbxl_patient(79)
    assert patient.record.source == "PTB-XL 79" and patient.base_vector.shape == (32,)
    with pytest.raises(RecordError, match="no ecg_id 0 in its database"):
        explorer.ptbxl_patient(0)


def test_similarity_is_the_cosine_of_base_vectors(explorer, findings):
    twin = findings.twins[0]
    a, b = explorer.model.base_vector(twin.record).numpy(), findings.patient.base_vector.numpy()
    assert twin.similarity == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def test_edits_are_added_beside_their_source(explorer, findings):
    once = explorer.edit(findings, 2, "add", "left bundle branch block", 1.5, 1000)
    twice = explorer.edit(once, 1, "swap", "sinus bradycardia", 1.0, 200)
    assert [trace.label for trace in twice.edits] == ["Edit 1 (twin 2, ×1.5)", "Edit 2 (twin 1, swap)"]
    assert twice.edits[0].record.report == "sinus tachycardia|left bundle branch block"
    assert twice.edits[1].record.report == "sinus bradycardia" and twice.twins == findings.twins
    # Weight 0 leaves the source as it is: the added statement is not attended to, from the first timestep on.
    unchanged = explorer.edit(findings, 2, "add", "left bundle branch block", 0.0, 1000).edits[0]
    differences = [
        np.abs(trace.record.signal - findings.twins[1].record.signal).max() for trace in (unchanged, once.edits[0])
    ]
    assert differences[0] < 1e-3 and differences[1] > 10 * differences[0]


def test_what_cannot_be_edited_says_so(explorer, findings):
    with pytest.raises(ConditionError, match="no twin 3 to edit among 2"):
        explorer.edit(findings, 3, "add", "sinus rhythm", 1.0, 200)
    with pytest.raises(ConditionError, match="the edit is empty"):
        explorer.edit(findings, 1, "swap", "  ", 1.0, 200)
    with pytest.raises(ConditionError, match="no twin 1 to edit among 0"):
        explorer.edit(Findings(findings.patient), 1, "add", "sinus rhythm", 1.0, 200)


def test_attention_sums_to_one_over_statements(explorer, findings):
    edited = explorer.edit(findings, 1, "add", "left bundle branch block", 1.0, 200).edits[0]
    strips = explorer.attention(edited, findings.patient)
    assert [statement for statement, _ in strips] == ["sinus tachycardia", "left bundle branch block"]
    np.testing.assert_allclose(np.sum([weights for _, weights in strips], axis=0), np.ones(128), atol=1e-4)
    nameless = replace(edited, record=replace(edited.record, report=None))
    with pytest.raises(ConditionError, match="attention needs its report, age and sex"):
        explorer.attention(nameless, findings.patient)


@pytest.mark.parametrize("rows", FORMATS.values(), ids=["3x4", "12"])
def test_paper_is_true_to_scale(rows):
    record = sample_record()
    record.signal[:] = 0
    record.signal[500, record.leads.index("II")] = 1.5
    drawn = paper([record], rows)
    lines = [
        np.array([point.split(",") for point in points.split()], float)
        for points in re.findall(r'<polyline points="([^"]+)"', drawn)
    ]
    assert len(lines) == sum(map(len, rows))
    spikes = [line for line in lines if np.ptp(line[:, 1]) > 1]
    assert len(spikes) == (2 if len(rows) == 4 else 1)
    for x, y in (line.T for line in spikes):
        assert np.median(y) - y.min() == pytest.approx(15) and x[y.argmin()] - 10 == pytest.approx(25)
    longest = max(np.ptp(line[:, 0]) for line in lines)
    assert longest == pytest.approx(250, abs=0.1)
    assert 'id="mm1" width="1" height="1"' in drawn and 'id="mm5" width="5" height="5"' in drawn
    assert set(re.findall(r'class="lead">(\w+)<', drawn)) == set(MODEL_LEADS)


def test_attention_is_a_strip_for_each_statement_darkest_where_it_is_largest():
    weights = np.linspace(0.2, 0.6, 128)
    drawn = paper([sample_record()], FORMATS["3 × 4 + II"], [("a < b", weights), ("c", weights[::-1])])
    strips = re.findall(r'<g class="attention">(.*?)</g>', drawn)
    assert len(strips) == 2 and "a &lt; b  0.20–0.60" in strips[0]
    opacities = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', strips[0])]
    assert (len(opacities), opacities[0], opacities[-1]) == (128, 0, 1)


@pytest.mark.parametrize("layout, papers, lines", [(STACKED, 2, 26), (SIDE_BY_SIDE, 2, 26), (OVERLAID, 1, 26)])
def test_layouts(findings, layout, papers, lines):
    drawn = sheets(findings, View(REFERENCE, "Twin 2", layout), lambda trace: [])
    assert (drawn.count('<svg class="ecg"'), drawn.count("<polyline")) == (papers, lines)
    assert drawn.count('<g class="second">') == (1 if layout == OVERLAID else 0)
    assert "sheets two" in drawn if layout == SIDE_BY_SIDE else "sheets one" in drawn


def test_one_record_is_drawn_once_and_attention_that_fails_is_explained(findings):
    def fail(trace):
        raise ConditionError("attention needs its report, age and sex")

    drawn = sheets(findings, View("Twin 1", "Twin 1", attention=True), fail)
    assert drawn.count('<svg class="ecg"') == 1 and "attention needs its report" in drawn


def test_names_and_reports_cannot_break_the_page(findings):
    evil = "<script>alert('x')</script>"
    trace = Trace(evil, replace(findings.twins[0].record, report=evil, source=evil), None, 0.5)
    worse = replace(findings, twins=[trace])
    for drawn in (sheets(worse, View(evil), lambda _: [(evil, [0.0, 1.0])]), rhythm_table(worse, [evil])):
        assert "<script" not in drawn and "&lt;script&gt;" in drawn
    assert "<script" not in problem(ConditionError(evil)) and "<script" not in status(Findings(worse.patient))


def test_table_has_every_record_and_marks_the_shown(findings):
    table = rhythm_table(findings, [REFERENCE])
    assert table.count("<tr class=") == 3 and table.count("class='shown'") == 1
    assert "68 bpm" in table and f"{findings.twins[1].similarity:.3f}" in table


def test_wfdb_download(explorer, findings, tmp_path):
    edited = explorer.edit(findings, 1, "add", "left bundle branch block", 1.0, 200)
    with zipfile.ZipFile(write_download(edited, "WFDB", tmp_path)) as archive:
        names = ("twin_01", "twin_02", "edit_01")
        assert archive.namelist() == [f"{name}.{suffix}" for name in names for suffix in ("hea", "dat")]
        archive.extractall(tmp_path)
    record = wfdb.rdrecord(str(tmp_path / "edit_01"))
    np.testing.assert_allclose(record.p_signal, edited.edits[0].record.signal, atol=0.0006)
    assert tuple(record.sig_name) == MODEL_LEADS and record.units == ["mV"] * 12
    assert "not for diagnosis" in record.comments[0] and "Edit 1 (twin 1" in record.comments[1]


def test_csv_download_is_a_reference_again(findings, tmp_path):
    with zipfile.ZipFile(write_download(findings, "CSV", tmp_path)) as archive:
        archive.extractall(tmp_path)
    record = read_record(tmp_path / "twin_02.csv")
    assert record.sampling_rate == pytest.approx(102.4, abs=0.001) and record.leads == MODEL_LEADS
    np.testing.assert_allclose(record.signal, findings.twins[1].record.signal, atol=0.0001)
    assert tree(tmp_path) == ["ecgtwin_csv.zip", "twin_01.csv", "twin_02.csv"]


def test_picture_download(findings, tmp_path):
    with Image.open(write_download(findings, "PNG", tmp_path)) as picture:
        assert picture.format == "PNG" and picture.info["Comment"] == "synthetic, not for diagnosis"


def parsed(*options):
    parser = argparse.ArgumentParser()
    explore.add_to(parser.add_subparsers())
    return parser.parse_args(["explore", *options])


@pytest.mark.parametrize("host, warned", [("127.0.0.1", False), ("0.0.0.0", True)])
def test_serving_outside_loopback_warns(monkeypatch, capsys, tmp_path, host, warned):
    served = []
    monkeypatch.setattr("ecgtwin_fast.explorer.serve.serve", lambda explorer, host, port: served.append((host, port)))
    given = parsed("--host", host, "--port", "8001", "--model", str(write_tiny_model(tmp_path)))
    given.run(given)
    assert served == [(host, 8001)]
    assert ("not loopback" in capsys.readouterr().err) is warned


def test_loopback_is_the_default():
    given = parsed()
    assert (given.host, given.port, given.model) == ("127.0.0.1", 7860, "bundled")


def test_the_page_reports_nothing_to_anyone(explorer):
    pytest.importorskip("gradio", reason="the page needs Gradio: pip install '.[demo]'")
    from ecgtwin_fast.explorer.page import build

    page = build(explorer)
    assert page.analytics_enabled is False and page.share is False
    assert all(function.api_visibility == "private" for function in page.fns.values() if function.fn)
