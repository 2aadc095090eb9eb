"""Which language a text is in. Pure but for loading the model, which comes in a package."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from penstock.errors import MissingExtraError

AUTO: Final = "auto"
"""The setting that has the language of each document found."""

LANGUAGE: Final = "language"
"""The name under which it is kept in a document's metadata."""

# Of the languages that can be stemmed, those that the model knows.
NAMES: Final = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "cs": "czech",
    "da": "danish", "nl": "dutch", "en": "english", "eo": "esperanto", "et": "estonian",
    "fi": "finnish", "fr": "french", "de": "german", "el": "greek", "hi": "hindi",
    "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian", "lt": "lithuanian",
    "ne": "nepali", "nb": "norwegian", "no": "norwegian", "nn": "norwegian", "fa": "persian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "es": "spanish", "sv": "swedish", "ta": "tamil", "tr": "turkish",
}  # fmt: skip

_LOOK: Final = 4000
_ENOUGH: Final = 600
_FEWEST: Final = 40
_SURE: Final = 0.9
_NO_PROSE: Final = re.compile(
    r"```.*?(?:```|\Z)|https?://\S+|[\w./-]*[/_][\w./-]*|[^\w\s]|\d+", re.S
)


def declared(code: object) -> str:
    """The name of a language that a document declares itself to be in ('' for none we know)."""
    if not isinstance(code, str):
        return ""
    small = code.strip().lower()
    return NAMES.get(small.partition("-")[0].partition("_")[0], small if _is_name(small) else "")


def detect(text: str) -> str:
    """The language of a text ('' where too little of it says so); code and links do not count."""
    prose = " ".join(_NO_PROSE.sub(" ", text[:_LOOK]).split())[:_ENOUGH]
    if len(prose) < _FEWEST:
        return ""
    code, sure = _model().classify(prose)
    return NAMES.get(str(code), "") if float(sure) >= _SURE else ""


def prepare() -> None:
    """Load the model, if it is not loaded: in a thread, so that nobody waits for it."""
    _model()


def _is_name(text: str) -> bool:
    return text in NAMES.values()


@cache
def _model() -> Any:
    """About 100 MB and a second: only a process that asks pays for it."""
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtraError("knowledge.language: auto", "languages") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
