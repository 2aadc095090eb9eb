-- Reading the rows of a kind anew, from the live tables.

-- name: not_noted_since
SELECT r.source, r.stream, r.key, r.position, r.committed_at
FROM penstock.profile_records r
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.columns IS NOT NULL
  AND r.noted_at < %(since)s
ORDER BY r.source, r.stream, r.key LIMIT 5000

-- name: join_tables
-- The consumer goes on from where the live tables are: what they hold is taken up already.
INSERT INTO penstock.consumers AS c (consumer, topic, partition, position, source, source_position, as_of)
SELECT %(consumer)s, t.topic, t.partition, t.position, t.source, t.source_position, t.as_of
FROM penstock.consumers t WHERE t.consumer = 'tables' AND t.topic = ANY (%(topics)s)
ON CONFLICT (consumer, topic, partition) DO UPDATE
SET position = CASE WHEN %(new)s THEN excluded.position
                    ELSE least(c.position, excluded.position) END,
    source = excluded.source,
    source_position = greatest(c.source_position, excluded.source_position),
    as_of = CASE WHEN %(new)s THEN excluded.as_of ELSE c.as_of END

-- name: consumers_of
-- A consumer that nobody is any more would hold the log, and the age of its source, for ever.
DELETE FROM penstock.consumers WHERE consumer = %(consumer)s AND NOT topic = ANY (%(topics)s)

-- name: kinds_else
SELECT kind FROM penstock.profile_kinds
WHERE tenant = %(tenant)s AND NOT kind = ANY (%(kinds)s) AND rules <> '{}'

-- name: take_away_records
DELETE FROM penstock.profile_records WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_bearers
DELETE FROM penstock.profile_bearers WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_profiles
DELETE FROM penstock.profiles WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_events
DELETE FROM penstock.profile_events WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_refusals
DELETE FROM penstock.profile_refusals WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_facts
DELETE FROM penstock.profile_facts WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_segments
DELETE FROM penstock.profile_segments WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_members
DELETE FROM penstock.profile_members WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_member_events
DELETE FROM penstock.profile_member_events WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_due
DELETE FROM penstock.profile_due WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_sweeps
DELETE FROM penstock.profile_sweeps WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_blocks
DELETE FROM penstock.profile_blocks WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_matches
DELETE FROM penstock.profile_matches WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_models
DELETE FROM penstock.profile_models WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: take_away_kind
-- How many ids were given is kept: none is ever given again. So are decisions.
UPDATE penstock.profile_kinds SET rules = '{}', allow = '{}', deny = '{}'
WHERE tenant = %(tenant)s AND kind = %(kind)s
