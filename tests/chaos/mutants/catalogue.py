"""The mutants: small patches of the engine, each with the campaign that must catch it.

A patch replaces a text that stands in its file exactly once; ``test_mutants_apply`` fails as soon
as that is no longer so. Keep anchors short and close to the decision that they spoil.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "src" / "penstock"


@dataclass(frozen=True)
class Patch:
    """One replacement in one file of the package."""

    file: str
    anchor: str
    replacement: str

    def apply(self, package: Path) -> None:
        """Change the file under ``package``; `ValueError` when the anchor is not there once."""
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.anchor) != 1:
            raise ValueError(
                f"expected this once in {self.file}, found it {text.count(self.anchor)} times: "
                f"{self.anchor!r}; follow the engine and mend tests/chaos/mutants/catalogue.py"
            )
        path.write_text(text.replace(self.anchor, self.replacement), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """A wrong engine: what is spoilt, and under which campaign it shows."""

    name: str
    spoils: str
    patches: Sequence[Patch]
    campaign: str

    def build(self, folder: Path) -> Path:
        """A copy of the package in ``folder`` with the patches applied; what goes on PYTHONPATH."""
        package = folder / "penstock"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, package, ignore=ignored)
        for patch in self.patches:
            patch.apply(package)
        return folder


def _one(file: str, anchor: str, replacement: str) -> tuple[Patch]:
    return (Patch(file, anchor, replacement),)


_CHANGES = "--kills 2 --fault kill --changes 2500 --large 0"
_DELIVERY = "--kills 0 --fault resent --changes 2000 --large 0"
_INGEST = "runtimes/ingest.py"
_PROCESS = "runtimes/process.py"
_ASSEMBLER = "sources/postgres/changes.py"
_KNOWLEDGE = "pipelines/knowledge/pipeline.py"

MUTANTS: Sequence[Mutant] = (
    # ------------------------------------------------------------------ G2: nothing lost
    Mutant(
        "acknowledge_early",
        "the source is acknowledged before the log is durable",
        _one(
            _INGEST,
            "    await producer.append(topic, changes, state=state,",
            "    await source.acknowledge(state)\n"
            "    await producer.append(topic, changes, state=state,",
        ),
        "--kills 0 --fault half_open_database --repeat 8 --changes 5000 --large 0",
    ),
    Mutant(
        "keepalive_acknowledges",
        "a sign of life confirms what was received, durable or not",
        _one(
            "sources/postgres/capture.py",
            "self._stream.confirm(self._stream.durable, ask=True)",
            "self._stream.confirm(max(self._stream.durable, self._reach()), ask=True)",
        ),
        "--kills 6 --fault kill --fault half_open_database --fault kill_at --at append.before "
        "--changes 4000 --large 0",
    ),
    Mutant(
        "position_before_results",
        "the position is committed before the results",
        (
            Patch(
                _PROCESS,
                '            reach(Boundary.APPLY, "before")\n',
                "            if step.move is not None:\n"
                "                async with self._store.transaction() as first:\n"
                "                    await first.move(step.move)\n"
                '            reach(Boundary.APPLY, "before")\n',
            ),
            Patch(
                _PROCESS,
                "            if step.move is not None:\n"
                "                await transaction.move(step.move)\n"
                '            reach(Boundary.COMMIT, "before")\n',
                '            reach(Boundary.COMMIT, "before")\n',
            ),
        ),
        "--kills 6 --fault kill_at --at apply.before --at apply.after --at commit.before "
        "--changes 5000 --large 0",
    ),
    Mutant(
        "results_in_another_transaction",
        "results are committed in a transaction of their own, after the position's",
        _one(
            _PROCESS,
            "            for effect in outcome.effects:\n"
            "                await transaction.apply(effect)\n"
            "            if letters:\n"
            "                await transaction.bury(letters)\n"
            '            reach(Boundary.APPLY, "after")\n'
            "            if step.move is not None:\n"
            "                await transaction.move(step.move)\n"
            '            reach(Boundary.COMMIT, "before")\n'
            '        reach(Boundary.COMMIT, "after")\n',
            "            if letters:\n"
            "                await transaction.bury(letters)\n"
            '            reach(Boundary.APPLY, "after")\n'
            "            if step.move is not None:\n"
            "                await transaction.move(step.move)\n"
            '            reach(Boundary.COMMIT, "before")\n'
            '        reach(Boundary.COMMIT, "after")\n'
            "        async with self._store.transaction() as second:\n"
            "            for effect in outcome.effects:\n"
            "                await second.apply(effect)\n",
        ),
        "--kills 5 --fault kill_at --at commit.after --changes 5000 --large 0",
    ),
    Mutant(
        "tail_dropped",
        "the last change of a transaction is dropped",
        _one(
            _ASSEMBLER,
            "        self._begin = None\n        self.complete = len(self.changes)\n",
            "        self._begin = None\n"
            "        if self._place > 9:\n"
            "            self.changes.pop()\n"
            "        self.complete = len(self.changes)\n",
        ),
        _CHANGES,
    ),
    Mutant(
        "stop_swallows",
        "what was in hand when the process is told to stop counts as done",
        _one(
            _PROCESS,
            "            await ended([*(task for _, _, task in computing), *left])\n",
            "            await ended([*(task for _, _, task in computing), *left])\n"
            "            for part, batch, _ in computing:\n"
            "                try:\n"
            "                    await self._commit(part, batch, Outcome(()))\n"
            "                except (PenstockError, asyncio.CancelledError):\n"
            "                    pass\n",
        ),
        "--kills 0 --fault stop --changes 6000 --large 0 --repeat 12",
    ),
    Mutant(
        "reads_from_too_late",
        "the stream is resumed a little after where the log ends",
        _one(
            "sources/postgres/capture.py",
            "LOGICAL {format_lsn(resume_lsn)} ",
            "LOGICAL {format_lsn(resume_lsn + 65536)} ",
        ),
        "--kills 4 --fault kill --changes 4000 --large 0",
    ),
    Mutant(
        "dead_letter_skipped",
        "what cannot be processed is passed over in silence",
        _one(_PROCESS, "        if not rejected:\n            return []\n", "        return []\n"),
        _CHANGES,
    ),
    # ------------------------------------------------------------------ G2: nothing twice
    Mutant(
        "no_dedup",
        "what the source sends again is taken again",
        _one(
            _ASSEMBLER,
            "        if begin.commit_lsn < commit_lsn:\n            self._skip = _EVERYTHING\n",
            "        if begin.commit_lsn < commit_lsn:\n            self._skip = 0\n",
        ),
        _DELIVERY,
    ),
    Mutant(
        "lsn_only_dedup",
        "a transaction of which a part is in the log counts as known",
        _one(
            _ASSEMBLER,
            "        if begin.commit_lsn < commit_lsn:\n",
            "        if begin.commit_lsn <= commit_lsn:\n",
        ),
        "--kills 5 --fault kill_in_large --changes 3000 --large 25000",
    ),
    Mutant(
        "state_after_append",
        "the source's position is stored after the changes, in a step of its own",
        _one(
            _INGEST,
            "    await producer.append(topic, changes, state=state, as_of=max(times) if times else None)\n"
            '    reach(boundary, "after")\n',
            "    await producer.append(topic, changes, as_of=max(times) if times else None)\n"
            '    reach(boundary, "after")\n'
            "    await producer.append(topic, [], state=state)\n",
        ),
        "--kills 5 --fault kill_at --at append.after --changes 4000 --large 0",
    ),
    Mutant(
        "producer_not_fenced",
        "a process that was replaced may go on appending",
        _one(
            "log/embedded.sql",
            "ON p.producer = s.producer AND p.epoch = s.epoch\n",
            "ON p.producer = s.producer AND p.epoch > 0\n",
        ),
        "--kills 0 --fault outlive_lease --at append.before --changes 2500 --large 0 --repeat 4",
    ),
    Mutant(
        "consumer_not_fenced",
        "a process that was replaced may move the position, and keeps its sessions",
        (
            Patch(
                "stores/postgres/store.sql",
                "  AND position = %(expected)s\n",
                "  AND %(expected)s::bigint >= 0\n",
            ),
            Patch(  # which alone would have kept it from committing
                "log/leases.py",
                '                    await connection.execute(self._sql["end_sessions"], {"sessions": sessions})\n',
                "                    pass\n",
            ),
        ),
        "--kills 0 --fault outlive_lease --at apply.before --changes 2500 --large 0 --repeat 4",
    ),
    # ------------------------------------------------------------------ G1: order
    Mutant(
        "older_overwrites",
        "an older version of a row replaces a newer one",
        _one(
            "stores/postgres/row_statements.py",
            "ON CONFLICT ({key}) DO UPDATE SET {assignments}\n"
            "WHERE l.{position} < excluded.{position}\n",
            "ON CONFLICT ({key}) DO UPDATE SET {assignments}\n",
        ),
        "--kills 0 --fault replayed --changes 3000 --large 0 --repeat 3",
    ),
    Mutant(
        "copy_runs_ahead",
        "rows of a copy are given before the stream has come to where they were read",
        _one(
            "sources/postgres/capture.py",
            "return self._end_of_record(lsn) <= self._reach()",
            "return True",
        ),
        "--kills 0 --fault late_sender --repeat 3 --changes 4000 --large 0",
    ),
    Mutant(
        "copy_hides_changes",
        "rows of a copy count as later than what changed after it",
        _one(
            "sources/postgres/taking.py",
            'prefix = f"{lsn:016X}."',
            'prefix = f"{lsn + 400_000:016X}."',
        ),
        "--kills 3 --fault kill --changes 3000 --large 0",
    ),
    Mutant(
        "old_key_ignored",
        "a row that moves to another key stays at the old one too",
        _one(
            _ASSEMBLER,
            "        self._add(plan, Op.UPDATE, key, row, old, old_key)\n",
            "        self._add(plan, Op.UPDATE, key, row, old, None)\n",
        ),
        _CHANGES,
    ),
    Mutant(
        "trade_loses_chunks",
        "rows that trade keys in one transaction lose their text",
        _one(
            _KNOWLEDGE,
            "            drafts.leave(before, change, _Draft(change, old_key, deleted=True))\n",
            "            drafts.set(_Draft(change, old_key, deleted=True))\n",
        ),
        "--kills 3 --fault kill --changes 8000 --large 0",
    ),
    # ------------------------------------------------------------------ values
    Mutant(
        "toast_to_null",
        "a value that was left out because it did not change becomes NULL",
        _one(
            "sources/postgres/decoder.py",
            "            append(UNCHANGED)\n",
            "            append(None)\n",
        ),
        _CHANGES,
    ),
    Mutant(
        "toast_to_sentinel",
        "a value that was left out because it did not change becomes a placeholder",
        _one(
            "sources/postgres/decoder.py",
            "            append(UNCHANGED)\n",
            '            append("__debezium_unavailable_value")\n',
        ),
        _CHANGES,
    ),
    Mutant(
        "moved_text_lost",
        "a text that was left out is looked for at a key that the row only passed through",
        _one(_KNOWLEDGE, "            base = meant.what.base\n", "            base = old_key\n"),
        "--kills 5 --fault kill --changes 16000 --large 0",
    ),
    # ------------------------------------------------------------------ G4: deletes, truncates
    Mutant(
        "truncate_forgotten",
        "a truncate is not a change",
        _one(
            _ASSEMBLER,
            "            if plan is not None:\n                self._add(plan, Op.TRUNCATE",
            "            if plan is not None and not oid:\n                self._add(plan, Op.TRUNCATE",
        ),
        _CHANGES,
    ),
    Mutant(
        "deletes_ignored",
        "a delete is not a change",
        _one(
            _ASSEMBLER,
            "        self._add(plan, Op.DELETE, plan.key(old), None, old)\n",
            "",
        ),
        _CHANGES,
    ),
    Mutant(
        "chunks_survive_delete",
        "a deleted row stays in the knowledge base",
        _one(
            _KNOWLEDGE,
            "        source, stream = change.schema.source, change.schema.stream\n"
            "        key = document_key(",
            "        if change.op is Op.DELETE:\n"
            "            return\n"
            "        source, stream = change.schema.source, change.schema.stream\n"
            "        key = document_key(",
        ),
        _CHANGES,
    ),
    Mutant(
        "chunks_survive_truncate",
        "the texts of a truncated table stay in the knowledge base",
        _one(
            _KNOWLEDGE,
            "                truncates.append(TruncateDocuments(source, stream, change.position))\n",
            "",
        ),
        "--kills 3 --fault kill --changes 5000 --large 0",
    ),
    Mutant(
        "old_version_stays",
        "the chunks of a document's former version are not removed",
        _one(
            "stores/postgres/replacement.py",
            "        plan.gone.extend(kept.id for hash_, kept in before.chunks.items() if hash_ not in staying)\n",
            "",
        ),
        _CHANGES,
    ),
    # ------------------------------------------------------------------ schema
    Mutant(
        "schema_change_lost",
        "columns that were added, dropped or renamed do not change the live table",
        _one(
            "stores/postgres/tables.py",
            '        elif table.columns != schema.columns and position > (table.columns_at or ""):\n',
            "        elif table.columns is None:\n",
        ),
        "--kills 3 --fault kill --changes 4000 --large 0",
    ),
    Mutant(
        "dropped_column_stays",
        "a column that was dropped at the source stays in the live table",
        _one(
            "stores/postgres/altering.py",
            "    for name in steps.drop:\n",
            "    for name in ():\n",
        ),
        "--kills 3 --fault kill --changes 4000 --large 0",
    ),
    Mutant(
        "doubt_not_settled",
        "rows that a new column with a default changed without a word are not read again",
        _one(
            "stores/postgres/altering.py",
            "    doubts = list(steps.doubts) if await _has_rows(connection, table) else []\n",
            "    doubts: list[str] = []\n",
        ),
        "--kills 3 --fault kill --changes 10000 --large 0",
    ),
)
