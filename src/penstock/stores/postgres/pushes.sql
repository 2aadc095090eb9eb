-- name: send
WITH told AS (SELECT pg_notify('penstock_pushes', %(tenant)s || ' ' || %(source)s))
INSERT INTO penstock.pushes (tenant, source, once, parcel, expires_at)
SELECT %(tenant)s, %(source)s, %(once)s, %(parcel)s,
       clock_timestamp() + %(seconds)s * interval '1 second'
FROM told
RETURNING id

-- name: look
SELECT taken, answer FROM penstock.pushes WHERE id = %(id)s AND tenant = %(tenant)s

-- name: withdraw
-- What was taken is on its way into the log: it is not withdrawn.
DELETE FROM penstock.pushes WHERE id = %(id)s AND tenant = %(tenant)s AND NOT taken RETURNING id

-- name: forget
DELETE FROM penstock.pushes WHERE id = %(id)s AND tenant = %(tenant)s

-- name: take
-- In the order in which they came. One that nobody waits for any more is never taken: it might come
-- after what was sent instead of it.
UPDATE penstock.pushes SET taken = true
WHERE id IN (
    SELECT id FROM penstock.pushes
    WHERE NOT taken AND tenant = %(tenant)s AND source = ANY(%(sources)s)
      AND expires_at > clock_timestamp()
    ORDER BY id LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
RETURNING id, source, once, parcel

-- name: settle
UPDATE penstock.pushes SET answer = %(answer)s, parcel = NULL
WHERE id = %(id)s AND tenant = %(tenant)s

-- name: prune
DELETE FROM penstock.pushes
WHERE tenant = %(tenant)s AND expires_at < clock_timestamp() - interval '1 minute'
