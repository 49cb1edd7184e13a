"""The statements that the simulation understands, and what they do to a heart.

The first wording of an effect is the English description of its SCP-ECG statement in PTB-XL where there is
one; the others are those of ECG carts such as MIMIC-IV-ECG's. Other statements leave the heart as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import simulated_effects as e


@dataclass(frozen=True, eq=False)
class Effect:
    """A finding: its wordings, its share when drawn, what it does, and a rhythm's heart rates per minute.

    A drawn report holds at most one effect of each group.
    """

    names: tuple[str, ...]
    group: str
    share: float
    apply: e.Apply
    rates: tuple[float, float] | None = None


def _rhythm(share: float, apply: e.Apply, rates: tuple[float, float], *names: str) -> Effect:
    return Effect(names, "rhythm", share, apply, rates)


def _of(group: str, share: float, apply: e.Apply, *names: str) -> Effect:
    return Effect(names, group, share, apply)


RHYTHMS = (
    _rhythm(46, e.nothing, (58, 101), "sinus rhythm", "Sinus rhythm", "Normal sinus rhythm", "NSR"),
    _rhythm(11, e.nothing, (100, 155), "sinus tachycardia", "Sinus tachycardia"),
    _rhythm(11, e.nothing, (40, 60), "sinus bradycardia", "Sinus bradycardia"),
    _rhythm(5, e.sinus_arrhythmia, (52, 95), "sinus arrhythmia", "Sinus arrhythmia",
            "Sinus rhythm with sinus arrhythmia", "Normal sinus rhythm with sinus arrhythmia"),
    _rhythm(9, e.rhythm("fibrillation"), (50, 115), "atrial fibrillation", "Atrial fibrillation", "A-fib"),
    _rhythm(4, e.rhythm("fibrillation"), (101, 175), "Atrial fibrillation with rapid ventricular response",
            "Rapid atrial fibrillation", "Atrial fibrillation with RVR"),
    _rhythm(1.5, e.rhythm("fibrillation"), (38, 60), "Atrial fibrillation with slow ventricular response",
            "Slow atrial fibrillation"),
    _rhythm(3, e.flutter, (65, 155), "atrial flutter", "Atrial flutter", "Atrial flutter with variable A-V block",
            "Atrial flutter with 2:1 A-V conduction"),
    _rhythm(2, e.rhythm("nodal"), (140, 200), "supraventricular tachycardia", "Supraventricular tachycardia",
            "paroxysmal supraventricular tachycardia", "SVT"),
    _rhythm(1, e.rhythm("nodal"), (40, 75), "Junctional rhythm", "Probable accelerated junctional rhythm"),
    _rhythm(1.5, e.paced_ventricles, (58, 90), "normal functioning artificial pacemaker", "Ventricular pacing",
            "Ventricular paced rhythm", "Ventricular-paced rhythm", "Electronic ventricular pacemaker"),
    _rhythm(0.5, e.paced_atria, (58, 90), "Atrial pacing", "Atrial-paced rhythm", "Electronic atrial pacemaker"),
    _rhythm(0.7, e.paced_chambers, (58, 90), "AV dual-paced rhythm", "A-V sequential pacemaker",
            "AV sequential or dual chamber electronic pacemaker"),
    _rhythm(1, e.complete_block, (28, 50), "third degree AV block", "Complete AV block", "Complete heart block"),
    _rhythm(1, e.rhythm("two to one block"), (35, 58), "second degree AV block", "2:1 AV block",
            "2nd degree A-V block, 2:1"),
)  # fmt: skip

_CONDUCTION = (
    _of("conduction", 7, e.left_bundle_branch_block, "complete left bundle branch block", "Left bundle branch block",
        "LBBB"),
    _of("conduction", 8, e.right_bundle_branch_block, "complete right bundle branch block",
        "Right bundle branch block", "RBBB"),
    _of("conduction", 5, e.incomplete_right_bundle_branch_block, "incomplete right bundle branch block",
        "Incomplete RBBB", "RSR' in V1, incomplete right bundle branch block", "IRBBB"),
    _of("conduction", 2, e.incomplete_left_bundle_branch_block, "incomplete left bundle branch block",
        "Incomplete LBBB"),
    _of("conduction", 3, e.slow_ventricles, "non-specific intraventricular conduction disturbance (block)",
        "IV conduction defect", "Intraventricular conduction delay", "abnormal QRS"),
    _of("conduction", 1.5, e.pre_excitation, "Wolf-Parkinson-White syndrome", "Wolff-Parkinson-White",
        "Ventricular pre-excitation"),
    _of("axis", 8, e.left_anterior_fascicular_block, "left anterior fascicular block",
        "Left anterior fascicular block", "Left anterior hemiblock", "LAFB"),
    _of("axis", 2, e.left_posterior_fascicular_block, "left posterior fascicular block",
        "Left posterior fascicular block", "Left posterior hemiblock", "LPFB"),
    _of("axis", 5, e.left_axis(45), "Left axis deviation", "Leftward axis", "Abnormal left axis deviation"),
    _of("axis", 3, e.left_axis(-50), "Right axis deviation", "Rightward axis", "Abnormal right axis deviation"),
    _of("node", 6, e.pr_interval(0.26, 0.5), "first degree AV block", "1st degree A-V block", "prolonged PR interval",
        "Prolonged PR interval"),
    _of("node", 1, e.pr_interval(0.105, 0.25), "Short PR interval", "Shortened PR interval"),
)  # fmt: skip

_CHAMBERS = (
    _of("chambers", 8, e.left_ventricular_hypertrophy(0.6), "left ventricular hypertrophy",
        "Left ventricular hypertrophy", "LVH"),
    _of("chambers", 2, e.left_ventricular_hypertrophy(1.2), "LVH with secondary repolarization abnormality",
        "Left ventricular hypertrophy with repolarization abnormality"),
    _of("chambers", 3, e.left_ventricular_hypertrophy(0.0), "voltage criteria (QRS) for left ventricular hypertrophy",
        "LVH by voltage", "high QRS voltage", "Moderate voltage criteria for LVH, may be normal variant"),
    _of("chambers", 2, e.right_ventricular_hypertrophy, "right ventricular hypertrophy",
        "Right ventricular hypertrophy", "RVH"),
    _of("chambers", 0.5, e.septal_hypertrophy, "septal hypertrophy"),
    _of("chambers", 3, e.low_voltage, "low QRS voltages in the frontal and horizontal leads",
        "Low QRS voltages in limb leads", "Generalized low QRS voltages", "Low voltage QRS"),
    _of("atria", 3, e.left_atrial_enlargement, "left atrial overload/enlargement", "Left atrial enlargement",
        "Left atrial abnormality"),
    _of("atria", 1.5, e.right_atrial_enlargement, "right atrial overload/enlargement", "Right atrial enlargement"),
)  # fmt: skip

_INFARCTS = (
    _of("infarct", 7, e.infarct("inferior"), "inferior myocardial infarction",
        "Inferior infarct - age undetermined", "Old inferior infarct"),
    _of("infarct", 4, e.infarct("anterior"), "anterior myocardial infarction",
        "Anterior infarct - age undetermined", "Old anterior infarct"),
    _of("infarct", 5, e.infarct("anteroseptal"), "anteroseptal myocardial infarction",
        "Anteroseptal infarct - age undetermined", "Septal infarct - age undetermined"),
    _of("infarct", 2, e.infarct("lateral"), "lateral myocardial infarction", "Lateral infarct - age undetermined",
        "Old lateral infarct"),
    _of("infarct", 0.8, e.infarct("anterolateral"), "anterolateral myocardial infarction",
        "Anterolateral infarct - age undetermined"),
    _of("infarct", 0.8, e.infarct("inferolateral"), "inferolateral myocardial infarction",
        "Inferolateral infarct - age undetermined"),
    _of("infarct", 0.8, e.infarct("inferoposterior"), "inferoposterior myocardial infarction"),
    _of("infarct", 0.8, e.infarct("inferoposterolateral"), "inferoposterolateral myocardial infarction"),
    _of("infarct", 0.8, e.infarct("posterior"), "posterior myocardial infarction",
        "Posterior infarct - age undetermined"),
    _of("infarct", 2, e.poor_r_progression, "Poor R wave progression", "Poor R-wave progression"),
    _of("infarct", 1, e.infarct("inferior"), "Q waves present"),
    _of("injury", 1, e.acute_infarct("inferior"), "Acute inferior infarct", "acute inferior myocardial infarction",
        "Inferior STEMI", "ST elevation, consider inferior injury or acute infarct"),
    _of("injury", 1, e.acute_infarct("anterior"), "Acute anterior infarct", "acute anterior myocardial infarction",
        "Anterior STEMI", "ST elevation, consider anterior injury or acute infarct"),
    _of("injury", 0.7, e.acute_infarct("lateral"), "Acute lateral infarct", "acute lateral myocardial infarction",
        "Lateral STEMI", "ST elevation, consider lateral injury or acute infarct"),
    _of("injury", 0.5, e.acute_infarct("anterolateral"), "Acute anterolateral infarct",
        "acute anterolateral myocardial infarction", "Anterolateral STEMI"),
    _of("injury", 0.5, e.acute_infarct("anteroseptal"), "Acute anteroseptal infarct",
        "acute anteroseptal myocardial infarction", "Anteroseptal STEMI"),
)  # fmt: skip

_REPOLARISATION = (
    _of("st", 4, e.ischaemia("lateral and anterior", 0.06, 0.08), "non-specific ST changes", "Nonspecific ST changes",
        "Minor ST changes"),
    _of("st", 4, e.ischaemia("lateral and anterior", 0.13, 0.08), "non-specific ST depression", "ST depression"),
    _of("st", 2, e.ischaemia("lateral and anterior", -0.16, -0.08), "non-specific ST elevation", "ST elevation",
        "ST elevation - consider early repolarization", "Early repolarization"),
    _of("st", 4, e.ischaemia("lateral and anterior", 0.09, 0.38), "non-specific ischemic", "ischemic ST-T changes",
        "ST-T changes may be due to myocardial ischemia"),
    *(
        _of("st", share, e.ischaemia(wall), f"ischemic in {wall} leads",
            f"{wall.capitalize()} ST-T changes may be due to myocardial ischemia",
            f"T wave abnormality, consider {wall} ischemia")
        for wall, share in (("anterolateral", 3), ("inferior", 2), ("inferolateral", 1.5), ("lateral", 1.5),
                            ("anteroseptal", 1.5), ("anterior", 1.5))
    ),
    *(
        _of("st", 0.6, e.ischaemia(wall, 0.20, 0.15), f"subendocardial injury in {wall} leads",
            f"ST depression in {wall} leads, consider subendocardial injury")
        for wall in ("anteroseptal", "anterolateral", "inferior", "lateral", "inferolateral")
    ),
    _of("st", 5, e.scale("repolarisation", slice(1, None), 0.35), "non-diagnostic T abnormalities",
        "non-specific T-wave changes", "T-wave abnormality", "Nonspecific T wave changes"),
    _of("st", 2, e.scale("repolarisation", slice(1, None), 0.22), "low amplitude T-waves", "Flat T waves"),
    _of("st", 3, e.ischaemia("lateral and anterior", 0.02, 0.62), "inverted T-waves", "T-wave inversion",
        "T wave inversion", "T wave inversions"),
    _of("st", 2, e.long_qt, "long QT-interval", "Prolonged QT interval", "Prolonged QT", "Long QT interval"),
    _of("st", 1.5, e.digitalis, "digitalis-effect", "Digitalis effect"),
    _of("st", 0.7, e.high_potassium, "electrolytic disturbance or drug (former EDIS)",
        "Tall T waves - consider hyperkalemia"),
    _of("st", 0.7, e.ischaemia("anterior", -0.22, 0.20), "ST-T changes compatible with ventricular aneurysm"),
)  # fmt: skip

_ECTOPY = (
    _of("ectopy", 5, e.premature("ventricular", 0.09), "ventricular premature complex",
        "Ventricular premature complexes", "PVC(s)", "Premature ventricular complexes"),
    _of("ectopy", 3, e.premature("atrial", 0.09), "atrial premature complex", "Atrial premature complexes", "PAC(s)",
        "Premature atrial complexes", "premature complex(es)"),
    _of("ectopy", 1, e.premature("ventricular", 1 / 2), "bigeminal pattern (unknown origin, SV or Ventricular)",
        "Ventricular bigeminy"),
    _of("ectopy", 0.5, e.premature("ventricular", 1 / 3), "trigeminal pattern (unknown origin, SV or Ventricular)",
        "Ventricular trigeminy"),
)  # fmt: skip

FINDINGS = (*_CONDUCTION, *_CHAMBERS, *_INFARCTS, *_REPOLARISATION, *_ECTOPY)

NORMAL = "normal ECG"
HEALTHY = ("Normal ECG", "Otherwise normal ECG")
ABNORMAL = ("Abnormal ECG", "Borderline ECG")
RAPID, SLOW = "rapid ventricular response", "slow ventricular response"
