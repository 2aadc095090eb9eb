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
