"""Simulated patients have a true anatomy: how much of it do base vectors of their twins still tell?"""

from __future__ import annotations

import re

import numpy as np

from ..data.simulated import Patient
from ..data.store import Store

FOLDS = 5
_NAME = re.compile(r"patient-(\d+)/visit-\d+")


def true_anatomy(store: Store, rows: np.ndarray) -> np.ndarray | None:
    """`Patient.anatomy()` (n, parameters) of the patients of these rows; None but for a simulated cohort."""
    names = [_NAME.fullmatch(store.name(row)) for row in rows]
    if store.kind != "simulated" or "seed" not in store.options or None in names:
        return None
    numbers = [int(name[1]) for name in names]
    known = {
        number: Patient.draw(np.random.default_rng((store.options["seed"], number))).anatomy()
        for number in set(numbers)
    }
    return np.stack([known[number] for number in numbers]).astype(np.float64)


class AnatomyRegression:
    """Ridge regression from vectors of identity (n, d) of real records to anatomy (n, parameters), each standardised;
    the penalty by cross-validation over people (person: (n,)), of whom there must be as many as FOLDS."""

    def __init__(self, vectors: np.ndarray, anatomy: np.ndarray, person: np.ndarray):
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV, GroupKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        varies = anatomy.std(0) > 0
        self._varies, self._scale = varies, anatomy[:, varies].std(0)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": np.logspace(-1, 6, 15)}, cv=GroupKFold(FOLDS)
        )
        self._model = search.fit(vectors, anatomy[:, varies] / self._scale, groups=person).best_estimator_

    def r2(self, vectors: np.ndarray, anatomy: np.ndarray) -> float:
        """Share of the variance of other patients' anatomy that is recovered, the mean over its parameters."""
        from sklearn.metrics import r2_score

        return float(r2_score(anatomy[:, self._varies] / self._scale, self._model.predict(vectors)))
