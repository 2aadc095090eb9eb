"""Penny Airways & Stays, a travel company that exists only here: tables, rows and policies.

Everything is generated from a fixed seed, so that two runs tell the same story.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

SCHEMA = """
CREATE TABLE flights (
    number      text PRIMARY KEY,
    origin      text NOT NULL,
    destination text NOT NULL,
    aircraft    text NOT NULL,
    departs_at  timestamptz NOT NULL,
    price_eur   numeric(8,2) NOT NULL,
    seats_left  integer NOT NULL
);
CREATE TABLE hotels (
    id          integer PRIMARY KEY,
    name        text NOT NULL,
    city        text NOT NULL,
    description text NOT NULL,
    stars       smallint NOT NULL,
    night_eur   numeric(8,2) NOT NULL,
    rooms_left  integer NOT NULL
);
CREATE TABLE customers (
    id          integer PRIMARY KEY,
    name        text NOT NULL,
    email       text NOT NULL,
    tier        text NOT NULL,
    since       date NOT NULL
);
CREATE TABLE reservations (
    customer_id integer NOT NULL REFERENCES customers,
    flight      text NOT NULL REFERENCES flights,
    seats       integer NOT NULL,
    booked_at   timestamptz NOT NULL,
    PRIMARY KEY (customer_id, flight)
);
CREATE TABLE card_holders (
    card        text PRIMARY KEY,
    holder      text NOT NULL,
    email       text NOT NULL,
    phone       text NOT NULL,
    favourite_seat text NOT NULL
);
CREATE TABLE tickets (
    id          integer PRIMARY KEY,
    caller      text NOT NULL,
    email       text,
    phone       text,
    request     text NOT NULL
);
"""

CITIES = (
    "Oslo", "Lisbon", "Istanbul", "Paris", "Rome", "Vienna",
    "Athens", "Dublin", "Prague", "Madrid", "Copenhagen", "Zurich",
)  # fmt: skip
AIRCRAFT = ("Airbus A220", "Airbus A320neo", "Boeing 737", "Embraer E195")
TIERS = ("blue", "silver", "gold")
FIRST_NAMES = ("Ada", "Bo", "Cleo", "Dara", "Emre", "Freja", "Gita", "Hugo", "Ines", "Jonas")
LAST_NAMES = ("Berg", "Costa", "Demir", "Eriksen", "Fontaine", "Gallo", "Horvat", "Ibsen")
HOTELS = (
    ("Harbour Lights", "Oslo", "a quiet house by the fjord with a sauna on the roof"),
    ("Casa Azulejo", "Lisbon", "tiled rooms in Alfama, breakfast on the terrace"),
    ("Golden Ferry", "Istanbul", "on the Bosphorus, with a hammam and a family floor"),
    ("Rue des Lilas", "Paris", "a small garden hotel near the canal, pets welcome"),
    ("Villa Pina", "Rome", "under umbrella pines, ten minutes from the Forum by tram"),
    ("Ringhof", "Vienna", "a former music school with practice rooms and a piano bar"),
    ("Olive & Stone", "Athens", "rooftop pool with a view of the Acropolis"),
    ("Liffey Rooms", "Dublin", "above a bookshop, wheelchair accessible throughout"),
)

FLIGHT_ASKED = "PS204"
PRICE_BEFORE, PRICE_AFTER = "189.00", "149.00"
SEATS_BEFORE, SEATS_AFTER = 42, 17

POLICY_CHANGED = "cancellation.md"
SENTENCE_BEFORE = "You can cancel any flight free of charge up to 24 hours before departure."
SENTENCE_AFTER = "You can cancel any flight free of charge up to 72 hours before departure."

QUESTIONS = (
    f"What does flight {FLIGHT_ASKED} from Oslo to Lisbon cost and how many seats are left?",
    "Until when can I cancel a flight free of charge?",
    "Can my dog travel in the cabin?",
    "What is the boiling point of tungsten?",
)
"""Two whose answers will change, one that stays, and one that nothing here answers."""


def flights() -> list[tuple[str, str, str, str, datetime, str, int]]:
    """Rows of ``flights``: every city to five others."""
    chance = random.Random(2026)
    day = datetime(2026, 12, 1, 6, 0, tzinfo=UTC)
    rows = [
        (FLIGHT_ASKED, "Oslo", "Lisbon", AIRCRAFT[0], day, PRICE_BEFORE, SEATS_BEFORE),
    ]
    number = 300
    for origin in CITIES:
        for destination in chance.sample([city for city in CITIES if city != origin], 5):
            if (origin, destination) == ("Oslo", "Lisbon"):
                continue
            number += 1
            rows.append(
                (
                    f"PS{number}",
                    origin,
                    destination,
                    chance.choice(AIRCRAFT),
                    day + timedelta(minutes=15 * chance.randrange(400)),
                    f"{chance.randrange(49, 420)}.00",
                    chance.randrange(0, 120),
                )
            )
    return rows


def hotels() -> list[tuple[int, str, str, str, int, str, int]]:
    """Rows of ``hotels``."""
    chance = random.Random(7)
    return [
        (i, name, city, text, chance.randrange(3, 6), f"{chance.randrange(70, 260)}.00", 12 + i)
        for i, (name, city, text) in enumerate(HOTELS, 1)
    ]


def customers() -> list[tuple[int, str, str, str, str]]:
    """Rows of ``customers``; nobody real."""
    chance = random.Random(11)
    rows = []
    for i in range(1, 61):
        first, last = chance.choice(FIRST_NAMES), chance.choice(LAST_NAMES)
        email = f"{first}.{last}{i}@example.org".lower()
        rows.append((i, f"{first} {last}", email, chance.choice(TIERS), f"20{10 + i % 16}-05-01"))
    return rows


def reservations() -> list[tuple[int, str, int, datetime]]:
    """Rows of ``reservations``."""
    chance = random.Random(13)
    numbers = [row[0] for row in flights()]
    when = datetime(2026, 11, 1, tzinfo=UTC)
    return [
        (customer, flight, chance.randrange(1, 4), when + timedelta(hours=customer))
        for customer in range(1, 61)
        for flight in sorted(chance.sample(numbers, 2))
    ]


TRAVELLER = "ada.berg@example.org"
TRAVELLERS = (
    (61, "Ada Berg", TRAVELLER, "gold", "2019-05-01"),
    (62, "Jonas Berg", "jonas.berg@example.org", "blue", "2024-05-01"),
)
"""Rows of ``customers``: two of one family."""

CARD_HOLDERS = (
    ("PA-1001", "A. Berg", "Ada.Berg@example.org", "+47 411 11 111", "window"),
    ("PA-1002", "J. Berg", "jonas.berg@example.org", "+47 422 22 222", "aisle"),
)
TICKETS = (
    (1, "Ada", None, "+47 41111111", "a vegetarian meal"),
    (2, "Jonas", "jonas.berg@example.org", None, "an extra bag"),
)
WRONG_TICKET = (3, "Jonas", "jonas.berg@example.org", "+47 41111111", "a seat by the aisle")
"""Jonas calls from Ada's phone: the one number that now ties the two."""

PROFILE_QUESTION = "What was the last request of this traveller?"


def write_policies(folder: Path) -> list[Path]:
    """Copy the policies that ship with the demo into ``folder``; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for original in sorted((Path(__file__).parent / "policies").glob("*.md")):
        copy = folder / original.name
        copy.write_text(original.read_text(encoding="utf-8"), encoding="utf-8")
        written.append(copy)
    return written
