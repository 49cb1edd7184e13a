"""Plan files that are refused: every error with its line, the limit and the fix."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plan_samples import CONDITIONS, REFERENCES, SMALLEST, TABLE, errors_of, plan_of, the_error, write_csv
from store_samples import sample_entries, write_store
from tiny_model import write_tiny_model

from ecgtwin_fast.dataset.plan import PlanError, read_plan
from ecgtwin_fast.dataset.yaml_tree import Checks
from ecgtwin_fast.engine.backends import BACKENDS

BAD_FIELDS = {
    "twins: 0": "twins is 0, expected a whole number of at least 1",
    "twins: -3": "twins is -3, expected a whole number of at least 1",
    "twins: 2.5": "twins is 2.5, expected a whole number",
    "twins: true": "twins is True, expected a whole number",
    "twins: '3'": "twins is '3', expected a whole number of at least 1: without quotes",
    "twins:": "twins is empty, expected a whole number of at least 1, or leave the field out",
    "twins: [1]": "twins is a list, expected a whole number",
    "twins: 4611686018427387904": "the plan asks for 18446744073709551616 records, expected at most 2^62: lower twins",
    "seed: -1": "seed is -1, expected a whole number in 0..18446744073709551615",
    "seed: 18446744073709551616": "seed is 18446744073709551616, expected a whole number in 0..18446744073709551615",
    "steps: 0": "steps is 0, expected a whole number in 1..1000",
    "steps: 1001": "steps is 1001, expected a whole number in 1..1000",
    "batch_size: 0": "batch_size is 0, expected a whole number of at least 1",
    "sampler: dpmp": "sampler is 'dpmp', expected ddpm, ddim, dpmpp or sde-dpmpp; did you mean 'dpmpp'?",
    "backend: referenc": "expected auto, cpu, reference, triton, cuda or graph; did you mean 'reference'?",
    "dtype: float64": "dtype is 'float64', expected float32 or bfloat16",
    "dtype: {a: b}": "dtype is a mapping, expected float32 or bfloat16",
    "output: {format: parket}": "output.format is 'parket', expected parquet, wfdb or webdataset; did you mean 'parqu",
    "output: {records_per_shard: 0}": "output.records_per_shard is 0, expected a whole number of at least 1",
    "output: {licence: 4}": "output.licence is 4, expected a text: put it in quotes",
    "output: {licence: ' '}": "output.licence is ' ', expected a text",
    "output: {record_per_shard: 5}": "unknown field 'record_per_shard' in output: expected format, records_per_sh",
    "output: parquet": "output is 'parquet', expected a mapping with the fields format, records_per_shard, licence",
    "stepps: 5": "unknown field 'stepps' in the plan: expected references, conditions, twins, seed, model, sampler, s",
    "model: ./none": "model: ./none: no such model directory: give bundled, a model directory (relative to the plan",
    "model: plan.yaml": "is a file, expected a model directory",
    "model: empty": "empty/config.json: no such file; a model directory needs its config.json",
    "seed: 1\nseed: 1": "field 'seed' of the plan comes twice (first in line 5): remove one",
    "1: 5": "a field of the plan has a name '1', which YAML takes for no text: quote it",
    "<<: {twins: 5}": "a field of the plan has a name '<<'",
    "seed: 2020-13-45": "seed: '2020-13-45': month must be in 1..12: put it in quotes",
    "seed: *none": "not YAML: found undefined alias 'none'",
    "seed: !!python/object:os.system 1": "not YAML: could not determine a constructor for the tag",
}


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_bad_field_has_its_line_its_limit_and_the_fix(tmp_path, field):
    (tmp_path / "empty").mkdir()
    errors = errors_of(tmp_path, SMALLEST + field)
    line = 5 + field.count("\n")
    assert [error for error in errors if error.startswith(f"plan.yaml:{line}: ") and BAD_FIELDS[field] in error], errors


BAD_REFERENCES = {
    "  limit: 3": "references names none, expected exactly one of store, ptb-xl, mimic-iv-ecg, wfdb, simulated",
    "  simulated: 0": "references.simulated is 0, expected a whole number of at least 1",
    "  simulated: 1.5": "references.simulated is 1.5, expected a whole number",
    "  stor: s": "unknown field 'stor' in references: expected store, ptb-xl, mimic-iv-ecg, wfdb, simulated, limit",
    "  store:": "references.store is empty, expected a text",
    "  store: none": "none: no such folder: paths are relative to the plan file, and `ecgtwin-fast prepare` makes st",
    "  store: plan.yaml": "plan.yaml: is a file, expected a folder",
    "  store: empty": "empty: no store (store.json is missing)",
    "  wfdb: none": "none: no such folder: paths are relative to the plan file",
    "  wfdb: empty": "empty: no WFDB header (.hea) in this folder or below",
    "  ptb-xl: empty": "empty: no ptbxl_database.csv here or in a folder above",
    "  mimic-iv-ecg: empty": "empty/record_list.csv: no such file",
}


@pytest.mark.parametrize("field", BAD_REFERENCES)
def test_bad_references(tmp_path, field):
    (tmp_path / "empty").mkdir()
    error = the_error(tmp_path, f"{CONDITIONS}references:\n{field}\n")
    assert error.startswith(f"plan.yaml:{3 if 'names none' in error else 4}: ") and BAD_REFERENCES[field] in error


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("limit: 0", "references.limit is 0, expected a whole number of at least 1"),
        ("seed: -1", "references.seed is -1, expected a whole number in 0..18446744073709551615"),
        ("fold: test", "references.fold belongs to store or ptb-xl, not to simulated: remove it"),
        ("patients: p.csv", "references.patients belongs to mimic-iv-ecg, not to simulated: remove it"),
        ("wfdb: folder", "references names simulated and wfdb, expected exactly one of store"),
    ],
)
def test_bad_second_field_of_references(tmp_path, second, message):
    error = the_error(tmp_path, f"{CONDITIONS}references:\n  simulated: 4\n  {second}\n")
    assert error.startswith("plan.yaml:5: ") and message in error


def test_a_store_without_records_of_the_fold(tmp_path):
    write_store(tmp_path / "store", [entry for entry in sample_entries(9) if not entry.test])
    error = the_error(tmp_path, CONDITIONS + "references:\n  fold: test\n  store: store\n")
    assert error == f"plan.yaml:5: references.store: {tmp_path}/store: holds no record in fold 'test': " + (
        "paths are relative to the plan file, and `ecgtwin-fast prepare` makes stores"
    )
    error = the_error(tmp_path, CONDITIONS + "references:\n  fold: tests\n  store: store\n")
    assert error == (
        "plan.yaml:4: references.fold is 'tests', expected all, test or training; did you mean 'test'?"
    )


BAD_CONDITIONS = {
    "- {reprot: b}": "unknown field 'reprot' in conditions[0]: expected report, heart_rate, age, sex; did you mean",
    "- {heart_rate: 50}": "conditions[0] has no field 'report': add it",
    "- {report: ' | '}": "conditions[0].report: the report is empty (' | '): give a statement, such as 'sinus rhythm'",
    "- {report: }": "conditions[0].report is empty, expected a text",
    "- {report: 12}": "conditions[0].report is 12, expected a text: put it in quotes",
    "- {report: b, heart_rate: 19}": "conditions[0].heart_rate: heart rate is 19: expected 20..300 bpm",
    "- {report: b, heart_rate: .nan}": "conditions[0].heart_rate is nan, expected a number or reference",
    "- {report: b, heart_rate: '70'}": "conditions[0].heart_rate is '70', expected a number or reference: without quot",
    "- {report: b, heart_rate: {uniform: [60, 70]}}": "heart_rate is a mapping, expected a number or reference",
    "- {report: b, age: 121}": "conditions[0].age: age is 121: expected 0..120 years",
    "- {report: b, age: -1}": "conditions[0].age: age is -1: expected 0..120 years",
    "- {report: b, sex: female}": "conditions[0].sex: sex is 'female': expected 'F' or 'M' or reference",
    "- {report: b, sex: [F]}": "conditions[0].sex: sex is 'a list': expected 'F' or 'M'",
    "- sinus rhythm": "conditions[0] is 'sinus rhythm', expected a mapping with the fields report, heart_rate, age",
    "[]": "conditions is an empty list, expected a list with at least one entry",
    "sinus rhythm": "conditions is 'sinus rhythm', expected a list",
    "{}": "conditions has no field, expected either table or draw, or a list",
    "{tabel: t.csv}": "unknown field 'tabel' in conditions: expected table, draw; did you mean 'table'?",
    "{table: t.csv, draw: {}}": "conditions has table and draw, expected either table or draw, or a list",
    "{table: none.csv}": "none.csv: not readable as CSV: No such file or directory (paths are relative to the plan",
    "{table: none.txt}": "none.txt: expected a table in .csv or .parquet",
    "{table: none.parquet}": "none.parquet: not readable as Parquet: ",
    "{draw: {count: 8}}": "conditions.draw has no field 'statements': add it",
    "{draw: {statements: [{report: b}]}}": "conditions.draw has no field 'count': add it",
}
BAD_DRAWS = {
    "count: -8": "conditions.draw.count is -8, expected a whole number in 1..9223372036854775807",
    "count: 0.5": "conditions.draw.count is 0.5, expected a whole number",
    "statements: []": "conditions.draw.statements is an empty list, expected a list with at least one entry",
    "statements: [{report: b, wieght: 2}]": "unknown field 'wieght' in conditions.draw.statements[0]: expected report,",
    "statements: [{weight: 2}]": "conditions.draw.statements[0] has no field 'report': add it",
    "statements: [{report: b, weight: 0}]": "statements[0].weight is 0, expected a number above 0 (leave out what",
    "statements: [{report: b, weight: -1}]": "statements[0].weight is -1, expected a number above 0",
    "statements: [{report: b, weight: 1e3}]": "weight is '1e3', expected a number above 0 (leave out what shall not be",
    "heart_rate: {uniform: [100]}": "heart_rate.uniform is a list, expected two numbers, [low, high]",
    "heart_rate: {normal: 70}": "heart_rate.normal is 70, expected two numbers, [mean, deviation]",
    "heart_rate: {uniform: [100, 90]}": "heart_rate.uniform is [100, 90], expected low below high",
    "heart_rate: {uniform: [10, 90]}": "heart_rate.uniform[0]: heart rate is 10: expected 20..300 bpm",
    "heart_rate: {uniform: [20, 301]}": "heart_rate.uniform[1]: heart rate is 301: expected 20..300 bpm",
    "heart_rate: {normal: [70, 0]}": "heart_rate.normal: the deviation is 0, expected more than 0",
    "heart_rate: {normal: [70, b]}": "heart_rate.normal[1] is 'b', expected a number",
    "heart_rate: {normal: [7, 1]}": "heart_rate.normal[0]: heart rate is 7: expected 20..300 bpm",
    "heart_rate: {norml: [70, 5]}": "unknown field 'norml' in conditions.draw.heart_rate: expected uniform, normal",
    "heart_rate: {normal: [70, 5], uniform: [60, 70]}": "expected either uniform: [low, high] or normal: [mean, devi",
    "age: young": "draw.age is 'young', expected a number, {uniform: [low, high]}, {normal: [mean, deviation]} or",
    "age: 130": "conditions.draw.age: age is 130: expected 0..120 years",
    "sex: {F: 0, M: 1}": "conditions.draw.sex.F is 0, expected a number above 0 (leave out what shall not be drawn)",
    "sex: {f: 1}": "unknown field 'f' in conditions.draw.sex: expected F, M",
    "sex: {}": "conditions.draw.sex is an empty mapping, expected weights such as {F: 0.5, M: 0.5}",
    "sex: W": "conditions.draw.sex: sex is 'W': expected 'F' or 'M' or reference",
}


@pytest.mark.parametrize("conditions", BAD_CONDITIONS)
def test_bad_conditions(tmp_path, conditions):
    errors = errors_of(tmp_path, f"{REFERENCES}conditions:\n  {conditions}\n")
    wanted = BAD_CONDITIONS[conditions]
    line = 4 if conditions.startswith("-") or "{tab" in conditions or "{draw:" in conditions else 3
    line = 3 if "table and draw" in wanted else line
    assert [error for error in errors if error.startswith(f"plan.yaml:{line}: ") and wanted in error], errors


@pytest.mark.parametrize("field", BAD_DRAWS)
def test_a_bad_draw(tmp_path, field):
    rest = {"count": "count: 8", "statements": "statements: [{report: b}]"}
    others = [text for name, text in rest.items() if not field.startswith(name)]
    lines = [*REFERENCES.splitlines(), "conditions:", "  draw:", *(f"    {text}" for text in (*others, field))]
    error = the_error(tmp_path, "\n".join(lines))
    assert error.startswith(f"plan.yaml:{len(lines)}: ") and BAD_DRAWS[field] in error


BAD_TABLES = {
    "report\n": "c.csv: holds no row, expected one for each condition",
    "": "c.csv: no column 'report' among nothing: name the columns report, heart_rate, age, sex",
    "rate,age\n1,2\n": "c.csv: no column 'report' among rate, age: name the columns report, heart_rate, age, sex",
    "report,heartrate\nb,70\n": "c.csv: unknown column 'heartrate': expected report, heart_rate, age, sex; did you",
    "report,age,age\nb,1,2\n": "c.csv: column 'age' comes twice",
    "report,age\nb,50\nc,d,51\n": "c.csv:3: 3 cells, expected 2: report, age (quote a report that holds a comma)",
    "report,age\nb,50\n,51\n": "c.csv:3: the report is empty (''): give a statement",
    "report,heart_rate\nb,50\n\nc,500\n": "c.csv:4: heart rate is 500: expected 20..300 bpm, or an empty cell for the",
    "report,age\nb,old\n": "c.csv:2: age is 'old': expected a number, 0..120 years, or an empty cell",
    "report,sex\nb,f\n": "c.csv:2: sex is 'f': expected 'F' or 'M', or an empty cell",
    'report\n"b\n': "c.csv: not readable as CSV: unexpected end of data",
}


@pytest.mark.parametrize("table", BAD_TABLES)
def test_a_bad_table_names_its_row(tmp_path, table):
    write_csv(tmp_path, table)
    error = the_error(tmp_path, REFERENCES + TABLE)
    assert error.startswith(f"plan.yaml:4: conditions.table: {tmp_path}/") and BAD_TABLES[table] in error


def test_a_bad_row_of_a_parquet_table(tmp_path):
    pq.write_table(pa.table({"report": ["b", "c", None], "age": [50, 121, 5]}), tmp_path / "c.parquet")
    first, second = errors_of(tmp_path, REFERENCES + TABLE.replace("csv", "parquet"))
    assert "c.parquet, row 2: age is 121: expected 0..120 years" in first
    assert "c.parquet, row 3: the report is empty (None)" in second


def test_of_many_bad_rows_the_first_are_named(tmp_path):
    write_csv(tmp_path, "report,age\n" + "b,-1\n" * 1000)
    errors = errors_of(tmp_path, REFERENCES + TABLE)
    assert len(errors) == 21 and "c.csv:21: age is -1" in errors[19] and "mend these first" in errors[20]


def test_all_errors_at_once_sorted_by_line(tmp_path):
    text = (
        "steps: 0\nreferences:\n  wfdb: none\n  limit: -1\nconditions:\n  - {report: ''}\n  - {report: b, sex: X}\n"
        "twins: 0\nmodel: ./none\nother: 1\n"
    )
    lines = [int(error.split(":")[1]) for error in errors_of(tmp_path, text)]
    assert lines == [1, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "plan.yaml:1: the plan is empty: give references and conditions"),
        ("# only a comment\n", "plan.yaml:1: the plan is empty"),
        ("- a\n", "plan.yaml:1: the plan is a list, expected a mapping with the fields references, conditions, twins"),
        ("just text", "plan.yaml:1: the plan is 'just text', expected a mapping"),
        ("a: 1\nb: [1, 2\nc: 3\n", "plan.yaml:3: not YAML: while parsing a flow sequence, expected ',' or ']'"),
        ("a:\n\tb: 1\n", "plan.yaml:2: not YAML: while scanning for the next token, found character '\\t'"),
        ("a: 1\n---\nb: 2\n", "plan.yaml:2: not YAML: expected a single document in the stream, but found another doc"),
        ("a: 1\nb: \x07\n", "plan.yaml:2: not YAML: character '\\x07' is not allowed"),
        ("a: &a [*a]\n", "plan.yaml:1: not a plan: its values are nested without end"),
        ("[" * 5000, "plan.yaml:1: not a plan: its values are nested without end"),
    ],
)
def test_what_is_no_plan_at_all(tmp_path, text, message):
    assert the_error(tmp_path, text).startswith(message)


def test_missing_sections_are_both_named(tmp_path):
    assert errors_of(tmp_path, "\ntwins: 3\n") == [
        "plan.yaml:2: the plan has no field 'references': add it",
        "plan.yaml:2: the plan has no field 'conditions': add it",
    ]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match=r"none.yaml: No such file or directory: give a plan file \(YAML\)"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    with pytest.raises(PlanError, match="latin.yaml: byte 3 is not UTF-8: save the plan as UTF-8"):
        read_plan(tmp_path / "latin.yaml")


def test_hub_ids(tmp_path, monkeypatch):
    model = write_tiny_model(tmp_path / "downloaded")

    def download(hub_id, allow_patterns):
        if hub_id == "nobody/nothing":
            raise OSError("the network cannot be reached")
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    plan = plan_of(tmp_path, SMALLEST + "model: somebody/something\n")
    assert (plan.model, plan.model_name) == ("somebody/something", "somebody/something")
    error = the_error(tmp_path, SMALLEST + "model: nobody/nothing\n")
    assert error.startswith("plan.yaml:5: model: nobody/nothing: no such model directory here") and "network" in error


def test_a_model_is_looked_for_beside_the_plan_only(tmp_path, monkeypatch):
    write_tiny_model(tmp_path / "elsewhere" / "models" / "mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "plans").mkdir()
    error = the_error(tmp_path / "plans", SMALLEST + "model: models/mine\n")
    assert f"{tmp_path}/plans/models/mine: no such model directory" in error


def test_backends_are_the_engines_own(tmp_path):
    for name in ("auto", *(backend.name for backend in BACKENDS)):
        assert plan_of(tmp_path, SMALLEST + f"backend: {name}\n").backend == name


def test_errors_survive_pickling(tmp_path):
    checks = Checks("plan.yaml")
    checks.fail(3, "b is wrong")
    checks.fail(2, "a is\nwrong")
    with pytest.raises(PlanError) as caught:
        checks.raise_errors()
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.errors == ["plan.yaml:2: a is wrong", "plan.yaml:3: b is wrong"]


def test_importing_loads_no_torch():
    code = "import sys, ecgtwin_fast.dataset.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
