"""DiffuSETS from a model directory: ECGs of a condition, backends, what is refused, and its command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import wfdb
from tiny_model import DIFFUSETS_CONFIG, PATIENT, states, tree, write_tiny_diffusets, write_tiny_model

from ecgtwin_fast import DiffuSETS, ECGTwin, extension, pretrained, samplers
from ecgtwin_fast.cli import main
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.data.text import text_encoder
from ecgtwin_fast.diffusets import prompt
from ecgtwin_fast.errors import BackendError, CheckpointError, ConditionError, ECGTwinError, TextEncoderError
from ecgtwin_fast.generator import Condition
from ecgtwin_fast.pretrained import ModelConfig, find_model, read_model, read_model_type, write_model

REPORT = "atrial fibrillation|rapid ventricular response"
ASKED = Condition(REPORT, 120.0, 61.0, "M")
FEW = {"count": 3, "steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_diffusets(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder) -> DiffuSETS:
    return DiffuSETS.from_pretrained(folder, device="cpu")


def as_array(records) -> np.ndarray:
    return np.stack([record.signal for record in records])


def test_prompts_are_the_published_sentences():
    assert prompt(" AF | RVR ") == (
        "Most importantly, the 1st diagnosis is AF.As a supplementary condition, the 2nd diagnosis is RVR."
    )
    many = prompt("|".join("abcdefghijklmnopqrstuvw"))
    for words in ("1st diagnosis is a.", "3rd diagnosis is c.", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd"):
        assert words in many
    with pytest.raises(ConditionError, match="report is empty"):
        prompt(" | ")


def test_tokens_are_the_prompt_and_raw_numbers(model):
    tokens = model.tokens([ASKED, Condition("sinus rhythm", 58, 34, "F")])
    assert tokens.shape == (2, 1, 67)
    assert tokens[:, 0, 64:].tolist() == [[1, 61, 120], [0, 34, 58]]
    expected = text_encoder("hash", 64).encode([prompt(REPORT)])[0]
    np.testing.assert_array_equal(tokens[0, 0, :64], expected)


def test_records_carry_their_condition(model):
    records = model.generate(REPORT, 120, 61, "M", **FEW, seed=4, first_index=6)
    assert [record.signal.shape for record in records] == [(1024, 12)] * 3
    last = records[-1]
    assert (last.sampling_rate, tuple(last.leads)) == (102.4, MODEL_LEADS)
    assert (last.report, last.heart_rate, last.age, last.sex) == (REPORT, 120, 61, "M")
    assert last.source.startswith("DiffuSETS ") and last.source.endswith("seed 4 index 8")
    assert np.isfinite(as_array(records)).all()


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["dpmpp", "ddim", "ddpm"])
def test_reference_is_the_sampler_over_the_network(model, sampler):
    unet, token = model.networks["denoiser"], model.tokens([ASKED]).expand(3, -1, -1)
    patient = dict(zip(unet.patient_keys, token[..., 64:].split(1, -1), strict=True))
    latents = samplers.sample(
        samplers.schedule(sampler, 3), lambda x, t: unet(x, t, token[..., :64], patient), (3, 4, 128), seed=5
    )
    expected = model.networks["decoder"](latents).numpy()
    made = model.generate(REPORT, 120, 61, "M", **FEW, sampler=sampler, seed=5, backend="reference")
    np.testing.assert_allclose(as_array(made), expected, rtol=1e-4, atol=1e-5)


def deviation(made, expected: np.ndarray) -> float:
    """Of signals, relative to the size of the expected."""
    return np.linalg.norm(made - expected) / np.linalg.norm(expected)


@pytest.mark.skipif(extension.MODULE is None, reason="no compiled extension")
def test_engine_agrees_with_the_reference(model):
    def run(backend: str, dtype: torch.dtype = torch.float32) -> np.ndarray:
        made = model.sample(ASKED, **FEW, backend=backend, dtype=dtype)
        assert made.backend == ("cpu" if backend == "auto" else backend)
        return as_array(made.records)

    exact = run("reference")
    assert deviation(run("auto"), exact) <= 1e-5
    half = deviation(run("reference", torch.bfloat16), exact)
    assert 0 < deviation(run("cpu", torch.bfloat16), exact) <= 2 * half


def test_a_record_is_the_same_in_any_batch(model):
    together = as_array(model.generate(REPORT, 120, 61, "M", count=5, steps=2, seed=9))
    alone = as_array(model.generate(REPORT, 120, 61, "M", count=3, steps=2, seed=9, first_index=2, batch_size=2))
    assert deviation(alone, together[2:]) <= 1e-5
    other = Condition("sinus rhythm", 60, 40, "F")
    mixed = model.signals([other, ASKED], steps=2, seed=9, first_index=1).signals
    assert deviation(mixed[1], together[2]) <= 1e-5
    assert deviation(mixed[0], together[1]) > 1e-3


def test_progress_counts_all_batches(model):
    seen = []
    model.sample(ASKED, count=3, steps=2, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_backends_that_cannot_run_say_why(model, monkeypatch):
    with pytest.raises(BackendError, match="unknown backend 'abacus'; known: auto, cpu, reference"):
        model.sample(ASKED, **FEW, backend="abacus")
    with pytest.raises(BackendError, match="backend 'cpu' cannot run the U-Net: dtype must be torch.float32 or"):
        model.sample(ASKED, **FEW, backend="cpu", dtype=torch.float16)
    with pytest.raises(BackendError, match="dtype must be torch.float32 or torch.bfloat16, but it is torch.float16"):
        model.sample(ASKED, **FEW, backend="reference", dtype=torch.float16)
    monkeypatch.setattr(extension, "MODULE", None)
    monkeypatch.setattr(extension, "REASON", "the extension is not built")
    with pytest.raises(BackendError, match="cannot run the U-Net: the extension is not built"):
        model.sample(ASKED, **FEW, backend="cpu")
    with pytest.warns(RuntimeWarning, match="using backend 'reference' for the (U-Net|decoder), because .* not built"):
        assert model.sample(ASKED, **FEW).backend == "reference"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (("", 70, 60, "F"), "report is empty"),
        (("AF", None, 60, "F"), "heart rate is missing: expected 20..300 bpm"),
        (("AF", 70, 200, "F"), "age is 200"),
        (("AF", 70, 60, None), "sex is None"),
    ],
)
def test_conditions_that_are_refused(model, condition, message):
    with pytest.raises(ConditionError, match=message):
        model.generate(*condition)


@pytest.mark.parametrize(("options", "message"), [({"count": 0}, "count is 0"), ({"seed": -1}, "seed must be")])
def test_options_that_are_refused(model, options, message):
    with pytest.raises(ECGTwinError, match=message):
        model.generate(REPORT, 120, 61, "M", **{**FEW, **options})


def test_a_directory_reads_back(model, tmp_path):
    model.save_pretrained(tmp_path / "saved", torch.float16)
    assert tree(tmp_path / "saved") == ["README.md", "config.json", "decoder.safetensors", "denoiser.safetensors"]
    assert read_model_type(tmp_path / "saved") == "diffusets"
    config, networks, _ = read_model(tmp_path / "saved", "diffusets")
    assert config == DIFFUSETS_CONFIG and networks["denoiser"].patient_keys == ("gender", "age", "heart rate")
    for role, state in states(config=DIFFUSETS_CONFIG).items():
        loaded = networks[role].state_dict()
        assert all(torch.equal(loaded[name], value.half().float()) for name, value in state.items())


def test_the_two_models_do_not_load_as_one_another(folder, tmp_path):
    with pytest.raises(CheckpointError, match="config.json: model_type is 'diffusets': DiffuSETS loads it, and ECGT"):
        ECGTwin.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="config.json: model_type is 'ecgtwin': ECGTwin loads it, and DiffuSETS"):
        DiffuSETS.from_pretrained(write_tiny_model(tmp_path))


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"text_width": 32}, TextEncoderError, "width 64, the denoiser takes 32"),
        ({"channels": 8}, CheckpointError, "channels of a latent differ"),
        ({"length": 256}, CheckpointError, "takes latents of length 256, the decoder 128"),
        ({"widths": [8] * 8}, CheckpointError, "halves the length 8 times, a latent of 128 allows 7"),
        ({"patient_keys": ["height"]}, CheckpointError, "patient_keys holds 'height', known: gender, age, heart rate"),
        ({"heads": 5}, CheckpointError, "sizes of the denoiser do not make a network"),
        ({"widths": [8, 24]}, CheckpointError, r"denoiser.safetensors: parameter .* has shape"),
    ],
)
def test_configurations_that_do_not_fit(tmp_path, sizes, error, message):
    path = write_tiny_diffusets(tmp_path) / "config.json"
    content = json.loads(path.read_text())
    content["denoiser"]["sizes"] |= sizes
    path.write_text(json.dumps(content))
    with pytest.raises(error, match=message) as caught:
        DiffuSETS.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_variant_without_patient_information(tmp_path):
    sizes = {**DIFFUSETS_CONFIG.sizes, "denoiser": {**DIFFUSETS_CONFIG.sizes["denoiser"], "patient_keys": []}}
    config = ModelConfig(sizes, text_width=64, model_type="diffusets")
    write_model(tmp_path, config, states(config=config), "")
    model = DiffuSETS.from_pretrained(tmp_path, device="cpu")
    assert model.tokens([ASKED]).shape == (1, 1, 64)
    assert len(model.generate(REPORT, 120, 61, "M", count=1, steps=1)) == 1


def test_the_packages_own(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "BUNDLED_DIFFUSETS", tmp_path / "own")
    with pytest.raises(CheckpointError, match="own: this installation carries no diffusets model"):
        DiffuSETS.from_pretrained()
    write_tiny_diffusets(tmp_path / "own")
    assert find_model("diffusets") == tmp_path / "own"
    assert DiffuSETS.from_pretrained(device="cpu").name == "diffusets"


@pytest.fixture
def generate(folder, tmp_path):
    """Runs `generate` with the tiny model, two records in two steps to tmp_path/out unless told otherwise."""

    def run(*options):
        given = ["--report", REPORT, "--model", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
        return main(["generate", *given, "--count", "2", "--steps", "2", "--heart-rate", "120", *options])

    return run


def test_command_leaves_a_complete_folder(generate, tmp_path, capsys):
    assert generate("--age", "71", "--sex", "M", "--seed", "7") == 0
    out = tmp_path / "out"
    assert tree(out) == ["twin_000.dat", "twin_000.hea", "twin_001.dat", "twin_001.hea", "twins.json", "twins.png"]
    record = wfdb.rdrecord(str(out / "twin_001"))
    assert (record.fs, record.sig_len, tuple(record.sig_name)) == (102.4, 1024, MODEL_LEADS)
    assert {f"Report: {REPORT}", "Heart rate: 120", "Age: 71", "Sex: M"} <= set(record.comments)
    assert "not for diagnosis" in record.comments[0] and not any("Reference" in line for line in record.comments)
    summary = json.loads((out / "twins.json").read_text())
    assert summary["reference"] is None and summary["seed"] == 7 and len(summary["twins"]) == 2
    assert summary["condition"] == {"report": REPORT, "heart_rate": 120.0, "age": 71.0, "sex": "M"}
    assert (out / "twins.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "reference " not in printed and "not for diagnosis" in printed and "records/s" in printed


def test_command_and_python_give_the_same(generate, model, tmp_path):
    assert generate("--age", "61", "--sex", "M", "--seed", "7") == 0
    written = wfdb.rdrecord(str(tmp_path / "out" / "twin_001")).p_signal
    made = model.generate(REPORT, 120, 61, "M", count=2, steps=2, seed=7)[1].signal
    np.testing.assert_allclose(written, made, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--age", "60", "--sex", "F", "--reference", str(PATIENT)], "DiffuSETS model, which takes no --reference"),
        (["--sex", "F"], "age is missing: expected 0..120 years"),
        (["--age", "60"], "sex is None"),
        (["--age", "60", "--sex", "F", "--backend", "abacus"], "unknown backend 'abacus'"),
    ],
)
def test_mistakes_get_one_line_and_leave_nothing(generate, tmp_path, capsys, options, message):
    assert generate(*options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert tree(tmp_path) == []


def test_ecgtwin_needs_a_reference(tmp_path, capsys):
    model = write_tiny_model(tmp_path / "model")
    given = ["generate", "--model", str(model), "--report", REPORT, "--out", str(tmp_path / "out")]
    assert main(given) == 2
    assert "--reference is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
