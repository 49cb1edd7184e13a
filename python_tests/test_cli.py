"""The command line: what a user types, what comes out, and what a mistake looks like."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import wfdb
from tiny_model import PATIENT, patient, tree, with_leads, write_tiny_model

from ecgtwin_fast import read_record
from ecgtwin_fast.cli import DEMO_ECG_ID, DEMO_HEART_RATE, main
from ecgtwin_fast.commands.arguments import SAMPLERS
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.preprocess import resample
from ecgtwin_fast.data.ptbxl import PTBXL, ptbxl_root
from ecgtwin_fast.data.record import Record, write_wfdb
from ecgtwin_fast.samplers import DEFAULT_SAMPLER, SCHEDULES

REPORT = "atrial fibrillation|rapid ventricular response"
TWELVE = list(MODEL_LEADS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def generate(model, tmp_path):
    """Runs `generate` on a reference, two twins in two steps to tmp_path/out unless told otherwise."""

    def run(reference, *options):
        given = ["--reference", str(reference), "--report", REPORT, "--model", model, "--out", str(tmp_path / "out")]
        return main(["generate", *given, "--count", "2", "--steps", "2", "--heart-rate", "120", *options])

    return run


def write(record: Record, folder):
    return write_wfdb(record, folder, "reference")


def fifteen_leads_at_1000_hz(folder):
    """As in PTB: Frank's three leads besides the twelve."""
    signal = resample(patient().signal, 500, 1000)
    source = Record(signal, 1000, patient().leads, 63, "F", "normal ECG")
    return write(with_leads(source, [*TWELVE, "vx", "vy", "vz"]), folder)


def without_augmented_leads(folder):
    return write(with_leads(patient(), ["I", "II", "III", *TWELVE[6:]]), folder)


def ptbxl_record(_):
    root = ptbxl_root()
    if root is None:
        pytest.skip("no PTB-XL; set ECGTWIN_PTBXL")
    return PTBXL(root).path(DEMO_ECG_ID).with_suffix(".hea")


def simulated_patient(_):
    return PATIENT


@pytest.mark.parametrize(
    "reference", [ptbxl_record, simulated_patient, fifteen_leads_at_1000_hz, without_augmented_leads]
)
def test_generate_leaves_a_complete_folder(generate, tmp_path, capsys, reference):
    assert generate(reference(tmp_path), "--age", "71", "--sex", "M", "--seed", "7") == 0
    out = tmp_path / "out"
    assert tree(out) == ["twin_000.dat", "twin_000.hea", "twin_001.dat", "twin_001.hea", "twins.json", "twins.png"]
    for name in ("twin_000", "twin_001"):
        record = wfdb.rdrecord(str(out / name))
        assert (record.fs, record.sig_len, record.units) == (102.4, 1024, ["mV"] * 12)
        assert tuple(record.sig_name) == MODEL_LEADS
        assert "not for diagnosis" in record.comments[0]
        assert {f"Report: {REPORT}", "Heart rate: 120", "Age: 71", "Sex: M"} <= set(record.comments)
        assert f"Seed: 7, record index: {int(name[-1])}" in record.comments
    assert (out / "twins.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "records/s" in printed and "not for diagnosis" in printed and str(out / "twins.png") in printed


def test_the_summary_says_what_was_done(generate, tmp_path, model):
    assert generate(PATIENT, "--seed", "3", "--first-index", "4", "--sampler", "ddim") == 0
    summary = json.loads((tmp_path / "out" / "twins.json").read_text())
    assert "not for diagnosis" in summary["notice"]
    assert summary["condition"] == {"report": REPORT, "heart_rate": 120.0, "age": 63.0, "sex": "F"}
    assert summary["reference"]["report"] == patient().report
    expected = {"model": model, "sampler": "ddim", "steps": 2, "seed": 3, "picture": "twins.png"}
    assert expected.items() <= summary.items()
    assert summary["backend"] and summary["seconds"] > 0 and summary["records_per_second"] > 0
    assert [twin["index"] for twin in summary["twins"]] == [4, 5]
    for twin in summary["twins"]:
        assert all((tmp_path / "out" / name).is_file() for name in twin["files"])
        assert twin["measured_heart_rate"] is None or 20 <= twin["measured_heart_rate"] <= 300


def test_the_same_seed_gives_the_same_files(generate, tmp_path):
    out = tmp_path / "out"
    assert generate(PATIENT) == 0
    first = (out / "twin_001.dat").read_bytes()
    assert generate(PATIENT, "--count", "3", "--batch-size", "1") == 0
    again = np.frombuffer((out / "twin_001.dat").read_bytes(), "<i2").astype(int)
    assert np.abs(again - np.frombuffer(first, "<i2")).max() <= 1  # µV: rounding of another batch size
    assert generate(PATIENT, "--seed", "1") == 0
    assert (out / "twin_001.dat").read_bytes() != first


def test_a_shorter_second_run_leaves_no_twins_of_the_first(generate, tmp_path):
    assert generate(PATIENT, "--count", "3") == 0
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert generate(PATIENT, "--count", "1") == 0
    assert tree(tmp_path / "out") == ["notes.txt", "twin_000.dat", "twin_000.hea", "twins.json", "twins.png"]


def three_leads(folder):
    return write(with_leads(patient(), ["I", "II", "V1"]), folder)


def with_nans(folder):
    record = patient()
    record.signal[100:130, record.leads.index("V3")] = np.nan
    np.savez(folder / "nan.npz", signal=record.signal, sampling_rate=500, leads=record.leads, age=63, sex="F")
    return folder / "nan.npz"


def flat(folder):
    record = patient()
    record.signal[:, record.leads.index("V2")] = 0
    return write(record, folder)


def missing(folder):
    return folder / "nowhere.hea"


def truncated(folder):
    path = write(patient(), folder)
    data = path.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:5000])
    return path


