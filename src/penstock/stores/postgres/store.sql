-- name: register
-- A consumer at 0 keeps retention from removing what it has not read.
INSERT INTO penstock.consumers (consumer, topic, partition) VALUES (%s, %s, %s)
ON CONFLICT DO NOTHING

-- name: position
SELECT position FROM penstock.consumers WHERE consumer = %s AND topic = %s AND partition = %s

-- name: passed
SELECT source_position FROM penstock.consumers WHERE consumer = %s AND topic = %s AND partition = %s

-- name: move
-- Compare-and-set: no row means that another process has moved it. Time never goes back.
UPDATE penstock.consumers
SET position = %(to)s, source = %(source)s,
    source_position = greatest(source_position, %(position)s),
    as_of = greatest(as_of, %(as_of)s), moved_at = clock_timestamp()
WHERE consumer = %(consumer)s AND topic = %(topic)s AND partition = %(partition)s
  AND position = %(expected)s

-- name: consumers
SELECT consumer, topic, partition, position, source, source_position, as_of,
       (extract(epoch FROM moved_at) * 1000000)::bigint AS moved_at
FROM penstock.consumers ORDER BY consumer, topic, partition

-- name: bury
-- The same change buried again counts as another attempt.
INSERT INTO penstock.dead_letters AS d
    (tenant, pipeline, source, stream, key, topic, partition, log_position, position, reason, payload)
VALUES (%(tenant)s, %(pipeline)s, %(source)s, %(stream)s, %(key)s::jsonb, %(topic)s, %(partition)s,
    %(log_position)s, %(position)s, %(reason)s, %(payload)s)
ON CONFLICT (pipeline, topic, partition, source, stream, key, position) DO UPDATE
SET attempts = d.attempts + 1, reason = excluded.reason, payload = excluded.payload,
    log_position = excluded.log_position, buried_at = excluded.buried_at

-- name: letters
SELECT id, pipeline, source, stream, topic, partition, log_position, reason, attempts,
       (extract(epoch FROM buried_at) * 1000000)::bigint AS buried_at, payload
FROM penstock.dead_letters
WHERE tenant = %(tenant)s AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s))
  AND (%(pipeline)s::text IS NULL OR pipeline = %(pipeline)s)
  AND (%(source)s::text IS NULL OR source = %(source)s)
ORDER BY id DESC LIMIT %(limit)s

-- name: drop_letters
DELETE FROM penstock.dead_letters
WHERE tenant = %(tenant)s AND (%(ids)s::bigint[] IS NULL OR id = ANY(%(ids)s))
