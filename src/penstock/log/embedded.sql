-- name: create_topic
INSERT INTO penstock.log_topics (topic, tenant, partitions)
VALUES (%(topic)s::text, %(tenant)s, %(partitions)s)
ON CONFLICT (topic) DO NOTHING;

-- name: create_partitions
INSERT INTO penstock.log_partitions (topic, partition)
SELECT t.topic, n
FROM penstock.log_topics AS t, generate_series(0, t.partitions - 1) AS n
WHERE t.topic = %(topic)s::text
ON CONFLICT DO NOTHING;

-- name: topic
SELECT tenant, partitions, log FROM penstock.log_topics WHERE topic = %(topic)s::text;

-- name: drop_topic
-- Listeners forget what they know of the topic: it may be made again with other content.
WITH dropped AS (
    DELETE FROM penstock.log_topics WHERE topic = %(topic)s::text RETURNING topic
), readers AS (
    DELETE FROM penstock.consumers WHERE topic = %(topic)s::text
)
SELECT pg_notify('penstock_log', topic || ':-1:0') FROM dropped;

-- name: open_producer
INSERT INTO penstock.producers AS p (producer, epoch) VALUES (%(producer)s::text, 1)
ON CONFLICT (producer) DO UPDATE SET epoch = p.epoch + 1, opened_at = clock_timestamp()
RETURNING epoch;

-- name: producer_state
SELECT name, value FROM penstock.producer_state WHERE producer = %(producer)s::text;

-- name: append
-- One step, one round trip, for one append or a group of them. The rows of their producers are locked
-- first, so that an opener waits for an append under way and later ones find another epoch; then the
-- partitions. Both in order, so that two writers never wait for each other in a circle. Nothing is
-- written unless all locks were had; the answer says, by number, which were.
WITH mine AS MATERIALIZED (
    SELECT s.number FROM penstock.producers AS p
    JOIN unnest(%(producers)s::text[], %(epochs)s::bigint[]) WITH ORDINALITY
        AS s (producer, epoch, number) ON p.producer = s.producer AND p.epoch = s.epoch
    ORDER BY p.producer COLLATE "C"
    FOR SHARE OF p
), heads AS MATERIALIZED (
    SELECT b.number, p.last, b.changes FROM penstock.log_partitions AS p
    JOIN unnest(%(topics)s::text[], %(partitions)s::int[], %(changes)s::int[]) WITH ORDINALITY
        AS b (topic, partition, changes, number) ON p.topic = b.topic AND p.partition = b.partition
    WHERE (SELECT count(*) FROM mine) = cardinality(%(producers)s::text[])
    ORDER BY p.topic COLLATE "C", p.partition
    FOR NO KEY UPDATE OF p
), ready AS MATERIALIZED (
    SELECT (SELECT count(*) FROM mine) = cardinality(%(producers)s::text[])
        AND (SELECT count(*) FROM heads) = cardinality(%(topics)s::text[]) AS ready
), bytes AS (
    SELECT b.*, sum(b.size) OVER (ORDER BY b.number) - b.size AS start
    FROM unnest(%(topics)s::text[], %(partitions)s::int[], %(streams)s::text[], %(times)s::bigint[],
        %(sizes)s::int[]) WITH ORDINALITY AS b (topic, partition, streams, as_of, size, number)
), moved AS (
    UPDATE penstock.log_partitions AS p SET last = h.last + greatest(h.changes, 1)
    FROM heads AS h
    JOIN unnest(%(topics)s::text[], %(partitions)s::int[]) WITH ORDINALITY
        AS b (topic, partition, number) USING (number)
    WHERE p.topic = b.topic AND p.partition = b.partition AND (SELECT ready FROM ready)
    RETURNING h.number, p.topic, p.partition, h.last + 1 AS first, p.last, h.changes
), stored AS (
    INSERT INTO penstock.log_batches (topic, partition, last_position, first_position, changes,
        streams, as_of, appended_at, payload)
    SELECT m.topic, m.partition, m.last, m.first, m.changes, b.streams::text[], b.as_of,
        timestamptz 'epoch' + %(now)s * interval '1 microsecond',
        CASE WHEN m.changes > 0
            THEN substr(%(payloads)b::bytea, b.start::int + 1, b.size) END
    FROM moved AS m JOIN bytes AS b USING (number)
), kept AS (
    INSERT INTO penstock.producer_state (producer, name, value)
    SELECT s.producer, s.name, s.value
    FROM unnest(%(keepers)s::text[], %(names)s::text[], %(values)s::text[]) AS s (producer, name, value)
    WHERE (SELECT ready FROM ready)
    ON CONFLICT (producer, name) DO UPDATE SET value = excluded.value
), removed AS (
    DELETE FROM penstock.producer_state AS p
    USING unnest(%(droppers)s::text[], %(gone)s::text[]) AS s (producer, name)
    WHERE p.producer = s.producer AND p.name = s.name AND (SELECT ready FROM ready)
)
SELECT ARRAY(SELECT number FROM mine) AS mine, ARRAY(SELECT number FROM heads) AS there,
    ARRAY(SELECT first FROM moved ORDER BY number) AS first,
    ARRAY(SELECT last FROM moved ORDER BY number) AS last,
    (SELECT count(pg_notify('penstock_log', topic || ':' || partition || ':' || last)::text)
     FROM moved) AS told;

