"""Fuzzy matching of a kind of profile: learned, put to use, left; and what waits for a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import ConfigError
from penstock.identity.fuzzy.matcher import Reason
from penstock.records import Microseconds
from penstock.stores.postgres.profiles.models import Models, StoredModel

if TYPE_CHECKING:
    from penstock.identity.fuzzy.model import Model
    from penstock.identity.fuzzy.training import Trained
    from penstock.operate.profiles import ProfileDesk
    from penstock.project import Project

Tell = Callable[[str], None]


def _silent(_: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a training. ``number`` is None where nothing was kept."""

    number: int | None
    learned: Mapping[str, Any]
    prepared: int = 0
    settled: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "model": self.number,
            "records_prepared": self.prepared,
            "records_settled": self.settled,
            **self.learned,
        }


class Possible(NamedTuple):
    """A pair of records that might be one person; the bits of ``reasons`` add up to ``weight``."""

    number: int
    left: str
    left_profile: str
    right: str
    right_profile: str
    weight: float
    since: Microseconds
    reasons: Sequence[Reason]

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {**self._asdict(), "reasons": [reason._asdict() for reason in self.reasons]}


class MatchingDesk:
    """Fuzzy matching of one kind of profile."""

    def __init__(self, project: Project, desk: ProfileDesk) -> None:
        chosen = project.settings.profiles[desk.kind].matching
        self._chosen = chosen
        self.kind = desk.kind
        self._models = Models(project.pool, project.settings.tenant, desk.kind, desk.rules)

    async def models(self) -> list[StoredModel]:
        """The models that are kept."""
        return await self._models.all()

    async def train(
        self,
        *,
        by: str,
        link: float | None = None,
        possible: float | None = None,
        dry: bool = False,
        anew: bool = False,
        tell: Tell = _silent,
    ) -> Learned:
        """Learn from the records that are there, and put what was learned to use; or go on with
        what was interrupted."""
        interrupted = [one for one in await self._models.all() if one.state == "preparing"]
        if interrupted and not (anew or dry):
            [model] = interrupted
            tell(f"going on with model {model.number}, which was interrupted")
            return await self._use(model.number, model.learned, tell)
        if self._chosen is None:
            raise ConfigError(
                f"expected `matching: true` (or what to compare) in profiles.{self.kind}, found "
                "none: fuzzy matching is begun by saying so (docs/howto/matching.md)"
            )
        trained, count = await self._trained(self._chosen.sample, tell)
        model_now = _with_thresholds(trained.model, link, possible)
        learned = learned_of(trained, model_now, count)
        if dry:
            return Learned(None, learned)
        return await self._use(await self._models.keep(model_now, learned, by), learned, tell)

    async def _trained(self, sample: int, tell: Tell) -> tuple[Trained, int]:
        import anyio.to_thread

        from penstock.identity.fuzzy.training import train

        records = await self._models.records(sample)
        tell(f"learning from {len(records):,} records")
        rows = [record.fields for record in records]
        sources = [f"{record.key.source}.{record.key.table}" for record in records]
        return await anyio.to_thread.run_sync(lambda: train(rows, sources)), len(records)

    async def _use(self, number: int, learned: Mapping[str, Any], tell: Tell) -> Learned:
        prepared = await self._models.prepare(
            number, lambda count: tell(f"{count:,} records compared")
        )
        settled = await self._models.use(number)
        return Learned(number, learned, prepared, settled)

    async def possible(self, limit: int) -> list[Possible]:
        """Pairs that wait for a person, the likeliest first: in two profiles, and nobody has
        said anything about them yet."""
        matcher, waiting = await self._models.waiting(limit)
        if matcher is None:
            return []
        return [
            Possible(
                pair.number,
                str(pair.left.key),
                pair.left_profile,
                str(pair.right.key),
                pair.right_profile,
                round(pair.weight, 2),
                pair.since,
                [reason for reason in matcher.explain(pair.left, pair.right) if reason.bits],
            )
            for pair in waiting
        ]

    async def roll_back(self, *, tell: Tell = _silent) -> Learned:
        """Go back to the model that was in use before."""
        former = [one for one in await self._models.all() if one.state == "former"]
        if not former:
            raise ConfigError(
                f"expected a former model of {self.kind!r} to go back to, there is none: "
                "`penstock profiles train --off` ends fuzzy matching"
            )
        await self._models.take_up(former[-1].number)
        return await self._use(former[-1].number, former[-1].learned, tell)

    async def off(self) -> int:
        """End fuzzy matching: what only matches tied is parted. Returns how many records were
        worked out again."""
        await self._models.drop_preparing()
        return await self._models.use(None)


def _with_thresholds(model: Model, link: float | None, possible: float | None) -> Model:
    chosen = replace(
        model,
        link=model.link if link is None else link,
        possible=min(model.possible, model.link if link is None else link)
        if possible is None
        else possible,
    )
    if chosen.possible > chosen.link:
        raise ConfigError(
            f"expected --possible of at most {chosen.link:.2f} bits, where links begin, got "
            f"{chosen.possible:.2f}"
        )
    return chosen


def learned_of(trained: Trained, model: Model, records: int) -> dict[str, Any]:
    """What was learned, for people: no value of any record."""
    names = [column.name for column in model.columns]
    fields = []
    for column, weights in zip(model.columns, model.fields, strict=True):
        usual = [weights.bits(level, None) for level in range(len(weights.m))]
        fields.append(
            {
                "field": column.name,
                "kind": column.kind,
                "equal_bits": round(usual[0], 1),
                "different_bits": round(min(usual), 1),
                "frequent_values": len(weights.shares),
            }
        )
    return {
        "records": records,
        "version": model.version,
        "fields": fields,
        "left_out": {d.name: d.why for d in trained.described if d.kind is None},
        "exchanged": [[names[one], names[other]] for one, other in model.swapped],
        "blocks": [[f"{names[place]} {form}" for place, form in f] for f in model.families],
        "one_record_per_table": model.one_per_source,
        "link_from_bits": round(model.link, 2),
        "possible_from_bits": round(model.possible, 2),
        "prior_bits": round(model.prior, 2),
        "matches_expected": round(trained.matches_expected, 1),
        "expected": {
            "precision": round(trained.precision_expected, 4),
            "recall": round(trained.recall_expected, 4),
        },
    }
