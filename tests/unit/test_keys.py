"""Keys: what is shown once, what is kept, and what opens."""

from __future__ import annotations

import pytest

from penstock.errors import ConfigError
from penstock.keys import Scope, digest, id_of, mint
from penstock.records import Microseconds

NOW = Microseconds(1_000_000)


def test_only_the_token_opens_and_only_while_it_is_valid() -> None:
    """Not another one, not one letter less, not after its end."""
    token, key = mint("site", frozenset({Scope.ASK}), NOW, expires_at=Microseconds(NOW + 10))
    assert id_of(token) == key.id
    assert key.digest == digest(token)
    assert token not in repr(key)
    assert key.opens(token, NOW)
    assert not key.opens(token, Microseconds(NOW + 10))
    assert not key.opens(token[:-1], NOW)
    assert not key.opens(mint("other", frozenset({Scope.ASK}), NOW)[0], NOW)


@pytest.mark.parametrize("text", ["", "psk_", "psk_" + "a" * 43, "psk_" + "A" * 44, "x" * 48])
def test_what_is_no_token_has_no_name(text: str) -> None:
    """It is not even looked up."""
    assert id_of(text) is None


def test_a_key_for_nothing_and_one_that_is_over_are_refused() -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match="at least one scope"):
        mint("x", frozenset(), NOW)
    with pytest.raises(ConfigError, match="later than now"):
        mint("x", frozenset({Scope.ASK}), NOW, expires_at=NOW)
