-- Rows with their time, under the records that they belong to. All of it under the kind's lock.

-- name: stored
SELECT f.key, f.owner, f.columns::text, f.position
FROM unnest(%(key)s::text[]) w (key)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profile_facts f
    WHERE f.tenant = %(tenant)s AND f.kind = %(kind)s AND f.source = %(source)s COLLATE "C"
      AND f.stream = %(stream)s COLLATE "C" AND f.key = w.key COLLATE "C" LIMIT 1) f

-- name: records
SELECT r.key, r.id, r.columns IS NOT NULL
FROM unnest(%(key)s::text[]) w (key)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profile_records r
    WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.source = %(source)s COLLATE "C"
      AND r.stream = %(stream)s COLLATE "C" AND r.key = w.key COLLATE "C" LIMIT 1) r

-- name: write
INSERT INTO penstock.profile_facts AS f
    (tenant, kind, source, stream, key, owner, at, columns, position)
SELECT %(tenant)s, %(kind)s, %(source)s, %(stream)s, w.key, w.owner::bigint, w.at::bigint,
       w.columns::jsonb, w.position
FROM unnest(%(key)s::text[], %(owner)s::text[], %(at)s::text[], %(columns)s::text[],
            %(position)s::text[]) w (key, owner, at, columns, position)
ON CONFLICT (tenant, kind, source, stream, key) DO UPDATE SET owner = excluded.owner,
    at = excluded.at, columns = excluded.columns, position = excluded.position,
    noted_at = excluded.noted_at

-- name: left_alone
-- Of these records, those that no row belongs to any more.
SELECT r.key, r.position, r.committed_at
FROM unnest(%(owner)s::bigint[]) w (owner)
CROSS JOIN LATERAL (SELECT * FROM penstock.profile_records r WHERE r.id = w.owner LIMIT 1) r
WHERE r.columns IS NOT NULL
  AND NOT EXISTS (SELECT FROM penstock.profile_facts f WHERE f.owner = w.owner)

-- name: sweep
WITH gone AS (
    DELETE FROM penstock.profile_facts f
    WHERE f.tenant = %(tenant)s AND f.kind = %(kind)s AND f.source = %(source)s COLLATE "C"
      AND f.stream = %(stream)s COLLATE "C" AND f.position < %(position)s COLLATE "C"
    RETURNING f.owner)
SELECT DISTINCT owner FROM gone WHERE owner IS NOT NULL

-- name: forget
-- What no live table has (any more), or no rule reads.
DELETE FROM penstock.profile_facts
WHERE tenant = %(tenant)s AND kind = %(kind)s AND noted_at < %(since)s AND columns IS NOT NULL

-- name: due
-- Everybody whose record or row this is, has lost something, or is no more.
INSERT INTO penstock.profile_due AS d (tenant, kind, profile, due_at)
SELECT %(tenant)s, %(kind)s, found.profile, 0
FROM (SELECT r.profile FROM unnest(%(owner)s::bigint[]) w (owner)
      CROSS JOIN LATERAL (SELECT r.profile FROM penstock.profile_records r
                          WHERE r.id = w.owner AND r.profile IS NOT NULL LIMIT 1) r
      UNION SELECT unnest(%(profiles)s::text[])) found (profile)
ORDER BY found.profile
ON CONFLICT (tenant, kind, profile) DO UPDATE SET due_at = 0 WHERE d.due_at <> 0
