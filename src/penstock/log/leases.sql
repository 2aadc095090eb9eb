-- name: turn
-- One beat at a time, so that none sees half of another's.
SELECT pg_advisory_xact_lock(%(turn)s);

-- name: register
INSERT INTO penstock.leases (kind, item)
SELECT * FROM unnest(%(kinds)s::text[], %(items)s::text[]) ON CONFLICT DO NOTHING;

-- name: bury
-- Who has not been heard of in time, or whose session is gone; what they had is free.
DELETE FROM penstock.workers AS w
WHERE w.worker <> %(worker)s AND (
    w.expires_at < clock_timestamp() OR NOT EXISTS (
        SELECT FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (l.classid::bigint << 32) | l.objid::bigint = w.session_key))
RETURNING w.worker;

-- name: end_sessions
-- One that stands still in the middle of a COPY is not idle: no timeout of the server ends it, and
-- its locks would stop whoever takes over.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = ANY(%(sessions)s) AND usename = current_user
    AND datname = current_database();

-- name: live
INSERT INTO penstock.workers (worker, session_key, expires_at)
VALUES (%(worker)s, %(session_key)s, clock_timestamp() + %(lease_s)s * interval '1 second')
ON CONFLICT (worker) DO UPDATE SET expires_at = excluded.expires_at;

-- name: leases
SELECT kind, item, worker FROM penstock.leases ORDER BY kind, item COLLATE "C";

-- name: count_workers
SELECT count(*) FROM penstock.workers;

-- name: take
UPDATE penstock.leases AS l SET worker = %(worker)s, taken_at = clock_timestamp()
FROM unnest(%(kinds)s::text[], %(items)s::text[]) AS t (kind, item)
WHERE l.kind = t.kind AND l.item = t.item AND l.worker IS NULL;

-- name: release
UPDATE penstock.leases AS l SET worker = NULL
FROM unnest(%(kinds)s::text[], %(items)s::text[]) AS t (kind, item)
WHERE l.kind = t.kind AND l.item = t.item AND l.worker = %(worker)s;

-- name: leave
DELETE FROM penstock.workers WHERE worker = %(worker)s;
