-- Permissions: what the project declares, and what sources say of their documents.

-- name: declare
SELECT penstock.declare_permissions(%(tenant)s, %(rules)s, %(tables)s, %(entries)s)

-- name: outdated
-- Sources with entries of another kind than the rules to come ask for: of files beside documents
-- where documents say it themselves, and of documents themselves under other keys or none.
SELECT DISTINCT p.source FROM penstock.permissions p
LEFT JOIN jsonb_to_recordset(%(rules)s) n (source text, stream text, rule jsonb)
  ON n.source = p.source AND n.stream = ''
LEFT JOIN penstock.permission_rules o
  ON o.tenant = p.tenant AND o.source = p.source AND o.stream = ''
WHERE p.tenant = %(tenant)s AND p.stream = '' AND p.entry <> 'settings'
  AND CASE p.entry WHEN 'its metadata' THEN n.rule IS DISTINCT FROM o.rule
                   ELSE n.rule ->> 'type' = 'metadata' END

-- name: forget_entries
DELETE FROM penstock.permissions
WHERE tenant = %(tenant)s AND source = ANY (%(sources)s::text[]) AND stream = ''
  AND entry <> 'settings'

-- name: declared
-- Nothing declared, now or ever: nothing to ask about.
SELECT EXISTS (SELECT FROM penstock.permission_rules WHERE tenant = %(tenant)s)

-- name: lock
SELECT penstock.lock_lists(%(tenant)s, %(sources)s::text[], %(alone)s)

-- name: set_entries
-- Returns the places whose documents may have another list now.
INSERT INTO penstock.permissions AS p
    (tenant, source, place, entry, origin, allow, deny, problem, content_hash, position,
     committed_at, gone)
SELECT %(tenant)s, w.source, w.place, w.entry, w.source, w.allow::text[], w.deny::text[], w.problem,
       w.content_hash, w.position, w.committed_at, w.gone
FROM unnest(%(sources)s::text[], %(places)s::text[], %(entries)s::text[], %(allow)s::text[],
            %(deny)s::text[], %(problems)s::text[], %(content_hashes)s::text[],
            %(positions)s::text[], %(committed)s::bigint[], %(gone)s::bool[])
     w (source, place, entry, allow, deny, problem, content_hash, position, committed_at, gone)
ON CONFLICT (tenant, source, place, stream, entry) DO UPDATE
SET allow = excluded.allow, deny = excluded.deny, problem = excluded.problem,
    content_hash = excluded.content_hash, position = excluded.position,
    committed_at = excluded.committed_at, gone = excluded.gone, noted_at = clock_timestamp()
WHERE p.position < excluded.position
RETURNING p.source, p.place

-- name: refresh
SELECT penstock.refresh_lists(%(tenant)s, %(source)s, %(places)s::text[])

-- name: truncate_entries
UPDATE penstock.permissions SET gone = true, position = %(position)s, noted_at = clock_timestamp()
WHERE tenant = %(tenant)s AND source = %(source)s AND stream = '' AND entry <> 'settings'
  AND NOT gone AND position < %(position)s
