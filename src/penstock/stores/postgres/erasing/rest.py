"""The small things that can name somebody: permissions, keys, files that a source has seen, what a
run reports."""

from __future__ import annotations

from penstock.records import DOCUMENTS
from penstock.stores.postgres.erasing.base import Work


async def erase_names(work: Work) -> int:
    """Take the subject's name, as a user, out of lists of who may read. Whoever is in none reads
    nothing, and a denial of one who cannot ask any more protects nothing."""
    names = [f"user:{value}" for value in work.subject.values]
    cursor = await work.connection.execute(
        "UPDATE penstock.lists l SET digest = sha256(convert_to('erased ' || l.id, 'UTF8')), "
        "allow = ARRAY(SELECT a FROM unnest(allow) a WHERE lower(a) <> ALL (%(names)s)), "
        "deny = ARRAY(SELECT d FROM unnest(deny) d WHERE lower(d) <> ALL (%(names)s)) "
        "WHERE tenant = %(tenant)s AND EXISTS ("
        "SELECT FROM unnest(allow || deny) n WHERE lower(n) = ANY (%(names)s))",
        {"tenant": work.tenant, "names": names},
    )
    found = cursor.rowcount
    cursor = await work.connection.execute(
        "DELETE FROM penstock.memberships WHERE tenant = %s AND lower(member) = ANY (%s)",
        [work.tenant, names],
    )
    return found + cursor.rowcount


async def erase_entries(work: Work) -> int:
    """Take away what was said about who may read a document of theirs."""
    found = 0
    for source, stream in work.subject.streams:
        cursor = await work.connection.execute(
            "DELETE FROM penstock.permissions WHERE tenant = %(tenant)s AND CASE "
            "WHEN %(documents)s THEN source = %(source)s AND place = ANY (%(keys)s) "
            "ELSE origin = %(source)s AND stream = %(stream)s AND entry = ANY (%(keys)s) END",
            {
                "tenant": work.tenant,
                "documents": stream == DOCUMENTS,
                "source": source,
                "stream": stream,
                "keys": work.subject.of(source, stream),
            },
        )
        found += cursor.rowcount
    return found


async def erase_keys(work: Work) -> int:
    """Take away keys of applications that act for the subject."""
    cursor = await work.connection.execute(
        "DELETE FROM penstock.api_keys WHERE tenant = %s AND lower(user_name) = ANY (%s)",
        [work.tenant, sorted(work.subject.values)],
    )
    return cursor.rowcount


async def erase_states(work: Work) -> int:
    """Forget which files of the subject a source has seen."""
    found = 0
    for source, stream in work.subject.streams:
        if stream != DOCUMENTS:
            continue
        cursor = await work.connection.execute(
            "DELETE FROM penstock.producer_state s WHERE s.producer = %s AND EXISTS ("
            "SELECT FROM unnest(%s::text[]) k WHERE strpos(s.name, k) > 0)",
            [source, work.subject.of(source, stream)],
        )
        found += cursor.rowcount
    return found


async def erase_reports(work: Work) -> int:
    """Throw away reports that repeat something of the subject's: the next run writes its own."""
    cursor = await work.connection.execute(
        "DELETE FROM penstock.run_reports WHERE EXISTS (SELECT FROM unnest(%s::text[]) v "
        "WHERE strpos(lower(report::text), lower(v)) > 0)",
        [list(dict.fromkeys((*work.subject.values, *work.subject.canaries)))],
    )
    return cursor.rowcount


async def erase_on_the_way(work: Work) -> int:
    """Take away all that is on its way between processes, whoever it is about: nothing runs that
    would take it, and whoever sent it sends it again. What then comes is screened."""
    cursor = await work.connection.execute(
        "DELETE FROM penstock.pushes WHERE tenant = %s", [work.tenant]
    )
    found = cursor.rowcount
    await work.connection.execute(
        "DELETE FROM penstock.rate_buckets WHERE tenant = %s", [work.tenant]
    )
    return found
