-- What is known of people beside their traits, as it is read.

-- name: planned_once
-- Who is asked for changes nothing about how to find it; to plan these statements anew for each
-- profile, which PostgreSQL may think worth its while, takes longer than to answer them.
SELECT set_config('plan_cache_mode', 'force_generic_plan', true)

-- name: planned_as_ever
SELECT set_config('plan_cache_mode', 'auto', true)

-- name: keys
-- The rows of a person in one table, the latest first.
SELECT f.key FROM penstock.profile_records r
JOIN penstock.profile_facts f ON f.owner = r.id AND f.columns IS NOT NULL
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = %(id)s COLLATE "C"
  AND r.source = %(source)s COLLATE "C" AND r.stream = %(stream)s COLLATE "C"
ORDER BY f.at DESC NULLS LAST, f.key LIMIT 1000

-- name: consents
SELECT f.columns ->> %(purpose)s::text, f.columns ->> %(granted)s::text, f.at
FROM penstock.profile_records r
JOIN penstock.profile_facts f ON f.owner = r.id AND f.columns IS NOT NULL
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = %(id)s COLLATE "C"
  AND r.source = %(source)s COLLATE "C" AND r.stream = %(stream)s COLLATE "C"

-- name: latest
-- Of each record its last ones, which the index has in their order.
SELECT r.source, r.stream, f.at, f.columns::text
FROM penstock.profile_records r
CROSS JOIN LATERAL (
    SELECT f.at, f.key, f.columns FROM penstock.profile_facts f
    WHERE f.owner = r.id AND f.columns IS NOT NULL AND f.at <= %(now)s
    ORDER BY f.at DESC, f.key LIMIT %(count)s) f
JOIN unnest(%(source)s::text[], %(stream)s::text[]) w (source, stream)
  ON r.source = w.source COLLATE "C" AND r.stream = w.stream COLLATE "C"
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = %(id)s COLLATE "C"
ORDER BY f.at DESC, r.source, r.stream, f.key LIMIT %(count)s
