-- name: opened
INSERT INTO penstock.log_topics AS t (topic, tenant, partitions, log)
VALUES (%(topic)s, %(tenant)s, %(partitions)s, %(identity)s)
ON CONFLICT (topic) DO UPDATE SET partitions = excluded.partitions, log = excluded.log
WHERE t.tenant = excluded.tenant AND (t.log = excluded.log OR NOT EXISTS (
    SELECT FROM penstock.consumers AS c WHERE c.topic = t.topic AND c.position > 0))
RETURNING topic;

-- name: forget_heads
-- Heads of a topic before this one, or of partitions that it does not have, say nothing now.
DELETE FROM penstock.log_partitions AS p USING penstock.log_topics AS t
WHERE p.topic = %(topic)s AND t.topic = p.topic
    AND NOT EXISTS (SELECT FROM penstock.consumers AS c WHERE c.topic = p.topic AND c.position > 0);

-- name: heads
INSERT INTO penstock.log_partitions (topic, partition)
SELECT %(topic)s::text, n FROM generate_series(0, %(partitions)s - 1) AS n
ON CONFLICT DO NOTHING;

-- name: reached
UPDATE penstock.log_partitions AS p SET last = greatest(p.last, b.last)
FROM unnest(%(partitions)s::int[], %(lasts)s::bigint[]) AS b (partition, last)
WHERE p.topic = %(topic)s AND p.partition = b.partition AND p.last < b.last;

-- name: trimmed
UPDATE penstock.log_partitions AS p SET first = greatest(p.first, b.first)
FROM unnest(%(partitions)s::int[], %(firsts)s::bigint[]) AS b (partition, first)
WHERE p.topic = %(topic)s AND p.partition = b.partition AND p.first < b.first;

-- name: slowest
SELECT partition, min(position) FROM penstock.consumers WHERE topic = %(topic)s GROUP BY partition;

-- name: forget
WITH dropped AS (DELETE FROM penstock.log_topics WHERE topic = %(topic)s)
DELETE FROM penstock.consumers WHERE topic = %(topic)s;
