-- name: look
-- All that the migrations will need, without changing anything.
SELECT
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_version') AS version,
    current_setting('server_encoding') AS encoding,
    pg_is_in_recovery() AS standby,
    current_database() AS database,
    current_user AS "user",
    me.rolsuper AS superuser,
    me.rolcreaterole AS may_create_roles,
    CASE WHEN ours.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
         ELSE has_schema_privilege(ours.oid, 'CREATE') END AS may_create,
    ours.oid IS NOT NULL AS has_schema,
    reader.oid IS NOT NULL AS has_reader,
    me.rolsuper
        OR (reader.oid IS NOT NULL AND (
            pg_has_role(current_user, reader.oid,
                CASE WHEN current_setting('server_version_num')::integer >= 160000
                     THEN 'SET' ELSE 'MEMBER' END)
            OR (me.rolcreaterole AND current_setting('server_version_num')::integer < 160000)
            OR EXISTS (SELECT FROM pg_auth_members
                       WHERE roleid = reader.oid AND member = me.oid AND admin_option)))
        AS may_grant_reader,
    extension.extversion AS vector_installed,
    available.default_version AS vector_available,
    coalesce((SELECT bool_or(trusted) FROM pg_available_extension_versions
              WHERE name = 'vector' AND version = available.default_version), false)
        AS vector_trusted,
    extension.oid IS NULL OR to_regtype('halfvec') IS NOT NULL AS vector_visible,
    (SELECT nspname FROM pg_namespace WHERE oid = extension.extnamespace) AS vector_schema
FROM pg_roles me
LEFT JOIN pg_namespace ours ON ours.nspname = 'penstock'
LEFT JOIN pg_roles reader ON reader.rolname = 'penstock_reader'
LEFT JOIN pg_extension extension ON extension.extname = 'vector'
LEFT JOIN pg_available_extensions available ON available.name = 'vector'
WHERE me.rolname = current_user;

-- name: facts
SELECT
    current_setting('server_version') AS server_version,
    (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_version,
    pg_database_size(current_database()) AS database_bytes,
    current_setting('wal_level') AS wal_level,
    current_setting('max_connections')::integer AS max_connections,
    (SELECT count(*)::integer FROM pg_stat_activity WHERE backend_type = 'client backend')
        AS connections,
    pg_postmaster_start_time() AS started_at;
