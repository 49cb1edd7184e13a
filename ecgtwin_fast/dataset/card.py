"""The data set's own README.md, a Hugging Face data set card, and LICENSE.md."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from .. import NOTICE, __version__
from ..data.leads import MODEL_LEADS
from ..data.preprocess import SAMPLES, SAMPLING_RATE
from .durable import replacing

if TYPE_CHECKING:
    from .items import Facts
    from .plan import Plan

_HUB_LICENCES = {
    *("apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    *("cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "mit", "odbl", "odc-by", "pddl"),
}
"""Names that the hub knows; any other licence is 'other' there."""

_SIZES = ("", "1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
_PATTERNS = {"parquet": "data/*.parquet", "webdataset": "data/*.tar"}

_LOADING = {
    "parquet": {
        "pandas": """\
import numpy as np, pandas as pd
table = pd.read_parquet("data")
signals = np.stack(table["signal"]).reshape(-1, 1024, 12) / table["gain"].to_numpy()[:, None, None]  # mV""",
        "datasets": """\
from datasets import load_dataset
records = load_dataset("parquet", data_files="data/*.parquet", split="train").with_format("numpy")
signal = records[0]["signal"].reshape(1024, 12) / records[0]["gain"]  # mV""",
    },
    "wfdb": {
        "pandas and wfdb": """\
import pandas as pd, wfdb
table = pd.read_csv("records.csv", dtype={"patient_id": str, "reference": str})
signal, fields = wfdb.rdsamp(table["filename_hr"][0])  # mV""",
        "this package, as a store for training": """\
ecgtwin-fast prepare wfdb records STORE""",
    },
    "webdataset": {
        "webdataset": """\
import glob, webdataset
records = webdataset.WebDataset(sorted(glob.glob("data/*.tar")), shardshuffle=False).decode()
signals = (record["npy"] / record["json"]["gain"] for record in records)  # mV""",
        "datasets": """\
from datasets import load_dataset
records = load_dataset("webdataset", data_files="data/*.tar", split="train", streaming=True).with_format("numpy")
signals = (record["npy"] / record["json"]["gain"] for record in records)  # mV""",
    },
}

_LAYOUTS = {
    "parquet": "`data/shard-*.parquet`: one row a record. `signal` holds 1024 x 12 16 bit integers, sample after\n"
    "sample with the leads next to each other; divided by the row's `gain` they are mV.",
    "wfdb": "`records/NNNNN/`: one folder a shard, with two files a record (`.hea`, `.dat`; 16 bit, 1000 units per\n"
    "mV) and a table. `records.csv` gathers the tables.",
    "webdataset": "`data/shard-*.tar`: two members a record: `.npy`, the signal as 16 bit integers (1024, 12), and\n"
    "`.json`, all else. The signal divided by `gain` is in mV.",
}
_COLUMNS = {
    "index": "number of the record, from 0; a number that failed is missing",
    "reference": "name of the record that the twin was made from",
    "patient": "of the reference",
    "condition": "number, from 0, of the condition among those of its reference",
    "twin": "number, from 0, among the twins of one reference and condition",
    "report": "statements that were asked for, joined by vertical bars",
    "heart_rate": "asked for, in beats per minute",
    "age": "asked for, in years",
    "sex": "asked for, `F` or `M`",
    "base_vector": "64 bit digest of the reference's base vector: equal for all its twins",
    "seed": "of the plan; with `index` it determines the noise",
    "model": "digest of the model",
    "gain": "units of the signal per mV",
    "signal": "16 bit integers (1024, 12)",
}
_WFDB_NAMES = {"index": "ecg_id", "patient": "patient_id"}

_README = """\
{front}
# Synthetic 12-lead ECGs: personalised twins

{notice} These {records} electrocardiograms of 10 s are twins:
[ECGTwin](https://arxiv.org/abs/2508.02720) (arXiv 2508.02720), run by ecgtwin_fast {version}, generated each from a
reference record, as the same patient under another condition. No record is a measurement. The conditions are what
was *asked for*, not what a cardiologist or an algorithm found in the generated signal.

## How it was made

| | |
| --- | --- |
| references | {references} |
| twins | {twins} of each reference and condition |
| records | {records} of {total} items; {failed} failed, with their reasons in `failed.parquet` |
| model | {model}, digest `{digest}` |
| sampler | {sampler}, {steps} steps |
| seed | {seed} |
| backend | {backend}, {dtype} |

`plan.yaml` is the plan. `ecgtwin-fast dataset plan.yaml OUT` makes the same data set again wherever the plan's paths
lead to the same references. `manifest.jsonl` holds each shard's SHA-256, and `ecgtwin-fast dataset --verify .` proves
that all is there.

## Signals

{samples} samples at {rate} Hz. Leads, in this order: {leads}.
{layout}

## Fields

| field | meaning |
| --- | --- |
{fields}

## Loading

In this folder:
{loading}
See LICENSE.md for the terms of use.
"""

