"""What logs refuse, in the same words whichever log it is."""

from __future__ import annotations

from penstock.errors import ConfigError, DamagedError, FatalError, FencedError
from penstock.records import LogPosition


def other_partitions(topic: str, wanted: int, present: int) -> ConfigError:
    """The topic exists with another number of partitions."""
    return ConfigError(
        f"expected the topic {topic!r} to have {wanted} partitions, it has {present}: set it to "
        f"{present}, or drop the topic and load its source again",
        topic=topic,
        partitions=present,
    )


def closed() -> FatalError:
    """The log was closed."""
    return FatalError("expected an open log, got a closed one: open it again to go on")


def cut_off(producer: str) -> FatalError:
    """It is not known whether the producer's last append happened."""
    return FatalError(
        f"expected the producer {producer!r} to know its state, but an append was cut off: open "
        "the producer again to learn whether it happened",
        producer=producer,
    )


def fenced(producer: str) -> FencedError:
    """The producer was opened again elsewhere."""
    return FencedError(
        f"expected to be the only producer {producer!r}, but it was opened again: stop one of the "
        "two processes that run this source",
        producer=producer,
    )


def no_topic(topic: str, partition: int | None = None) -> FatalError:
    """There is no such topic or partition."""
    what = "" if partition is None else f" with a partition {partition}"
    return FatalError(
        f"expected a topic {topic!r}{what}, the log has none: create it first", topic=topic
    )


def check_kept(
    topic: str, partition: int, after: LogPosition, first: LogPosition, last: LogPosition
) -> None:
    """Raise unless everything after ``after`` is still there and it was there once."""
    where = f"partition {partition} of {topic!r}"
    if after < first - 1:
        raise FatalError(
            f"expected to read {where} after {first - 1} or later, got {after}: retention has "
            f"removed what was before, {first} is the oldest position kept; load the source again "
            f"or go on from {first - 1}",
            oldest=first,
        )
    if after > last:
        raise FatalError(
            f"expected to read {where} after {last} or earlier, got {after}: the topic was made "
            "anew since that position was stored; start its consumers from the beginning",
            newest=last,
        )


def damaged(
    topic: str, partition: int, first: LogPosition, last: LogPosition, why: str
) -> DamagedError:
    """An append cannot be read as it was written."""
    source = topic.split(".", 1)[0]
    return DamagedError(
        f"expected the changes {first} to {last} of partition {partition} of {topic!r}, the log "
        f"holds damaged bytes in their place ({why}); other topics go on. Restore the database "
        f"from a backup. Or pass them over with `penstock replay PIPELINE --topic {topic} "
        f"--position {last}`, for each pipeline that stopped, and mend what is then missing with "
        f"`penstock resync {source}`",
        topic=topic,
        partition=partition,
        first=first,
        last=last,
        why=why,
    )
