"""What an autoencoder sees besides a data set's own records, and how its error is weighed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from training_store import write_store

from ecgtwin_fast import models
from ecgtwin_fast.data.leads import MODEL_LEADS
from ecgtwin_fast.training.augment import INDEPENDENT, lead_mixtures, shifted
from ecgtwin_fast.training.autoencoder import Autoencoder, AutoencoderStage, balance
from ecgtwin_fast.training.configs import stage_config
from ecgtwin_fast.training.distributed import Processes
from ecgtwin_fast.training.loop import Draw

OWN = [MODEL_LEADS.index(lead) for lead in INDEPENDENT]


def test_mixtures_keep_einthovens_law_and_change_as_much_as_said():
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(2, 40, 12)).astype(np.float32)
    unchanged = signal @ lead_mixtures(rng, 2, 0.0)
    np.testing.assert_array_equal(unchanged[..., OWN], signal[..., OWN])
    mixed = np.ones((4000, 1, 12), np.float32) @ lead_mixtures(rng, 4000, 0.2)
    np.testing.assert_allclose(mixed[:, 0, OWN].std(0), 0.2, rtol=0.1)
    one, two, three, avr, avf, avl = np.moveaxis(mixed[:, 0, :6], 1, 0)
    for derived, expected in ((three, two - one), (avr, -(one + two) / 2), (avf, two - one / 2), (avl, one - two / 2)):
        np.testing.assert_allclose(derived, expected, atol=1e-5)


def test_shifted_records_go_on_where_they_end():
    signal = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    moved = shifted(signal, np.array([0, 2]))
    np.testing.assert_array_equal(moved[0], signal[0])
    np.testing.assert_array_equal(moved[1], np.roll(signal[1], 2, axis=0))


def test_balance_halves_a_lead_of_that_variance():
    time = torch.arange(1024) * (2 * torch.pi / 128)
    signal = torch.stack([torch.zeros(1024), 2**0.5 * time.sin(), 3 * 2**0.5 * time.sin() + 5], dim=-1)[None]
    torch.testing.assert_close(balance(signal, 1.0), torch.tensor([[1.0, 0.5, 0.1]]))


def test_stage_draws_recordings_alone_and_applies_what_is_configured(tmp_path):
    store = write_store(tmp_path, real_people=6)
    store.target[np.flatnonzero(store.real)[1::2]] = False
    recordings = np.flatnonzero(store.real & ~store.target & ~store.test)
    sizes = {"widths": (16, 16, 16, 16), "groups": 4}
    network = Autoencoder(models.create("enc", **sizes), models.create("dec", **sizes))
    config = stage_config("autoencoder", "smoke", None, ["real_share=1.0", "loop.batch=24"])

    def fetched(**changes) -> np.ndarray:
        stage = AutoencoderStage(network, store, replace(config, **changes))
        return stage.fetch(Draw.of(0, 0, Processes()))[0]

    own = store.signals(recordings)
    plain = fetched()
    found = [int(np.flatnonzero((own == signal).all((1, 2)))[0]) for signal in plain]
    assert len(set(found)) > 1
    moved = fetched(shift=True)
    np.testing.assert_allclose(np.sort(moved, axis=1), np.sort(plain, axis=1))
    assert not np.array_equal(moved, plain)
    mixed = fetched(lead_mix=0.1)
    assert 0.01 < np.abs(mixed - plain).std() / plain.std() < 0.3
    stage = AutoencoderStage(network, store, replace(config, lead_balance=0.01))
    draw = Draw.of(0, 0, Processes())
    draw.batch = stage.fetch(draw)
    whole = AutoencoderStage(network, store, config).step(draw)["squared_error"]
    assert 0 < stage.step(draw)["squared_error"] < 0.9 * whole
