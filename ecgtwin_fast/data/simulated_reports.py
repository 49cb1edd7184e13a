"""Reports of the simulated cohort: which effects their statements have, and which a population would show."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import accumulate

import numpy as np

from . import simulated_effects as e
from .simulated_vocabulary import ABNORMAL, FINDINGS, HEALTHY, NORMAL, RAPID, RHYTHMS, SLOW, Effect

GROUPS = ("rhythm", "conduction", "axis", "chambers", "atria", "node", "infarct", "injury", "st", "ectopy")
"""Groups of effects, in the order in which they act on a heart."""

CHRONIC = ("conduction", "axis", "chambers", "atria", "node", "infarct")
"""Groups that a person keeps from some age on."""

MOST_FINDINGS = 3
_HEDGES = re.compile(
    r"\b(age (undetermined|unknown)|old|possibl[ey]|probabl[ey]|consider|marked|moderate|borderline|abnormal(?= (left|"
    r"right) axis))\b"
)


@lru_cache(4096)
def normalised(statement: str) -> str:
    """A statement's key: lower case without punctuation, hedges or an infarct's age."""
    text = statement.lower().replace("a-v", "av")
    text = _HEDGES.sub(" ", text)
    text = re.sub(r"\b(myocardial )?infarct(ion)?\b", "myocardial infarction", text)
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text).split())


BY_NAME = {normalised(name): effect for effect in RHYTHMS + FINDINGS for name in effect.names}
_PERMANENT = {name: BY_NAME[name] for name in ("atrial fibrillation", "ventricular pacing", "av dual paced rhythm")}
_CHRONIC_FINDINGS = tuple(effect for effect in FINDINGS if effect.group in CHRONIC)
_NOTHING_ELSE = {e.left_bundle_branch_block, e.pre_excitation}


def effects_of(statements: Iterable[str]) -> list[Effect]:
    """Known effects of statements in the order in which they act, each once; an unknown "A with B" is A and B."""
    found = dict.fromkeys(effect for statement in statements for effect in _effects_of(statement))
    return sorted(found, key=lambda effect: GROUPS.index(effect.group))


@lru_cache(4096)
def _effects_of(statement: str) -> tuple[Effect, ...]:
    key = normalised(statement)
    parts = [key] if key in BY_NAME else key.split(" with ")
    return tuple(BY_NAME[part] for part in parts if part in BY_NAME)


def draw_history(rng: np.random.Generator) -> tuple[tuple[float, str], ...]:
    """Chronic findings of a life: (age in years from which a person has it, statement)."""
    permanent, count = rng.random(2)
    names = [normalised(_choose(_CHRONIC_FINDINGS, rng).names[0]) for _ in range(bisect((0.30, 0.62, 0.86), count))]
    ages = 60 + 15 * rng.standard_normal(len(names))
    history = list(zip(ages.tolist(), names, strict=True))
    if permanent < 0.21:
        name = tuple(_PERMANENT)[bisect((0.16, 0.19), permanent)]
        history.append((float(rng.normal(75, 9)), name))
    return tuple(history)


def draw_effects(rng: np.random.Generator, history: Sequence[tuple[float, str]], age: float) -> list[Effect]:
    """A rhythm and none to three findings that can go with it and each other: chronic ones by `age`, and new ones."""
    known = [BY_NAME[name] for since, name in history if since <= age]
    lasting = [effect for effect in known if effect.group == "rhythm"]
    intermittent, count = rng.random(2)
    rhythm = lasting[0] if lasting and intermittent < 0.9 else _choose(RHYTHMS, rng)
    chosen = [rhythm]
    new = [_choose(FINDINGS, rng) for _ in range(bisect((0.48, 0.85), count))]
    for finding in [*(effect for effect in known if effect.group != "rhythm"), *new]:
        if len(chosen) <= MOST_FINDINGS and all(_compatible(other, finding) for other in chosen):
            chosen.append(finding)
    return chosen


def _compatible(present: Effect, finding: Effect) -> bool:
    if present.group == finding.group:
        return False
    if present.group == "rhythm":
        if present.apply in (e.paced_ventricles, e.paced_chambers):
            return False
        regular_atria = present.names[0].startswith("sinus") and present.names[0] != "sinus tachycardia"
        return regular_atria or finding.group not in {"node", "atria", "ectopy"}
    pair = {present.group, finding.group}
    if {present.apply, finding.apply} & _NOTHING_ELSE:
        # such a QRS hides them, and machines do not say so
        return not pair & {"axis", "chambers", "infarct", "injury", "st"}
    return not ("injury" in pair and pair & {"infarct", "st"})


@cache
def _cumulated(effects: tuple[Effect, ...]) -> list[float]:
    return list(accumulate(effect.share for effect in effects))


def _choose(effects: tuple[Effect, ...], rng: np.random.Generator) -> Effect:
    sums = _cumulated(effects)
    return effects[bisect(sums, rng.random() * sums[-1])]


def worded(effects: list[Effect], rate: float, rng: np.random.Generator) -> str:
    """A report of these effects: PTB-XL's words, the rhythm last, or an ECG cart's, the rhythm first."""
    style, response, joined, verdict, which = rng.random(5)
    cart = style < 0.5
    healthy = len(effects) == 1 and effects[0].names[0].startswith("sinus")
    statements = [effect.names[int(rng.random() * len(effect.names)) if cart else 0] for effect in effects]
    if effects[0].names[0] == "atrial fibrillation" and response < 0.6 and not 60 <= rate <= 100:
        statements.insert(1, RAPID if rate > 100 else SLOW)
    if cart:
        if joined < 0.5 and effects[0].apply is e.nothing and effects[-1].group in ("ectopy", "node"):
            statements[0] += f" with {statements.pop()}"
        if verdict < 0.5:
            last = HEALTHY if healthy else ABNORMAL
            statements.append(last[int(which * len(last))])
        return "|".join(statements)
    if healthy:
        return "|".join([NORMAL, *statements])
    return "|".join(statements[1:] + statements[:1])
