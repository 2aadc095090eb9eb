-- The write side of the knowledge base. Everything here runs in the caller's transaction.

-- name: find_model
SELECT id, dimensions FROM penstock.models WHERE name = %(name)s

-- name: hold_serving
-- Until this transaction ends no other model is taken into use.
SELECT pg_advisory_xact_lock_shared(7302188, hashtext(%(tenant)s))

-- name: serving
SELECT model FROM penstock.serving_models WHERE tenant = %(tenant)s

-- name: begin_serving
INSERT INTO penstock.serving_models (tenant, model) VALUES (%(tenant)s, %(model)s)
ON CONFLICT (tenant) DO NOTHING

-- name: add_model
-- Waits for a transaction that adds the same name; find_model then finds what that one added.
INSERT INTO penstock.models (name, dimensions, storage)
VALUES (%(name)s, %(dimensions)s, %(storage)s)
ON CONFLICT (name) DO NOTHING

-- name: lock_documents
-- In one order for everybody, so that two writers never wait for each other.
SELECT w.place, d.id, d.position, d.content_hash, d.deleted_at IS NOT NULL
FROM unnest(%(sources)s::text[], %(keys)s::text[]) WITH ORDINALITY w (source, key, place)
JOIN penstock.documents d ON d.tenant = %(tenant)s AND d.source = w.source AND d.key = w.key
ORDER BY d.source, d.key
FOR UPDATE OF d

-- name: stored_chunks
-- A statement of its own, after the locks: it sees what the lock's former holder did. A chunk that
-- was cut for another model is as good as one of this, if its text has a vector of this.
SELECT c.document_id, array_agg(c.id), array_agg(c.hash),
       array_agg(CASE WHEN c.model = m.id OR EXISTS (
           SELECT FROM penstock.vectors v
           WHERE v.tenant = c.tenant AND v.model = m.id AND v.hash = c.hash) THEN m.id
           ELSE c.model END),
       array_agg(sha256(convert_to(c.heading || chr(10) || c.text, 'UTF8')))
FROM unnest(%(sources)s::text[], %(keys)s::text[]) w (source, key)
JOIN penstock.documents d ON d.tenant = %(tenant)s AND d.source = w.source AND d.key = w.key
JOIN penstock.chunks c ON c.document_id = d.id
LEFT JOIN penstock.models m ON m.name = %(model)s
GROUP BY c.document_id

-- name: allocate
-- The condition is looked at first and gives the transaction a number, before it draws any: readers
-- that keep chunks in memory tell by it when no chunk below a number can appear any more.
SELECT ARRAY(SELECT nextval('penstock.documents_id_seq') FROM generate_series(1, %(documents)s)),
       ARRAY(SELECT nextval('penstock.chunks_id_seq') FROM generate_series(1, %(chunks)s))
WHERE pg_current_xact_id() IS NOT NULL

-- name: hold_vectors
-- Which of these are stored; they cannot be collected before this transaction ends.
SELECT hash FROM penstock.vectors
WHERE tenant = %(tenant)s AND model = %(model)s AND hash = ANY(%(hashes)s::bytea[])
ORDER BY hash FOR KEY SHARE

-- name: remove_chunks
-- Keeps count, of what is added in the same transaction too.
WITH gone AS (
    DELETE FROM penstock.chunks WHERE id = ANY(%(gone)s::bigint[]) RETURNING tenant, model, hash, terms
), loose AS (
    INSERT INTO penstock.loose_vectors (tenant, model, hash)
    SELECT DISTINCT v.tenant, v.model, v.hash
    FROM gone CROSS JOIN penstock.models m
    JOIN penstock.vectors v ON v.tenant = gone.tenant AND v.model = m.id AND v.hash = gone.hash
    ORDER BY v.hash, v.model
    ON CONFLICT (tenant, model, hash) DO UPDATE SET since = excluded.since
)
INSERT INTO penstock.text_statistics (tenant, writer, chunks, terms)
SELECT %(tenant)s, %(writer)s, %(chunks)s - count(*), %(terms)s - coalesce(sum(terms), 0) FROM gone
ON CONFLICT (tenant, writer) DO UPDATE
SET chunks = text_statistics.chunks + excluded.chunks,
    terms = text_statistics.terms + excluded.terms

-- name: add_vectors
INSERT INTO penstock.vectors (tenant, model, hash, embedding, head, tokens)
SELECT %(tenant)s, %(model)s, w.hash, w.embedding::halfvec,
       CASE WHEN w.tokens IS NOT NULL THEN %(head)s::text END, w.tokens
