"""Which page, slide or sheet an offset is on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.places import PLACES, place_at, places

TEXTS = st.text("ab\f", max_size=40)


@given(TEXTS, st.integers(0, 40))
def test_a_place_is_the_number_of_form_feeds_before(text: str, offset: int) -> None:
    """The first page is 1; a text without pages has no places."""
    written = places(text, "page")
    found = place_at({PLACES: written} if written else {}, min(offset, len(text)))
    if "\f" not in text:
        assert found is None
    else:
        assert found == f"page {text[: min(offset, len(text))].count(chr(12)) + 1}"


def test_a_field_of_that_name_may_be_somebody_elses() -> None:
    """Front matter may say what it likes."""
    assert place_at({PLACES: "London"}, 5) is None
    assert place_at({PLACES: ["Rome", "Oslo"]}, 5) is None
    assert place_at({PLACES: "in Rome ²"}, 5) is None
    assert places("\f" * 5000, "page") is None
