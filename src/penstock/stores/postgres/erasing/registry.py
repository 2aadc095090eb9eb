"""Every part of a project database that can hold somebody, in the order in which they are erased.

Who adds a table adds it to a holder here, or says in `NOTHING_PERSONAL` why it holds nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from penstock.stores.postgres.erasing import knowledge, people, rest, rows, told
from penstock.stores.postgres.erasing.base import Holder

HOLDERS: Final = (
    Holder("dead letters", ("dead_letters",), rows.erase_letters),
    Holder("permissions", ("permissions",), rest.erase_entries),
    Holder("live tables", (), rows.erase_rows),
    Holder("marks of deleted rows", ("tombstones",), rows.erase_tombstones),
    Holder(
        "profiles",
        (
            "profile_records",
            "profile_bearers",
            "profiles",
            "profile_events",
            "profile_refusals",
            "profile_decisions",
            "profile_decision_records",
            "profile_facts",
            "profile_members",
            "profile_member_events",
            "profile_due",
            "profile_blocks",
            "profile_matches",
        ),
        people.erase_profiles,
    ),
    Holder("weights of matching", ("profile_models",), told.erase_weights),
    Holder(
        "answers and conversations",
        (
            "ledger_contents",
            "ledger_items",
            "ledger_uses",
            "ledger_once",
            "sessions",
            "session_turns",
            "session_forms",
        ),
        told.erase_told,
    ),
    Holder("documents", ("documents", "chunks"), knowledge.erase_documents),
    Holder("vectors without a text", ("vectors", "loose_vectors"), knowledge.erase_loose),
    Holder("words", ("postings", "fresh_postings"), knowledge.erase_postings),
    Holder("names in permissions", ("lists", "memberships"), rest.erase_names),
    Holder("keys of applications", ("api_keys",), rest.erase_keys),
    Holder("states of sources", ("producer_state",), rest.erase_states),
    Holder("reports of runs", ("run_reports",), rest.erase_reports),
    Holder("on their way", ("pushes", "rate_buckets"), rest.erase_on_the_way),
)

LOG_TABLES: Final = ("log_batches",)
"""What the log's own eraser answers for."""

NOTHING_PERSONAL: Final[Mapping[str, str]] = {
    "migrations": "numbers and digests of our own files",
    "log_topics": "names of sources",
    "log_partitions": "positions",
    "producers": "names of sources",
    "consumers": "positions of pipelines",
    "workers": "names of hosts and processes",
    "leases": "names of sources and partitions",
    "live_tables": "names of tables and columns",
    "models": "names of models",
    "model_usage": "counts by model and day",
    "model_pace": "times by model",
    "model_references": "the vector of a fixed text of ours",
    "serving_models": "numbers of models",
    "text_statistics": "counts",
    "languages": "names of languages",
    "second_stores": "names of stores, and ages by source",
    "second_store_work": "numbers of documents and chunks that are gone",
    "permission_rules": "what the project file says of tables",
    "permission_tables": "what the project file says of tables",
    "profile_kinds": "what the project file says, blocked values included: mend it there",
    "profile_sweeps": "positions",
    "profile_segments": "what the project file says",
    "profile_followers": "names of kinds of profiles",
    "ledger_heads": "hashes and a random key",
    "ledger_entries": "times, names of models, counts, salted hashes of what is kept elsewhere",
    "model_spending": "amounts by day, model and the id of an API key",
    "model_budgets": "amounts by day and the id of an API key",
    "model_canaries": "names of models, and counts",
    "model_canary_events": "names of models, counts, and what was decided of them",
    "erasure_secrets": "a random number",
    "erasures": "keyed digests, counts, the reason that was given",
    "erasure_plans": "sealed, and deleted when the erasure ends",
    "suppressions": "keyed digests",
}
