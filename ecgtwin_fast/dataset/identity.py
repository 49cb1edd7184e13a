"""dataset.json: what makes two data sets the same, and whether a folder holds another one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ECGTwinError
from .compute import model_digest
from .durable import replacing
from .progress import RUN
from .yaml_tree import PlanError

if TYPE_CHECKING:
    from .expansion import Expansion
    from .items import Facts
    from .plan import Plan
    from .references import References

VERSION = 1
IDENTITY = "dataset.json"


class Identity:
    """Of the data set that a plan makes in folder `out`.

    Attributes:
        known: what dataset.json there says; None where there is none.

    Raises:
        PlanError: `out` holds another plan's data, or the references or the model changed. ECGTwinError: it holds
            something else.
    """

    def __init__(self, plan: Plan, out: Path, references: References, expansion: Expansion):
        self._plan, self._out = plan, out
        self._content = {
            "version": VERSION,
            "plan": plan.identity(),
            "references": references.digest,
            "model": model_digest(plan.model),
            "total": expansion.total,
            "shards": expansion.shards,
        }
        self.known = self._read()
        if self.known is not None:
            self._check_same(self.known)

    def agree(self, facts: Facts) -> None:
        """Raises PlanError unless the workers would go on as the data set was begun: with other last bits they would
        not."""
        for name, value in asdict(facts).items():
            if self.known is not None and value != (before := self.known["facts"][name]):
                raise PlanError(
                    f"{self._plan.where(name)}: {name} is {value!r} here, but {self._out} was begun with {before!r}: "
                    "continue where that runs, or choose another folder"
                )

    def write(self, facts: Facts, records: int, failed: int, complete: bool) -> None:
        """Write dataset.json."""
        content = self._content | {"facts": asdict(facts), "complete": complete, "records": records, "failed": failed}
        with replacing(self._out / IDENTITY) as temporary:
            temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _read(self) -> dict | None:
        file = self._out / IDENTITY
        if not file.is_file():
            found = sorted(path.name for path in self._out.iterdir()) if self._out.is_dir() else []
            other = [name for name in found if name != RUN]
            if other:
                raise ECGTwinError(f"{self._out}: holds {other[0]} and no data set: choose a new or empty folder")
            return None
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            lacking = [name for name in (*self._content, "facts", "complete") if name not in known]
        except (ValueError, TypeError) as error:
            raise ECGTwinError(f"{file}: damaged: {error}: choose another folder") from error
        if lacking or known["version"] != VERSION:
            problem = f"lacks {lacking[0]}" if lacking else f"is of version {known['version']}, expected {VERSION}"
            raise ECGTwinError(f"{file}: {problem}: choose another folder")
        return known

    def _check_same(self, known: dict) -> None:
        self._plan.check_same(known["plan"], self._out)
        for name in ("references", "model"):
            if known[name] != self._content[name]:
                raise PlanError(
                    f"{self._plan.where(name)}: {name} changed since {self._out} was begun (digest "
                    f"{self._content[name]:.16}, there {known[name]:.16}): choose another folder"
                )
