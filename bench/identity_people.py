"""Made-up people with made-up errors, for `bench/identity.py`: other forms of data than the public
sets have, so that a method which is tuned to those shows it.

Every set has households: people who share a surname, an address and a telephone, and are not one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

Rows: TypeAlias = list[dict[str, str]]

_GIVEN: Final = (
    "anna",
    "maria",
    "peter",
    "hans",
    "julia",
    "thomas",
    "sofia",
    "lukas",
    "emma",
    "jonas",
    "lea",
    "felix",
    "laura",
    "max",
    "nina",
    "paul",
    "clara",
    "simon",
    "eva",
    "daniel",
    "sarah",
    "david",
    "lisa",
    "michael",
    "katharina",
    "stefan",
    "barbara",
    "andreas",
    "monika",
    "martin",
    "helga",
    "wolfgang",
    "ingrid",
    "karl",
    "ursula",
    "georg",
    "renate",
    "franz",
    "elisabeth",
    "josef",
    "margarete",
    "robert",
    "christine",
    "alexander",
    "johanna",
    "sebastian",
    "theresa",
    "florian",
    "magdalena",
    "philipp",
    "victoria",
    "dominik",
    "valentina",
    "elias",
    "hannah",
    "noah",
    "mia",
    "liam",
    "amelia",
    "oscar",
    "chloe",
    "hugo",
    "alice",
    "louis",
    "jade",
    "gabriel",
    "louise",
    "raphael",
    "manon",
    "arthur",
    "camille",
    "jules",
)
_SYLLABLES: Final = (
    "ber",
    "gel",
    "mann",
    "stein",
    "wald",
    "hof",
    "bach",
    "brand",
    "kel",
    "ler",
    "mei",
    "er",
    "schmid",
    "hub",
    "rei",
    "ter",
    "gru",
    "ber",
    "wag",
    "ner",
    "fi",
    "scher",
    "we",
    "ber",
    "hoff",
    "lang",
    "krau",
    "se",
    "vog",
    "el",
    "win",
    "kler",
    "lo",
    "renz",
    "pfei",
    "fer",
    "ro",
    "den",
    "dal",
    "by",
    "sen",
    "holm",
    "mar",
    "tin",
    "du",
    "pont",
    "le",
    "fe",
    "vre",
    "mo",
    "reau",
    "gar",
    "nier",
    "ro",
    "che",
    "bel",
    "ling",
    "ton",
    "well",
    "ford",
    "ham",
    "worth",
    "by",
)
_STREETS: Final = ("haupt", "bahnhof", "schul", "kirch", "linden", "berg", "wald", "ring", "rosen")
_CITIES: Final = ("wien", "graz", "linz", "salzburg", "villach", "wels", "bregenz", "steyr")
_MAILS: Final = ("gmail.com", "gmx.at", "outlook.com", "example.org", "mail.test")


class Person:
    """Somebody, as they are in truth."""

    def __init__(self, chance: random.Random, household: Person | None = None) -> None:
        pick = chance.choice
        self.given = pick(_GIVEN)
        parts = [pick(_SYLLABLES) for _ in range(chance.choice((2, 2, 3)))]
        self.surname = household.surname if household else "".join(parts)
        self.street = (
            household.street if household else f"{pick(_STREETS)}{pick(('gasse', 'straße', 'weg'))}"
        )
        self.number = household.number if household else str(chance.randint(1, 120))
        self.city = household.city if household else pick(_CITIES)
        self.postcode = household.postcode if household else str(1000 + 10 * chance.randint(0, 799))
        self.phone = (
            household.phone
            if household
            else f"+43 {chance.randint(650, 699)} {chance.randint(10**6, 10**7 - 1)}"
        )
        year = chance.randint(1935, 2005)
        self.born = (year, chance.randint(1, 12), chance.randint(1, 28))
        self.email = (
            f"{self.given}.{self.surname}{chance.choice(('', '', str(year)[2:]))}@{pick(_MAILS)}"
        )


def typo(text: str, chance: random.Random) -> str:
    """One typing error."""
    if len(text) < 2:
        return text
    at = chance.randrange(len(text) - 1)
    kind = chance.random()
    letter = chance.choice("0123456789" if text[at].isdigit() else "abcdefghijklmnopqrstuvwxyz")
    if kind < 0.3:
        return text[:at] + letter + text[at + 1 :]
    if kind < 0.55:
        return text[:at] + text[at + 1 :]
    if kind < 0.75:
        return text[:at] + letter + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def people(many: int, chance: random.Random) -> list[Person]:
    """People, a third of them in households of others."""
    found: list[Person] = []
    for _ in range(many):
        shared = chance.choice(found) if found and chance.random() < 0.33 else None
        found.append(Person(chance, shared))
    return found


def _split_dates(p: Person, _: random.Random) -> dict[str, str]:
    return {
        "fname": p.given,
        "lname": p.surname,
        "by": str(p.born[0]),
        "bm": str(p.born[1]),
        "bd": str(p.born[2]),
    }


def _one_name(p: Person, c: random.Random) -> dict[str, str]:
    name = c.choice(
        (f"{p.given} {p.surname}", f"{p.surname}, {p.given}", f"{p.given[0]}. {p.surname}")
    )
    year, month, day = p.born
    when = c.choice((f"{year}-{month:02d}-{day:02d}", f"{day:02d}.{month:02d}.{year}"))
    phone = c.choice(
        (p.phone, p.phone.replace("+43 ", "0").replace(" ", ""), p.phone.replace(" ", "-"))
    )
    return {
        "name": name,
        "born": when,
        "phone": phone,
        "mail": p.email,
        "address": f"{p.street} {p.number}, {p.postcode} {p.city}",
    }


def _newsletter(p: Person, _: random.Random) -> dict[str, str]:
    return {"first": p.given, "last": p.surname, "email": p.email, "zip": p.postcode}


SHAPES: Final[
    Mapping[str, tuple[Callable[[Person, random.Random], dict[str, str]], float, float]]
] = {
    "dates in three columns": (_split_dates, 0.0, 0.35),
    "one name, many forms": (_one_name, 0.12, 0.3),
    "newsletter": (_newsletter, 0.15, 0.4),
}
"""By name: how a person is written, how often a value is missing, how often it has an error."""


def make(shape: str, many: int, seed: int, *, again: float = 0.3) -> Rows:
    """Records of so many people, ``again`` of them more than once; ``person`` is the truth."""
    write, missing, wrong = SHAPES[shape]
    chance = random.Random(seed)
    rows: Rows = []
    for number, person in enumerate(people(many, chance)):
        times = 1 + (chance.choice((1, 1, 1, 2, 3)) if chance.random() < again else 0)
        for copy in range(times):
            row = write(person, chance)
            for name, value in row.items():
                if chance.random() < missing:
                    row[name] = ""
                elif copy and chance.random() < wrong / 2:
                    row[name] = typo(value, chance)
            rows.append({"person": str(number), **row})
    chance.shuffle(rows)
    return rows
