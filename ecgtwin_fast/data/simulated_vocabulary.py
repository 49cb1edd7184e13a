"""The statements that the simulation understands.

The first wording of an effect is the English description of its SCP-ECG statement in PTB-XL where there is
one; the others are those of ECG carts such as MIMIC-IV-ECG's. Other statements leave the heart as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from . import simulated_effects as e


@dataclass(frozen=True)
class Effect:
    """A finding: its wordings, its share when drawn, what it does, and a rhythm's heart rates per minute.

    A drawn report holds at most one effect of each group.
    """

    names: tuple[str, ...]
    group: str
    share: float
    apply: e.Apply
    rates: tuple[float, float] | None = None


RHYTHMS = (
    Effect(("sinus rhythm", "Sinus rhythm", "Normal sinus rhythm"), "rhythm", 46, e.nothing, (58, 101)),
    Effect(("sinus tachycardia", "Sinus tachycardia"), "rhythm", 11, e.nothing, (100, 155)),
    Effect(("sinus bradycardia", "Sinus bradycardia"), "rhythm", 11, e.nothing, (40, 60)),
    Effect(
        ("sinus arrhythmia", "Sinus arrhythmia", "Sinus rhythm with sinus arrhythmia"),
        "rhythm",
        5,
        e.sinus_arrhythmia,
        (52, 95),
    ),
    Effect(("atrial fibrillation", "Atrial fibrillation"), "rhythm", 13, e.rhythm("fibrillation"), (50, 115)),
    Effect(
        ("Atrial fibrillation with rapid ventricular response",),
        "rhythm",
        5,
        e.rhythm("fibrillation"),
        (101, 175),
    ),
    Effect(
        ("Atrial fibrillation with slow ventricular response",),
        "rhythm",
        2,
        e.rhythm("fibrillation"),
        (38, 60),
    ),
    Effect(("atrial flutter", "Atrial flutter"), "rhythm", 3, e.flutter, (65, 155)),
    Effect(
        (
            "supraventricular tachycardia",
            "Supraventricular tachycardia",
            "paroxysmal supraventricular tachycardia",
        ),
        "rhythm",
        2,
        e.rhythm("nodal"),
        (140, 200),
    ),
    Effect(("Junctional rhythm",), "rhythm", 1, e.rhythm("nodal"), (40, 75)),
    Effect(
        ("normal functioning artificial pacemaker", "Ventricular pacing", "Ventricular paced rhythm"),
        "rhythm",
        2,
        e.paced,
        (58, 90),
    ),
    Effect(
        ("third degree AV block", "Complete AV block", "Complete heart block"),
        "rhythm",
        1,
        e.complete_block,
        (28, 50),
    ),
    Effect(("second degree AV block", "2:1 AV block"), "rhythm", 1, e.rhythm("two to one block"), (35, 58)),
)

FINDINGS = (
    Effect(
        ("complete left bundle branch block", "Left bundle branch block", "LBBB"),
        "conduction",
        10,
        e.left_bundle_branch_block,
    ),
    Effect(
        ("complete right bundle branch block", "Right bundle branch block", "RBBB"),
        "conduction",
        10,
        e.right_bundle_branch_block,
    ),
    Effect(
        ("incomplete right bundle branch block", "Incomplete RBBB"),
        "conduction",
        5,
        e.incomplete_right_bundle_branch_block,
    ),
    Effect(
        ("incomplete left bundle branch block", "Incomplete LBBB"),
        "conduction",
        2,
        e.incomplete_left_bundle_branch_block,
    ),
    Effect(("left anterior fascicular block",), "conduction", 8, e.left_anterior_fascicular_block),
    Effect(("left posterior fascicular block",), "conduction", 2, e.left_posterior_fascicular_block),
    Effect(
        (
            "non-specific intraventricular conduction disturbance (block)",
            "IV conduction defect",
            "Intraventricular conduction delay",
            "abnormal QRS",
        ),
        "conduction",
        3,
        e.slow_ventricles,
    ),
    Effect(
        ("Wolf-Parkinson-White syndrome", "Wolff-Parkinson-White", "Ventricular pre-excitation"),
        "conduction",
        1.5,
        e.pre_excitation,
    ),
    Effect(("Left axis deviation", "Leftward axis"), "conduction", 5, e.left_axis(55)),
    Effect(("Right axis deviation", "Rightward axis"), "conduction", 3, e.left_axis(-55)),
    Effect(
        ("first degree AV block", "1st degree A-V block", "prolonged PR interval", "Prolonged PR interval"),
        "node",
        6,
        e.pr_interval(0.25),
    ),
    Effect(("Short PR interval",), "node", 1, e.pr_interval(0.105)),
    Effect(
        ("left ventricular hypertrophy", "Left ventricular hypertrophy"),
        "chambers",
        8,
        e.left_ventricular_hypertrophy(0.6),
    ),
    Effect(
        ("LVH with secondary repolarization abnormality",), "chambers", 2, e.left_ventricular_hypertrophy(1.2)
    ),
    Effect(
        ("voltage criteria (QRS) for left ventricular hypertrophy", "LVH by voltage", "high QRS voltage"),
        "chambers",
        3,
        e.left_ventricular_hypertrophy(0.0),
    ),
    Effect(
        ("right ventricular hypertrophy", "Right ventricular hypertrophy"),
        "chambers",
        2,
        e.right_ventricular_hypertrophy,
    ),
    Effect(("septal hypertrophy",), "chambers", 0.5, e.septal_hypertrophy),
    Effect(
        (
            "low QRS voltages in the frontal and horizontal leads",
            "Low QRS voltages in limb leads",
            "Generalized low QRS voltages",
        ),
        "chambers",
        3,
        e.scale("qrs", slice(None), 0.48),
    ),
    Effect(
        ("left atrial overload/enlargement", "Left atrial enlargement", "Left atrial abnormality"),
        "atria",
        3,
        e.left_atrial_enlargement,
    ),
    Effect(
        ("right atrial overload/enlargement", "Right atrial enlargement"),
        "atria",
        1.5,
        e.right_atrial_enlargement,
    ),
    Effect(
        ("inferior myocardial infarction", "Inferior infarct - age undetermined"),
        "infarct",
        7,
        e.infarct("inferior"),
    ),
    Effect(
        ("anterior myocardial infarction", "Anterior infarct - age undetermined"),
        "infarct",
        4,
        e.infarct("anterior"),
    ),
    Effect(
        (
            "anteroseptal myocardial infarction",
            "Anteroseptal infarct - age undetermined",
            "Septal infarct - age undetermined",
        ),
        "infarct",
        5,
        e.infarct("anteroseptal"),
    ),
    Effect(
        ("lateral myocardial infarction", "Lateral infarct - age undetermined"),
        "infarct",
        2,
        e.infarct("lateral"),
    ),
    Effect(
        ("Acute inferior infarct", "acute inferior myocardial infarction"),
        "infarct",
        1,
        e.infarct("inferior", acute=True),
    ),
    Effect(
        ("Acute anterior infarct", "acute anterior myocardial infarction"),
        "infarct",
        1,
        e.infarct("anterior", acute=True),
    ),
    *(
        Effect((f"{wall} myocardial infarction",), "infarct", 0.8, e.infarct(wall))
        for wall in ("anterolateral", "inferolateral", "inferoposterior", "inferoposterolateral", "posterior")
    ),
    Effect(("Poor R wave progression",), "infarct", 2, e.poor_r_progression),
    Effect(("Q waves present",), "infarct", 1, e.infarct("inferior")),
    Effect(
        ("non-specific ST changes", "Nonspecific ST changes", "Minor ST changes"),
        "st",
        4,
        e.ischaemia("lateral and anterior", 0.06, 0.08),
    ),
    Effect(
        ("non-specific ST depression", "ST depression"),
        "st",
        4,
        e.ischaemia("lateral and anterior", 0.13, 0.08),
    ),
    Effect(
        ("non-specific ST elevation", "ST elevation", "ST elevation - consider early repolarization"),
        "st",
        2,
        e.ischaemia("lateral and anterior", -0.16, -0.08),
    ),
    Effect(
        ("non-specific ischemic", "ischemic ST-T changes", "ST-T changes may be due to myocardial ischemia"),
        "st",
        4,
        e.ischaemia("lateral and anterior", 0.09, 0.38),
    ),
    Effect(
        ("ischemic in anterolateral leads", "Anterolateral ST-T changes may be due to myocardial ischemia"),
        "st",
        3,
        e.ischaemia("anterolateral"),
    ),
    Effect(
        ("ischemic in inferior leads", "Inferior ST-T changes may be due to myocardial ischemia"),
        "st",
        2,
        e.ischaemia("inferior"),
    ),
    Effect(("ischemic in inferolateral leads",), "st", 1.5, e.ischaemia("inferolateral")),
    Effect(
        ("ischemic in lateral leads", "Lateral ST-T changes may be due to myocardial ischemia"),
        "st",
        1.5,
        e.ischaemia("lateral"),
    ),
    Effect(("ischemic in anteroseptal leads",), "st", 1.5, e.ischaemia("anteroseptal")),
    Effect(
        ("ischemic in anterior leads", "Anterior ST-T changes may be due to myocardial ischemia"),
        "st",
        1.5,
        e.ischaemia("anterior"),
    ),
    *(
        Effect((f"subendocardial injury in {wall} leads",), "st", 0.6, e.ischaemia(wall, 0.20, 0.15))
        for wall in ("anteroseptal", "anterolateral", "inferior", "lateral", "inferolateral")
    ),
    Effect(
        (
            "non-diagnostic T abnormalities",
            "non-specific T-wave changes",
            "T-wave abnormality",
            "Nonspecific T wave changes",
        ),
        "st",
        5,
        e.scale("repolarisation", slice(1, None), 0.35),
    ),
    Effect(("low amplitude T-waves",), "st", 2, e.scale("repolarisation", slice(1, None), 0.22)),
    Effect(
        ("inverted T-waves", "T-wave inversion", "T wave inversion"),
        "st",
        3,
        e.ischaemia("lateral and anterior", 0.02, 0.62),
    ),
    Effect(("long QT-interval", "Prolonged QT interval"), "st", 2, e.long_qt),
    Effect(("digitalis-effect",), "st", 1.5, e.digitalis),
    Effect(
        ("electrolytic disturbance or drug (former EDIS)", "Tall T waves - consider hyperkalemia"),
        "st",
        0.7,
        e.high_potassium,
    ),
    Effect(
        ("ST-T changes compatible with ventricular aneurysm",),
        "st",
        0.7,
        e.ischaemia("anterior", -0.22, 0.20),
    ),
    Effect(
        (
            "ventricular premature complex",
            "Ventricular premature complexes",
            "PVC(s)",
        ),
        "ectopy",
        5,
        e.premature("ventricular", 0.09),
    ),
    Effect(
        ("atrial premature complex", "Atrial premature complexes", "PAC(s)", "premature complex(es)"),
        "ectopy",
        3,
        e.premature("atrial", 0.09),
    ),
    Effect(
        ("bigeminal pattern (unknown origin, SV or Ventricular)", "Ventricular bigeminy"),
        "ectopy",
        1,
        e.premature("ventricular", 1 / 2),
    ),
    Effect(
        ("trigeminal pattern (unknown origin, SV or Ventricular)", "Ventricular trigeminy"),
        "ectopy",
        0.5,
        e.premature("ventricular", 1 / 3),
    ),
)

NORMAL = "normal ECG"
HEALTHY = ("Normal ECG", "Otherwise normal ECG")
ABNORMAL = ("Abnormal ECG", "Borderline ECG")
HEDGES = re.compile(
    r"\b(age (undetermined|unknown)|old|possibl[ey]|probabl[ey]|consider|marked|moderate|borderline)\b"
)
RAPID, SLOW = "rapid ventricular response", "slow ventricular response"


def normalised(statement: str) -> str:
    """A statement's key: lower case without punctuation, hedges or an infarct's age."""
    text = statement.lower().replace("a-v", "av")
    text = HEDGES.sub(" ", text)
    text = re.sub(r"\b(myocardial )?infarct(ion)?\b", "myocardial infarction", text)
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text).split())


BY_NAME = {normalised(name): effect for effect in RHYTHMS + FINDINGS for name in effect.names}


def effects_of(statements: Iterable[str]) -> list[Effect]:
    """Known effects of statements, rhythms first, each once; an unknown "A with B" counts as A and B."""
    found: list[Effect] = []
    for statement in statements:
        key = normalised(statement)
        parts = [key] if key in BY_NAME else key.split(" with ")
        found += [BY_NAME[part] for part in parts if part in BY_NAME]
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda effect: effect.group != "rhythm")


def draw_effects(rng: np.random.Generator) -> list[Effect]:
    """A rhythm, and none to three findings of different groups that can go with it."""
    rhythm = _choose(RHYTHMS, rng)
    chosen = [rhythm]
    for _ in range(rng.choice(4, p=(0.30, 0.36, 0.23, 0.11))):
        finding = _choose(FINDINGS, rng)
        if finding.group in {effect.group for effect in chosen} or not _compatible(rhythm, finding):
            continue
        chosen.append(finding)
    return chosen


def _compatible(rhythm: Effect, finding: Effect) -> bool:
    if rhythm.apply is e.paced:
        return False
    regular_atria = rhythm.names[0].startswith("sinus")
    return regular_atria or finding.group not in {"node", "atria", "ectopy"}


def _choose(effects: tuple[Effect, ...], rng: np.random.Generator) -> Effect:
    shares = np.array([effect.share for effect in effects])
    return effects[rng.choice(len(effects), p=shares / shares.sum())]
