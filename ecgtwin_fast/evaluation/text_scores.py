"""Do ECGs show what their reports say, and can a classifier learn from them? (DiffuSETS, arXiv 2501.05932)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from .auroc import auroc
from .bootstrap import Estimate, bootstrap, bootstrap_mean, mean
from .classifier import Classifier
from .clip_score import cosines
from .ecgs import Ecgs
from .evidence import Evidence, Halves, Table, derangement
from .metrics import REAL, SHUFFLED
from .personal import adapted_scores
from .statements import common_findings, label_table

FEWEST_RECORDS = 100
"""To train a classifier on."""
AUGMENTED = 5000
"""Real records that generated ones are added to, at most: among many more, no finding is scarce."""
FEWEST_TRAINED, FEWEST_JUDGED = 20, 5
"""Records with a finding, and without it, in a training set and in a set that is judged."""


def score_text(table: Table, evidence: Evidence, halves: Halves) -> None:
    """Fill the section Text."""
    real = evidence.real
    others = derangement(len(real), evidence.seed)
    if real.clip is not None:
        for name, made in evidence.columns:
            table.put(name, "clip_score", bootstrap_mean(cosines(made.clip, made.text), made.ecgs.groups()))
        if len(real) > 1:
            cosine = cosines(real.clip, real.text[others])
            table.put(SHUFFLED, "clip_score", bootstrap_mean(cosine, real.ecgs.groups()))
    training = evidence.lessons
    if training is None or len(training) < FEWEST_RECORDS:
        table.note(
            f"{0 if training is None else len(training)} real records outside the test fold are too few to train a "
            f"classifier on, which takes {FEWEST_RECORDS}: AUROCs are left out"
        )
        return
    names = common_findings(training.reports, FEWEST_TRAINED)
    if not names:
        table.note(f"no finding is stated by {FEWEST_TRAINED} training records: AUROCs are left out")
        return
    trainer = _Trainer(names, evidence)
    judge = trainer.train(training, "judge")
    _score_conditions(table, evidence, names, judge, others)
    _score_use(table, evidence, halves, trainer, judge)
    _score_personal(table, evidence, names, judge)


def _score_conditions(
    table: Table, evidence: Evidence, names: Sequence[str], judge: Classifier, others: np.ndarray
) -> None:
    """AUROC of every finding that is asked for, by a judge of real records."""
    trained = label_table(evidence.lessons.reports, names).sum(0)
    found = {name: {"training": int(count)} for name, count in zip(names, trained, strict=True)}
    real = evidence.real
    asked = [(name, made.ecgs, label_table(made.ecgs.reports, names)) for name, made in evidence.columns]
    asked.append((SHUFFLED, real.ecgs, label_table(real.ecgs.reports, names)[others]))
    judged = {}
    for name, ecgs, labels in asked:
        columns = _judged(labels)
        # The shuffled column is judged on the same records as the real one.
        judged[name] = judged[REAL] if name == SHUFFLED else judge.scores(ecgs.signals)
        if not len(columns):
            table.note(
                f"{name}: no finding is asked for in {FEWEST_JUDGED} records and not in as many: AUROC is left out"
            )
            continue
        table.put(name, "auroc", _mean_auroc(labels, judged[name], columns, ecgs.groups()))
        table.note(f"{name}: AUROC of the condition asked is the mean over {len(columns)} findings")
        for column in columns:
            found[names[column]][name] = auroc(labels[:, column], judged[name][:, column])
    table.findings = {name: row for name, row in found.items() if len(row) > 1}


def _score_use(table: Table, evidence: Evidence, halves: Halves, trainer: _Trainer, judge: Classifier) -> None:
    """Classifiers trained on generated records, alone and with real ones, tested on other people's real records."""
    test, training = evidence.real.ecgs[halves.second], evidence.lessons
    labels = label_table(test.reports, trainer.names)
    columns = _judged(labels)
    own = {name: made.ecgs[halves.all_rows(made.ecgs)] for name, made in evidence.columns[:-1]}
    size = min([len(training), *map(len, own.values())])
    if not len(columns) or size < FEWEST_RECORDS:
        table.note(
            f"{size} generated and {len(test)} real records of different people are too few to train classifiers on "
            "and to test them: train on synthetic, test on real, and augmentation are left out"
        )
        return
    rng = np.random.default_rng(evidence.seed)
    alone = judge
    if len(training) > AUGMENTED:
        training = training[np.sort(rng.permutation(len(training))[:AUGMENTED])]
        alone = trainer.train(training, "not augmented")
    for name, ecgs in {**own, REAL: training}.items():
        part = ecgs[np.sort(rng.permutation(len(ecgs))[:size])]
        learnt = trainer.train(part, f"trained on {name}").scores(test.signals)
        table.put(name, "tstr", _mean_auroc(labels, learnt, columns, test.groups()))
    table.note(f"TSTR trains on {size} records of each column, tests on {len(test)} real ones of other people")

    counts = label_table(training.reports, trainer.names).sum(0)[columns]
    scarce = columns[np.argsort(counts, kind="stable")[: max(1, len(columns) // 3)]]
    table.note("scarce findings: " + ", ".join(trainer.names[column] for column in scarce))
    table.put(REAL, "augmented", _mean_auroc(labels, alone.scores(test.signals), scarce, test.groups()))
    for name, ecgs in own.items():
        useful = label_table(ecgs.reports, trainer.names)[:, scarce].any(1)
        learnt = trainer.train(training, f"augmented by {name}", ecgs[np.flatnonzero(useful)]).scores(test.signals)
        table.put(name, "augmented", _mean_auroc(labels, learnt, scarce, test.groups()))


def _score_personal(table: Table, evidence: Evidence, names: Sequence[str], judge: Classifier) -> None:
    """The judge on patients' further records, before and after it was adapted by their twins."""
    for name, personal in evidence.personal.items():
        visits = personal.visits
        labels = label_table(visits.reports, names)
        columns = _judged(labels)
        if not len(columns):
            table.note(f"{name}: {len(visits)} further records of patients are too few for personalised diagnosis")
            continue
        adapted = partial(adapted_scores, judge, names, evidence.lessons, personal, evidence.seed)
        ways = {REAL: judge.scores(visits.signals), name: adapted()}
        if name == next(iter(evidence.personal)):
            ways[SHUFFLED] = adapted(swapped=True)
        for column, scores in ways.items():
            table.put(column, "personal", _mean_auroc(labels, scores, columns, visits.groups()))
    if not evidence.personal:
        table.note("personalised diagnosis needs --model, patients with two records and training records: left out")


class _Trainer:
    """Classifiers of the same findings, with the same seed, on the same device."""

    def __init__(self, names: Sequence[str], evidence: Evidence):
        self.names, self._seed, self._device = names, evidence.seed, evidence.device

    def train(self, ecgs: Ecgs, what: str, more: Ecgs | None = None) -> Classifier:
        sets = [ecgs] if more is None else [ecgs, more]
        signals = np.concatenate([part.signals for part in sets])
        labels = np.concatenate([label_table(part.reports, self.names) for part in sets])
        return Classifier(signals, labels, self._device, self._seed, what=what)


def _judged(labels: np.ndarray) -> np.ndarray:
    """Columns with enough of both kinds."""
    positive = labels.sum(0)
    return np.flatnonzero((positive >= FEWEST_JUDGED) & (len(labels) - positive >= FEWEST_JUDGED))


def _mean_auroc(
    labels: np.ndarray, scores: np.ndarray, columns: np.ndarray, groups: np.ndarray
) -> Estimate | None:
    def statistic(rows: np.ndarray) -> float:
        return mean(np.array([auroc(labels[rows, column], scores[rows, column]) for column in columns]))

    return bootstrap(statistic, groups)