FROM unnest(%(hashes)s::bytea[], %(embeddings)s::text[], %(tokens)s::bytea[])
     w (hash, embedding, tokens) ORDER BY w.hash
ON CONFLICT (tenant, model, hash) DO NOTHING

-- name: add_packed_vectors
INSERT INTO penstock.vectors (tenant, model, hash, signs, bytes, head, tokens)
SELECT %(tenant)s, %(model)s, w.hash, w.signs::bit varying, w.bytes,
       CASE WHEN w.tokens IS NOT NULL THEN %(head)s::text END, w.tokens
FROM unnest(%(hashes)s::bytea[], %(signs)s::text[], %(bytes)s::bytea[], %(tokens)s::bytea[])
     w (hash, signs, bytes, tokens)
ORDER BY w.hash
ON CONFLICT (tenant, model, hash) DO NOTHING

-- name: refresh_tokens
-- Of texts whose vector was stored without tokens, or with those of another head.
UPDATE penstock.vectors v SET head = %(head)s::text, tokens = w.tokens
FROM (SELECT * FROM unnest(%(hashes)s::bytea[], %(tokens)s::bytea[]) w (hash, tokens)
      ORDER BY hash) w
WHERE v.tenant = %(tenant)s AND v.model = %(model)s AND v.hash = w.hash
  AND v.head IS DISTINCT FROM %(head)s::text

-- name: add_few
-- All that a small change adds, in one statement.
WITH chunk AS (
    INSERT INTO penstock.chunks
        (id, tenant, document_id, hash, model, heading, text, terms, tokens, before, skipped)
    SELECT w.id, %(tenant)s, w.document_id, w.hash, %(model)s, w.heading, w.text, w.terms, w.tokens,
           w.before, w.skipped
    FROM unnest(%(chunk_ids)s::bigint[], %(chunk_documents)s::bigint[], %(chunk_hashes)s::bytea[],
                %(headings)s::text[], %(texts)s::text[], %(terms)s::int[], %(tokens)s::int[],
                %(befores)s::text[], %(skipped)s::int[])
         w (id, document_id, hash, heading, text, terms, tokens, before, skipped)
)
INSERT INTO penstock.fresh_postings (tenant, payload) VALUES (%(tenant)s, %(postings)s)

-- name: add_postings
INSERT INTO penstock.fresh_postings (tenant, payload) VALUES (%(tenant)s, %(postings)s)

-- name: add_languages
INSERT INTO penstock.languages (tenant, language)
SELECT %(tenant)s, language FROM unnest(%(languages)s::text[]) language ORDER BY language
ON CONFLICT (tenant, language) DO NOTHING

-- name: add_documents
-- Where no rule speaks of a source's documents, a document's list depends on what its version carries
-- and on nothing else: it is found once for all that carry the same.
WITH w AS MATERIALIZED (
    SELECT * FROM unnest(
        %(ids)s::bigint[], %(sources)s::text[], %(keys)s::text[], %(streams)s::text[],
        %(row_keys)s::jsonb[], %(titles)s::text[], %(media_types)s::text[],
        %(content_hashes)s::text[], %(metadata)s::jsonb[], %(allow)s::text[], %(deny)s::text[],
        %(positions)s::text[], %(committed)s::bigint[], %(deleted)s::bool[],
        %(layouts)s::text[], %(starts)s::text[], %(ends)s::text[])
     w (id, source, key, stream, row_key, title, media_type, content_hash, metadata, allow, deny,
        position, committed_at, deleted, layout, starts, ends)
), settled AS MATERIALIZED (
    SELECT g.source, g.stream, g.allow, g.deny,
           penstock.list_of(%(tenant)s, nullif(g.allow, '')::text[], g.deny::text[]) AS list_id
    FROM (SELECT DISTINCT w.source, coalesce(w.stream, '') AS stream,
                 coalesce(w.allow, '') AS allow, w.deny FROM w) g
    CROSS JOIN LATERAL (
        SELECT penstock.rule_of(%(tenant)s, g.source, nullif(g.stream, '')) AS rule OFFSET 0) r
    WHERE r.rule IS NULL OR r.rule ->> 'kind' = 'open'
)
INSERT INTO penstock.documents
    (id, tenant, source, key, stream, row_key, title, media_type, content_hash, metadata, list_id,
     position, committed_at, deleted_at, layout, starts, ends)
SELECT w.id, %(tenant)s, w.source, w.key, w.stream, w.row_key, w.title, w.media_type,
       w.content_hash, w.metadata,
       coalesce(s.list_id,
                penstock.list_for(%(tenant)s, w.source, w.stream, w.key, w.metadata,
                                  w.allow::text[], w.deny::text[])),
       w.position, w.committed_at,
       CASE WHEN w.deleted THEN clock_timestamp() END,
       w.layout::bigint[], w.starts::int[], w.ends::int[]
