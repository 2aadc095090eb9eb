-- What the stores hold, asked in a way that shows what does not fit together.

-- name: document_digests
SELECT key, content_hash FROM penstock.documents
WHERE tenant = %(tenant)s AND source = %(source)s AND stream IS NULL AND deleted_at IS NULL

-- name: count_documents
SELECT count(*) FROM penstock.documents WHERE tenant = %(tenant)s AND deleted_at IS NULL

-- name: broken_documents
-- The same text twice in a document is one chunk that the layout names twice.
SELECT name, format('its layout names %%s chunks, %%s are there, %%s with a vector; %%s more are not named',
                    expected, present, embedded, loose)
FROM (
    SELECT d.source || '/' || d.key AS name, cardinality(named.ids) AS expected,
           count(c.id) FILTER (WHERE c.id = ANY (named.ids)) AS present,
           count(v.hash) FILTER (WHERE c.id = ANY (named.ids)) AS embedded,
           count(c.id) FILTER (WHERE c.id <> ALL (named.ids)) AS loose
    FROM penstock.documents d
    CROSS JOIN LATERAL (SELECT ARRAY(SELECT DISTINCT unnest(d.layout)) AS ids) named
    LEFT JOIN penstock.chunks c ON c.document_id = d.id
    LEFT JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = c.model AND v.hash = c.hash
    WHERE d.tenant = %(tenant)s AND d.deleted_at IS NULL
    GROUP BY d.id, named.ids
) counted
WHERE expected <> present OR expected <> embedded OR loose > 0

-- name: orphans
SELECT 'chunk ' || c.id, 'belongs to no document'
FROM penstock.chunks c
LEFT JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
WHERE c.tenant = %(tenant)s AND d.id IS NULL
