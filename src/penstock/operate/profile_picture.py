"""A picture of the identity graph around a profile: records, the identifiers that they bear, and
what ties them or was refused. Pure: from what was worked out to an SVG that needs nothing else."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from penstock.identity.components import Refusal
from penstock.identity.evidence import Identifier, Record, RecordKey
from penstock.identity.graph import Whole
from penstock.identity.reasons import said

MOST_RECORDS: Final = 200
"""More than this is no picture; what is left out is counted."""

_CARD_W: Final = 300
_CARD_H: Final = 58
_GAP: Final = 14
_LEFT: Final = 250
_PILL_X: Final = 740
_PILL_W: Final = 300
_PILL_H: Final = 34
_TOP: Final = 64
_PALETTE: Final = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#ede9fe", "#cffafe")
_STYLE: Final = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#111827}"
    ".h{font-size:16px;font-weight:600}.p{font-weight:600}.d{fill:#6b7280;font-size:11px}"
    ".c{fill:#fff;stroke:#9ca3af}.i{fill:#f9fafb;stroke:#6b7280}"
    ".x{fill:#f3f4f6;stroke:#d1d5db;stroke-dasharray:3 3}"
    "path{fill:none;stroke-width:1.6}.t{stroke:#2563eb}.n{stroke:#d1d5db;stroke-dasharray:3 3}"
    ".m{stroke:#7c3aed}.r{stroke:#dc2626;stroke-dasharray:5 4}.rt{fill:#dc2626}.mt{fill:#7c3aed}"
)


@dataclass(frozen=True, slots=True)
class _Pill:
    """An identifier: who bears it, and why it ties nobody if it does not."""

    identifier: Identifier
    bearers: Sequence[RecordKey]
    ignored: str | None


def svg(
    whole: Whole, title: str, ignored: Mapping[Identifier, str], *, most: int = MOST_RECORDS
) -> str:
    """The picture. ``ignored`` says of identifiers why they tie nobody."""
    parts = _shown(whole, most)
    keys = [key for part in parts for key in part]
    places = dict(_places(parts))
    pills = _pills(whole, keys, ignored)
    heights = _pill_places(pills, places)
    height = max(
        [_TOP + 40]
        + [y + _CARD_H + 30 for y in places.values()]
        + [y + _PILL_H + 30 for y in heights]
    )
    width = _PILL_X + _PILL_W + 20
    left_out = sum(map(len, whole.partition.parts)) - len(keys)
    body = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">'
        ),
        f"<title>{_escaped(title)}</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(20, 30, title, "h"),
    ]
    if left_out:
        body.append(_text(20, 50, f"{left_out:,} more records are not shown", "d"))
    body += _boxes(parts, places, whole)
    for pill, y in zip(pills, heights, strict=True):
        body += _edges(pill, y, places, whole)
    body += _arcs(whole, places)
    body += [_card(whole.members[key].record, places[key]) for key in keys]
    body += [_drawn(pill, y) for pill, y in zip(pills, heights, strict=True)]
    return "\n".join([*body, "</svg>\n"])


def html(picture: str, title: str, evidence: Iterable[Sequence[str]]) -> str:
    """A page with the picture, and the evidence as a table. No script, nothing from elsewhere."""
    rows = "".join(
        "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in evidence
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_escaped(title)}</title><style>"
        "body{font:14px ui-sans-serif,system-ui,sans-serif;margin:24px;color:#111827}"
        "table{border-collapse:collapse}td,th{border-bottom:1px solid #e5e7eb;padding:4px 12px;"
        "text-align:left;vertical-align:top}svg{max-width:100%;height:auto}</style></head><body>\n"
        f"{picture}\n<table><thead><tr><th>one</th><th>other</th><th>by</th><th>so</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></body></html>\n"
    )


def evidence(whole: Whole) -> Iterator[tuple[str, str, str, str]]:
    """What the picture shows between records, as rows of text."""
    for tie in whole.partition.ties:
        yield str(tie.left), str(tie.right), said(tie.via), "one person"
    for refusal in whole.partition.refusals:
        yield str(refusal.left), str(refusal.right), said(refusal.via), f"refused: {refusal.why}"


# --------------------------------------------------------------------------- where things are


def _shown(whole: Whole, most: int) -> list[list[RecordKey]]:
    """The parts, the largest first, as far as there is room."""
    room = most
    shown: list[list[RecordKey]] = []
    for part in sorted(whole.partition.parts, key=lambda part: (-len(part), part)):
        if room:
            shown.append(list(part[:room]))
            room -= len(shown[-1])
    return shown


def _places(parts: Sequence[Sequence[RecordKey]]) -> Iterator[tuple[RecordKey, int]]:
    y = _TOP + 34
    for part in parts:
        for key in part:
            yield key, y
            y += _CARD_H + _GAP
        y += 44


def _pills(
    whole: Whole, keys: Sequence[RecordKey], ignored: Mapping[Identifier, str]
) -> list[_Pill]:
    bearers: dict[Identifier, list[RecordKey]] = defaultdict(list)
    for key in keys:
        for identifier in whole.members[key].record.identifiers:
            bearers[identifier].append(key)
    order = {key: number for number, key in enumerate(keys)}
    found = [_Pill(i, of, ignored.get(i)) for i, of in bearers.items()]
    return sorted(
        found, key=lambda p: (sum(order[k] for k in p.bearers) / len(p.bearers), p.identifier)
    )


def _pill_places(pills: Sequence[_Pill], places: Mapping[RecordKey, int]) -> list[int]:
    """Each as near to the middle of its records as those above it let it be."""
    found: list[int] = []
    free = _TOP
    for pill in pills:
        middle = sum(places[key] for key in pill.bearers) / len(pill.bearers)
        free = max(free, int(middle) + (_CARD_H - _PILL_H) // 2)
        found.append(free)
        free += _PILL_H + 10
    return found


# --------------------------------------------------------------------------- what is drawn


def _boxes(
    parts: Sequence[Sequence[RecordKey]], places: Mapping[RecordKey, int], whole: Whole
) -> Iterator[str]:
    for number, part in enumerate(parts):
        top, bottom = places[part[0]] - 26, places[part[-1]] + _CARD_H + 10
        ids = {m.place.profile for key in part if (m := whole.members[key]).place is not None}
        name = ", ".join(sorted(ids)) or "not in a profile yet"
        color = _PALETTE[number % len(_PALETTE)]
        yield (
            f'<rect x="{_LEFT - 12}" y="{top}" width="{_CARD_W + 24}" height="{bottom - top}" '
            f'rx="10" fill="{color}"/>'
        )
        yield _text(_LEFT, top + 17, name, "p")


def _card(record: Record, y: int) -> str:
    traits = ", ".join(f"{name}: {value}" for name, value in record.traits.items())
    lines = [
        (
            f'<g><title>{_escaped(str(record.key))}\n{_escaped(traits)}</title><rect class="c" '
            f'x="{_LEFT}" y="{y}" width="{_CARD_W}" height="{_CARD_H}" rx="6"/>'
        ),
        _text(_LEFT + 10, y + 18, _short(str(record.key), 42), "p"),
        _text(_LEFT + 10, y + 34, _short(traits, 44), ""),
        _text(_LEFT + 10, y + 50, f"as of {_moment(record.at)}", "d"),
        "</g>",
    ]
    return "".join(lines)


def _drawn(pill: _Pill, y: int) -> str:
    name = "x" if pill.ignored else "i"
    note = (
        f"ties nobody: {pill.ignored}"
        if pill.ignored
        else "one record"
        if len(pill.bearers) == 1
        else f"{len(pill.bearers)} records"
    )
    return (
        f"<g><title>{_escaped(f'{pill.identifier}: {note}')}</title>"
        f'<rect class="{name}" x="{_PILL_X}" y="{y}" width="{_PILL_W}" height="{_PILL_H}" '
        f'rx="17"/>{_text(_PILL_X + 14, y + 15, _short(str(pill.identifier), 44), "")}'
        f"{_text(_PILL_X + 14, y + 28, _short(note, 50), 'd')}</g>"
    )


def _edges(pill: _Pill, y: int, places: Mapping[RecordKey, int], whole: Whole) -> Iterator[str]:
    ties = len(pill.bearers) > 1 and pill.ignored is None
    for key in pill.bearers:
        record = whole.members[key].record
        start, end = places[key] + _CARD_H // 2, y + _PILL_H // 2
        x, bend = _LEFT + _CARD_W, (_PILL_X - _LEFT - _CARD_W) // 2
        said_of = f"{record.key} bears {pill.identifier} as of {_moment(record.at)}"
        yield (
            f'<path class="{"t" if ties else "n"}" d="M{x} {start} C{x + bend} {start} '
            f'{_PILL_X - bend} {end} {_PILL_X} {end}"><title>{_escaped(said_of)}</title></path>'
        )


def _arcs(whole: Whole, places: Mapping[RecordKey, int]) -> Iterator[str]:
    """What ties or parts two records by itself: matches, decisions and refusals."""
    between: list[tuple[RecordKey, RecordKey, str, str]] = [
        (tie.left, tie.right, said(tie.via), "m")
        for tie in whole.partition.ties
        if not isinstance(tie.via, Identifier)
    ]
    between += [(r.left, r.right, _refused(r), "r") for r in whole.partition.refusals]
    for number, (left, right, label, name) in enumerate(between):
        if left not in places or right not in places:
            continue
        start, end = (places[key] + _CARD_H // 2 for key in (left, right))
        out = _LEFT - 60 - 22 * (number % 5)
        yield (
            f'<path class="{name}" d="M{_LEFT} {start} C{out} {start} {out} {end} {_LEFT} {end}">'
            f"<title>{_escaped(f'{left} and {right}: {label}')}</title></path>"
        )
        yield _text(12, (start + end) // 2 - 4, _short(label, 36), f"{name}t")


def _refused(refusal: Refusal) -> str:
    because = {
        "decision": f"decision {refusal.detail}",
        "limit": f"too many of {refusal.detail}",
        "size": "too large: waits",
    }[refusal.why]
    return f"{because} ({said(refusal.via)})"


_UNWRITABLE: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _escaped(text: str) -> str:
    """As text in XML, whatever it holds: some characters cannot be written there at all."""
    return escape(_UNWRITABLE.sub("\ufffd", text))


def _text(x: int, y: int, text: str, name: str) -> str:
    return f'<text x="{x}" y="{y}" class="{name}">{_escaped(text)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
