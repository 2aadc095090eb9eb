-- Statements about live tables that are the same for all of them. What depends on a table's columns
-- is composed in live_tables.py and tables.py.

-- name: lock
-- Advisory, because it costs no write. All that a transaction needs at once and in one order, and each
-- in the manner that it needs: two that share a table and then both want it alone would wait for each
-- other.
SELECT CASE WHEN alone THEN pg_advisory_xact_lock(number) ELSE pg_advisory_xact_lock_shared(number) END
FROM (
    SELECT hashtextextended(source || chr(31) || stream, 0) AS number, bool_or(alone) AS alone
    FROM unnest(%s::text[], %s::text[], %s::bool[]) w (source, stream, alone)
    GROUP BY 1 ORDER BY 1) numbers

-- name: lock_names
SELECT pg_advisory_xact_lock(hashtextextended('live table names ' || %s, 0))

-- name: registered
-- Transaction and place name the version of a row: what was read of one need not be read again.
SELECT l.xmin || ' ' || l.ctid, l.source, l.stream, to_jsonb(l)
FROM unnest(%s::text[], %s::text[]) w (source, stream)
JOIN penstock.live_tables l USING (source, stream)

-- name: all_tables
SELECT to_jsonb(l) FROM penstock.live_tables l
WHERE %(source)s::text IS NULL OR l.source = %(source)s
ORDER BY source, stream

-- name: column_types
-- Without their modifiers: a value is first read as numeric or varchar and then assigned, so that
-- one that does not fit is refused, not cut.
SELECT a.attname::text, format_type(a.atttypid, -1)
FROM pg_attribute a
WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
  AND a.attnum > 0 AND NOT a.attisdropped

-- name: present_types
-- Base types, ranges and arrays of them. Enums, domains and composites are their source's own.
SELECT w.name
FROM unnest(%s::text[]) w (name)
JOIN pg_type t ON t.oid = to_regtype(w.name)
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE coalesce(e.typtype, t.typtype) IN ('b', 'r', 'm')

-- name: taken_names
SELECT table_name FROM penstock.live_tables WHERE schema_name = %s

-- name: register
INSERT INTO penstock.live_tables
    (source, stream, tenant, schema_name, table_name, columns, columns_at)
VALUES (%(source)s, %(stream)s, %(tenant)s, %(schema_name)s, %(table_name)s, %(columns)s::jsonb,
    %(columns_at)s)

-- name: adopt
UPDATE penstock.live_tables
SET columns = %(columns)s::jsonb, columns_at = %(columns_at)s, reread = %(reread)s
WHERE source = %(source)s AND stream = %(stream)s

-- name: columns_from
-- The first change of a table tells from where on its columns are known to be right.
UPDATE penstock.live_tables SET columns_at = %(columns_at)s
WHERE source = %(source)s AND stream = %(stream)s

-- name: primary_key
SELECT conname::text FROM pg_constraint
WHERE conrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND contype = 'p'

-- name: truncated
-- Nothing is left of the rows that were in doubt when the columns changed.
UPDATE penstock.live_tables
SET truncated_at = %(position)s,
    reread = CASE WHEN coalesce(columns_at, '') > %(position)s COLLATE "C" THEN reread END
WHERE source = %(source)s AND stream = %(stream)s

-- name: forget_tombstones
-- The table's own mark stands for the tombstones before it.
DELETE FROM penstock.tombstones
WHERE source = %(source)s AND stream = %(stream)s AND position <= %(position)s

-- name: prune_tombstones
DELETE FROM penstock.tombstones t
WHERE t.buried_at < clock_timestamp() - make_interval(secs => %(older_than_s)s)
  AND NOT EXISTS (SELECT FROM penstock.dead_letters d
                  WHERE d.source = t.source AND d.stream = t.stream)

-- name: attach
-- Who may read its rows, and what it says of groups and documents, as the project declares it.
SELECT penstock.attach_permissions(%s, %s, %s)

-- name: tenant_of
SELECT tenant FROM penstock.live_tables WHERE source = %s AND stream = %s