_LICENCE = """\
# Licence

{choice}

Whoever made the data set cannot grant more than they may. Rights in the reference records, and in the data that the
model was trained on, may bind those who use these twins: see the terms of the references that `plan.yaml` names.

{model}
"""
_CHOSEN = "The maker of this data set states this licence for it:\n\n    {}"
_NOT_CHOSEN = "The maker of this data set has chosen no licence: ask before you share or use it."
_BUNDLED = """\
The bundled model was trained in part on PTB-XL:

P. Wagner, N. Strodthoff, R.-D. Bousseljot, W. Samek, T. Schaeffter, *PTB-XL, a large publicly available
electrocardiography dataset*, PhysioNet, 2020/2022, licence CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), which asks for attribution."""
_OTHER_MODEL = "What the model was trained on, its model card says."


def write_card(out: str | Path, plan: Plan, facts: Facts, records: int, failed: int) -> None:
    """Write README.md and LICENSE.md of a complete data set of so many records and failures."""
    readme = _README.format(
        front=_front_matter(plan, records), notice=NOTICE, version=__version__,
        references=", ".join(f"{k}: {v}" for k, v in plan.references.to_json().items() if v is not None),
        twins=plan.twins, records=records, failed=failed, total=records + failed,
        model=facts.model, digest=facts.model_digest, sampler=facts.sampler, steps=facts.steps, seed=facts.seed,
        backend=facts.backend, dtype=facts.dtype,
        samples=SAMPLES, rate=SAMPLING_RATE, leads=", ".join(MODEL_LEADS), layout=_LAYOUTS[plan.format],
        fields=_fields(plan.format), loading=_loading(plan.format),
    )  # fmt: skip
    choice = _CHOSEN.format("\n    ".join(plan.licence.splitlines())) if plan.licence else _NOT_CHOSEN
    terms = _LICENCE.format(choice=choice, model=_BUNDLED if facts.model == "bundled" else _OTHER_MODEL)
    for name, text in {"README.md": readme, "LICENSE.md": terms}.items():
        with replacing(Path(out) / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _front_matter(plan: Plan, records: int) -> str:
    licence = " ".join((plan.licence or "unknown").split())
    known = licence.lower() in (*_HUB_LICENCES, "unknown")
    content: dict = {"license": licence.lower() if known else "other"}
    if not known:
        content |= {"license_name": licence, "license_link": "LICENSE.md"}
    content |= {
        "pretty_name": "Synthetic 12-lead ECGs: personalised twins",
        "tags": ["ecg", "electrocardiogram", "medical", "synthetic"],
        "size_categories": [_size(records)],
    }
    if plan.format in _PATTERNS:
        files = [{"split": "train", "path": _PATTERNS[plan.format]}]
        content["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def _size(records: int) -> str:
    """The hub's name for a number of records, such as 1K<n<10K."""
    for power, (low, high) in enumerate(pairwise(_SIZES), start=3):
        if records < 10**power:
            return f"{low}<n<{high}" if low else f"n<{high}"
    return f"n>{_SIZES[-1]}"


def _fields(form: str) -> str:
    names = _WFDB_NAMES if form == "wfdb" else {}
    left_out = {"gain", "signal"} if form == "wfdb" else set()
    rows = {names.get(name, name): meaning for name, meaning in _COLUMNS.items() if name not in left_out}
    if form == "wfdb":
        rows["filename_hr"] = "the record's path without suffix"
    elif form == "webdataset":
        rows["npy"] = rows.pop("signal")
    return "\n".join(f"| `{name}` | {meaning} |" for name, meaning in rows.items())


def _loading(form: str) -> str:
    blocks = [
        f"\n{title}:\n\n```{'sh' if code.startswith('ecgtwin-fast') else 'python'}\n{code}\n```\n"
        for title, code in _LOADING[form].items()
    ]
    return "".join(blocks)
