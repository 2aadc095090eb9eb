"""The weights of a trained model: what is known of each field, and from which odds on two records
are one person. A model is a JSON file; scoring needs nothing that training needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

from penstock.errors import ConfigError
from penstock.identity.fuzzy.blocking import Family
from penstock.identity.fuzzy.columns import Column
from penstock.identity.fuzzy.prepared import Rarity

FORMAT: Final = "penstock.identity/1"


@dataclass(frozen=True, slots=True)
class FieldWeights:
    """``m``: how often each level occurs between records of one person, ``u``: between records of
    two. ``shares`` are the shares of frequent values, ``rest`` that of any other: two people agree
    on a rare name less often than on a common one. ``swapped_with`` is the place of the column
    whose values are sometimes written here."""

    m: tuple[float, ...]
    u: tuple[float, ...]
    shares: Mapping[str, float]
    rest: float
    swapped_with: int | None = None

    def bits(self, level: int, value: str | None, frequencies: Sequence[float] = ()) -> float:
        """What a level says, as the base-2 logarithm of m (or of other ``frequencies``) to u;
        ``value`` if both have it."""
        if level < 0:
            return 0.0
        by_chance = self.u[level]
        if level == 0 and value is not None:
            by_chance = self.shares.get(value, self.rest)
        return math.log2((frequencies or self.m)[level] / by_chance)


@dataclass(frozen=True, slots=True)
class RelatedWeights:
    """A way to be related and not one: its ``prior`` as the base-2 logarithm of its share of all
    pairs, and for the places of the columns that are shared how often each level occurs."""

    prior: float
    shared: tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Model:
    """``prior`` is the base-2 logarithm of the odds that any two records are one person; from
    ``link`` on a match ties, from ``possible`` on a person should look at it. ``one_per_source``:
    every source has each person once, so that a profile has at most one record of each."""

    columns: tuple[Column, ...]
    fields: tuple[FieldWeights, ...]
    rarity: Mapping[str, Rarity]
    families: tuple[Family, ...]
    prior: float
    link: float
    possible: float
    block_at_most: int
    one_per_source: bool = False
    relations: tuple[RelatedWeights, ...] = ()
    trained_by: str = "penstock"

    @cached_property
    def version(self) -> str:
        """Names these weights: the same model has the same version everywhere."""
        return sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def swapped(self) -> tuple[tuple[int, int], ...]:
        return tuple(
            (place, field.swapped_with)
            for place, field in enumerate(self.fields)
            if field.swapped_with is not None
        )

    def to_json(self) -> str:
        """The file that `from_json` reads."""
        whole = {"format": FORMAT, **asdict(self)}
        return json.dumps(whole, sort_keys=True, ensure_ascii=False, indent=1)


def from_json(text: str) -> Model:
    """Read a model; `ConfigError` when this is none."""
    try:
        raw: dict[str, Any] = json.loads(text)
        form = raw.pop("format")
        if form != FORMAT:
            raise ConfigError(f"expected weights of the form {FORMAT!r}, got {form!r}: train anew")
        raw["columns"] = tuple(Column(c["name"], c["kind"], tuple(c["of"])) for c in raw["columns"])
        raw["fields"] = tuple(
            FieldWeights(**{**f, "m": tuple(f["m"]), "u": tuple(f["u"])}) for f in raw["fields"]
        )
        raw["relations"] = tuple(
            RelatedWeights(r["prior"], tuple((place, tuple(f)) for place, f in r["shared"]))
            for r in raw["relations"]
        )
        raw["rarity"] = {name: Rarity(**rarity) for name, rarity in raw["rarity"].items()}
        raw["families"] = tuple(
            tuple((place, form) for place, form in family) for family in raw["families"]
        )
        return Model(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"expected the weights of a trained model as JSON, got what cannot be read as such "
            f"({type(error).__name__}: {error}): train anew"
        ) from error