def short(folder):
    record = patient()
    return write(Record(record.signal[:2000], 500, record.leads, 63, "F"), folder)


def ageless(folder):
    return write(Record(patient().signal, 500, patient().leads), folder)


@pytest.mark.parametrize(
    "reference, options, words",
    [
        (three_leads, [], ["reference", "V2", "V6"]),
        (with_nans, [], ["nan.npz", "V3", "30"]),
        (flat, [], ["reference", "V2", "flat"]),
        (missing, [], ["nowhere.hea", "no such file"]),
        (truncated, [], ["reference"]),
        (short, [], ["reference", "10 s"]),
        (ageless, [], ["reference", "no age, sex"]),
        (simulated_patient, ["--age", "400"], ["age is 400", "0..120 years"]),
        (simulated_patient, ["--heart-rate", "5"], ["heart rate is 5", "20..300 bpm"]),
        (simulated_patient, ["--report", " | "], ["report is empty"]),
        (simulated_patient, ["--report", "a|b|c|d|e"], ["5 statements", "4 at most"]),
        (simulated_patient, ["--backend", "abacus"], ["unknown backend 'abacus'"]),
        (simulated_patient, ["--device", "abacus"], ["device 'abacus'"]),
        (simulated_patient, ["--model", "no such model"], ["no such model directory"]),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(generate, tmp_path, capsys, reference, options, words):
    path = reference(tmp_path)
    before = tree(tmp_path)
    assert generate(path, *options) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "options, message",
    [
        (["--count", "0"], "argument --count: 0 is out of range, expected at least 1"),
        (["--steps", "2000"], "argument --steps: 2000 is out of range, expected 1..1000"),
        (["--seed", "-1"], "argument --seed: -1 is out of range, expected 0..18446744073709551615"),
        (["--seed", "x"], "argument --seed: 'x' is not a whole number"),
        (["--age", "old"], "argument --age: invalid float value: 'old'"),
        (["--sex", "Q"], "argument --sex: invalid choice: 'Q'"),
        (["--sampler", "euler"], "argument --sampler: invalid choice: 'euler'"),
    ],
)
def test_mistyped_options(generate, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        generate(PATIENT, *options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_an_output_that_is_a_file_is_refused_before_the_work(generate, tmp_path, capsys, monkeypatch):
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr("ecgtwin_fast.generate.ECGTwin.sample", None)
    assert generate(PATIENT) == 2
    assert f"{tmp_path / 'out'}: is a file, expected a folder" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_an_error_while_writing_leaves_nothing(generate, tmp_path, capsys, monkeypatch):
    def full_disk(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("ecgtwin_fast.twin_folder.plot_twins", full_disk)
    assert generate(PATIENT) == 2
    assert "error: No space left on device" in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_an_interruption_leaves_nothing(generate, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ecgtwin_fast.twin_folder.plot_twins", interrupted)
    assert generate(PATIENT) == 130
    assert "interrupted" in capsys.readouterr().err
    assert tree(tmp_path) == []


def test_csv_references(generate, tmp_path):
    record = patient()
    rows = np.column_stack([np.arange(len(record.signal)) / 500, record.signal])
    header = ",".join(["time", *record.leads])
    np.savetxt(tmp_path / "ecg.csv", rows, fmt="%.5f", delimiter=",", header=header, comments="")
    assert generate(tmp_path / "ecg.csv", "--age", "63", "--sex", "F") == 0
    assert len(read_record(tmp_path / "out" / "twin_001.hea").signal) == 1024


def demo(model, out):
    return main(["demo", "--model", model, "--count", "1", "--steps", "1", "--out", str(out)])


def test_demo_on_the_simulated_patient(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ECGTWIN_PTBXL", str(tmp_path))
    assert demo(model, tmp_path / "out") == 0
    assert "patient    simulated" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "twins.json").read_text())
    assert "simulated" in summary["reference"]["source"]
    assert summary["condition"]["heart_rate"] == DEMO_HEART_RATE


def test_demo_on_a_real_patient(model, tmp_path, capsys):
    if ptbxl_root() is None:
        pytest.skip("no PTB-XL; set ECGTWIN_PTBXL")
    assert demo(model, tmp_path / "out") == 0
    assert "patient    real" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "twins.json").read_text())
    assert summary["reference"]["source"] == f"PTB-XL ecg_id {DEMO_ECG_ID}"
    assert PTBXL(ptbxl_root()).row(DEMO_ECG_ID).strat_fold == 10, "the bundled model was trained on the other folds"


def test_info(capsys):
    assert main(["info"]) == 0
    assert "torch" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["generate"], ["demo"], ["import-published"], ["info"]])
def test_help_answers_without_torch_and_teaches(command):
    lines = [
        "import sys",
        "from ecgtwin_fast.cli import main",
        "try: main()",
        "finally: assert 'torch' not in sys.modules",
    ]
    code = "\n".join(lines)
    run = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(" ".join(["usage: ecgtwin-fast", *command]))
    if command in ([], ["generate"]):
        assert "example" in run.stdout and "not for diagnosis" in run.stdout


def test_python_m_is_the_same_command():
    run = subprocess.run([sys.executable, "-m", "ecgtwin_fast", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout.startswith("usage: ecgtwin-fast")


def test_all_samplers_are_offered():
    assert set(SAMPLERS) == set(SCHEDULES)
    assert SAMPLERS[0] == DEFAULT_SAMPLER
