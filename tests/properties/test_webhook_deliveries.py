"""No delivery that was changed on its way, in any part, is taken; and JSON keeps its digits."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadRecordError
from penstock.records import Microseconds
from penstock.sources.formats.declared import DeclaredStream
from penstock.sources.formats.values import json_text, parse_json
from penstock.sources.webhook.payloads import RowPayloads
from penstock.sources.webhook.signatures import Forged, Signed, secret_bytes, verify
from penstock.testing.webhooks import SECRET, mutated, signed_headers

NOW_S = 1_790_000_000.0
SECRETS = [secret_bytes(SECRET)]
NUMBERS = r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=600, deadline=None)
@given(payload=JSON, seed=st.integers(0, 1 << 32), skew=st.integers(-299, 299))
def test_a_delivery_is_taken_as_it_was_sent_and_never_otherwise(
    payload: Any, seed: int, skew: int
) -> None:
    body = json.dumps(payload).encode()
    headers = signed_headers("msg_1", body, now_s=NOW_S + skew)
    assert isinstance(verify(SECRETS, headers, body, NOW_S), Signed)
    for part in range(4):
        other, changed = mutated(headers, body, seed + part)
        assert isinstance(verify(SECRETS, other, changed, NOW_S), Forged), (other, changed)


@settings(max_examples=300, deadline=None)
@given(value=JSON)
def test_json_is_what_it_was(value: Any) -> None:
    written = json.dumps(value)
    assert json.loads(json_text(parse_json(written))) == value


@settings(max_examples=300, deadline=None)
@given(
    digits=st.from_regex(
        r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
    )
)
def test_numbers_keep_all_their_digits(digits: str) -> None:
    assert json_text(parse_json(f'{{"n": [{digits}]}}')) == f'{{"n": [{digits}]}}'


@settings(max_examples=500, deadline=None)
@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    stream = DeclaredStream("t", ("id",), (("id", "bigint"), ("at", "date"), ("x", "jsonb")))
    with suppress(BadRecordError):
        RowPayloads("s", {"t": stream}).read("t", body, Microseconds(0))
