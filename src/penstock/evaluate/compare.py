"""Two results of ``penstock eval`` side by side: by how much they differ, and how sure that is.

Every measure is a sum over questions by another sum over questions: a mean has one under the line
for each question that has the measure, an F1 its own counts. The interval comes from a paired
bootstrap (Efron 1979): the questions are drawn anew, with both results of each, and the difference
is taken again; of 2,000 such differences the middle 95 % are the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.errors import ConfigError

RESAMPLES: Final = 2000
LEVEL: Final = 0.95
_AT_ONCE: Final = 4_000_000
_PREFERRED: Final = ("reranked ndcg@10", "hybrid ndcg@10", "f1", "citation_recall", "abstained")
_LESS_IS_BETTER: Final = frozenset({"latency_ms", "cost", "answerable_refused"})
_UNIT: Final = frozenset({"latency_ms", "cost"})
"""Measures that are not shares."""

Verdict = Literal["better", "worse", "no difference shown"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command wrote: of what, and per question what came of it."""

    path: Path
    about: Mapping[str, Any]
    details: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """As people see it."""
        return self.path.stem


class Column(NamedTuple):
    """One measure of one result: above and under the line, a number for each question."""

    above: NDArray[np.float64]
    under: NDArray[np.float64]

    def value(self) -> float:
        """Over all questions."""
        return float(self.above.sum() / self.under.sum())


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure in both results; ``low`` and ``high`` bound what B has more than A."""

    measure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    questions: int
    verdict: Verdict
    share: bool
    """Whether it lies between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A question whose results differ, in the measure that is looked at."""

    id: str
    question: str
    a: float
    b: float
    in_a: Mapping[str, Any]
    in_b: Mapping[str, Any]

    @property
    def difference(self) -> float:
        """What B has more than A."""
        return self.b - self.a


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is to say of two results. ``by`` is the measure by which questions differ; ``lost``
    is how many of them are worse in B."""

    a: str
    b: str
    about: Mapping[str, Any]
    settings: tuple[Mapping[str, Any], Mapping[str, Any]]
    questions: int
    seed: int
    differences: tuple[Difference, ...]
    only_in_one: tuple[str, ...]
    by: str
    changed: tuple[Changed, ...]

    @property
    def lost(self) -> int:
        """Questions that B does worse."""
        better = -1 if self.by in _LESS_IS_BETTER else 1
        return sum(one.difference * better < 0 for one in self.changed)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "a": {"name": self.a, "settings": self.settings[0]},
            "b": {"name": self.b, "settings": self.settings[1]},
            "kind": self.about["kind"],
            "dataset": self.about["dataset"],
            "questions": self.questions,
            "seed": self.seed,
            "resamples": RESAMPLES,
            "level": LEVEL,
            "measures": [asdict(difference) for difference in self.differences],
            "only_in_one": list(self.only_in_one),
            "by": self.by,
            "worse": self.lost,
            "better": len(self.changed) - self.lost,
            "changed": [{**asdict(one), "difference": one.difference} for one in self.changed],
        }


