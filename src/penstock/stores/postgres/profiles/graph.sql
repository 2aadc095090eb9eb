-- The identity graph of one kind of profile, as its writer reads and writes it. Whoever writes holds
-- the lock of the kind until it commits: what is read here is what the last writer left. LATERAL with
-- LIMIT: each wanted row by its key is the plan, also for a table that was empty a moment ago and of
-- which statistics know nothing.

-- name: lock
SELECT pg_advisory_xact_lock(hashtextextended('profiles ' || %(tenant)s || ' ' || %(kind)s, 0)),
       set_config('jit', 'off', true)

-- name: state
-- Whether anybody has decided anything, and what was taken away whole.
SELECT EXISTS (SELECT FROM penstock.profile_decisions
               WHERE tenant = %(tenant)s AND kind = %(kind)s AND revoked_at IS NULL),
       EXISTS (SELECT FROM penstock.profile_refusals WHERE tenant = %(tenant)s AND kind = %(kind)s),
       (SELECT coalesce(jsonb_agg(jsonb_build_array(source, stream, position)), '[]')::text
        FROM penstock.profile_sweeps WHERE tenant = %(tenant)s AND kind = %(kind)s)

-- name: stored
SELECT r.id, r.source, r.stream, r.key, r.profile, r.origin, r.identifiers, r.columns::text,
       r.position, r.committed_at, r.said_at
FROM unnest(%(source)s::text[], %(stream)s::text[], %(key)s::text[]) w (source, stream, key)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profile_records r
    WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.source = w.source COLLATE "C"
      AND r.stream = w.stream COLLATE "C" AND r.key = w.key COLLATE "C" LIMIT 1) r

-- name: bearers
-- So many of each at most. A record that is about to be written is not there yet, or not as it will
-- be: the writer has it.
SELECT w.place::int, b.record, r.source, r.stream, r.key, r.profile, r.origin, r.identifiers,
       r.columns::text, r.position, r.committed_at, r.said_at
FROM unnest(%(identifier)s::text[], %(most)s::int[]) WITH ORDINALITY w (identifier, most, place)
CROSS JOIN LATERAL (
    SELECT b.record FROM penstock.profile_bearers b
    WHERE b.tenant = %(tenant)s AND b.kind = %(kind)s AND b.identifier = w.identifier COLLATE "C"
    ORDER BY b.record LIMIT w.most) b
LEFT JOIN LATERAL (SELECT * FROM penstock.profile_records r WHERE r.id = b.record LIMIT 1) r ON true

-- name: members
SELECT r.id, r.source, r.stream, r.key, r.profile, r.origin, r.identifiers, r.columns::text, r.position,
       r.committed_at, r.said_at
FROM penstock.profile_records r
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.profile = ANY (%(profiles)s::text[])
  AND r.columns IS NOT NULL

-- name: decided
-- Decisions that name one of these records, each with all that it names.
SELECT d.number, d.verb, d.identifier, d.decided_by, d.reason, d.decided_at,
       (SELECT jsonb_agg(jsonb_build_array(n.side, n.source, n.stream, n.key))::text
        FROM penstock.profile_decision_records n
        WHERE n.tenant = %(tenant)s AND n.kind = %(kind)s AND n.number = d.number)
FROM penstock.profile_decisions d
WHERE d.tenant = %(tenant)s AND d.kind = %(kind)s AND d.revoked_at IS NULL AND d.number IN (
    SELECT n.number
    FROM unnest(%(source)s::text[], %(stream)s::text[], %(key)s::text[]) w (source, stream, key)
    JOIN penstock.profile_decision_records n ON n.tenant = %(tenant)s AND n.kind = %(kind)s
     AND n.source = w.source COLLATE "C" AND n.stream = w.stream COLLATE "C"
     AND n.key = w.key COLLATE "C")

-- name: blocked
SELECT identifier FROM penstock.profile_decisions
WHERE tenant = %(tenant)s AND kind = %(kind)s AND verb = 'block' AND revoked_at IS NULL

-- name: known
SELECT p.id, p.number, p.resting, p.merged_into, r.profile, r.source, r.stream, r.key
FROM unnest(%(ids)s::text[]) w (id)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profiles p
    WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = w.id COLLATE "C" LIMIT 1) p
LEFT JOIN LATERAL (SELECT * FROM penstock.profile_records r WHERE r.id = p.founder LIMIT 1) r ON true
UNION ALL
SELECT p.id, p.number, p.resting, p.merged_into, r.profile, r.source, r.stream, r.key
FROM unnest(%(founders)s::bigint[]) w (founder)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profiles p
    WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.founder = w.founder AND p.resting
    OFFSET 0) p
JOIN LATERAL (SELECT * FROM penstock.profile_records r WHERE r.id = p.founder LIMIT 1) r ON true

-- name: ids
-- Numbers for new profiles: the row is locked by nobody else, as the kind is.
UPDATE penstock.profile_kinds SET profiles = profiles + %(count)s
WHERE tenant = %(tenant)s AND kind = %(kind)s
RETURNING profiles - %(count)s

-- name: record_ids
SELECT nextval(pg_get_serial_sequence('penstock.profile_records', 'id'))
FROM generate_series(1, %(count)s)

-- name: bear
INSERT INTO penstock.profile_bearers (tenant, kind, identifier, record)
SELECT %(tenant)s, %(kind)s, w.identifier, w.record
FROM unnest(%(identifier)s::text[], %(record)s::bigint[]) w (identifier, record)

