"""Why a profile was merged or split, and why two records are one person or two."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from penstock.identity.components import Partition, Refusal, Tie, Via
from penstock.identity.evidence import Identifier, Match, RecordKey
from penstock.identity.ids import Turn

_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Reason:
    """What ties records that came to those that were there, what was refused, and which records'
    changes brought it about; a few of each."""

    ties: tuple[Tie, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    causes: tuple[tuple[RecordKey, str], ...] = ()


def said(via: Via) -> str:
    """What ties two records, in words."""
    if isinstance(via, Identifier):
        return str(via)
    if isinstance(via, Match):
        fields = ", ".join(f"{name} {weight:+.1f}" for name, weight in via.fields)
        return f"match of weight {via.weight:.1f}" + (f" ({fields})" if fields else "")
    return f"decision {via}"


def reasons(
    turns: Sequence[Turn],
    partition: Partition,
    before: Mapping[RecordKey, str],
    causes: Mapping[RecordKey, str],
) -> list[tuple[Turn, Reason]]:
    """Each turn with its reason."""
    told = {"merged", "split", "moved", "restored", "gone"}
    if not any(turn.event in told for turn in turns):
        return [(turn, Reason()) for turn in turns]
    ties: dict[RecordKey, list[Tie]] = defaultdict(list)
    for tie in partition.ties:
        if before.get(tie.left) != before.get(tie.right):
            ties[tie.left].append(tie)
            ties[tie.right].append(tie)
    refusals: dict[RecordKey, list[Refusal]] = defaultdict(list)
    for refusal in partition.refusals:
        refusals[refusal.left].append(refusal)
        refusals[refusal.right].append(refusal)
    caused: dict[str, list[tuple[RecordKey, str]]] = defaultdict(list)
    for key in sorted(causes):
        if key in before:
            caused[before[key]].append((key, causes[key]))
    return [(turn, _reason(turn, ties, refusals, caused, causes)) for turn in turns]


def _reason(
    turn: Turn,
    ties: Mapping[RecordKey, Sequence[Tie]],
    refusals: Mapping[RecordKey, Sequence[Refusal]],
    caused: Mapping[str, Sequence[tuple[RecordKey, str]]],
    causes: Mapping[RecordKey, str],
) -> Reason:
    if turn.event == "created":
        return Reason()
    because = [(key, causes[key]) for key in turn.records if key in causes]
    because += [*caused.get(turn.profile, ()), *caused.get(turn.other or "", ())]
    return Reason(
        _few(ties, turn.records),
        _few(refusals, turn.records) if turn.event == "split" else (),
        tuple(dict.fromkeys(because))[:_SHOWN],
    )


_T = TypeVar("_T")


def _few(of: Mapping[RecordKey, Sequence[_T]], keys: Iterable[RecordKey]) -> tuple[_T, ...]:
    found = dict.fromkeys(one for key in keys for one in of.get(key, ()))
    return tuple(found)[:_SHOWN]


def path(partition: Partition, left: RecordKey, right: RecordKey) -> list[Tie] | None:
    """The ties that lead from one record to another, each turned so that it leads on; None where
    they are apart."""
    ties: dict[RecordKey, list[Tie]] = defaultdict(list)
    for tie in partition.ties:
        ties[tie.left].append(tie)
        ties[tie.right].append(Tie(tie.right, tie.left, tie.via))
    came: dict[RecordKey, Tie | None] = {left: None}
    front = deque([left])
    while front and right not in came:
        for tie in ties[front.popleft()]:
            if tie.right not in came:
                came[tie.right] = tie
                front.append(tie.right)
    if right not in came:
        return None
    found: list[Tie] = []
    step = came[right]
    while step is not None:
        found.append(step)
        step = came[step.left]
    return found[::-1]


def between(partition: Partition, left: RecordKey, right: RecordKey) -> list[Refusal]:
    """The ties that were refused between the parts of two records."""
    part = partition.part_of()
    ends = {part[left], part[right]}
    return [r for r in partition.refusals if {part[r.left], part[r.right]} == ends]
