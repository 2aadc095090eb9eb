"""The main job, from a change at the source to the next answer, as the demo tells it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

README = Path(__file__).parents[2] / "README.md"


def text_of(answer: dict[str, Any]) -> str:
    assert isinstance(answer["age_ms"], int | float) or not answer["citations"]
    return str(answer["text"])


@pytest.mark.timeout(180)
def test_the_demo_tells_the_truth(home: Home) -> None:
    """Changed facts are in the next answer with citations, unchanged ones stay, what the sources do
    not hold is not answered; nothing differs in the end, and no server is left behind."""
    told = home.run("demo", "--json", "--changes", "60", "--folder", "travel", limit_s=150)
    assert told.code == 0, told.errors
    result = told.json
    assert result["first_answer_s"] < 120
    price, policy, dog, tungsten = result["answers"]
    assert "189.00" in text_of(price["before"])
    assert "149.00" in text_of(price["after"])
    assert "17" in text_of(price["after"])
    assert "24 hours" in text_of(policy["before"])
    assert "72 hours" in text_of(policy["after"])
    assert "24 hours" not in text_of(policy["after"])
    assert text_of(dog["before"]) == text_of(dog["after"])
    assert dog["after"]["citations"]
    for answer in (tungsten["before"], tungsten["after"]):
        assert answer["abstained"] is True
        assert answer["citations"] == []
    cited = {c["source"]: c["key"] for a in (price, policy) for c in a["after"]["citations"]}
    assert cited == {"travel": "public.flights/PS204", "policies": "cancellation.md"}
    for kind in ("rows", "documents"):
        numbers = result["freshness_ms"][kind]
        assert 0 <= numbers["p50"] <= numbers["p95"] <= numbers["p99"]
    # All chunks there are, one for the changed sentence, one for each of six revised policies.
    assert 0 < result["embedded_chunks"] < 150
    assert result["reused_chunks"] > 0
    assert 0 < result["peak_rss_mb"] < 1000
    assert result["verify"] == {"differences": 0}
    who = result["profiles"]
    assert who["records"] == ["public.card_holders", "public.customers", "public.tickets"]
    right, wrong, again = who["answers"]
    assert "vegetarian meal" in right
    assert "aisle" in wrong
    assert again == right
    assert "phone:4741111111" in who["because"]
    folder = home.folder / "travel"
    assert not list(folder.rglob("postmaster.pid"))


def test_the_readme_examples_run(home: Home, database_url: str) -> None:
    """README's programs: one prints the ages of the sources and an answer, one asks over HTTP."""
    home.project(database_url)
    (home.documents / "tents.md").write_text(
        "# Tents\n\nThe Fjord tent is waterproof and in stock. The Beach tent is not.\n"
    )
    assert home.run("run", "--once").code == 0
    local, remote = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    said = _ran(local, home.folder)
    assert said.startswith("documents ")
    assert "Fjord tent" in said
    server = home.start("serve").wait_for("the API is at")
    found = re.search(r"http://\S+", server.output)
    assert found is not None
    key = home.run("keys", "create", "website").output.split()[0]
    said = _ran(
        remote.replace("http://127.0.0.1:8321", found[0]).replace("psk_...", key), home.folder
    )
    assert "Fjord tent" in said


def _ran(program: str, folder: Path) -> str:
    """What a program prints that somebody has typed from the README."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
