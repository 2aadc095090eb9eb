-- Kinds of profiles as the project declares them.

-- name: declared
SELECT rules FROM penstock.profile_kinds WHERE tenant = %(tenant)s AND kind = %(kind)s

-- name: declare
INSERT INTO penstock.profile_kinds AS k (tenant, kind, rules, allow, deny)
VALUES (%(tenant)s, %(kind)s, %(rules)s, %(allow)s, %(deny)s)
ON CONFLICT (tenant, kind) DO UPDATE
SET rules = excluded.rules, allow = excluded.allow, deny = excluded.deny
