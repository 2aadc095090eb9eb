-- Why somebody may see a document, or may not; and what permissions come to as a whole.

-- name: documents
SELECT d.source, d.key, d.stream, d.title, d.metadata, d.committed_at, l.allow, l.deny,
       penstock.rule_of(d.tenant, d.source, d.stream)
FROM penstock.documents d JOIN penstock.lists l ON l.id = d.list_id
WHERE d.tenant = %(tenant)s AND d.key = %(key)s AND d.deleted_at IS NULL
  AND (%(source)s::text IS NULL OR d.source = %(source)s)
ORDER BY d.source

-- name: near_keys
-- Keys that look like one that is not there; the last part of a path is remembered best.
SELECT DISTINCT key FROM penstock.documents
WHERE tenant = %(tenant)s AND deleted_at IS NULL
  AND (%(source)s::text IS NULL OR source = %(source)s)
  AND lower(key) LIKE '%%' || lower(%(like)s) || '%%'
ORDER BY key LIMIT 5

-- name: entries
SELECT e.entry, e.place, p.distance, e.origin, e.stream, e.allow, e.deny, e.problem, e.committed_at
FROM penstock.places(%(key)s) p JOIN penstock.permissions e
  ON e.tenant = %(tenant)s AND e.source = %(source)s AND e.place = p.place COLLATE "C"
WHERE NOT e.gone ORDER BY p.distance, e.stream, e.entry

-- name: held_by
SELECT DISTINCT ON (m.member, m.group_name)
       m.member, m.group_name, m.source, m.stream, m.committed_at
FROM penstock.memberships m
WHERE m.tenant = %(tenant)s AND m.member = ANY (%(members)s::text[])
ORDER BY m.member, m.group_name, m.committed_at

-- name: sources
-- By source: documents and texts of rows, those that nobody may see, and those that everybody may.
SELECT d.source, count(*), count(*) FILTER (WHERE l.allow = '{}'),
       count(*) FILTER (WHERE d.list_id = 0), count(DISTINCT d.list_id),
       min(d.key) FILTER (WHERE l.allow = '{}')
FROM penstock.documents d JOIN penstock.lists l ON l.id = d.list_id
WHERE d.tenant = %(tenant)s AND d.deleted_at IS NULL
GROUP BY d.source ORDER BY d.source

-- name: problems
SELECT source, place, CASE WHEN stream = '' THEN entry ELSE origin || ': ' || stream || ' ' || entry END,
       problem
FROM penstock.permissions
WHERE tenant = %(tenant)s AND problem IS NOT NULL AND NOT gone
ORDER BY source, place, entry LIMIT 100

-- name: named
-- Every name in lists that documents have, and in entries; whether anybody belongs to the group.
SELECT n.name, bool_or(n.name LIKE 'group:%%' AND NOT EXISTS (
           SELECT FROM penstock.memberships m WHERE m.tenant = %(tenant)s AND m.group_name = n.name))
FROM (SELECT unnest(l.allow || l.deny) AS name FROM penstock.lists l
      WHERE l.tenant = %(tenant)s
        AND EXISTS (SELECT FROM penstock.documents d WHERE d.list_id = l.id AND d.deleted_at IS NULL)
      UNION SELECT unnest(coalesce(e.allow, '{}') || e.deny) FROM penstock.permissions e
      WHERE e.tenant = %(tenant)s AND NOT e.gone) n
GROUP BY n.name ORDER BY n.name

-- name: follows_groups
SELECT EXISTS (SELECT FROM penstock.permission_tables WHERE tenant = %(tenant)s AND kind = 'members')
