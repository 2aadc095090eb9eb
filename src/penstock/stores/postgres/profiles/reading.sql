-- Profiles as they are read. Whoever asks as penstock_reader sees what the kind's list lets them.

-- name: meant
-- The profiles that ids mean now: each itself, or where its founder's record is, or what it was
-- merged into (which is older, so this ends).
WITH RECURSIVE followed (place, id) AS (
    SELECT w.place, w.id COLLATE "C" FROM unnest(%(ids)s::text[]) WITH ORDINALITY w (id, place)
    UNION
    SELECT f.place, coalesce(r.profile, p.merged_into)
    FROM followed f
    JOIN penstock.profiles p ON p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = f.id
     AND p.resting
    LEFT JOIN penstock.profile_records r ON r.id = p.founder
)
SELECT f.place::int, p.id FROM followed f
JOIN penstock.profiles p ON p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = f.id
WHERE NOT p.resting

-- name: profile
SELECT p.id, p.number, p.records, p.version, p.traits::text,
       (extract(epoch FROM p.created_at) * 1000000)::bigint,
       (extract(epoch FROM p.changed_at) * 1000000)::bigint,
       (SELECT jsonb_agg(jsonb_build_array(r.source, r.stream, r.key, r.identifiers, r.position,
                                           r.said_at, r.committed_at)
                         ORDER BY r.source, r.stream, r.key)::text
        FROM penstock.profile_records r
        WHERE r.tenant = p.tenant AND r.kind = p.kind AND r.profile = p.id)
FROM penstock.profiles p
WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = %(id)s COLLATE "C" AND NOT p.resting

-- name: bearing
-- Profiles with a record that bears one of these identifiers.
SELECT DISTINCT r.profile
FROM unnest(%(identifiers)s::text[]) w (identifier)
JOIN penstock.profile_bearers b ON b.tenant = %(tenant)s AND b.kind = %(kind)s
 AND b.identifier = w.identifier COLLATE "C"
JOIN penstock.profile_records r ON r.id = b.record
ORDER BY r.profile LIMIT %(count)s

-- name: of_record
SELECT profile FROM penstock.profile_records
WHERE tenant = %(tenant)s AND kind = %(kind)s AND source = %(source)s COLLATE "C"
  AND stream = %(stream)s COLLATE "C" AND key = %(key)s COLLATE "C" AND profile IS NOT NULL

-- name: list
-- The largest first: where too much was merged, it shows there.
SELECT p.id, p.records, p.traits::text,
       (extract(epoch FROM p.changed_at) * 1000000)::bigint
FROM penstock.profiles p
WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND NOT p.resting
ORDER BY p.records DESC, p.number LIMIT %(count)s

-- name: totals
SELECT count(*) FILTER (WHERE NOT resting), count(*) FILTER (WHERE resting AND merged_into IS NOT NULL),
       coalesce(sum(records), 0), coalesce(max(records), 0),
       (SELECT count(*) FROM penstock.profile_refusals r
        WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.why = 'size')
FROM penstock.profiles WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: events
SELECT number, event, profile, other, detail::text,
       (extract(epoch FROM happened_at) * 1000000)::bigint
FROM penstock.profile_events
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number > %(after)s
  AND (%(profiles)s::text[] IS NULL OR profile = ANY (%(profiles)s) OR other = ANY (%(profiles)s))
  AND (%(created)s OR event <> 'created')
ORDER BY number LIMIT %(count)s

-- name: held
SELECT one.source || '/' || one.stream || '/' || one.key, one.profile,
       other.source || '/' || other.stream || '/' || other.key, other.profile,
       h.via, h.why, h.detail, (extract(epoch FROM h.since) * 1000000)::bigint
FROM penstock.profile_refusals h
JOIN penstock.profile_records one ON one.id = h.one
JOIN penstock.profile_records other ON other.id = h.other
WHERE h.tenant = %(tenant)s AND h.kind = %(kind)s AND (%(why)s::text IS NULL OR h.why = %(why)s)
ORDER BY h.since, h.one, h.other, h.via LIMIT %(count)s

-- name: shared
-- Identifiers of a record that more bear than tie.
SELECT w.identifier, count(*)
FROM unnest(%(identifiers)s::text[]) w (identifier)
CROSS JOIN LATERAL (SELECT FROM penstock.profile_bearers b
    WHERE b.tenant = %(tenant)s AND b.kind = %(kind)s AND b.identifier = w.identifier COLLATE "C"
    LIMIT 100000) b
GROUP BY 1 ORDER BY 1

-- name: decisions
SELECT d.number, d.verb, d.identifier, d.decided_by, d.reason, d.decided_at, d.revoked_at,
       (SELECT jsonb_agg(jsonb_build_array(n.side, n.source, n.stream, n.key)
                         ORDER BY n.side, n.source, n.stream, n.key)::text
        FROM penstock.profile_decision_records n
        WHERE n.tenant = d.tenant AND n.kind = d.kind AND n.number = d.number)
FROM penstock.profile_decisions d WHERE d.tenant = %(tenant)s AND d.kind = %(kind)s
ORDER BY d.number

-- name: decide
INSERT INTO penstock.profile_decisions
    (tenant, kind, number, verb, identifier, decided_by, reason, decided_at)
SELECT %(tenant)s, %(kind)s, 1 + coalesce(max(number), 0), %(verb)s, %(identifier)s, %(by)s,
       %(reason)s, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
FROM penstock.profile_decisions WHERE tenant = %(tenant)s AND kind = %(kind)s
RETURNING number

-- name: decide_on
INSERT INTO penstock.profile_decision_records (tenant, kind, number, side, source, stream, key)
SELECT %(tenant)s, %(kind)s, %(number)s, w.side, w.source, w.stream, w.key
FROM unnest(%(side)s::text[], %(source)s::text[], %(stream)s::text[], %(key)s::text[])
     w (side, source, stream, key)

-- name: revoke
UPDATE penstock.profile_decisions
SET revoked_at = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(number)s AND revoked_at IS NULL
RETURNING number, verb, identifier, decided_by, reason, decided_at,
    (SELECT jsonb_agg(jsonb_build_array(n.side, n.source, n.stream, n.key))::text
     FROM penstock.profile_decision_records n
     WHERE n.tenant = %(tenant)s AND n.kind = %(kind)s AND n.number = %(number)s)
