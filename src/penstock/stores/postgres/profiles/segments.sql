-- Who is in which segment. What writes holds the kind's lock, so that numbers of events rise with
-- commits, and nobody's evidence changes meanwhile.

-- name: defined
SELECT segment, definition FROM penstock.profile_segments
WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: define
INSERT INTO penstock.profile_segments (tenant, kind, segment, definition)
SELECT %(tenant)s, %(kind)s, w.segment, w.definition
FROM unnest(%(segment)s::text[], %(definition)s::text[]) w (segment, definition)
ON CONFLICT (tenant, kind, segment) DO UPDATE SET definition = excluded.definition

-- name: define_no_more
DELETE FROM penstock.profile_segments
WHERE tenant = %(tenant)s AND kind = %(kind)s AND NOT segment = ANY (%(segment)s::text[])

-- name: everybody_is_due
-- Also those who are members, and of whom nothing may be left.
INSERT INTO penstock.profile_due AS d (tenant, kind, profile, due_at)
SELECT %(tenant)s, %(kind)s, p.id, 0 FROM (
    SELECT id FROM penstock.profiles
    WHERE tenant = %(tenant)s AND kind = %(kind)s AND NOT resting
    UNION SELECT profile FROM penstock.profile_members
    WHERE tenant = %(tenant)s AND kind = %(kind)s) p (id)
ORDER BY p.id
ON CONFLICT (tenant, kind, profile) DO UPDATE SET due_at = 0

-- name: nobody_is_member
-- Whoever follows is told, as of any other who left.
WITH left_ AS (
    DELETE FROM penstock.profile_members WHERE tenant = %(tenant)s AND kind = %(kind)s
    RETURNING segment, profile)
INSERT INTO penstock.profile_member_events (tenant, kind, segment, profile, event, happened_at)
SELECT %(tenant)s, %(kind)s, segment, profile, 'left', %(now)s FROM left_ ORDER BY 1, 2, 3, 4

-- name: nobody_is_due
DELETE FROM penstock.profile_due WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: due
SELECT profile FROM penstock.profile_due
WHERE tenant = %(tenant)s AND kind = %(kind)s AND due_at <= %(now)s
ORDER BY due_at, profile LIMIT %(count)s

-- name: traits
SELECT p.id, p.traits::text FROM unnest(%(profiles)s::text[]) w (id)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profiles p
    WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = w.id COLLATE "C"
      AND NOT p.resting LIMIT 1) p

-- name: memberships
SELECT m.segment, m.profile FROM penstock.profile_members m
WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.profile = ANY (%(profiles)s::text[])

-- name: enter
INSERT INTO penstock.profile_members (tenant, kind, segment, profile, since)
SELECT %(tenant)s, %(kind)s, w.segment, w.profile, %(now)s
FROM unnest(%(segment)s::text[], %(profile)s::text[]) w (segment, profile)

-- name: leave
DELETE FROM penstock.profile_members m
USING unnest(%(segment)s::text[], %(profile)s::text[]) w (segment, profile)
WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.segment = w.segment COLLATE "C"
  AND m.profile = w.profile COLLATE "C"

-- name: happened
INSERT INTO penstock.profile_member_events (tenant, kind, segment, profile, event, happened_at)
SELECT %(tenant)s, %(kind)s, w.segment, w.profile, w.event, %(now)s
FROM unnest(%(segment)s::text[], %(profile)s::text[], %(event)s::text[])
     WITH ORDINALITY w (segment, profile, event, place)
ORDER BY w.place

-- name: looked_at
DELETE FROM penstock.profile_due
WHERE tenant = %(tenant)s AND kind = %(kind)s AND profile = ANY (%(profiles)s::text[])

-- name: due_then
INSERT INTO penstock.profile_due (tenant, kind, profile, due_at)
SELECT %(tenant)s, %(kind)s, w.profile, w.due_at
FROM unnest(%(profile)s::text[], %(due_at)s::bigint[]) w (profile, due_at)

-- name: exists
SELECT FROM penstock.profile_segments
WHERE tenant = %(tenant)s AND kind = %(kind)s AND segment = %(segment)s COLLATE "C"

-- name: members
SELECT profile, since FROM penstock.profile_members
WHERE tenant = %(tenant)s AND kind = %(kind)s AND segment = %(segment)s COLLATE "C"
  AND profile > %(after)s COLLATE "C"
ORDER BY profile LIMIT %(count)s

-- name: events
SELECT number, segment, profile, event, happened_at FROM penstock.profile_member_events
WHERE tenant = %(tenant)s AND kind = %(kind)s AND segment = %(segment)s COLLATE "C"
  AND number > %(after)s
ORDER BY number LIMIT %(count)s
