-- Whether the knowledge base fits together, and taking away what does not.

-- name: chunks
SELECT id, terms FROM penstock.chunks WHERE tenant = %(tenant)s ORDER BY id

-- name: loose_chunks
-- Chunks that no document names.
SELECT c.id FROM penstock.chunks c
LEFT JOIN penstock.documents d ON d.id = c.document_id AND d.deleted_at IS NULL
WHERE c.tenant = %(tenant)s AND (d.id IS NULL OR NOT c.id = ANY(d.layout))

-- name: broken_documents
-- Documents whose layout names chunks that are not there.
SELECT d.source, d.key, d.stream FROM penstock.documents d
WHERE d.tenant = %(tenant)s AND d.deleted_at IS NULL AND EXISTS (
    SELECT FROM unnest(d.layout) l (chunk)
    WHERE NOT EXISTS (SELECT FROM penstock.chunks c WHERE c.id = l.chunk AND c.document_id = d.id))

-- name: chunks_without_vector
SELECT c.id FROM penstock.chunks c
LEFT JOIN penstock.vectors v ON v.tenant = c.tenant AND v.model = c.model AND v.hash = c.hash
WHERE c.tenant = %(tenant)s AND v.hash IS NULL

-- name: unused_vectors
-- Those that wait to be collected are no fault.
SELECT count(*) FROM penstock.vectors v
LEFT JOIN penstock.chunks c ON c.tenant = v.tenant AND c.model = v.model AND c.hash = v.hash
LEFT JOIN penstock.loose_vectors l ON l.tenant = v.tenant AND l.model = v.model AND l.hash = v.hash
WHERE v.tenant = %(tenant)s AND c.id IS NULL AND l.hash IS NULL

-- name: note_unused_vectors
INSERT INTO penstock.loose_vectors (tenant, model, hash)
SELECT v.tenant, v.model, v.hash FROM penstock.vectors v
LEFT JOIN penstock.chunks c ON c.tenant = v.tenant AND c.model = v.model AND c.hash = v.hash
WHERE v.tenant = %(tenant)s AND c.id IS NULL ON CONFLICT DO NOTHING

-- name: counted
SELECT (SELECT coalesce(sum(chunks), 0)::bigint FROM penstock.text_statistics
        WHERE tenant = %(tenant)s),
       (SELECT coalesce(sum(terms), 0)::bigint FROM penstock.text_statistics
        WHERE tenant = %(tenant)s),
       (SELECT count(*) FROM penstock.chunks WHERE tenant = %(tenant)s),
       (SELECT coalesce(sum(terms), 0)::bigint FROM penstock.chunks WHERE tenant = %(tenant)s)

-- name: postings
SELECT chunk_ids, frequencies FROM penstock.postings WHERE tenant = %(tenant)s

-- name: fresh_postings
SELECT payload FROM penstock.fresh_postings WHERE tenant = %(tenant)s

-- name: texts
SELECT c.id, d.title, c.heading, c.text, c.hash, c.model, m.name
FROM penstock.chunks c JOIN penstock.documents d ON d.id = c.document_id
JOIN penstock.models m ON m.id = c.model
WHERE c.id = ANY(%(chunks)s::bigint[])
