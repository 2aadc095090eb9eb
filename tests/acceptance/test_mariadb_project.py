"""A project whose source is a real MariaDB: from its tables to an answer, killed under writes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from penstock.testing.mariadb import MariaDBServer

if TYPE_CHECKING:
    from tests.acceptance.conftest import Home

pytestmark = pytest.mark.servers

SOURCE = """\
  shop:
    type: mysql
    dsn: "{dsn}"
    heartbeat: 0.2
    tables:
      products: {{title: "{{name}}", searched: [name, description], shown: [price, stock]}}
      orders: {{}}
"""
TABLES = (
    (
        "CREATE TABLE products (id int unsigned PRIMARY KEY AUTO_INCREMENT, name varchar(100), "
        "description text CHARACTER SET latin1, price decimal(10,2), stock smallint unsigned, "
        "changed timestamp(3) NULL DEFAULT current_timestamp(3))"
    ),
    (
        "CREATE TABLE orders (id bigint unsigned PRIMARY KEY, product int unsigned, "
        "at datetime(6), "
        "state enum('new','paid','sent'), doc json, took time, weight float)"
    ),
    (
        "INSERT INTO products (name, description, price, stock) VALUES "
        "('Fjord tent', 'A waterproof tent for two, made in Åre.', 189.00, 12), "
        "('Beach tent', 'Gives shade and nothing else.', 39.50, 3)"
    ),
    (
        "INSERT INTO orders SELECT seq, seq % 2 + 1, now(6), 'new', '{\"a\": 1}', "
        "'25:00:00', seq / 7 "
        "FROM seq_1_to_3000"
    ),
)


class Writer:
    """Writes to the shop from a thread until it is stopped."""

    def __init__(self, server: MariaDBServer, database: str) -> None:
        self._server = server
        self._database = database
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.written = 0
        self.error: BaseException | None = None
        self._thread.start()

    def _write(self) -> None:
        number = 10_000
        db = self._database
        try:
            while not self._over.is_set():
                number += 1
                self._server.run(
                    f"INSERT INTO {db}.orders VALUES ({number}, 1, now(6), 'new', NULL, NULL, 0.1)",
                    f"UPDATE {db}.orders SET state = 'paid', weight = {number} WHERE id = {number}",
                    f"UPDATE {db}.orders SET id = id + 1000000 WHERE id = {number - 5}",
                    f"DELETE FROM {db}.orders WHERE id = {number - 10}",
                    f"UPDATE {db}.products SET stock = {number % 100} WHERE id = 2",
                )
                self.written += 5
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = error

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert self.error is None, self.error


@pytest.fixture
def writer(mariadb: MariaDBServer, mariadb_database: str) -> Iterator[Writer]:
    mariadb.run(f"USE {mariadb_database}", *TABLES)
    made = Writer(mariadb, mariadb_database)
    yield made
    made._over.set()
    made._thread.join(30)


@pytest.mark.timeout(240)
def test_g2_from_the_tables_to_an_answer_killed_and_restarted_under_writes(
    home: Home, database_url: str, mariadb: MariaDBServer, mariadb_database: str, writer: Writer
) -> None:
    """Killed three times while others write, the live tables are those of the source in the end,
    and an answer knows the price that was just set."""
    sources = SOURCE.format(dsn=mariadb.dsn(mariadb_database))
    home.write(
        f'project: home\ndatabase: "{database_url}"\nserver: {{port: 0}}\nsources:\n{sources}'
    )
    checked = home.run("check")
    assert checked.code == 0, checked.output + checked.errors
    for _ in range(3):
        before = writer.written
        running = home.start("run")
        running.look(4)
        assert writer.written > before
        running.kill()
    running = home.start("run")
    running.look(3)
    writer.stop()
    mariadb.run(f"UPDATE {mariadb_database}.products SET price = 149.00 WHERE id = 1")
    running.signal().end()
    caught_up = home.run("run", "--once")
    assert caught_up.code == 0, caught_up.errors
    verified = home.run("verify", "--json")
    assert verified.code == 0, verified.output + verified.errors
    report = json.loads(verified.output)
    assert report["differences"] == 0
    compared = {part["what"]: part["compared"] for part in report["sources"]}
    assert compared[f"{mariadb_database}.orders"] > 3000
    asked = home.run("ask", "--json", "What is the price of the Fjord tent?")
    assert asked.code == 0, asked.errors
    assert "149.00" in asked.output
    status = home.run("status", "--json")
    assert status.code == 0, status.errors
