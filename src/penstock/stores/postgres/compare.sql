-- What the stores hold, asked in a way that shows what does not fit together.

-- name: document_digests
SELECT key, content_hash FROM penstock.documents
WHERE tenant = %(tenant)s AND source = %(source)s AND stream IS NULL AND deleted_at IS NULL
UNION ALL
-- A file that says who may see others is kept as what it says.
SELECT entry, content_hash FROM penstock.permissions
WHERE tenant = %(tenant)s AND source = %(source)s AND stream = '' AND NOT gone
  AND entry NOT IN ('settings', 'its metadata')

-- name: count_documents
SELECT count(*) FROM penstock.documents WHERE tenant = %(tenant)s AND deleted_at IS NULL

-- name: broken_documents
-- The same text twice in a document is one chunk that the layout names twice.
WITH named AS (
    SELECT DISTINCT d.id AS document_id, chunk_id
    FROM penstock.documents d CROSS JOIN LATERAL unnest(d.layout) AS chunk_id
    WHERE d.tenant = %(tenant)s AND d.deleted_at IS NULL
), stored AS (
    SELECT c.id, c.document_id, v.hash IS NOT NULL AS embedded
    FROM penstock.chunks c
    LEFT JOIN penstock.vectors v ON v.tenant = c.tenant AND v.hash = c.hash AND v.model = coalesce(
        (SELECT s.model FROM penstock.serving_models s WHERE s.tenant = %(tenant)s), c.model)
    WHERE c.tenant = %(tenant)s
)
SELECT name, format('its layout names %%s chunks, %%s are there, %%s with a vector; %%s more are not named',
                    expected, present, embedded, loose)
FROM (
    SELECT d.source || '/' || d.key AS name, count(n.chunk_id) AS expected,
           count(n.chunk_id) FILTER (WHERE s.id IS NOT NULL) AS present,
           count(n.chunk_id) FILTER (WHERE s.embedded) AS embedded,
           count(s.id) FILTER (WHERE n.chunk_id IS NULL) AS loose
    FROM named n
    FULL JOIN stored s ON s.id = n.chunk_id AND s.document_id = n.document_id
    JOIN penstock.documents d ON d.id = coalesce(n.document_id, s.document_id)
    WHERE d.deleted_at IS NULL
    GROUP BY d.id
) counted
WHERE expected <> present OR expected <> embedded OR loose > 0

-- name: orphans
SELECT 'chunk ' || c.id, 'belongs to no document'
FROM penstock.chunks c
LEFT JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
WHERE c.tenant = %(tenant)s AND d.id IS NULL
