"""Plan files: what a data set is made of, checked as a whole before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ECGTwinError
from .conditions import Draw
from .items import Asked
from .references import FOLDS, open_source, patients_table
from .yaml_tree import Checks, Node, PlanError

KINDS = ("store", "ptb-xl", "mimic-iv-ecg", "wfdb", "simulated")
DTYPES = ("float32", "bfloat16")
OWN_OPTIONS = {
    "store": ("fold",),
    "ptb-xl": ("fold",),
    "mimic-iv-ecg": ("patients",),
    "wfdb": (),
    "simulated": ("seed",),
}
"""Fields of references that only some kinds have, beside limit."""
LARGEST_SEED = 2**64 - 1
MOST_ITEMS = 2**62
_SECTIONS = ("references", "conditions")
_NUMBERS = ("twins", "seed", "model", "sampler", "steps", "backend", "dtype", "batch_size")
_OUTPUT = ("format", "records_per_shard", "licence")


@dataclass(frozen=True)
class ReferencePlan:
    """Which records are the references.

    kind: one of KINDS. path: absolute, of the store or folder; None where simulated. fold: "all", "test" or "training".
    limit: only the first so many; None for all. patients: MIMIC-IV's patients.csv, absolute, or None to look for it.
    simulated, seed: number of simulated patients, and of what they are drawn.
    """

    kind: str
    path: str | None = None
    fold: str = "all"
    limit: int | None = None
    patients: str | None = None
    simulated: int | None = None
    seed: int = 0

    def to_json(self) -> dict:
        """What decides the choice of records, without where they lie."""
        content: dict[str, Any] = {"kind": self.kind, "limit": self.limit}
        if self.kind == "simulated":
            return content | {"simulated": self.simulated, "seed": self.seed}
        return content | ({"fold": self.fold} if "fold" in OWN_OPTIONS[self.kind] else {})


@dataclass(frozen=True)
class Plan:
    """A plan file that has been read and found usable; plain values, so it can be sent to other processes.

    path: of the file, as it was given. text: its content. references: which records. conditions: listed, or how they
    are drawn. model: 'bundled', an absolute directory or a hub id, as `pretrained.find_model` takes it. dtype: a name.
    format, records_per_shard, licence: of the output. lines: where each field stands in the file.
    """

    path: str
    text: str
    references: ReferencePlan
    conditions: tuple[Asked, ...] | Draw
    twins: int = 1
    seed: int = 0
    model: str = "bundled"
    sampler: str = "sde-dpmpp"
    steps: int = 25
    backend: str = "auto"
    dtype: str = "float32"
    batch_size: int = 32
    format: str = "parquet"
    records_per_shard: int = 1024
    licence: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def model_name(self) -> str:
        """The model without the folder in which it lies."""
        return Path(self.model).name if os.path.isabs(self.model) else self.model

    def identity(self) -> dict:
        """All of the plan that decides the data set's content, as JSON; paths of this machine do not."""
        listed = self.conditions.to_json() if isinstance(self.conditions, Draw) else _listed_json(self.conditions)
        return {
            "references": self.references.to_json(),
            "conditions": listed,
            **{name: getattr(self, name) for name in _NUMBERS},
            "model": self.model_name,
            "output": {name: getattr(self, name) for name in _OUTPUT},
        }

    def where(self, name: str) -> str:
        """'FILE:LINE' of a field such as 'seed' or 'conditions[2].report', or of the nearest part that holds it; only
        'FILE' where there is none."""
        while name and name not in self.lines:
            name = name[: max(name.rfind("."), name.rfind("["), 0)]
        return f"{self.path}:{self.lines[name]}" if name else self.path

    def check_same(self, other: Mapping[str, Any], out: str | Path) -> None:
        """PlanError with the first field that differs, unless `other`, the identity of the plan that made `out`, is
        this plan's; what else `other` holds does not count."""
        for name, value in self.identity().items():
            difference = _difference(name, value, other.get(name, "missing"))
            if difference is not None:
                path, mine, theirs = difference
                raise PlanError(
                    f"{self.where(path)}: {path} is {mine}, but {out} holds the data set of a plan where it is "
                    f"{theirs}: choose another folder, or change it back to go on with that data set"
                )


def read_plan(path: str | Path) -> Plan:
    """Read a plan file (docs/dataset_plan.md) and look whether what it names is there.

    Raises PlanError with every error of the file, or where there is no such file.
    """
    from .plan_conditions import read_conditions

    folder = Path(path).absolute().parent
    text = _text(Path(path))
    checks = Checks(str(path))
    root = checks.parse(text)
    fields = checks.fields(root, (*_SECTIONS, *_NUMBERS, "output"), required=_SECTIONS)
    references = _references(fields.get("references"), folder, checks)
    conditions = read_conditions(fields.get("conditions"), folder, checks)
    output = checks.fields(fields.get("output"), _OUTPUT)
    values = _values(fields, output, folder, checks)
    records = 0 if references is None else _look(references, conditions, fields["references"], checks)
    per_reference = conditions.count if isinstance(conditions, Draw) else len(conditions or ())
    total = records * per_reference * values["twins"]
    if total > MOST_ITEMS:
        line = fields.get("twins", root).line
        checks.fail(line, f"the plan asks for {total} records, expected at most 2^62: lower twins or the draw's count")
    checks.raise_errors()
    lines = {node.path: node.line for node in root.walk() if node.path}
    return Plan(str(path), text, references, conditions, **values, lines=lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError(f"{path}: byte {error.start} is not UTF-8: save the plan as UTF-8") from error
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}: give a plan file (YAML)") from error


