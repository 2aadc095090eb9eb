"""What documents say themselves about who may see them, and what is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from penstock.pipelines.knowledge.chunker import ChunkSettings
from penstock.pipelines.knowledge.own_lists import own_entry
from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.settings.permissions import MetadataPermissions, ObjectPermissions
from penstock.stores.base import OWN_ENTRY, SetPermissions


def change(said: Any, *, error: str | None = None, metadata: str = "{}") -> Change:
    schema = document_schema("docs", listed=True)
    text = None if error else "text"
    written = said if isinstance(said, str) else json.dumps(said)
    row = ("a.md", None, "text/plain", text, "digest", "1", None, metadata, error, written)
    return Change(schema, Op.CREATE, ("a.md",), Position("1"), Microseconds(1), after=row)


@pytest.mark.parametrize(
    ("said", "allow", "deny"),
    [
        ({"allow": "user:ada, group:hr,everyone\tuser:bob"}, 4, []),
        ({"allow": "user:ada", "deny": "user:bob"}, 1, ["user:bob"]),
        ({"deny": "user:bob"}, 0, ["user:bob"]),
        ({"allow": None, "deny": None}, 0, []),
        ({"allow": " , "}, 0, []),
        ({"allow": "user:e\u0301ve"}, 1, []),
    ],
)
def test_what_a_document_says(said: Any, allow: int, deny: list[str]) -> None:
    entry = own_entry(change(said))
    assert (entry.place, entry.entry, entry.problem) == ("a.md", OWN_ENTRY, None)
    assert (len(entry.allow or ()), entry.deny) == (allow, deny)
    assert entry.allow is not None, "it never falls back on what a place above allows"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"allow": "ada"}, "got 'ada'.*in the metadata for allow"),
        ({"allow": "user:ada", "deny": "user: bob"}, "expected the name of a user.*for deny"),
        ({"allow": "user:Ada Lovelace"}, "got 'Lovelace'"),
        ({"allow": "Everyone"}, "got 'Everyone'"),
        ({"allow": "user:ada;user:bob", "deny": "bob"}, "got 'bob'"),
        ({"problem": "it was refused", "allow": "everyone"}, "it was refused"),
        ("[]", "JSON object"),
        ("{", "JSON"),
    ],
)
def test_g7_what_cannot_be_read_closes_the_document(said: Any, reason: str) -> None:
    """Nothing is guessed, and it is a dead letter; its text is stored all the same."""
    pipeline = KnowledgePipeline("knowledge", ("docs",), ChunkSettings(), listed=True)
    drafts, [effect], [rejected] = pipeline._draft([change(said)])
    assert isinstance(effect, SetPermissions)
    [entry] = effect.entries
    assert entry.problem == rejected.reason
    assert (list(entry.allow or ()), list(entry.deny)) == ([], [])
    assert re.search(reason, rejected.reason)
    assert [draft.key for draft in drafts] == ["a.md"]


def test_g7_a_list_counts_without_a_text_and_nothing_else_is_taken_for_one() -> None:
    pipeline = KnowledgePipeline("knowledge", ("docs",), ChunkSettings(), listed=True)
    drafts, [effect], [rejected] = pipeline._draft([change({"allow": "user:ada"}, error="broken")])
    assert isinstance(effect, SetPermissions)
    assert effect.entries[0].allow == ["user:ada"]
    assert (drafts, rejected.reason) == ([], "broken")
    older = change({}, metadata='{"permissions": {"allow": "everyone"}, "allow": "everyone"}')
    older = older._replace(schema=document_schema("docs"), after=(older.after or ())[:-1])
    assert own_entry(older).allow == []
    gone = older._replace(op=Op.DELETE, after=None)
    assert own_entry(gone).gone


def test_which_keys_are_keys() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ObjectPermissions)
    assert adapter.validate_python("metadata") == MetadataPermissions(type="metadata")
    for wrong, reason in [
        ({"allow": "x-amz-meta-who"}, "without x-amz-meta-"),
        ({"allow": "two words"}, "expected a key of metadata"),
        ({"allow": "a", "deny": "A"}, "expected two keys of metadata"),
    ]:
        with pytest.raises(ValidationError, match=reason):
            adapter.validate_python({"type": "metadata", **wrong})
