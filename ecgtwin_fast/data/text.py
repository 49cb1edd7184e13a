"""Text encoders: one embedding per statement of a report, behind one small protocol."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from ..errors import ConditionError, TextEncoderError

NOMIC = "nomic-ai/nomic-embed-text-v1.5"
NOMIC_TOKENIZER = "bert-base-uncased"


@runtime_checkable
class TextEncoder(Protocol):
    """Turns statements into unit vectors."""

    name: str
    width: int

    def encode(self, statements: Sequence[str]) -> np.ndarray:
        """One row per statement: float32 (n, width), each of L2 norm 1."""
        ...


def text_encoder(name: str, width: int = 768) -> TextEncoder:
    """The encoder of that name: 'hash' (offline), 'nomic', or a sentence-transformers name or path.

    Raises TextEncoderError where it is unavailable, or where its vectors are not `width` wide.
    """
    if name == "hash":
        return HashEncoder(width)
    if name == "nomic":
        return NomicEncoder(width)
    return SentenceEncoder(name, width)


class _CachingEncoder:
    """Embeds each distinct statement once and keeps its vector."""

    def __init__(self, name: str, width: int) -> None:
        self.name = name
        self.width = width
        self._vectors: dict[str, np.ndarray] = {}

    def encode(self, statements: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(statements) if text not in self._vectors]
        if new:
            vectors = np.asarray(self._embed(new), dtype=np.float32)
            _check_width(self.name, vectors.shape[1], self.width)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            self._vectors.update(zip(new, vectors, strict=True))
        return np.stack([self._vectors[text] for text in statements]) if statements else self._no_rows()

    def _no_rows(self) -> np.ndarray:
        return np.zeros((0, self.width), np.float32)

    def _embed(self, statements: list[str]) -> np.ndarray:
        raise NotImplementedError


class HashEncoder(_CachingEncoder):
    """Hashed counts of the words' character n-grams (2 to 5): needs no weights, no network and no training.

    Statements that share words or word stems ('left bundle branch block', 'right bundle branch block') are near
    one another; case, accents, punctuation and spacing do not count. It knows no synonyms. The same text gives the
    same vector on every machine.
    """

    def __init__(self, width: int) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        if width < 1:
            raise TextEncoderError(f"text encoder 'hash': width is {width}, expected at least 1")
        super().__init__("hash", width)
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=(2, 5), n_features=width, alternate_sign=True, norm="l2",
            preprocessor=normalise_statement,
        )  # fmt: skip

    def _embed(self, statements: list[str]) -> np.ndarray:
        vectors = self._vectorizer.transform(statements).toarray()
        for statement, vector in zip(statements, vectors, strict=True):
            if not vector.any():
                raise ConditionError(f"statement {statement!r} holds no letters or digits to encode")
        return vectors


class NomicEncoder(_CachingEncoder):
    """nomic-embed-text-v1.5 as ECGTwin uses it: mean over the mask, layer norm without affine, cut to the width."""

    def __init__(self, width: int) -> None:
        super().__init__("nomic", width)
        self._tokenizer, self._model = _load_nomic()
        _check_width(self.name, min(width, self._model.config.hidden_size), width)

    def _embed(self, statements: list[str]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            tokens = self._tokenizer(statements, padding=True, truncation=True, return_tensors="pt")
            hidden = self._model(**tokens).last_hidden_state
            return pool(hidden, tokens["attention_mask"], self.width).numpy()


class SentenceEncoder(_CachingEncoder):
    """Any sentence-transformers model, by hub name or local path."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__(name, width)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise _missing_extra(name, error) from error
        try:
            self._model = SentenceTransformer(name, device="cpu")
        except Exception as error:  # hub, file and configuration errors of many classes
            raise _not_loadable(name, error) from error
        dimension = getattr(self._model, "get_embedding_dimension", None) or (
            self._model.get_sentence_embedding_dimension
        )
        _check_width(name, dimension(), width)

    def _embed(self, statements: list[str]) -> np.ndarray:
        return self._model.encode(statements, show_progress_bar=False, convert_to_numpy=True)


def normalise_statement(text: str) -> str:
    """Lower case, no accents, letters and digits only, single spaces."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    return re.sub(r"[\W_]+", " ", plain).strip()


def pool(hidden, mask, width: int):
    """Nomic's pooling, before the L2 norm: hidden (n, tokens, d), mask (n, tokens) -> (n, width)."""
    import torch

    weight = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return torch.nn.functional.layer_norm(mean, mean.shape[-1:])[:, :width]


def _load_nomic():
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise _missing_extra("nomic", error) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(NOMIC_TOKENIZER)
        # trust_remote_code=False: transformers' own NomicBert, never code from the hub.
        model, loading = AutoModel.from_pretrained(NOMIC, trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # hub, file and configuration errors of many classes
        raise _not_loadable("nomic", error) from error
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise TextEncoderError(
            f"text encoder 'nomic': {NOMIC} leaves {len(missing)} weights of this transformers version unset "
            f"({missing[0]}, ...): install a newer one"
        )
    return tokenizer, model.eval()


def _check_width(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise TextEncoderError(
            f"text encoder {name!r} gives width {found}, the model expects width {expected}"
        )


def _missing_extra(name: str, error: ImportError) -> TextEncoderError:
    return TextEncoderError(
        f"text encoder {name!r} needs the package {error.name}: pip install 'ecgtwin-fast[text]' "
        "(the default, 'hash', needs nothing)"
    )


def _not_loadable(name: str, error: Exception) -> TextEncoderError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TextEncoderError(
        f"text encoder {name!r} cannot be loaded: {reason}. Its weights come from the Hugging Face hub; "
        "without a network give a local path, or use 'hash'"
    )
