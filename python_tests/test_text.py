"""Text encoders: the hashed default wholly, the downloadable ones up to their weights."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ecgtwin_fast.data import text
from ecgtwin_fast.data.text import TextEncoder, text_encoder
from ecgtwin_fast.errors import ConditionError, TextEncoderError

# Signs of the first four of its equally large entries.
SINUS_RHYTHM = {3: 1, 7: 1, 31: -1, 41: -1}
STATEMENTS = ["left bundle branch block", "right bundle branch block", "atrial fibrillation", "normal ECG"]


@pytest.mark.parametrize("width", [768, 384, 33])
def test_hash_gives_unit_rows_of_the_width(width):
    encoder = text_encoder("hash", width)
    vectors = encoder.encode(STATEMENTS)
    assert isinstance(encoder, TextEncoder) and (encoder.name, encoder.width) == ("hash", width)
    assert vectors.shape == (4, width) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_hash_is_the_same_on_every_machine():
    vector = text_encoder("hash", 768).encode(["sinus rhythm"])[0]
    entries = np.flatnonzero(vector)[:4]
    assert {int(index): int(np.sign(vector[index])) for index in entries} == SINUS_RHYTHM
    np.testing.assert_allclose(np.abs(vector[entries]), 38**-0.5, rtol=1e-6)


def test_hash_ignores_spelling_details_and_sees_words():
    encoder = text_encoder("hash", 768)
    plain, spelled, near, far = encoder.encode(
        ["first degree AV block", " First-Degree  av Block. ", "second degree AV block", "sinus tachycardia"]
    )
    np.testing.assert_array_equal(plain, spelled)
    assert plain @ near > 0.5 > plain @ far + 0.2


def test_hash_of_none_is_empty():
    assert text_encoder("hash", 768).encode([]).shape == (0, 768)


@pytest.mark.parametrize("statement", ["", " ", "---"])
def test_a_statement_without_letters_is_refused(statement):
    with pytest.raises(ConditionError, match="no letters or digits"):
        text_encoder("hash", 768).encode(["sinus rhythm", statement])


def test_each_distinct_statement_is_embedded_once():
    encoder = text_encoder("hash", 64)
    embedded = []
    embed = encoder._embed
    encoder._embed = lambda statements: embedded.extend(statements) or embed(statements)
    first = encoder.encode(["a b", "c d", "a b"])
    second = encoder.encode(["c d"])
    assert embedded == ["a b", "c d"]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], second[0])


def test_nomic_pooling_ignores_padding_and_normalises_before_the_cut():
    hidden = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    pooled = text.pool(hidden, mask, 8)
    mean = hidden[0, :3].mean(0)
    expected = (mean - mean.mean()) / torch.sqrt(mean.var(unbiased=False) + 1e-5)
    torch.testing.assert_close(pooled[0], expected[:8])
    assert pooled.shape == (2, 8)


class FakeNomic:
    """Stands for the 0.5 GB download: token i of the vocabulary is row i of a table."""

    config = SimpleNamespace(hidden_size=16)
    table = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))

    def __call__(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.table[input_ids])

    @staticmethod
    def tokenise(statements, **options):
        assert options["padding"] and options["return_tensors"] == "pt"
        rows = [[ord(letter) % 50 for letter in statement] for statement in statements]
        longest = max(map(len, rows))
        return {
            "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        }


@pytest.fixture
def fake_nomic(monkeypatch):
    monkeypatch.setattr(text, "_load_nomic", lambda: (FakeNomic.tokenise, FakeNomic()))


@pytest.mark.parametrize("width", [16, 12])
def test_nomic_rows_do_not_depend_on_their_batch(fake_nomic, width):
    both = text_encoder("nomic", width).encode(["sinus rhythm", "a much longer statement"])
    alone = text_encoder("nomic", width).encode(["sinus rhythm"])
    np.testing.assert_allclose(both[0], alone[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-6)


def test_nomic_too_narrow_states_both_widths(fake_nomic):
    with pytest.raises(TextEncoderError, match="'nomic' gives width 16, the model expects width 768"):
        text_encoder("nomic", 768)


def test_nomic_with_weights_left_unset_is_refused(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "transformers", fake_transformers(lambda: (None, {"missing_keys": {"layers.0.w"}}))
    )
    with pytest.raises(TextEncoderError, match=r"leaves 1 weights .* unset \(layers.0.w"):
        text_encoder("nomic", 768)


def fake_transformers(load):
    loader = SimpleNamespace(from_pretrained=lambda name, **options: load())
    return SimpleNamespace(AutoModel=loader, AutoTokenizer=SimpleNamespace(from_pretrained=lambda name: None))


def offline():
    raise OSError("We couldn't connect to the hub\nsecond line")


def fake_sentence_transformers(load):
    return SimpleNamespace(SentenceTransformer=lambda name, device: load())


SENTENCE_MODEL = SimpleNamespace(
    get_embedding_dimension=lambda: 384,
    encode=lambda statements, **options: np.full((len(statements), 384), 2.0, np.float32),
)


@pytest.mark.parametrize(
    "name, module, fake",
    [
        ("nomic", "transformers", fake_transformers(offline)),
        ("some/model", "sentence_transformers", fake_sentence_transformers(offline)),
    ],
)
def test_unreachable_weights_give_the_reason(monkeypatch, name, module, fake):
    monkeypatch.setitem(sys.modules, module, fake)
    with pytest.raises(
        TextEncoderError, match=f"'{name}' cannot be loaded: We couldn't connect to the hub. "
    ):
        text_encoder(name, 768)


@pytest.mark.parametrize("name, module", [("nomic", "transformers"), ("some/model", "sentence_transformers")])
def test_a_missing_package_names_the_extra(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TextEncoderError, match=r"needs the package .*pip install 'ecgtwin-fast\[text\]'"):
        text_encoder(name, 768)


def test_sentence_transformers_serve_any_name(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "sentence_transformers", fake_sentence_transformers(lambda: SENTENCE_MODEL)
    )
    vectors = text_encoder("some/model", 384).encode(["sinus rhythm", "atrial flutter"])
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    with pytest.raises(TextEncoderError, match="'some/model' gives width 384, the model expects width 768"):
        text_encoder("some/model", 768)


def test_a_width_below_one_is_refused():
    with pytest.raises(TextEncoderError, match="width is 0"):
        text_encoder("hash", 0)
