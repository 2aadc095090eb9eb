"""An edit history goes through the pipeline, is counted, and ends as the last state would."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigError
from penstock.evaluate.edits import evaluate_edits

PARAGRAPHS = [f"Paragraph {n} tells of the river, and of what it does in month {n}. " * 5
              for n in range(40)]  # fmt: skip


def written(path: Path, events: list[dict[str, Any]]) -> Path:
    with lzma.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(event) + "\n" for event in events)
    return path


@pytest.mark.timeout(120)
async def test_an_edit_history_is_replayed_counted_and_compared(tmp_path: Path) -> None:
    """Edits of one sentence cost a chunk; the other ways cost what they say."""
    base = "Guide\n=====\n\n" + "\n\n".join(PARAGRAPHS)
    edited = base.replace("month 20", "month twenty", 1)
    marked = edited.replace("Guide\n=====", "# Guide")
    events = [
        {"op": "create", "path": "a.md", "text": base},
        {"op": "create", "path": "b.md", "text": "# Short\n\nOne line."},
        {"op": "update", "path": "a.md", "text": edited},
        {"op": "update", "path": "a.md", "text": marked},
        {"op": "delete", "path": "b.md"},
    ]
    said: list[str] = []
    report = await evaluate_edits(written(tmp_path / "h.jsonl.xz", events), tell=said.append)
    assert report["equal_to_final_state"] is True
    assert (report["events"], report["edits"], report["documents"]) == (5, 2, 1)
    assert report["characters_whole_document"] == len(edited) + len(marked)
    assert 0 < report["characters_embedded"] < 900
    assert report["characters_embedded"] < report["characters_fixed_size"]
    assert report["characters_first_versions"] > len(base)
    assert said
    assert json.dumps(report)


async def test_a_history_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    """A sentence says which line, and what was expected."""
    wrong = written(tmp_path / "h.jsonl.xz", [{"op": "create", "path": "a"}, {"no": 1}])
    with pytest.raises(ConfigError, match="line 1"):
        await evaluate_edits(wrong)
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="'op', 'path' and 'text' in line 1"):
        await evaluate_edits(tmp_path / "x.jsonl")
