from __future__ import annotations

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import conninfo_to_dict

from penstock.database.connect import connection_parameters, redact, translate, translated
from penstock.errors import (
    BadRecordError,
    FatalError,
    PenstockError,
    RetryableError,
    UnavailableError,
)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", UnavailableError),
        ("08P01", UnavailableError),
        ("25006", UnavailableError),
        ("53300", UnavailableError),
        ("57P01", UnavailableError),
        ("57P02", UnavailableError),
        ("57P03", UnavailableError),
        ("40001", RetryableError),
        ("40P01", RetryableError),
        ("53100", RetryableError),
        ("53200", RetryableError),
        ("55006", RetryableError),
        ("55P03", RetryableError),
        ("57014", RetryableError),
        ("58030", RetryableError),
        ("22P02", BadRecordError),
        ("22003", BadRecordError),
        ("23505", BadRecordError),
        ("21000", BadRecordError),
        ("54000", BadRecordError),
        ("42501", FatalError),
        ("42P01", FatalError),
        ("42703", FatalError),
        ("53400", FatalError),
        ("28P01", FatalError),
        ("3D000", FatalError),
        ("55000", FatalError),
        ("58P01", FatalError),
        ("XX001", FatalError),
    ],
)
def test_what_the_server_says_becomes_what_to_do_about_it(
    state: str, kind: type[PenstockError]
) -> None:
    """Wait, bury the record or stop: the code of the server's error decides."""
    error = translate(psycopg.errors.lookup(state)("something happened"))
    assert type(error) is kind
    assert error.facts["sqlstate"] == state
    assert "something happened" in str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("the connection is closed"), UnavailableError),
        (psycopg.OperationalError("server closed the connection unexpectedly"), UnavailableError),
        (psycopg.OperationalError("connection timeout expired"), UnavailableError),
        (
            psycopg.OperationalError(
                'connection to server on socket "/x/.s.PGSQL.1" failed: No such file or directory'
            ),
            UnavailableError,
        ),
        (
            psycopg.OperationalError('FATAL:  password authentication failed for user "me"'),
            FatalError,
        ),
        (psycopg.OperationalError('FATAL:  database "nowhere" does not exist'), FatalError),
        (psycopg_pool.PoolTimeout("couldn't get a connection"), UnavailableError),
        (
            psycopg.DataError("text fields cannot contain NUL (0x00) bytes"),
            BadRecordError,
        ),
        (psycopg.ProgrammingError("the query has 1 placeholder"), FatalError),
        (
            psycopg.errors.FeatureNotSupported("cached plan must not change result type"),
            RetryableError,
        ),
    ],
)
def test_what_the_driver_says_becomes_what_to_do_about_it(
    error: psycopg.Error, kind: type[PenstockError]
) -> None:
    """Without a code from the server, the driver's own error tells enough."""
    assert type(translate(error)) is kind


def test_the_cause_is_kept() -> None:
    """With --debug the driver's error is still there to read."""
    with pytest.raises(BadRecordError) as caught, translated():
        raise psycopg.errors.UniqueViolation("twice")
    assert isinstance(caught.value.__cause__, psycopg.errors.UniqueViolation)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:s3cret@host/db",
        "postgresql://me:s3cret@[::1]:5432/db?sslmode=require",
        "postgresql://:s3cret@/db?host=/tmp",
        "postgresql://me:s3c@ret:s3cret@host/db",
        "postgresql://me@host/db?password=s3cret&x=1",
        "host=h password=s3cret dbname=d",
        "host=h password = 's3cret with \\' blanks s3cret' dbname=d",
        'connection to "postgresql://me:s3cret@host/db" failed',
        "first postgresql://a:s3cret@h/d then mysql://b:s3cret@h/d",
    ],
)
def test_no_password_is_ever_shown(text: str) -> None:
    """Whatever quotes a DSN quotes it without its password, and with the rest."""
    shown = redact(text)
    assert "s3cret" not in shown
    assert "***" in shown


def test_what_holds_no_password_is_shown_as_it_is() -> None:
    """Redaction takes away nothing else."""
    for text in ("postgresql://me@host:5432/db", "host=h user=u", "mail me@there: it broke"):
        assert redact(text) == text


def test_our_settings_fill_what_the_dsn_leaves_open() -> None:
    """A DSN's own settings win over ours; session options are joined."""
    parameters = conninfo_to_dict(
        connection_parameters(
            "postgresql://me@host/db?connect_timeout=3&options=-c%20search_path%3Dx",
            application_name="penstock test",
            statement_timeout_s=1.5,
            lock_timeout_s=0.25,
        )
    )
    assert parameters["connect_timeout"] == 3 or parameters["connect_timeout"] == "3"
    assert parameters["application_name"] == "penstock test"
    assert parameters["keepalives_idle"] == "10"
    assert parameters["options"] == (
        "-c search_path=x -c statement_timeout=1500 -c lock_timeout=250"
    )


def test_a_malformed_dsn_is_refused_without_showing_it() -> None:
    """A typo in the DSN is one sentence, and its password stays secret."""
    with pytest.raises(FatalError) as caught:
        connection_parameters("postgresql://me:s3cret@host:port:x/db?what")
    assert "s3cret" not in str(caught.value)
