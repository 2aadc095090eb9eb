-- Conversations.

-- name: begin
INSERT INTO penstock.sessions (tenant, id, owner, created_at, last_at)
VALUES (%(tenant)s, %(session)s, %(owner)s, %(now)s, %(now)s)

-- name: turns
-- One row without a turn, where there is none yet.
SELECT t.said, t.asked, t.answer, t.at
FROM penstock.sessions s
LEFT JOIN LATERAL (
    SELECT * FROM penstock.session_turns t
    WHERE t.tenant = s.tenant AND t.session = s.id ORDER BY t.number DESC LIMIT %(limit)s
) t ON true
WHERE s.tenant = %(tenant)s AND s.id = %(session)s AND s.owner = %(owner)s
ORDER BY t.number

-- name: add
WITH moved AS (
    UPDATE penstock.sessions SET turns = turns + 1, last_at = greatest(last_at, %(at)s)
    WHERE tenant = %(tenant)s AND id = %(session)s AND owner = %(owner)s RETURNING turns
)
INSERT INTO penstock.session_turns (tenant, session, number, said, asked, answer, at)
SELECT %(tenant)s, %(session)s, turns, %(said)s, %(asked)s, %(answer)s, %(at)s FROM moved

-- name: end
DELETE FROM penstock.sessions
WHERE tenant = %(tenant)s AND id = %(session)s AND owner = %(owner)s

-- name: expire
DELETE FROM penstock.sessions WHERE tenant = %(tenant)s AND last_at < %(before)s

-- name: forget_owner
WITH gone AS (
    DELETE FROM penstock.sessions WHERE tenant = %(tenant)s AND owner = %(owner)s RETURNING turns
)
SELECT coalesce(sum(turns), 0)::bigint FROM gone

-- name: forget_turns
-- Turns that mention a value, or whose answer was erased.
DELETE FROM penstock.session_turns t
WHERE t.tenant = %(tenant)s
  AND (EXISTS (SELECT FROM unnest(%(values)s::text[]) v
               WHERE position(lower(v) IN lower(t.said || ' ' || t.asked)) > 0)
    OR EXISTS (SELECT FROM penstock.ledger_entries e JOIN penstock.ledger_contents c
               USING (tenant, number)
               WHERE e.tenant = t.tenant AND e.id = t.answer AND c.state = 'redacted'))

-- name: locked
SELECT f.filled FROM penstock.sessions s
LEFT JOIN penstock.session_forms f ON f.tenant = s.tenant AND f.session = s.id AND f.form = %(form)s
WHERE s.tenant = %(tenant)s AND s.id = %(session)s AND s.owner = %(owner)s FOR UPDATE OF s

-- name: fill
WITH moved AS (
    UPDATE penstock.sessions SET last_at = greatest(last_at, %(now)s)
    WHERE tenant = %(tenant)s AND id = %(session)s
)
INSERT INTO penstock.session_forms (tenant, session, form, filled)
VALUES (%(tenant)s, %(session)s, %(form)s, %(filled)s)
ON CONFLICT (tenant, session, form) DO UPDATE SET filled = excluded.filled

-- name: forget_forms
DELETE FROM penstock.session_forms f
WHERE f.tenant = %(tenant)s AND EXISTS (SELECT FROM unnest(%(values)s::text[]) v
                                        WHERE position(lower(v) IN lower(f.filled)) > 0)
