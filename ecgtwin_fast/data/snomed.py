"""English statements for the SNOMED CT codes that PhysioNet's 12-lead challenges (2020, 2021) score."""

from __future__ import annotations

STATEMENTS = {
    "10370003": "pacing rhythm",
    "17338001": "ventricular premature beats",
    "39732003": "left axis deviation",
    "47665007": "right axis deviation",
    "59118001": "right bundle branch block",
    "59931005": "T wave inversion",
    "63593006": "supraventricular premature beats",
    "111975006": "prolonged QT interval",
    "164889003": "atrial fibrillation",
    "164890007": "atrial flutter",
    "164909002": "left bundle branch block",
    "164917005": "abnormal Q wave",
    "164934002": "abnormal T wave",
    "164947007": "prolonged PR interval",
    "251146004": "low QRS voltages",
    "270492004": "first degree AV block",
    "284470004": "premature atrial contraction",
    "426177001": "sinus bradycardia",
    "426627000": "bradycardia",
    "426783006": "sinus rhythm",
    "427084000": "sinus tachycardia",
    "427172004": "premature ventricular contractions",
    "427393009": "sinus arrhythmia",
    "445118002": "left anterior fascicular block",
    "698252002": "nonspecific intraventricular conduction disorder",
    "713426002": "incomplete right bundle branch block",
    "713427006": "complete right bundle branch block",
}