-- name: head
SELECT first, last FROM penstock.log_partitions
WHERE topic = %(topic)s::text AND partition = %(partition)s;

-- name: read
-- Appends that begin within the next max_changes positions; both ends are found in the index.
-- A partition without anything to read is one row of nulls, so that the head is always known.
SELECT p.first, p.last, b.first_position, b.last_position, b.streams, b.as_of,
    CASE WHEN %(streams)s::text[] IS NULL OR b.streams && %(streams)s::text[] THEN b.payload END AS payload
FROM penstock.log_partitions AS p
LEFT JOIN penstock.log_batches AS b
    ON b.topic = %(topic)s::text AND b.partition = %(partition)s
    AND b.last_position > %(after)s
    AND b.last_position <= coalesce((
        SELECT c.last_position FROM penstock.log_batches AS c
        WHERE c.topic = %(topic)s::text AND c.partition = %(partition)s
            AND c.last_position >= %(after)s + %(max_changes)s
        ORDER BY c.last_position LIMIT 1), 9223372036854775807)
WHERE p.topic = %(topic)s::text AND p.partition = %(partition)s
ORDER BY b.last_position;

-- name: seek
SELECT coalesce(
    (SELECT min(b.first_position) - 1 FROM penstock.log_batches AS b
     WHERE b.topic = p.topic AND b.partition = p.partition
        AND b.appended_at >= timestamptz 'epoch' + %(time)s * interval '1 microsecond'),
    p.last)
FROM penstock.log_partitions AS p
WHERE p.topic = %(topic)s::text AND p.partition = %(partition)s;

-- name: describe
SELECT p.topic, p.partition, p.first, p.last,
    coalesce(b.records, 0)::bigint, coalesce(b.size_bytes, 0)::bigint
FROM penstock.log_partitions AS p
JOIN penstock.log_topics AS t USING (topic)
LEFT JOIN LATERAL (
    SELECT sum(changes) AS records, sum(octet_length(payload)) AS size_bytes
    FROM penstock.log_batches AS b WHERE b.topic = p.topic AND b.partition = p.partition
) AS b ON true
WHERE t.tenant = %(tenant)s AND (%(topic)s::text IS NULL OR p.topic = %(topic)s::text)
ORDER BY p.topic COLLATE "C", p.partition;

-- name: trim
-- Per partition: the end of the oldest appends that are too old or over the size of the topic,
-- cut back to what the slowest consumer has processed.
WITH sized AS (
    SELECT partition, last_position, appended_at,
        sum(coalesce(octet_length(payload), 1))
            OVER (ORDER BY appended_at DESC, partition, last_position DESC) AS newer
    FROM penstock.log_batches WHERE topic = %(topic)s::text
), wanted AS (
    SELECT partition,
        greatest(
            max(last_position) FILTER (WHERE newer > %(max_bytes)s::bigint),
            coalesce(
                min(last_position) FILTER (WHERE appended_at >=
                    timestamptz 'epoch' + %(before)s::bigint * interval '1 microsecond'),
                CASE WHEN %(before)s::bigint IS NOT NULL THEN max(last_position) + 1 END
            ) - 1
        ) AS upto
    FROM sized GROUP BY partition
), allowed AS (
    SELECT partition, least(upto,
        (SELECT min(c.position) FROM penstock.consumers AS c
         WHERE c.topic = %(topic)s::text AND c.partition = wanted.partition)) AS upto
    FROM wanted WHERE upto IS NOT NULL
), gone AS (
    DELETE FROM penstock.log_batches AS b USING allowed AS a
    WHERE b.topic = %(topic)s::text AND b.partition = a.partition AND b.last_position <= a.upto
    RETURNING b.partition, b.last_position, b.changes
)
SELECT partition, max(last_position) + 1, sum(changes)::bigint FROM gone
GROUP BY partition ORDER BY partition;

-- name: move_first
-- Apart from the removal, so that appends do not wait for that.
UPDATE penstock.log_partitions SET first = greatest(first, %(first)s)
WHERE topic = %(topic)s::text AND partition = %(partition)s;