FROM w LEFT JOIN settled s
  ON s.source = w.source AND s.stream = coalesce(w.stream, '') AND s.allow = coalesce(w.allow, '')
 AND s.deny = w.deny

-- name: change_documents
UPDATE penstock.documents d
SET stream = w.stream, row_key = w.row_key, title = w.title, media_type = w.media_type,
    content_hash = w.content_hash, metadata = w.metadata,
    list_id = penstock.list_for(d.tenant, d.source, w.stream, d.key, w.metadata, w.allow::text[],
                                w.deny::text[]),
    position = w.position, committed_at = w.committed_at,
    indexed_at = clock_timestamp(), deleted_at = CASE WHEN w.deleted THEN clock_timestamp() END,
    layout = w.layout::bigint[], starts = w.starts::int[], ends = w.ends::int[]
FROM unnest(%(ids)s::bigint[], %(streams)s::text[], %(row_keys)s::jsonb[], %(titles)s::text[],
            %(media_types)s::text[], %(content_hashes)s::text[], %(metadata)s::jsonb[],
            %(allow)s::text[], %(deny)s::text[], %(positions)s::text[], %(committed)s::bigint[],
            %(deleted)s::bool[], %(layouts)s::text[], %(starts)s::text[], %(ends)s::text[])
     w (id, stream, row_key, title, media_type, content_hash, metadata, allow, deny, position,
        committed_at, deleted, layout, starts, ends)
WHERE d.id = w.id

-- name: truncate_documents
-- Tombstones stay, at the position of the truncate: what is older cannot come back. Locked in the order
-- of lock_documents: all partitions have the truncate, and others replace documents meanwhile.
WITH wanted AS MATERIALIZED (
    SELECT id FROM penstock.documents
    WHERE tenant = %(tenant)s AND source = %(source)s AND stream IS NOT DISTINCT FROM %(stream)s
      AND deleted_at IS NULL AND position < %(position)s
    ORDER BY source, key
    FOR UPDATE
), truncated AS (
    UPDATE penstock.documents d
    SET deleted_at = clock_timestamp(), indexed_at = clock_timestamp(), position = %(position)s,
        layout = '{}', starts = '{}', ends = '{}', metadata = '{}', title = '', content_hash = ''
    FROM wanted w WHERE d.id = w.id AND d.position < %(position)s
    RETURNING d.id
)
SELECT coalesce(array_agg(c.id), '{}') FROM penstock.chunks c
WHERE c.document_id IN (SELECT id FROM truncated)

-- name: known_vectors
-- Those that wait to be collected do not count once half of their time is over: whoever was told
-- that a vector is stored must have time to use it.
SELECT v.hash FROM penstock.vectors v
WHERE v.tenant = %(tenant)s AND v.hash = ANY(%(hashes)s::bytea[])
  AND v.model = (SELECT id FROM penstock.models WHERE name = %(model)s)
  AND (%(head)s::text = '' OR v.head = %(head)s::text)
  AND NOT EXISTS (
    SELECT FROM penstock.loose_vectors l
    WHERE l.tenant = v.tenant AND l.model = v.model AND l.hash = v.hash
      AND l.since < clock_timestamp() - %(keep)s::interval / 2)

-- name: stored_metadata
SELECT key, position, metadata FROM penstock.documents
WHERE tenant = %(tenant)s AND source = %(source)s AND key = ANY(%(keys)s::text[])

-- name: lock_loose_vectors
-- Vectors whose time is over and that nobody holds. The next statement looks, with fresh eyes, which
-- of them have no chunk.
SELECT l.tenant, l.model, l.hash FROM penstock.loose_vectors l
JOIN penstock.vectors v USING (tenant, model, hash)
WHERE l.since < clock_timestamp() - %(keep)s::interval
LIMIT %(limit)s FOR UPDATE SKIP LOCKED

-- name: collect_vectors
WITH candidate AS (
    SELECT * FROM unnest(%(tenants)s::text[], %(models)s::smallint[], %(hashes)s::bytea[])
        w (tenant, model, hash)
), settled AS (
    DELETE FROM penstock.loose_vectors l USING candidate w
    WHERE l.tenant = w.tenant AND l.model = w.model AND l.hash = w.hash
)
DELETE FROM penstock.vectors v USING candidate w
WHERE v.tenant = w.tenant AND v.model = w.model AND v.hash = w.hash
  AND NOT EXISTS (SELECT FROM penstock.chunks c
                  WHERE c.tenant = w.tenant AND c.hash = w.hash)
