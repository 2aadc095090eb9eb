"""One form for each kind of identifier, and values that are none.

What people type into forms when they have nothing to say (``N/A``, ``unknown``, ``-``, ``0000``) is
the same for thousands of them: taken as an identifier it would make them one person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from unicodedata import category, combining, normalize

from penstock.errors import MissingExtraError
from penstock.identity.evidence import Identifier
from penstock.identity.rules import KindRule

if TYPE_CHECKING:
    from types import ModuleType

LONGEST: Final = 400
"""A longer value is no identifier: nobody has such a name, and an index would not take it."""

_BLANKS: Final = re.compile(r"\s+")
_SAID: Final = """
n/a, na, n.a, n.a., n\\a, none, null, nil, nan, undefined, unknown, unbekannt, inconnu, desconocido,
sconosciuto, anonymous, anonym, anonyme, guest, test, tester, testing, dummy, example, sample, tbd,
tba, todo, keine, kein, aucun, ninguno, nessuno, not available, not applicable, not provided,
not given, not known, no, no email, noemail, no-email, no phone, no name, missing, empty, blank,
deleted, removed, redacted, default, noreply, no-reply, donotreply, do-not-reply, x, xx
"""
_NOTHING: Final = frozenset(_BLANKS.sub(" ", said).strip() for said in _SAID.split(","))
"""What people write who have nothing to say, and programs that have nothing to show."""

_NOBODY: Final = frozenset(
    {"noemail", "no-email", "no.email", "nomail", "none", "unknown", "anonymous", "test", "n/a"}
    | {"noreply", "no-reply", "donotreply", "do-not-reply", "xxx", "xxxx"}
)
"""What stands before the @ in addresses that are nobody's. Initials may be anybody's."""

_DOTLESS: Final = frozenset({"gmail.com", "googlemail.com"})
_PLUS: Final = _DOTLESS | {
    "outlook.com",
    "hotmail.com",
    "live.com",
    "fastmail.com",
    "icloud.com",
    "me.com",
    "proton.me",
    "protonmail.com",
}
"""Providers where what follows a plus sign does not count; where dots do not count either."""

_EMAIL: Final = re.compile(r"^[^@\s\"(),:;<>\[\]\\]{1,64}@[^@\s\"(),:;<>\[\]\\_/]+\.[^@\s.]{2,}$")
_FEW: Final = 4
_COUNTED: Final = "01234567890 09876543210"
_NO_DIGITS: Final = re.compile(r"\D+")


def canonical(value: str | None, rule: KindRule) -> str | None:
    """The value in the form of its kind; None when it identifies nobody."""
    if value is None or not value or len(value) > 4 * LONGEST:
        return None
    plain = value.strip() if value.isascii() and value.isprintable() else _printable(value)
    if "  " in plain:
        plain = _BLANKS.sub(" ", plain)
    if says_nothing(plain):
        return None
    found = _in_form(plain, rule)
    if found is None or len(found) > LONGEST or found in rule.blocked:
        return None
    return found


def _printable(value: str) -> str:
    plain = _BLANKS.sub(" ", normalize("NFKC", value)).strip()
    return "".join(c for c in plain if category(c)[0] != "C")


def identifiers_of(said: str, kinds: Mapping[str, KindRule]) -> list[Identifier]:
    """What ``KIND:VALUE``, or a value as each kind would write it, may mean."""
    kind, colon, value = said.partition(":")
    if colon and kind in kinds:
        found = canonical(value, kinds[kind])
        return [] if found is None else [Identifier(kind, found)]
    forms = ((kind, canonical(said, rule)) for kind, rule in kinds.items())
    return [Identifier(kind, form) for kind, form in forms if form is not None]


def blocking(rule: KindRule, values: Iterable[str]) -> KindRule:
    """The rule with these values blocked, in whatever form they are written."""
    forms = (canonical(value, rule) for value in values)
    return replace(rule, blocked=frozenset(form for form in forms if form is not None))


def says_nothing(value: str) -> bool:
    """Whether a value stands for having none: such words, no letter or digit, ``0000``, ``xxx``."""
    folded = value.casefold()
    if not folded or folded in _NOTHING:
        return True
    if folded[0].isalnum() and len(set(folded)) > _FEW:
        return False
    signs = {c for c in folded if c.isalnum()}
    if not signs or signs == {"0"}:
        return True
    return len(signs) == 1 and len(folded) > 2 and not signs.pop().isdigit()


def _one_digit(digits: str) -> bool:
    """1111 may be a customer's number; a number that people dial or read from a card is not."""
    return len(digits) > 3 and len(set(digits)) == 1


def _in_form(value: str, rule: KindRule) -> str | None:
    match rule.form:
        case "exact":
            return value
        case "text":
            return value.casefold()
        case "email":
            return _email(value, providers=rule.providers)
        case "phone":
            return _phone(value, rule.region)
        case "digits":
            digits = _NO_DIGITS.sub("", value)
            return None if says_nothing(digits) or _one_digit(digits) else digits
        case "name":
            return name(value)


def name(value: str) -> str | None:
    """A name, an address or several of them: words without accents, signs and their order."""
    letters = normalize("NFKD", value.casefold())
    plain = "".join(c if c.isalnum() else " " for c in letters if not combining(c))
    return " ".join(sorted(plain.split())) or None


def _email(value: str, *, providers: bool) -> str | None:
    folded = value.casefold().removeprefix("mailto:").strip("<>. ")
    if _EMAIL.match(folded) is None:
        return None
    local, _, domain = folded.rpartition("@")
    if local in _NOBODY or set(local) == {"0"}:
        return None
    if providers and domain in _PLUS:
        local = local.partition("+")[0]
        if domain in _DOTLESS:
            local, domain = local.replace(".", ""), "gmail.com"
    if not local:
        return None
    return f"{local}@{_ascii(domain)}"


def _ascii(domain: str) -> str:
    if domain.isascii():
        return domain
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return domain


def phonenumbers() -> ModuleType:
    """The library of numbering plans; `MissingExtraError` without it."""
    try:
        import phonenumbers as library
    except ImportError as error:
        raise MissingExtraError("an identifier of the form 'phone'", "profiles") from error
    return library


@lru_cache(maxsize=65_536)
def _phone(value: str, region: str | None) -> str | None:
    library: Any = phonenumbers()
    try:
        parsed = library.parse(value, region)
    except library.NumberParseException:
        return None
    if not library.is_possible_number(parsed):
        return None
    national = str(parsed.national_number)
    if _one_digit(national) or national in _COUNTED:
        return None
    return str(library.format_number(parsed, library.PhoneNumberFormat.E164))
