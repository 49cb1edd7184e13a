"""Findings of reports, and the classifier that looks for them."""

from __future__ import annotations

import numpy as np

from ecgtwin_fast.evaluation.auroc import auroc
from ecgtwin_fast.evaluation.classifier import Classifier
from ecgtwin_fast.evaluation.statements import common_findings, findings, label_table


def test_wordings_of_one_finding_count_as_one():
    assert findings("Left bundle branch block|Sinus rhythm") == findings("NSR|LBBB")
    assert findings("Abnormal ECG|some thing, unheard-of") == {"some thing unheard of"}
    assert findings("normal ECG") == {"normal ecg"}


def test_label_table_and_common_findings():
    reports = ["sinus rhythm", "Sinus rhythm|LBBB", "atrial fibrillation", "LBBB|atrial fibrillation", "LBBB"]
    lbbb = "complete left bundle branch block"
    assert common_findings(reports, 2) == [lbbb, "atrial fibrillation", "sinus rhythm"]
    assert common_findings(reports, 3) == []
    table = label_table(reports, ["sinus rhythm", lbbb])
    assert table.astype(int).tolist() == [[1, 0], [1, 1], [0, 0], [0, 1], [0, 1]]


def test_classifier_learns_and_repeats_itself(with_threads):
    """One label is a slow wave in V2, the other a rate; noise besides."""
    with_threads(1)
    rng = np.random.default_rng(0)
    labels = rng.random((240, 2)) < 0.5
    time = np.arange(1024) / 102.4
    signals = 0.1 * rng.normal(size=(240, 1024, 12)).astype(np.float32)
    signals[labels[:, 0], :, 7] += np.sin(2 * np.pi * 0.7 * time).astype(np.float32)
    rates = np.where(labels[:, 1], 2.0, 1.0)
    signals += (np.sin(2 * np.pi * rates[:, None] * time) ** 31)[..., None].astype(np.float32)
    learnt = Classifier(signals[:160], labels[:160], steps=(25, 25))
    scores = learnt.scores(signals[160:])
    assert min(auroc(labels[160:, k], scores[:, k]) for k in (0, 1)) > 0.9
    again = Classifier(signals[:160], labels[:160], steps=(25, 25)).scores(signals[160:])
    np.testing.assert_array_equal(again, scores)
