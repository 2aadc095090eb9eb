"""An erasure that is killed anywhere is finished by whoever starts next, and no byte is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.conftest import Home

from penstock.boundaries import Boundary, Point, Side
from penstock.torture.trap import Order

SOURCES = """
  crm: {{type: postgres, dsn: "{dsn}", heartbeat: 0.1, tables: {{contacts: {{searched: [notes]}}}}}}
  documents: {{type: files, path: ./documents, heartbeat: 0.1}}
"""
PROFILES = """
profiles:
  customer:
    tables:
      crm.contacts: {identifiers: {email: email}, traits: {name: name}}
"""


def killed(home: Home, side: Side, times: int, *arguments: str) -> None:
    """Run a command that kills itself at a boundary."""
    orders = home.folder / "orders"
    Order(Point(Boundary.ERASE, side), times, "kill").write(orders)
    done = subprocess.run(
        [sys.executable, "-m", "penstock.cli", *arguments],
        cwd=home.folder,
        env={**os.environ, "PENSTOCK_BOUNDARIES": str(orders)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, (done.stdout, done.stderr)


def bytes_found(folder: Path, *values: str) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            found += [f"{path}: {value}" for value in values if value.encode() in data]
    return found


def ids_of(home: Home) -> list[int]:
    shown = home.run("sql", "SELECT id FROM crm.contacts ORDER BY id", "--json").json
    return [int(row["id"]) for row in shown]


@pytest.mark.timeout(180)
def test_g9_an_erasure_that_is_killed_at_several_points_is_finished_by_the_next_run(
    home: Home, source_url: str
) -> None:
    with psycopg.connect(source_url, autocommit=True) as source:
        source.execute(
            "CREATE TABLE contacts (id int PRIMARY KEY, name text, email text, notes text)"
        )
        source.execute(
            "INSERT INTO contacts SELECT n, 'Person ' || n, 'p' || n || '@canary.example', "
            "'canarynotes' || n || ' prefers seat ' || n FROM generate_series(1, 40) n"
        )
    home.project("embedded", SOURCES.format(dsn=source_url), PROFILES)
    (home.documents / "person7.md").write_text("# canarytitle7\n\nThe file of canaryperson7.\n")
    (home.documents / "person8.md").write_text("# canarytitle8\n\nThe file of canaryperson8.\n")
    home.run("run", "--once").sentence(0)
    # Versions from before, in the log and in dead rows.
    with psycopg.connect(source_url, autocommit=True) as source:
        source.execute("UPDATE contacts SET notes = 'canaryold' || id || ' and ' || notes")
    home.run("run", "--once").sentence(0)
    data = home.folder / ".penstock"
    assert bytes_found(data, "p7@canary.example", "canarynotes7")
    subjects = ("email:p7@canary.example", "documents/person7.md")
    shown = home.run("export-subject", subjects[0]).json
    assert [row["values"]["email"] for row in shown["rows"]] == ["p7@canary.example"]
    assert len(shown["history"]) == 2

    killed(home, "before", 1, "erase", *subjects, "--reason", "r1", "--yes")
    assert home.run("erase", "--list", "--json").json == []  # nothing was promised yet
    killed(home, "after", 1, "erase", *subjects, "--reason", "r1", "--yes")
    killed(home, "before", 2, "erase")
    killed(home, "after", 5, "erase")
    killed(home, "before", 9, "run", "--once")
    killed(home, "after", 12, "erase")
    (home.documents / "person7.md").unlink()
    home.run("run", "--once").sentence(0)
    [erasure] = home.run("erase", "--list", "--json").json
    assert erasure["state"] == "done"
    search = erasure["receipt"]["search"]
    assert (search["found"], search["left"], search["bytes_left"]) == (0, {}, {})
    assert search["files"] > 100
    receipt = home.folder / "receipt.json"
    receipt.write_text(json.dumps(erasure["receipt"]))
    home.run("erase", "--verify", "receipt.json").sentence(0)
    receipt.write_text(json.dumps({**erasure["receipt"], "records": 3}))
    changed = home.run("erase", "--verify", "receipt.json").sentence(2)
    assert "something in it was changed" in changed
    assert not home.servers()
    gone = ("p7@canary.example", "canarynotes7 ", "canaryold7 ", "canaryperson7", "canarytitle7")
    assert bytes_found(data, *gone) == []
    # Everybody else is as before, and the source cannot bring them back.
    with psycopg.connect(source_url, autocommit=True) as source:
        source.execute("UPDATE contacts SET notes = notes || ' again'")
    home.run("run", "--once").sentence(0)
    assert ids_of(home) == [n for n in range(1, 41) if n != 7]
    assert home.run("profiles", "list", "--json").json["totals"]["profiles"] == 39
    assert bytes_found(data, *gone) == []
    # A suppression that was a mistake is lifted: new data comes in again.
    home.run("erase", "--lift", str(erasure["number"]), "--yes").sentence(0)
    with psycopg.connect(source_url, autocommit=True) as source:
        source.execute("UPDATE contacts SET notes = 'new' WHERE id = 7")
    home.run("run", "--once").sentence(0)
    assert home.run("profiles", "list", "--json").json["totals"]["profiles"] == 40
