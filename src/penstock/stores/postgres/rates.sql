-- name: lease
-- As many as there are, up to a block: filled by the time that has passed, less what is given.
INSERT INTO penstock.rate_buckets AS b (tenant, name, tokens, granted)
VALUES (%(tenant)s, %(name)s, %(size)s::double precision - %(block)s, %(block)s)
ON CONFLICT (tenant, name) DO UPDATE SET
    granted = floor(least(
        %(block)s,
        %(size)s,
        b.tokens + greatest(0, extract(epoch FROM clock_timestamp() - b.at)) * %(rate)s)),
    tokens = least(
            %(size)s,
            b.tokens + greatest(0, extract(epoch FROM clock_timestamp() - b.at)) * %(rate)s)
        - floor(least(
            %(block)s,
            %(size)s,
            b.tokens + greatest(0, extract(epoch FROM clock_timestamp() - b.at)) * %(rate)s)),
    at = clock_timestamp()
RETURNING granted, tokens

-- name: prune
DELETE FROM penstock.rate_buckets
WHERE tenant = %(tenant)s AND at < clock_timestamp() - interval '1 day'