-- name: bear_no_more
DELETE FROM penstock.profile_bearers b
USING unnest(%(identifier)s::text[], %(record)s::bigint[]) w (identifier, record)
CROSS JOIN LATERAL (
    SELECT b.ctid AS place FROM penstock.profile_bearers b
    WHERE b.tenant = %(tenant)s AND b.kind = %(kind)s AND b.identifier = w.identifier COLLATE "C"
      AND b.record = w.record LIMIT 1) found
WHERE b.ctid = found.place

-- name: write
INSERT INTO penstock.profile_records AS r (id, tenant, kind, source, stream, key, profile, origin,
    identifiers, columns, position, committed_at, said_at)
SELECT w.id, %(tenant)s, %(kind)s, w.source, w.stream, w.key, w.profile, w.origin,
       w.identifiers::text[],
       w.columns::jsonb, w.position, w.committed_at, w.said_at
FROM unnest(%(id)s::bigint[], %(source)s::text[], %(stream)s::text[], %(key)s::text[],
            %(profile)s::text[], %(origin)s::text[], %(identifiers)s::text[], %(columns)s::text[], %(position)s::text[],
            %(committed_at)s::bigint[], %(said_at)s::bigint[])
     w (id, source, stream, key, profile, origin, identifiers, columns, position, committed_at, said_at)
ON CONFLICT (tenant, kind, source, stream, key) DO UPDATE SET profile = excluded.profile,
    origin = excluded.origin, identifiers = excluded.identifiers, columns = excluded.columns, position = excluded.position,
    committed_at = excluded.committed_at, said_at = excluded.said_at, noted_at = excluded.noted_at

-- name: move
UPDATE penstock.profile_records r SET profile = w.profile, origin = w.origin
FROM unnest(%(record)s::bigint[], %(profile)s::text[], %(origin)s::text[]) w (record, profile, origin)
CROSS JOIN LATERAL (
    SELECT r.ctid AS place FROM penstock.profile_records r WHERE r.id = w.record LIMIT 1) found
WHERE r.ctid = found.place

-- name: create
INSERT INTO penstock.profiles (tenant, kind, id, number, founder, records, traits)
SELECT %(tenant)s, %(kind)s, w.id, w.number, w.founder, w.records, w.traits::jsonb
FROM unnest(%(id)s::text[], %(number)s::bigint[], %(founder)s::bigint[], %(records)s::int[],
            %(traits)s::text[]) w (id, number, founder, records, traits)

-- name: update
UPDATE penstock.profiles p SET resting = false, merged_into = NULL, records = w.records,
    traits = w.traits::jsonb, version = p.version + 1, changed_at = clock_timestamp()
FROM unnest(%(id)s::text[], %(records)s::int[], %(traits)s::text[]) w (id, records, traits)
CROSS JOIN LATERAL (
    SELECT p.ctid AS place FROM penstock.profiles p
    WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = w.id COLLATE "C" LIMIT 1) found
WHERE p.ctid = found.place

-- name: rest
UPDATE penstock.profiles p SET resting = true, merged_into = w.survivor, records = 0, traits = '{}',
    version = p.version + 1, changed_at = clock_timestamp()
FROM unnest(%(id)s::text[], %(survivor)s::text[]) w (id, survivor)
CROSS JOIN LATERAL (
    SELECT p.ctid AS place FROM penstock.profiles p
    WHERE p.tenant = %(tenant)s AND p.kind = %(kind)s AND p.id = w.id COLLATE "C" LIMIT 1) found
WHERE p.ctid = found.place

-- name: happened
INSERT INTO penstock.profile_events (tenant, kind, event, profile, other, detail)
SELECT %(tenant)s, %(kind)s, w.event, w.profile, w.other, w.detail::jsonb
FROM unnest(%(event)s::text[], %(profile)s::text[], %(other)s::text[], %(detail)s::text[])
     WITH ORDINALITY w (event, profile, other, detail, place)
ORDER BY w.place

-- name: refused_no_more
DELETE FROM penstock.profile_refusals
WHERE tenant = %(tenant)s AND kind = %(kind)s
  AND (one = ANY (%(records)s::bigint[]) OR other = ANY (%(records)s::bigint[]))
RETURNING one, other, via, why, detail, since::text

-- name: refused
INSERT INTO penstock.profile_refusals (tenant, kind, one, other, via, why, detail, since)
SELECT %(tenant)s, %(kind)s, w.one, w.other, w.via, w.why, w.detail,
       coalesce(w.since::timestamptz, clock_timestamp())
FROM unnest(%(one)s::bigint[], %(other)s::bigint[], %(via)s::text[], %(why)s::text[],
            %(detail)s::text[], %(since)s::text[]) w (one, other, via, why, detail, since)
ON CONFLICT DO NOTHING

-- name: older
-- Rows of a table that a sweep takes away, some at a time.
SELECT r.key FROM penstock.profile_records r
WHERE r.tenant = %(tenant)s AND r.kind = %(kind)s AND r.source = %(source)s COLLATE "C"
  AND r.stream = %(stream)s COLLATE "C" AND r.columns IS NOT NULL
  AND r.position < %(position)s COLLATE "C" AND r.key > %(after)s COLLATE "C"
ORDER BY r.key LIMIT 10000

-- name: sweep
INSERT INTO penstock.profile_sweeps AS s (tenant, kind, source, stream, position)
VALUES (%(tenant)s, %(kind)s, %(source)s, %(stream)s, %(position)s)
ON CONFLICT (tenant, kind, source, stream) DO UPDATE SET position = excluded.position
WHERE s.position < excluded.position
