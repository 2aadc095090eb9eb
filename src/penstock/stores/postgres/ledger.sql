-- The ledger of answers.

-- name: begin
INSERT INTO penstock.ledger_heads (tenant, hash, trimmed_hash)
VALUES (%(tenant)s, %(first)s, %(first)s) ON CONFLICT DO NOTHING

-- name: key
SELECT key FROM penstock.ledger_heads WHERE tenant = %(tenant)s

-- name: append
SELECT place, entry_id, other FROM penstock.append_ledger(%(tenant)s, %(entries)s::jsonb, %(items)s::jsonb)

-- name: find
SELECT e.number, e.id, e.kind, e.at, e.facts, e.hash, c.state, c.body, c.about, c.owner
FROM penstock.ledger_entries e JOIN penstock.ledger_contents c USING (tenant, number)
WHERE e.tenant = %(tenant)s AND e.id = %(id)s

-- name: items
SELECT hash, kind, source, key, body FROM penstock.ledger_items
WHERE tenant = %(tenant)s AND hash = ANY (%(hashes)s::bytea[])

-- name: entries
SELECT e.number, e.id, e.kind, e.at, e.facts, e.hash, c.state, c.body, c.about, c.owner
FROM penstock.ledger_entries e JOIN penstock.ledger_contents c USING (tenant, number)
WHERE e.tenant = %(tenant)s AND e.kind = ANY (%(kinds)s::text[])
  AND (%(about)s::text IS NULL OR c.about = %(about)s)
ORDER BY e.number DESC LIMIT %(limit)s

-- name: lock
SELECT number, hash FROM penstock.ledger_heads WHERE tenant = %(tenant)s FOR UPDATE

-- name: touched
-- Entries that hold a subject: by what their context held, by who asked, by what was said in them;
-- and what is about these.
WITH RECURSIVE touched (number) AS (
    SELECT u.number FROM penstock.ledger_uses u JOIN penstock.ledger_items i USING (tenant, hash)
    WHERE u.tenant = %(tenant)s
      AND (EXISTS (SELECT FROM unnest(%(sources)s::text[], %(keys)s::text[]) r (source, key)
                   WHERE i.source = r.source AND i.key = r.key)
        OR EXISTS (SELECT FROM unnest(%(values)s::text[]) v
                   WHERE position(lower(v) IN lower(i.body)) > 0))
    UNION
    SELECT c.number FROM penstock.ledger_contents c
    WHERE c.tenant = %(tenant)s AND c.state <> 'redacted'
      AND (c.owner = %(owner)s
        OR EXISTS (SELECT FROM unnest(%(values)s::text[]) v
                   WHERE position(lower(v) IN lower(c.body)) > 0))
    UNION
    SELECT c.number FROM touched t
    JOIN penstock.ledger_entries e ON e.tenant = %(tenant)s AND e.number = t.number
    JOIN penstock.ledger_contents c ON c.tenant = %(tenant)s AND c.about = e.id
)
SELECT t.number FROM touched t JOIN penstock.ledger_contents c
  ON c.tenant = %(tenant)s AND c.number = t.number
WHERE c.state <> 'redacted' ORDER BY t.number

-- name: named
SELECT id, kind FROM penstock.ledger_entries
WHERE tenant = %(tenant)s AND number = ANY (%(numbers)s::bigint[]) ORDER BY number

-- name: redact
UPDATE penstock.ledger_contents
SET state = 'redacted', body = NULL, salt = NULL, owner = NULL
WHERE tenant = %(tenant)s AND number = ANY (%(numbers)s::bigint[])

-- name: forget_once
DELETE FROM penstock.ledger_once
WHERE tenant = %(tenant)s AND number = ANY (%(numbers)s::bigint[])

-- name: release
WITH released AS (
    DELETE FROM penstock.ledger_uses
    WHERE tenant = %(tenant)s AND number = ANY (%(numbers)s::bigint[]) RETURNING hash
)
SELECT DISTINCT hash FROM released

-- name: sweep
-- Items that nothing uses any more.
DELETE FROM penstock.ledger_items i
WHERE i.tenant = %(tenant)s AND i.hash = ANY (%(hashes)s::bytea[])
  AND NOT EXISTS (SELECT FROM penstock.ledger_uses u
                  WHERE u.tenant = i.tenant AND u.hash = i.hash)

-- name: outdated
-- Up to which entry everything is older than that; at most so many at a time.
SELECT e.number, e.hash FROM penstock.ledger_entries e
WHERE e.tenant = %(tenant)s AND e.at < %(before)s
  AND e.number < %(limit)s + (SELECT trimmed_number FROM penstock.ledger_heads
                              WHERE tenant = %(tenant)s) + 1
  AND NOT EXISTS (SELECT FROM penstock.ledger_entries f WHERE f.tenant = e.tenant
                  AND f.number < e.number AND f.at >= %(before)s)
ORDER BY e.number DESC LIMIT 1

-- name: checkpoint
UPDATE penstock.ledger_heads SET trimmed_number = %(number)s, trimmed_hash = %(hash)s
WHERE tenant = %(tenant)s

-- name: trimmed
SELECT number FROM penstock.ledger_entries WHERE tenant = %(tenant)s AND number <= %(number)s

-- name: drop_entries
DELETE FROM penstock.ledger_entries WHERE tenant = %(tenant)s AND number <= %(number)s

-- name: drop_contents
DELETE FROM penstock.ledger_contents WHERE tenant = %(tenant)s AND number <= %(number)s

-- name: head
SELECT number, hash, trimmed_number, trimmed_hash, key FROM penstock.ledger_heads
WHERE tenant = %(tenant)s

-- name: chain
SELECT e.number, e.id, e.kind, e.at, e.facts, e.content_hash, e.before, e.hash,
       c.state, c.salt, c.body
FROM penstock.ledger_entries e LEFT JOIN penstock.ledger_contents c USING (tenant, number)
WHERE e.tenant = %(tenant)s AND e.number > %(after)s ORDER BY e.number LIMIT 500