def _values(fields: dict[str, Node], output: dict[str, Node], folder: Path, checks: Checks) -> dict[str, Any]:
    # What knows the names, and needs torch.
    from ..engine.backends import BACKENDS
    from ..samplers import SCHEDULES, TRAIN_STEPS
    from .formats import FORMATS

    backends = ("auto", *(backend.name for backend in BACKENDS))
    return {
        "twins": checks.whole(fields.get("twins"), 1, otherwise=Plan.twins),
        "seed": checks.whole(fields.get("seed"), 0, LARGEST_SEED, Plan.seed),
        "model": _model(fields.get("model"), folder, checks),
        "sampler": checks.choice(fields.get("sampler"), SCHEDULES, Plan.sampler),
        "steps": checks.whole(fields.get("steps"), 1, TRAIN_STEPS, Plan.steps),
        "backend": checks.choice(fields.get("backend"), backends, Plan.backend),
        "dtype": checks.choice(fields.get("dtype"), DTYPES, Plan.dtype),
        "batch_size": checks.whole(fields.get("batch_size"), 1, otherwise=Plan.batch_size),
        "format": checks.choice(output.get("format"), FORMATS, Plan.format),
        "records_per_shard": checks.whole(output.get("records_per_shard"), 1, otherwise=Plan.records_per_shard),
        "licence": checks.text(output.get("licence")),
    }


def _model(node: Node | None, folder: Path, checks: Checks) -> str:
    from ..pretrained import CONFIG_FILE, find_model, read_config

    model = checks.text(node, Plan.model)
    try:
        # A folder of this name where the command runs is not meant either.
        if model != Plan.model and ((folder / model).exists() or Path(model).exists()):
            model = os.path.abspath(folder / model)
        read_config(find_model(model) / CONFIG_FILE)
    except (ECGTwinError, OSError) as error:
        line = 1 if node is None else node.line
        checks.fail(line, f"model: {error}: give bundled, a model directory (relative to the plan file) or a hub id")
    return model


def _references(node: Node | None, folder: Path, checks: Checks) -> ReferencePlan | None:
    before = checks.count
    fields = checks.fields(node, (*KINDS, "limit", "fold", "patients", "seed"))
    kinds = [name for name in fields if name in KINDS]
    if len(kinds) != 1:
        if node is not None and checks.count == before:
            found = " and ".join(kinds) or "none"
            line = fields[kinds[1]].line if kinds else node.line
            checks.fail(line, f"{node} names {found}, expected exactly one of {', '.join(KINDS)}")
        return None
    kind = kinds[0]
    for name in fields:
        if name in (kind, "limit", *OWN_OPTIONS[kind]):
            continue
        owners = " or ".join(owner for owner, options in OWN_OPTIONS.items() if name in options)
        checks.fail(fields[name].line, f"{fields[name]} belongs to {owners}, not to {kind}: remove it")

    def absolute(field_name: str) -> str | None:
        given = checks.text(fields.get(field_name))
        return None if given is None else os.path.abspath(folder / given)

    wanted = ReferencePlan(
        kind,
        path=None if kind == "simulated" else absolute(kind),
        fold=checks.choice(fields.get("fold"), FOLDS, "all"),
        limit=checks.whole(fields.get("limit"), 1),
        patients=absolute("patients"),
        simulated=checks.whole(fields["simulated"], 1) if kind == "simulated" else None,
        seed=checks.whole(fields.get("seed"), 0, LARGEST_SEED, 0),
    )
    return wanted if checks.count == before else None


def _look(wanted: ReferencePlan, conditions: tuple[Asked, ...] | Draw | None, node: Node, checks: Checks) -> int:
    """The number of references; notes why they cannot be opened."""
    where = node.value[wanted.kind]
    try:
        records = len(open_source(wanted))
    except (ECGTwinError, OSError) as error:
        hint = "paths are relative to the plan file"
        if wanted.kind == "store":
            hint += ", and `ecgtwin-fast prepare` makes stores"
        checks.fail(where.line, f"{where}: {error}: {hint}")
        return 0
    if wanted.kind == "mimic-iv-ecg" and patients_table(wanted) is None and not _knows_patients(conditions):
        checks.fail(
            where.line,
            f"{where}: no patients.csv of MIMIC-IV in {wanted.path}, which knows age and sex: name it in "
            "references.patients, or give age and sex in every condition",
        )
    return records


def _knows_patients(conditions: tuple[Asked, ...] | Draw | None) -> bool:
    """Whether no condition takes age or sex from its reference."""
    if isinstance(conditions, Draw):
        given = [statement.values(conditions.common) for statement in conditions.statements]
    else:
        given = [vars(condition) for condition in conditions or () if condition is not None]
    return all(values.get(name) is not None for values in given for name in ("age", "sex"))


def _listed_json(conditions: tuple[Asked, ...]) -> list[dict]:
    return [{name: value for name, value in vars(asked).items() if value is not None} for asked in conditions]


def _difference(path: str, mine: Any, theirs: Any) -> tuple[str, str, str] | None:
    """Path and both values where two JSON values first differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        pairs = [(f"{path}.{name}", mine.get(name), theirs.get(name)) for name in dict.fromkeys([*mine, *theirs])]
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = [(f"{path}[{number}]", *pair) for number, pair in enumerate(zip(mine, theirs, strict=True))]
    else:
        return None if mine == theirs else (path, _shown(mine), _shown(theirs))
    return next((found for pair in pairs if (found := _difference(*pair)) is not None), None)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"{{{', '.join(value)}}}"
    return "not given" if value is None else repr(value)
