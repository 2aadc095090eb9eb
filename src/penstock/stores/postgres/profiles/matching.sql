-- Fuzzy matches, as the writer of a kind keeps them. LATERAL with LIMIT: see graph.sql. Each statement
-- names what one index has and nothing else: for a table that statistics call empty, all that could
-- be used look alike.

-- name: models
SELECT number, state, version FROM penstock.profile_models
WHERE tenant = %(tenant)s AND kind = %(kind)s AND state <> 'former' ORDER BY number

-- name: weights
SELECT weights FROM penstock.profile_models
WHERE tenant = %(tenant)s AND kind = %(kind)s AND number = %(model)s

-- name: blocks_of
SELECT b.record, b.block
FROM unnest(%(record)s::bigint[]) w (record)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profile_blocks b
    WHERE b.record = w.record AND b.model = %(model)s OFFSET 0) b

-- name: join_blocks
INSERT INTO penstock.profile_blocks (tenant, kind, model, block, record)
SELECT %(tenant)s, %(kind)s, %(model)s, w.block, w.record
FROM unnest(%(block)s::text[], %(record)s::bigint[]) w (block, record)

-- name: leave_blocks
DELETE FROM penstock.profile_blocks b
USING unnest(%(block)s::text[], %(record)s::bigint[]) w (block, record)
CROSS JOIN LATERAL (
    SELECT b.ctid AS place FROM penstock.profile_blocks b
    WHERE b.tenant = %(tenant)s AND b.kind = %(kind)s AND b.model = %(model)s
      AND b.block = w.block COLLATE "C" AND b.record = w.record LIMIT 1) found
WHERE b.ctid = found.place

-- name: in_blocks
-- So many of each at most.
SELECT w.block, array_agg(b.record)
FROM unnest(%(block)s::text[], %(most)s::int[]) w (block, most)
CROSS JOIN LATERAL (
    SELECT b.record FROM penstock.profile_blocks b
    WHERE b.tenant = %(tenant)s AND b.kind = %(kind)s AND b.model = %(model)s
      AND b.block = w.block COLLATE "C"
    LIMIT w.most) b
GROUP BY w.block

-- name: by_id
SELECT r.id, r.source, r.stream, r.key, r.profile, r.origin, r.identifiers, r.columns::text,
       r.position, r.committed_at, r.said_at
FROM unnest(%(record)s::bigint[]) w (record)
CROSS JOIN LATERAL (SELECT * FROM penstock.profile_records r WHERE r.id = w.record LIMIT 1) r

-- name: compared
-- What records are compared by, and nothing else: most are strangers.
SELECT r.id, r.source, r.stream, r.key, r.columns::text
FROM unnest(%(record)s::bigint[]) w (record)
CROSS JOIN LATERAL (SELECT * FROM penstock.profile_records r WHERE r.id = w.record LIMIT 1) r

-- name: matches_of
-- Each match of these records, from a weight on; twice where both are among them.
SELECT m.one, m.other, m.weight, m.fields::text
FROM unnest(%(record)s::bigint[]) w (record)
CROSS JOIN LATERAL (
    SELECT * FROM penstock.profile_matches m
    WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.model = %(model)s AND m.one = w.record
      AND m.weight >= %(least)s
    UNION ALL
    SELECT * FROM penstock.profile_matches m
    WHERE m.other = w.record AND m.model = %(model)s
      AND m.weight >= %(least)s) m

-- name: match
INSERT INTO penstock.profile_matches AS m (tenant, kind, model, one, other, weight, fields)
SELECT %(tenant)s, %(kind)s, %(model)s, w.one, w.other, w.weight, w.fields::jsonb
FROM unnest(%(one)s::bigint[], %(other)s::bigint[], %(weight)s::float8[], %(fields)s::text[])
     w (one, other, weight, fields)
ON CONFLICT (tenant, kind, model, one, other)
DO UPDATE SET weight = excluded.weight, fields = excluded.fields
WHERE m.weight <> excluded.weight OR m.fields <> excluded.fields

-- name: unmatch
DELETE FROM penstock.profile_matches m
USING unnest(%(one)s::bigint[], %(other)s::bigint[]) w (one, other)
CROSS JOIN LATERAL (
    SELECT m.ctid AS place FROM penstock.profile_matches m
    WHERE m.tenant = %(tenant)s AND m.kind = %(kind)s AND m.model = %(model)s
      AND m.one = w.one AND m.other = w.other LIMIT 1) found
WHERE m.ctid = found.place
