-- name: register
INSERT INTO penstock.second_stores (tenant, name) VALUES (%(tenant)s, %(store)s)
ON CONFLICT DO NOTHING RETURNING name

-- name: model
-- Whose vectors are searched: the named model's, or those that this tenant is served.
SELECT m.id, m.dimensions FROM penstock.models m
WHERE m.name = %(model)s OR (%(model)s::text IS NULL AND m.id = (
    SELECT s.model FROM penstock.serving_models s WHERE s.tenant = %(tenant)s))

-- name: change_model
UPDATE penstock.second_stores SET model = %(model)s
WHERE tenant = %(tenant)s AND name = %(store)s AND model IS DISTINCT FROM %(model)s
RETURNING name

-- name: queue_all
INSERT INTO penstock.second_store_work (tenant, store, document_id, gone)
SELECT tenant, %(store)s, id, '{}' FROM penstock.documents
WHERE tenant = %(tenant)s AND deleted_at IS NULL ORDER BY id

-- name: outrun
-- Numbers above all that were ever given: a database that was restored from a backup counts from
-- where it was then, and the second store would take its repairs for old.
SELECT setval('penstock.second_store_work_seq_seq', greatest(
    nextval('penstock.second_store_work_seq_seq'), (extract(epoch FROM clock_timestamp()) * 1e6)::bigint))

-- name: queue
INSERT INTO penstock.second_store_work (tenant, store, document_id, gone)
SELECT DISTINCT %(tenant)s, %(store)s, c.document_id, '{}'::bigint[] FROM penstock.chunks c
WHERE c.id = ANY(%(chunks)s::bigint[]) AND c.tenant = %(tenant)s

-- name: queue_gone
-- Under a document that cannot be: its only purpose is to carry a number and the chunks.
INSERT INTO penstock.second_store_work (tenant, store, document_id, gone)
VALUES (%(tenant)s, %(store)s, 0, %(chunks)s::bigint[])

-- name: pending
SELECT DISTINCT document_id FROM penstock.second_store_work
WHERE tenant = %(tenant)s AND store = %(store)s ORDER BY document_id

-- name: ages
SELECT coalesce(jsonb_object_agg(source, as_of), '{}'), clock_timestamp() FROM (
    SELECT source, CASE WHEN count(*) = count(as_of) THEN min(as_of) END AS as_of
    FROM penstock.consumers WHERE source IS NOT NULL AND NOT starts_with(consumer, 'publish_')
    GROUP BY source) a

-- name: versions
SELECT document_id, max(seq) FROM penstock.second_store_work
WHERE tenant = %(tenant)s AND store = %(store)s AND document_id = ANY(%(documents)s::bigint[])
GROUP BY document_id

-- name: rows
SELECT c.id, c.document_id, {digest}, c.tenant, c.model, d.source, d.key, d.title,
       CASE WHEN d.row_key IS NULL THEN 'document' ELSE 'row' END, d.metadata, v.embedding
FROM penstock.documents d
JOIN penstock.chunks c ON c.document_id = d.id
JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = c.model AND v.hash = c.hash
WHERE d.id = ANY(%(documents)s::bigint[]) AND d.tenant = %(tenant)s AND d.deleted_at IS NULL
  AND v.model = %(model)s AND v.embedding IS NOT NULL

-- name: gone
SELECT g.chunk, max(w.seq) FROM penstock.second_store_work w
CROSS JOIN LATERAL unnest(w.gone) g (chunk)
WHERE w.tenant = %(tenant)s AND w.store = %(store)s
  AND w.document_id = ANY(%(documents)s::bigint[])
  AND NOT EXISTS (SELECT FROM penstock.chunks c JOIN penstock.documents d ON d.id = c.document_id
                  WHERE c.id = g.chunk AND d.deleted_at IS NULL)
GROUP BY g.chunk

-- name: settle
DELETE FROM penstock.second_store_work w
USING unnest(%(documents)s::bigint[], %(versions)s::bigint[]) s (document_id, version)
WHERE w.tenant = %(tenant)s AND w.store = %(store)s
  AND w.document_id = s.document_id AND w.seq <= s.version

-- name: searchable
UPDATE penstock.second_stores SET ages = %(ages)s, searchable_at = %(at)s
WHERE tenant = %(tenant)s AND name = %(store)s
  AND (searchable_at IS NULL OR searchable_at < %(at)s)

-- name: state
SELECT s.searchable_at, s.ages,
       EXISTS (SELECT FROM penstock.second_store_work w
               WHERE w.tenant = s.tenant AND w.store = s.name)
FROM penstock.second_stores s WHERE s.tenant = %(tenant)s AND s.name = %(store)s

-- name: ranges
SELECT c.id / %(span)s, count(*), sum({digest})::bigint
FROM penstock.documents d JOIN penstock.chunks c ON c.document_id = d.id
JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = c.model AND v.hash = c.hash
WHERE d.tenant = %(tenant)s AND d.deleted_at IS NULL AND c.model = %(model)s
  AND v.embedding IS NOT NULL GROUP BY 1

-- name: digests
SELECT c.id, {digest}
FROM penstock.documents d JOIN penstock.chunks c ON c.document_id = d.id
JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = c.model AND v.hash = c.hash
WHERE d.tenant = %(tenant)s AND d.deleted_at IS NULL AND c.model = %(model)s
  AND v.embedding IS NOT NULL AND c.id >= %(from)s AND c.id < %(to)s
