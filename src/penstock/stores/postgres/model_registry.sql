-- Which models there are, which one is searched, and what another one lacks.

-- name: serving
SELECT m.name FROM penstock.serving_models s JOIN penstock.models m ON m.id = s.model
WHERE s.tenant = %(tenant)s

-- name: roles
SELECT s.model, s.previous, s.shadow FROM penstock.serving_models s WHERE s.tenant = %(tenant)s

-- name: models
SELECT m.id, m.name, m.dimensions, m.storage,
       (SELECT count(*) FROM penstock.vectors v WHERE v.tenant = %(tenant)s AND v.model = m.id)
FROM penstock.models m ORDER BY m.id

-- name: adopt
-- Nothing is stored that another model has made: the one that the project names is as good.
UPDATE penstock.serving_models s SET model = m.id, previous = NULL, since = clock_timestamp()
FROM penstock.models m
WHERE s.tenant = %(tenant)s AND m.name = %(name)s
  AND NOT EXISTS (SELECT FROM penstock.chunks c WHERE c.tenant = s.tenant)

-- name: register
INSERT INTO penstock.models (name, dimensions, storage)
VALUES (%(name)s, %(dimensions)s, %(storage)s) ON CONFLICT (name) DO NOTHING

-- name: find
SELECT id, dimensions FROM penstock.models WHERE name = %(name)s

-- name: begin_shadow
UPDATE penstock.serving_models SET shadow = %(model)s WHERE tenant = %(tenant)s

-- name: size
-- Of what a model lacks: texts (each once), characters as it would read them.
SELECT count(*), coalesce(sum(characters), 0)::bigint, coalesce(sum(tokens), 0)::bigint FROM (
    SELECT DISTINCT ON (c.hash) length(c.before) + length(c.text) - c.skipped AS characters, c.tokens
    FROM penstock.chunks c
    WHERE c.tenant = %(tenant)s AND NOT EXISTS (
        SELECT FROM penstock.vectors v
        WHERE v.tenant = c.tenant AND v.model = %(model)s AND v.hash = c.hash)) lacking

-- name: chunks
SELECT count(*) FROM penstock.chunks WHERE tenant = %(tenant)s

-- name: lacking
SELECT c.id, c.hash, c.before || substr(c.text, c.skipped + 1), d.source || '/' || d.key
FROM penstock.chunks c JOIN penstock.documents d ON d.id = c.document_id
WHERE c.tenant = %(tenant)s AND c.id > %(after)s AND NOT EXISTS (
    SELECT FROM penstock.vectors v
    WHERE v.tenant = c.tenant AND v.model = %(model)s AND v.hash = c.hash)
ORDER BY c.id LIMIT %(limit)s

-- name: hold_chunks
-- Which of these texts are still somebody's; they stay until this transaction ends.
SELECT hash FROM penstock.chunks
WHERE tenant = %(tenant)s AND id = ANY(%(chunks)s::bigint[]) ORDER BY id FOR KEY SHARE

-- name: lock_serving
-- Waits for those who write documents; none begins before this transaction ends.
SELECT pg_advisory_xact_lock(7302188, hashtext(%(tenant)s))

-- name: is_whole
SELECT NOT EXISTS (
    SELECT FROM penstock.chunks c
    WHERE c.tenant = %(tenant)s AND c.hash <> ALL(%(without)s::bytea[]) AND NOT EXISTS (
        SELECT FROM penstock.vectors v
        WHERE v.tenant = c.tenant AND v.model = %(model)s AND v.hash = c.hash))

-- name: cut_over
UPDATE penstock.serving_models
SET model = %(model)s, previous = model, shadow = NULL, since = clock_timestamp()
WHERE tenant = %(tenant)s AND model <> %(model)s

-- name: forget_previous
UPDATE penstock.serving_models SET previous = NULL, shadow = NULL WHERE tenant = %(tenant)s

-- name: drop_vectors
-- Of all models that are not searched, a portion at a time.
DELETE FROM penstock.vectors WHERE ctid = ANY(ARRAY(
    SELECT v.ctid FROM penstock.vectors v
    WHERE v.tenant = %(tenant)s AND v.model <> (
        SELECT model FROM penstock.serving_models WHERE tenant = %(tenant)s)
    LIMIT %(limit)s))

-- name: drop_loose
DELETE FROM penstock.loose_vectors l
WHERE l.tenant = %(tenant)s AND l.model <> (
    SELECT model FROM penstock.serving_models WHERE tenant = %(tenant)s)

-- name: ready
-- What the processes that run now have said of the models that they can use.
SELECT instance, coalesce(report -> 'models', '[]'), report ->> 'host', report ->> 'pid'
FROM penstock.run_reports WHERE updated_at > clock_timestamp() - interval '20 seconds'
