-- name: keep_session
-- The server must notice a machine that vanished, and must not end an idle session.
SELECT set_config('idle_session_timeout', '0', false),
    set_config('tcp_keepalives_idle', '10', false),
    set_config('tcp_keepalives_interval', '5', false),
    set_config('tcp_keepalives_count', '3', false);

-- name: try_lock
SELECT pg_try_advisory_lock(%(key)s);

-- name: try_share
SELECT pg_try_advisory_lock_shared(%(key)s);

-- name: find_holder
SELECT activity.application_name, activity.usename, host(activity.client_addr),
    activity.backend_start, activity.pid
FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1
    AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (locks.classid::bigint << 32) | locks.objid::bigint = %(key)s;