def read_result(path: Path) -> Result:
    """What ``penstock eval retrieval`` or ``answers`` wrote with ``--json --details``."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError(
            f"expected a result of `penstock eval` in {path}, got: {error}"
        ) from error
    about = value.get("about") if isinstance(value, dict) else None
    if not isinstance(about, dict) or not {"kind", "dataset", "questions"} <= about.keys():
        raise ConfigError(
            f"expected a result of `penstock eval retrieval` or `answers` in {path}, got other "
            "JSON: write one with --json --details"
        )
    details = value.get("details")
    if details is None:
        raise ConfigError(
            f"expected each question in {path}, got the figures alone: run it again with --details"
        )
    try:
        found = {
            str(one["id"]): {**one, "measures": {k: _number(v) for k, v in one["measures"].items()}}
            for one in details
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"expected an id and measures of each question in {path}, got otherwise ({error!r}): "
            "write it again with --json --details"
        ) from error
    if not found:
        raise ConfigError(f"expected questions in {path}, got none")
    return Result(path, about, found)


def _number(value: object) -> float | None:
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def compare(a: Result, b: Result, *, seed: int = 1, by: str | None = None) -> Comparison:
    """B against A. `ConfigError` when they are not of the same questions."""
    expect_comparable(a, b)
    ids = list(a.details)
    columns = (_columns(a, ids), _columns(b, ids))
    shared = [name for name in columns[0] if name in columns[1]]
    drawn = _bootstrap(columns, shared, seed)
    names = [name for name in shared if _per_question(a, ids, name)]
    chosen = by or next((n for n in _PREFERRED if n in names), names[0] if names else "")
    if chosen not in names:
        raise ConfigError(f"expected --by one of {', '.join(names) or 'nothing'}, got {chosen!r}")
    return Comparison(
        *_names(a, b),
        about=a.about,
        settings=(a.about.get("settings") or {}, b.about.get("settings") or {}),
        questions=len(ids),
        seed=seed,
        differences=tuple(_difference(n, columns[0][n], columns[1][n], drawn[n]) for n in shared),
        only_in_one=tuple(sorted(columns[0].keys() ^ columns[1].keys())),
        by=chosen,
        changed=_changed(a, b, ids, chosen),
    )


def _names(a: Result, b: Result) -> tuple[str, str]:
    """The names of the files; with their folders where those are the same."""
    return (a.name, b.name) if a.name != b.name else (str(a.path), str(b.path))


def expect_comparable(a: Result, b: Result) -> None:
    """`ConfigError` with a sentence unless both answered the same questions on the same data."""
    if a.about["kind"] != b.about["kind"]:
        raise ConfigError(
            f"expected two results of one command, got one of `eval {a.about['kind']}` in {a.path} "
            f"and one of `eval {b.about['kind']}` in {b.path}: they do not compare"
        )
    if a.about.get("documents") != b.about.get("documents"):
        raise ConfigError(
            f"expected results over the same data set, got {a.about['dataset']!r} in {a.path} and "
            f"{b.about['dataset']!r} with other documents in {b.path}: they do not compare"
        )
    only_a, only_b = a.details.keys() - b.details.keys(), b.details.keys() - a.details.keys()
    if only_a or only_b:
        raise ConfigError(
            f"expected the same questions in both, but {len(only_a)} are only in {a.path} and "
            f"{len(only_b)} only in {b.path}: use the same --sample, --seed and --queries"
        )
    if a.about["questions"] != b.about["questions"]:
        raise ConfigError(
            f"expected the same questions in both, but those of {a.path} read or expect otherwise "
            f"than those of {b.path}: measure both again"
        )


# --------------------------------------------------------------------------- the measures


def _columns(result: Result, ids: Sequence[str]) -> dict[str, Column]:
    rows = [result.details[name] for name in ids]
    names = list(dict.fromkeys(name for row in rows for name in row["measures"]))
    found = {}
    for name in names:
        values = [row["measures"].get(name) for row in rows]
        under = np.array([value is not None for value in values], np.float64)
        if name != "abstained" and under.any():
            above = np.array([value or 0.0 for value in values], np.float64)
            found[name] = Column(above, under)
    return {**found, **_abstention(rows)}


def _abstention(rows: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """F1 of abstaining and the share of the answerable that are refused, where there are questions
    of both kinds."""
    known = np.array([row.get("answerable") is not None and "abstained" in row for row in rows])
    answerable = np.array([row.get("answerable") is True for row in rows]) & known
    silent = np.array([bool(row.get("abstained")) for row in rows]) & known
    without = known & ~answerable
    if not answerable.any() or not without.any():
        return {}
    right = (silent & without).astype(np.float64)
    return {
        "abstention_f1": Column(2 * right, silent.astype(np.float64) + without),
        "answerable_refused": Column(
            (silent & answerable).astype(np.float64), answerable.astype(np.float64)
        ),
    }


def _bootstrap(
    columns: tuple[Mapping[str, Column], Mapping[str, Column]], names: Sequence[str], seed: int
) -> dict[str, NDArray[np.float64]]:
    """For each measure the differences of the resamples in which both results have it."""
    chance = np.random.default_rng(seed)
    count = len(next(iter(columns[0].values())).above) if columns[0] else 0
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    step = max(1, _AT_ONCE // max(1, count))
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        places = chance.integers(0, count, (size, count))
        # How often each question was drawn: sums are then products, for all measures at once.
        often = np.zeros((size, count))
        np.add.at(often, (np.arange(size)[:, None], places), 1.0)
        for name in names:
            a, b = (_ratios(often, side[name]) for side in columns)
            drawn[name].append(b - a)
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def _ratios(often: NDArray[np.float64], column: Column) -> NDArray[np.float64]:
    above, under = often @ column.above, often @ column.under
    found = np.full(len(often), np.nan)
    np.divide(above, under, out=found, where=under > 0)
    return found


def _difference(name: str, a: Column, b: Column, drawn: NDArray[np.float64]) -> Difference:
    drawn = drawn[~np.isnan(drawn)]
    edges = (1 - LEVEL) / 2 * 100
    low, high = np.percentile(drawn, [edges, 100 - edges]) if len(drawn) else (0.0, 0.0)
    verdict: Verdict = "no difference shown"
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) != (name in _LESS_IS_BETTER) else "worse"
    return Difference(
        name,
        a.value(),
        b.value(),
        b.value() - a.value(),
        float(low),
        float(high),
        int(((a.under > 0) | (b.under > 0)).sum()),
        verdict,
        name not in _UNIT,
    )


# --------------------------------------------------------------------------- the questions


def _per_question(result: Result, ids: Sequence[str], name: str) -> bool:
    return any(result.details[key]["measures"].get(name) is not None for key in ids)


def _changed(a: Result, b: Result, ids: Sequence[str], by: str) -> tuple[Changed, ...]:
    """The questions that differ, those first that B does worst against A."""
    found = []
    for key in ids:
        in_a, in_b = a.details[key], b.details[key]
        one, other = in_a["measures"].get(by), in_b["measures"].get(by)
        if one is not None and other is not None and one != other:
            found.append(Changed(key, str(in_a.get("question", "")), one, other, in_a, in_b))
    better = -1 if by in _LESS_IS_BETTER else 1
    return tuple(sorted(found, key=lambda one: one.difference * better))
