"""A comparison as one HTML page: no script, nothing from elsewhere, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

import orjson

from penstock.evaluate.charts import Bar, Interval, bars, histogram, intervals
from penstock.evaluate.compare import LEVEL, RESAMPLES, Changed, Comparison, Difference

MOST: Final = 200
"""Questions that are shown; the JSON has all of them."""
_LONGEST: Final = 1200
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1d2530; --quiet: #66707d; --page: #fff; --line: #d9dee5;
  --a: #8a94a3; --b: #2f6fb5; --better: #2c8a57; --worse: #c2492f; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ee; --quiet: #97a1ae; --page: #14181d;
  --line: #333b45; --a: #7d8794; --b: #6aa5e6; --better: #5cc08a; --worse: #ea7d63;
  --card: #1c2229; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 880px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
.quiet { color: var(--quiet); fill: var(--quiet); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; }
td { white-space: nowrap; } td:first-child { white-space: normal; }
td.better, td.worse { font-weight: 600; }
.table { overflow-x: auto; }
.better { color: var(--better); fill: var(--better); stroke: var(--better); }
.worse { color: var(--worse); fill: var(--worse); stroke: var(--worse); }
.same { fill: var(--quiet); stroke: var(--quiet); }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12.5px; fill: var(--text); } svg text.quiet { fill: var(--quiet); }
rect.a, .key.a { fill: var(--a); background: var(--a); }
rect.b, .key.b { fill: var(--b); background: var(--b); }
rect.better, rect.worse, rect.same { stroke: none; }
line.grid { stroke: var(--line); } line.zero { stroke: var(--quiet); }
line.span { stroke-width: 3; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .3em; border-radius: 2px; }
article { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem;
  margin: .7rem 0; }
article h3 { font-size: 1rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin-top: .5rem; }
.pair > div { background: var(--card); padding: .5rem .7rem; border-radius: 4px;
  overflow-wrap: anywhere; white-space: pre-wrap; }
pre { background: var(--card); padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 600px) { .pair { grid-template-columns: 1fr; } }
"""


def page(found: Comparison) -> str:
    """The whole page."""
    a, b = escape(found.a), escape(found.b)
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            (
                '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
                "style-src 'unsafe-inline'\">"
            ),
            f"<title>{a} and {b}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{b} against {a}</h1>",
            (
                f'<p class="quiet">{escape(str(found.about["kind"]))} on '
                f"{escape(str(found.about['dataset']))}: {found.questions:,} questions, the same "
                "in both</p>"
            ),
            *_settings(found),
            *_measures(found),
            *_questions(found),
            "</body></html>\n",
        ]
    )


def _settings(found: Comparison) -> list[str]:
    if found.settings[0] == found.settings[1]:
        return []
    cards = [
        f'<div><b><span class="key {mark}"></span>{escape(name)}</b>\n'
        f"{escape(_json(settings))}</div>"
        for mark, name, settings in zip("ab", (found.a, found.b), found.settings, strict=True)
    ]
    return ["<h2>Configurations</h2>", f'<div class="pair">{"".join(cards)}</div>']


def _measures(found: Comparison) -> list[str]:
    shares = [one for one in found.differences if one.share]
    rows = "".join(_row(one) for one in found.differences)
    only = ""
    if found.only_in_one:
        names = ", ".join(_shown(name) for name in found.only_in_one)
        only = f'<p class="quiet">Only in one of them: {escape(names)}</p>'
    return [
        "<h2>By how much they differ</h2>",
        (
            f'<p class="quiet">With {LEVEL:.0%} intervals: paired bootstrap over questions, '
            f"{RESAMPLES:,} resamples, seed {found.seed}. An interval that holds zero shows no "
            "difference.</p>"
        ),
        intervals(
            [Interval(_shown(d.measure), d.difference, d.low, d.high, _mark(d)) for d in shares],
            worse=f"less in {found.b}",
            better=f"more in {found.b}",
        ),
        (
            '<div class="table"><table><tr><th>measure</th>'
            f"<th>{escape(found.a)}</th><th>{escape(found.b)}</th>"
            "<th>difference</th><th>interval</th><th>questions</th><th></th></tr>"
        ),
        f"{rows}</table></div>{only}",
        "<h2>All measures</h2>",
        (
            f'<p><span class="key a"></span>{escape(found.a)} &nbsp; '
            f'<span class="key b"></span>{escape(found.b)}</p>'
        ),
        bars([Bar(_shown(d.measure), d.a, d.b) for d in shares], found.a, found.b),
    ]


def _row(one: Difference) -> str:
    form = ".4f" if one.share else ".4g"
    return (
        f"<tr><td>{escape(_shown(one.measure))}</td><td>{one.a:{form}}</td><td>{one.b:{form}}</td>"
        f"<td>{one.difference:+{form}}</td><td>{one.low:+{form}} to {one.high:+{form}}</td>"
        f'<td>{one.questions:,}</td><td class="{_mark(one)}">{escape(one.verdict)}</td></tr>'
    )


def _questions(found: Comparison) -> list[str]:
    title = f"<h2>Questions that differ in {escape(_shown(found.by))}</h2>"
    if not found.changed:
        return [title, '<p class="quiet">None.</p>']
    better = len(found.changed) - found.lost
    shown = found.changed[:MOST]
    rest = len(found.changed) - len(shown)
    more = f'<p class="quiet">And {rest:,} more: the JSON has them all.</p>' if rest else ""
    return [
        title,
        (
            f'<p class="quiet">{found.lost:,} are worse in {escape(found.b)}, {better:,} better; '
            "the worst first.</p>"
        ),
        histogram(
            [one.difference for one in found.changed],
            worse_below=found.by not in ("latency_ms", "cost"),
        ),
        *(_article(found, one) for one in shown),
        more,
    ]


def _article(found: Comparison, one: Changed) -> str:
    expected = _expected(one.in_a)
    sides = [
        f'<div><b><span class="key {mark}"></span>{escape(name)}: {value:.4g}</b>\n'
        f"{escape(_cut(_said(side)))}</div>"
        for mark, name, value, side in (
            ("a", found.a, one.a, one.in_a),
            ("b", found.b, one.b, one.in_b),
        )
    ]
    return (
        f"<article><h3>{escape(_cut(one.question))}</h3>"
        f'<span class="quiet">{escape(one.id)}: {one.difference:+.4g}. Expected: '
        f'{escape(_cut(expected))}</span><div class="pair">{"".join(sides)}</div></article>'
    )


def _expected(side: Mapping[str, Any]) -> str:
    if side.get("answerable") is False:
        return "no answer"
    texts = [*_listed(side.get("answers")), *_listed(side.get("relevant"))]
    return "; ".join(texts) or "nothing in particular"


def _said(side: Mapping[str, Any]) -> str:
    """The answer with what it cites; of a search, the documents that each mode found first."""
    if "failed" in side:
        return f"failed: {side['failed']}"
    if "answer" in side:
        keys = [str(c.get("key")) for c in side.get("citations") or () if isinstance(c, Mapping)]
        return f"{side['answer']}\n" + (f"cites {', '.join(keys)}" if keys else "cites nothing")
    found = side.get("found")
    modes = found.items() if isinstance(found, Mapping) else ()
    return "\n".join(f"{mode}: {', '.join(_listed(keys)) or 'nothing'}" for mode, keys in modes)


def _listed(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, Sequence) else []


def _mark(one: Difference) -> str:
    return one.verdict if one.verdict in ("better", "worse") else "same"


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
