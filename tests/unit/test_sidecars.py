"""Files that say who may see others: what they say, and what is wrong with them."""

from __future__ import annotations

import pytest

from penstock.errors import BadRecordError, ConfigError
from penstock.pipelines.knowledge.chunker import ChunkSettings
from penstock.pipelines.knowledge.pipeline import KnowledgePipeline
from penstock.pipelines.knowledge.sidecars import Lists, read_lists
from penstock.principals import Principal, listed_name, principal, sidecar_place
from penstock.records import Change, Microseconds, Op, Position, document_schema
from penstock.stores.base import SetPermissions


@pytest.mark.parametrize(
    ("text", "lists"),
    [
        ("allow: [group:hr, user:ada]", Lists(["group:hr", "user:ada"], [])),
        ("deny:\n  - user:ada\n", Lists(None, ["user:ada"])),
        ('{"allow": ["everyone"], "deny": []}', Lists(["everyone"], [])),
        ("allow: []", Lists([], [])),
        ('allow: ["user:a: b", "group:ü"]', Lists(["user:a: b", "group:ü"], [])),
        ("# why\nallow: [user:NULL, 'user:e\u0301']", Lists(["user:NULL", "user:\u00e9"], [])),
    ],
)
def test_what_a_list_says(text: str, lists: Lists) -> None:
    assert read_lists(text) == lists


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected allow and deny with lists of names"),
        ("{}", "expected allow and deny with lists of names"),
        ("- user:ada", "expected allow and deny with lists of names"),
        ("allow: user:ada", "expected a list of names under allow"),
        ("allow:", "expected a list of names under allow"),
        ("allow: [ada]", r"expected user:NAME, group:NAME or everyone, got 'ada'.*\(line 1\)"),
        ("allow: [7]", "expected a name such as group:staff"),
        ("allow: [yes]", "expected a name such as group:staff"),
        ("allow: [Everyone]", "got 'Everyone'"),
        ('allow: ["user:"]', "expected the name of a user"),
        ("allow: [user:]", "expected a name such as group:staff"),
        ("allow: ['user: ada']", "without blanks around it"),
        ('allow: ["user:a\\u0000"]', "without control characters"),
        ("allow: [user:a]\nallow: [user:b]", "expected allow once"),
        ("allows: [user:a]", "expected allow or deny, got 'allows'"),
        ("allow: [user:a]\nnote: x", "expected allow or deny, got 'note'"),
        ("a: &x [1]\nallow: *x", "alias"),
        ("allow: [[user:a]]", "expected a name such as"),
        ("[" * 5000, "lists within lists"),
        ("allow: [user:a", "expected YAML or JSON"),
        ("allow: !!python/object:os.system [x]", "expected a name such as|expected"),
        ("allow: [user:a]\n---\nallow: [everyone]", "expected YAML or JSON"),
        ("allow: [user:\x01]", "expected YAML or JSON"),
        ("x" * 1_000_001, "at most 1,000,000 characters"),
    ],
)
def test_what_is_no_list(text: str, reason: str) -> None:
    """Nothing is guessed: what is not exactly a list of names is refused with its reason."""
    with pytest.raises(BadRecordError, match=f"(?s){reason}"):
        read_lists(text)


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("hr.acl.yaml", "hr"),
        ("a/b.md.acl.json", "a/b.md"),
        ("a/b.ACL.YML", "a/b"),
        ("a/.acl.yaml", None),
        (".acl.yaml", None),
        ("acl.yaml", None),
        ("a.acl.yaml.md", None),
        ("a.acl.yaml.acl.yaml", "a.acl.yaml"),
    ],
)
def test_what_a_sidecar_is_about(key: str, place: str | None) -> None:
    assert sidecar_place(key) == place


def change(key: str, text: str | None, number: int = 1, *, error: str | None = None) -> Change:
    schema = document_schema("docs")
    position = Position(f"{number:016d}")
    if text is None and error is None:
        return Change(schema, Op.DELETE, (key,), position, Microseconds(number))
    row = (key, None, "text/plain", text, "digest", "1", None, "{}", error)
    return Change(schema, Op.CREATE, (key,), position, Microseconds(number), after=row)


def test_g7_a_broken_sidecar_is_a_dead_letter_and_closes_its_place() -> None:
    """Also one that could not be read at all; and it comes before the documents of its batch."""
    pipeline = KnowledgePipeline("knowledge", ("docs",), ChunkSettings(), sidecars=True)
    drafts, first, rejected = pipeline._draft(
        [
            change("a.md", "text"),
            change("a.md.acl.yaml", "allow: [ada]"),
            change("b.acl.yaml", None, error="expected text in UTF-8"),
            change("c.acl.yaml", None),
            change("d.acl.yaml", "allow: [user:ada]"),
        ]
    )
    [effect] = first
    assert isinstance(effect, SetPermissions)
    said = {entry.place: entry for entry in effect.entries}
    assert "got 'ada'" in str(said["a.md"].problem)
    assert said["b"].problem == "expected text in UTF-8"
    assert said["c"].gone
    assert (said["d"].allow, said["d"].problem) == (["user:ada"], None)
    assert [r.change.key[0] for r in rejected] == ["a.md.acl.yaml", "b.acl.yaml"]
    assert [(d.key, d.deleted) for d in drafts] == [
        ("a.md", False),
        ("c.acl.yaml", True),
        ("d.acl.yaml", True),
    ]


def test_where_nobody_declared_them_they_are_documents() -> None:
    pipeline = KnowledgePipeline("knowledge", ("docs",), ChunkSettings())
    drafts, first, rejected = pipeline._draft([change("d.acl.yaml", "allow: [user:ada]")])
    assert [draft.deleted for draft in drafts] == [False]
    assert not first
    assert not rejected


def test_who_asks() -> None:
    assert principal(["ada", "group:a:b"], "t") == Principal("ada", ("a:b",), "t")
    assert principal(["user:group:x"]).names == ("user:group:x",)
    assert principal([]).names == ()
    assert listed_name("user:group:x") == "user:group:x"
    with pytest.raises(ConfigError, match="expected one user, got 'ada' and 'user:bo'"):
        principal(["ada", "user:bo"])
