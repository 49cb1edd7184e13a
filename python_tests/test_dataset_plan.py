"""Plan files: what they become, and how one plan is told from another."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plan_samples import DRAW, REFERENCES, SMALLEST, TABLE, plan_of, write_csv
from store_samples import sample_entries, write_store
from tiny_model import write_tiny_model

from ecgtwin_fast.dataset.conditions import Draw, Normal, Statement, Uniform, Weighted
from ecgtwin_fast.dataset.items import Asked
from ecgtwin_fast.dataset.plan import Plan, PlanError, ReferencePlan
from ecgtwin_fast.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS

# --- what a plan becomes


def test_the_smallest_plan_has_the_defaults(tmp_path):
    plan = plan_of(tmp_path, SMALLEST)
    assert plan == Plan(
        str(tmp_path / "plan.yaml"), SMALLEST, ReferencePlan("simulated", simulated=4), (Asked("sinus rhythm"),)
    )
    chosen = (plan.twins, plan.seed, plan.model, plan.sampler, plan.steps, plan.backend, plan.dtype, plan.batch_size)
    assert chosen == (1, 0, "bundled", DEFAULT_SAMPLER, DEFAULT_STEPS, "auto", "float32", 32)
    assert (plan.format, plan.records_per_shard, plan.licence) == ("parquet", 1024, None)


def test_every_field(tmp_path):
    write_store(tmp_path / "data" / "store", sample_entries(6, people=2))
    write_tiny_model(tmp_path / "model")
    plan = plan_of(
        tmp_path,
        "references: {store: data/store, fold: training, limit: 2}\n"
        "conditions:\n"
        '  - {report: " atrial fibrillation | rapid ventricular response|", heart_rate: 120, age: 55.5, sex: F}\n'
        "  - {report: sinus rhythm, heart_rate: reference}\n"
        "twins: 5\nseed: 18446744073709551615\nmodel: model\nsampler: ddim\nsteps: 1000\nbackend: reference\n"
        "dtype: bfloat16\nbatch_size: 7\noutput: {format: wfdb, records_per_shard: 3, licence: CC-BY-4.0}\n",
    )
    store = str(tmp_path / "data" / "store")
    assert plan.references == ReferencePlan("store", store, fold="training", limit=2)
    assert plan.conditions == (
        Asked("atrial fibrillation|rapid ventricular response", 120.0, 55.5, "F"), Asked("sinus rhythm")
    )  # fmt: skip
    assert (plan.twins, plan.seed, plan.model, plan.sampler) == (5, 2**64 - 1, str(tmp_path / "model"), "ddim")
    assert (plan.steps, plan.backend, plan.dtype, plan.batch_size) == (1000, "reference", "bfloat16", 7)
    assert (plan.format, plan.records_per_shard, plan.licence) == ("wfdb", 3, "CC-BY-4.0")
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_draw(tmp_path):
    plan = plan_of(tmp_path, REFERENCES + DRAW)
    assert plan.conditions == Draw(
        8,
        (
            Statement("sinus rhythm", 3.0),
            Statement("sinus tachycardia", 1.0, {"heart_rate": Uniform(100.0, 150.0), "sex": None}),
        ),
        {"heart_rate": Normal(75.0, 12.0, (20.0, 300.0)), "age": 60.0, "sex": Weighted(("F", "M"), (0.5, 1.0))},
    )
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_a_csv_table(tmp_path):
    write_csv(tmp_path, 'heart_rate,report,sex\n 70 ,sinus rhythm,F\n,"a, b|c",\n\n')
    expected = (Asked("sinus rhythm", 70.0, None, "F"), Asked("a, b|c"))
    assert plan_of(tmp_path, REFERENCES + TABLE).conditions == expected


def test_a_parquet_table(tmp_path):
    columns = {"report": ["sinus rhythm", "b"], "age": pa.array([40, None], pa.int32()), "sex": [None, "M"]}
    pq.write_table(pa.table(columns | {"heart_rate": [float("nan"), 71.5]}), tmp_path / "c.parquet")
    plan = plan_of(tmp_path, REFERENCES + TABLE.replace("csv", "parquet"))
    assert plan.conditions == (Asked("sinus rhythm", None, 40.0), Asked("b", 71.5, None, "M"))


# --- identity


def test_identity_is_json_without_paths_of_this_machine(tmp_path):
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_store(folder / "store", sample_entries(4))
        write_tiny_model(folder / "model")
    text = DRAW + "references: {store: store}\nmodel: model\n"
    one, two = (plan_of(tmp_path / name, text).identity() for name in ("one", "two"))
    assert one == two == json.loads(json.dumps(one))
    assert str(tmp_path) not in json.dumps(one)
    assert one["conditions"]["draw"]["heart_rate"] == {"normal": [75.0, 12.0]}
    assert one["conditions"]["draw"]["statements"][1]["sex"] == "reference"


def test_a_table_and_the_same_list_are_one_data_set(tmp_path):
    write_csv(tmp_path, "report,heart_rate\nsinus rhythm,\nb,70\n")
    listed = plan_of(tmp_path, REFERENCES + "conditions: [{report: sinus rhythm}, {report: b, heart_rate: 70}]\n")
    plan_of(tmp_path, REFERENCES + TABLE).check_same(listed.identity(), "out")


BASE = SMALLEST + "    heart_rate: 70\ntwins: 2\n"


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (BASE, BASE.replace("twins: 2", "twins: 3"), "plan.yaml:6: twins is 3, but out holds .* where it is 2: choose"),
        (BASE, SMALLEST, "plan.yaml:4: conditions[0].heart_rate is not given, .* where it is 70.0"),
        (BASE, BASE.replace(": 70", ": 71"), "plan.yaml:5: conditions[0].heart_rate is 71.0, .* 70.0"),
        (BASE, BASE.replace(": 4", ": 5"), "plan.yaml:2: references.simulated is 5, .* 4"),
        (BASE, BASE + "seed: 1", "plan.yaml:7: seed is 1, .* 0"),
        (BASE + "seed: 1", BASE, "plan.yaml: seed is 0, .* 1"),
        (BASE, BASE + "output:\n  format: wfdb\n", "plan.yaml:8: output.format is 'wfdb', .* 'parquet'"),
        (BASE, BASE.replace("twins", "  - report: b\ntwins"), "plan.yaml:3: conditions is a list of 2, .* a list of 1"),
        (BASE, REFERENCES + DRAW, "plan.yaml:3: conditions is {draw}, .* a list of 1"),
        (REFERENCES + DRAW, REFERENCES + DRAW.replace("12", "13"), "plan.yaml:9: conditions.draw.heart_rate.normal[1]"),
        (REFERENCES + DRAW, REFERENCES + DRAW.replace("150", "151"), "plan.yaml:8: conditions.draw.statements[1].hea"),
        (REFERENCES + DRAW, REFERENCES + DRAW.replace("M: 1", "M: 2"), "plan.yaml:11: conditions.draw.sex.M is 2.0"),
    ],
)
def test_another_plan_is_refused_with_the_first_field_that_differs(tmp_path, before, now, message):
    identity = json.loads(json.dumps(plan_of(tmp_path, before).identity())) | {"digest": "of the caller"}
    plan = plan_of(tmp_path, now)
    with pytest.raises(PlanError) as caught:
        plan.check_same(identity, "out")
    (error,) = caught.value.errors
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), error), error
    assert "choose another folder, or change it back" in error


def test_the_same_plan_is_accepted(tmp_path):
    plan = plan_of(tmp_path, REFERENCES + DRAW)
    assert plan.check_same(json.loads(json.dumps(plan.identity())), "out") is None


def test_where(tmp_path):
    plan = plan_of(tmp_path, BASE)
    places = {"twins": 6, "conditions[0].heart_rate": 5, "conditions[0].sex": 4, "references.limit": 1}
    for name, line in places.items():
        assert plan.where(name) == f"{tmp_path}/plan.yaml:{line}"
    assert plan.where("steps") == f"{tmp_path}/plan.yaml"


def test_the_plans_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "dataset_plan.md").read_text(encoding="utf-8")
    smallest, draw, whole = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(plan_of(tmp_path, smallest).conditions) == 2
    assert plan_of(tmp_path, REFERENCES + draw).conditions.count == 8
    write_store(tmp_path / "stores" / "ptb-xl", sample_entries(6))
    write_tiny_model(tmp_path / "models" / "mine")
    (tmp_path / "conditions.csv").write_text("report,heart_rate\nsinus rhythm,\n")
    plan = plan_of(tmp_path, whole)
    assert set(plan.identity()) <= set(plan.lines)
