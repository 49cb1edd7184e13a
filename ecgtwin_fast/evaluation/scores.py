"""All metrics of generated ECGs, beside what real ECGs reach and what wrongly assigned ones do."""

from __future__ import annotations

from .evidence import Evidence, Halves, Table
from .feature_scores import score_features
from .identity_scores import score_identity
from .measured import PlainScale
from .metrics import SHUFFLED
from .privacy_scores import score_privacy
from .signal_scores import score_signals
from .text_scores import score_text


def score(evidence: Evidence) -> Table:
    """The whole table."""
    table = Table([*(name for name, _ in evidence.columns), SHUFFLED])
    halves, scale = Halves(evidence), PlainScale(evidence.real.plain)
    if not scale.width:
        table.note(
            "neurokit2 is not installed (pip install neurokit2), or it finds no beat: intervals and all that rests on "
            "plain features are left out"
        )
    score_signals(table, evidence, halves)
    score_features(table, evidence, halves, scale)
    score_text(table, evidence, halves)
    score_identity(table, evidence, scale)
    score_privacy(table, evidence, halves, scale)
    return table
