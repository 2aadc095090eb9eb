-- Models of fuzzy matching: kept, prepared, used, left.

-- name: all
SELECT number, state, version, learned, trained_by,
       (extract(epoch FROM trained_at) * 1000000)::bigint
FROM penstock.profile_models WHERE tenant = %(tenant)s AND kind = %(kind)s ORDER BY number

-- name: records
SELECT r.source, r.stream, r.key, r.profile, r.origin, r.identifiers, r.columns::text,
       r.position, r.committed_at, r.said_at
FROM penstock.profile_records r
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.columns IS NOT NULL
ORDER BY hashtextextended(r.source || '/' || r.stream || '/' || r.key, %(seed)s),
         r.source, r.stream, r.key
LIMIT %(most)s

-- name: keep
INSERT INTO penstock.profile_models
    (tenant, kind, number, state, version, weights, learned, trained_by)
SELECT %(tenant)s, %(kind)s, 1 + coalesce(max(number), 0), 'preparing', %(version)s, %(weights)s,
       %(learned)s, %(by)s
FROM penstock.profile_models WHERE tenant = %(tenant)s AND kind = %(kind)s
RETURNING number

-- name: take_up
UPDATE penstock.profile_models SET state = 'preparing', prepared_to = 0
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s AND state = 'former'

-- name: preparing
SELECT number FROM penstock.profile_models
WHERE tenant = %(tenant)s AND kind = %(kind)s AND state = 'preparing'

-- name: drop
-- One that was in use before goes back to be the former one.
WITH back AS (
    UPDATE penstock.profile_models SET state = 'former'
    WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s AND used_at IS NOT NULL)
DELETE FROM penstock.profile_models
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s AND used_at IS NULL

-- name: no_blocks
DELETE FROM penstock.profile_blocks
WHERE tenant = %(tenant)s AND kind = %(kind)s AND model = %(model)s

-- name: no_matches
DELETE FROM penstock.profile_matches
WHERE tenant = %(tenant)s AND kind = %(kind)s AND model = %(model)s

-- name: some
-- Records that are not prepared yet, in the order of their numbers. Newer ones the stream prepares.
SELECT r.id FROM penstock.profile_records r
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.columns IS NOT NULL
  AND r.id > (SELECT prepared_to FROM penstock.profile_models m
              WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.number = %(model)s)
ORDER BY r.id LIMIT %(count)s

-- name: prepared_to
UPDATE penstock.profile_models SET prepared_to = %(record)s
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s

-- name: tied
SELECT one FROM penstock.profile_matches
WHERE tenant = %(tenant)s AND kind = %(kind)s AND model = %(model)s AND weight >= %(link)s
UNION
SELECT other FROM penstock.profile_matches
WHERE tenant = %(tenant)s AND kind = %(kind)s AND model = %(model)s AND weight >= %(link)s

-- name: leave
UPDATE penstock.profile_models SET state = 'former'
WHERE tenant = %(tenant)s AND kind = %(kind)s AND state = 'used'

-- name: use
UPDATE penstock.profile_models SET state = 'used', used_at = clock_timestamp()
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s

-- name: forget_old
-- Weights are personal data: of former models the latest is kept, as the way back.
DELETE FROM penstock.profile_models m
WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.state = 'former' AND m.number < (
    SELECT max(l.number) FROM penstock.profile_models l
    WHERE l.tenant = %(tenant)s AND l.kind = %(kind)s AND l.state = 'former')

-- name: waiting
SELECT m.number, m.weight, (extract(epoch FROM m.since) * 1000000)::bigint, a.profile, b.profile,
       a.source, a.stream, a.key, a.profile, a.origin, a.identifiers, a.columns::text,
       a.position, a.committed_at, a.said_at,
       b.source, b.stream, b.key, b.profile, b.origin, b.identifiers, b.columns::text,
       b.position, b.committed_at, b.said_at
FROM penstock.profile_matches m
JOIN penstock.profile_records a ON a.id = m.one
JOIN penstock.profile_records b ON b.id = m.other
WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.model = %(model)s AND m.weight < %(link)s
  AND (%(number)s::bigint IS NULL OR m.number = %(number)s)
  AND a.profile <> b.profile
  AND NOT EXISTS (
    SELECT FROM penstock.profile_decision_records p
    JOIN penstock.profile_decision_records q ON q.tenant = p.tenant AND q.kind = p.kind
     AND q.number = p.number AND q.side <> p.side
    JOIN penstock.profile_decisions d ON d.tenant = p.tenant AND d.kind = p.kind
     AND d.number = p.number AND d.verb = 'unmerge' AND d.revoked_at IS NULL
    WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s
      AND p.source = a.source AND p.stream = a.stream AND p.key = a.key
      AND q.source = b.source AND q.stream = b.stream AND q.key = b.key)
ORDER BY m.weight DESC, m.number LIMIT %(count)s

-- name: all_weights
SELECT kind, number, weights FROM penstock.profile_models WHERE tenant = %(tenant)s
ORDER BY kind, number FOR UPDATE

-- name: reweigh
UPDATE penstock.profile_models SET version = %(version)s, weights = %(weights)s
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s
