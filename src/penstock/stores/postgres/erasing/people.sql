-- What the identity graph keeps of somebody who was taken out of it.

-- name: records
SELECT r.id, r.kind, r.source, r.stream, r.key, r.position, r.committed_at, r.columns IS NOT NULL
FROM unnest(%(sources)s::text[], %(streams)s::text[], %(keys)s::text[]) w (source, stream, key)
JOIN penstock.profile_records r ON r.tenant = %(tenant)s AND r.source = w.source COLLATE "C"
 AND r.stream = w.stream COLLATE "C" AND r.key = w.key COLLATE "C"
ORDER BY r.kind, r.source, r.stream, r.key

-- name: facts
SELECT f.kind, f.source, f.stream, f.key, f.position, f.columns IS NOT NULL
FROM unnest(%(sources)s::text[], %(streams)s::text[], %(keys)s::text[]) w (source, stream, key)
JOIN penstock.profile_facts f ON f.tenant = %(tenant)s AND f.source = w.source COLLATE "C"
 AND f.stream = w.stream COLLATE "C" AND f.key = w.key COLLATE "C"
ORDER BY f.kind, f.source, f.stream, f.key

-- name: forget_facts
DELETE FROM penstock.profile_facts f
WHERE f.tenant = %(tenant)s AND f.kind = %(kind)s AND (
    f.owner = ANY (%(ids)s) OR (f.source, f.stream, f.key) IN (
        SELECT * FROM unnest(%(sources)s::text[], %(streams)s::text[], %(keys)s::text[])))

-- name: members
DELETE FROM penstock.profile_members
WHERE tenant = %(tenant)s AND kind = %(kind)s AND profile = ANY (%(profiles)s)

-- name: member_events
DELETE FROM penstock.profile_member_events
WHERE tenant = %(tenant)s AND kind = %(kind)s AND profile = ANY (%(profiles)s)

-- name: due
DELETE FROM penstock.profile_due
WHERE tenant = %(tenant)s AND kind = %(kind)s AND profile = ANY (%(profiles)s)

-- name: blocks
DELETE FROM penstock.profile_blocks
WHERE tenant = %(tenant)s AND kind = %(kind)s AND record = ANY (%(ids)s)

-- name: matches
DELETE FROM penstock.profile_matches
WHERE tenant = %(tenant)s AND kind = %(kind)s AND (one = ANY (%(ids)s) OR other = ANY (%(ids)s))

-- name: bearers
DELETE FROM penstock.profile_bearers
WHERE tenant = %(tenant)s AND kind = %(kind)s AND record = ANY (%(ids)s)

-- name: refusals
DELETE FROM penstock.profile_refusals
WHERE tenant = %(tenant)s AND kind = %(kind)s AND (one = ANY (%(ids)s) OR other = ANY (%(ids)s))

-- name: decisions
-- What remains of a decision about somebody who is gone is that there was one.
UPDATE penstock.profile_decisions d
SET reason = 'erased', identifier = NULL, revoked_at = coalesce(revoked_at, decided_at)
WHERE d.tenant = %(tenant)s AND d.kind = %(kind)s AND (
    EXISTS (SELECT FROM unnest(%(values)s::text[]) v
            WHERE strpos(lower(d.reason || ' ' || coalesce(d.identifier, '')), lower(v)) > 0)
    OR d.number IN (
        SELECT n.number FROM penstock.profile_decision_records n
        JOIN penstock.profile_records r USING (tenant, kind, source, stream, key)
        WHERE r.id = ANY (%(ids)s)))

-- name: decision_records
DELETE FROM penstock.profile_decision_records n USING penstock.profile_records r
WHERE r.id = ANY (%(ids)s)
  AND (n.tenant, n.kind, n.source, n.stream, n.key) = (r.tenant, r.kind, r.source, r.stream, r.key)

-- name: events_about
-- Events that tell of the subject. What they tell is written out and folded once for each.
SELECT e.kind, e.number FROM (
    SELECT kind, number, profile, other, detail::text AS told, lower(detail::text) AS folded
    FROM penstock.profile_events
    WHERE tenant = %(tenant)s AND detail <> '{}' OFFSET 0) e
WHERE (e.kind, e.profile) IN (SELECT * FROM unnest(%(kinds)s::text[], %(profiles)s::text[]))
   OR (e.kind, e.other) IN (SELECT * FROM unnest(%(kinds)s::text[], %(profiles)s::text[]))
   OR EXISTS (SELECT FROM unnest(%(values)s::text[]) v WHERE strpos(e.folded, v) > 0)
   OR EXISTS (SELECT FROM unnest(%(records)s::text[]) r WHERE strpos(e.told, r) > 0)
ORDER BY e.number

-- name: memberships
SELECT m.kind, m.segment, m.profile
FROM unnest(%(kinds)s::text[], %(profiles)s::text[]) w (kind, profile)
JOIN (SELECT tenant, kind, segment, profile FROM penstock.profile_member_events
      UNION SELECT tenant, kind, segment, profile FROM penstock.profile_members) m
  ON m.tenant = %(tenant)s AND m.kind = w.kind COLLATE "C" AND m.profile = w.profile COLLATE "C"

-- name: events
-- Numbers of events stay; what they told of the subject goes. Followers learn from the last one,
-- 'gone', that the id means nobody.
UPDATE penstock.profile_events SET detail = '{}'
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = ANY (%(numbers)s::bigint[])

-- name: profiles
DELETE FROM penstock.profiles
WHERE tenant = %(tenant)s AND kind = %(kind)s AND id = ANY (%(profiles)s)

-- name: forget_records
DELETE FROM penstock.profile_records WHERE id = ANY (%(ids)s)
