-- Keeping the text index small: fresh blocks become posting lists by term, lists become longer.

-- name: take_turn
-- One process merges a tenant's lists at a time; the lock goes with the transaction.
SELECT pg_try_advisory_xact_lock(hashtextextended('penstock.postings/' || %(tenant)s, 0))

-- name: fresh_blocks
-- The oldest, up to so many bytes (at least one), and how many there are in all.
SELECT block, payload, total FROM (
    SELECT block, payload, count(*) OVER () AS total,
           sum(octet_length(payload)) OVER (ORDER BY block) - octet_length(payload) AS before
    FROM penstock.fresh_postings WHERE tenant = %(tenant)s) b
WHERE before < %(most)s ORDER BY block

-- name: alive
SELECT id FROM penstock.chunks WHERE id = ANY(%(chunks)s::bigint[])

-- name: next_block
SELECT nextval('penstock.posting_blocks')

-- name: remove_fresh
DELETE FROM penstock.fresh_postings WHERE tenant = %(tenant)s AND block = ANY(%(blocks)s)

-- name: lists
-- A window of the stored lists in the order of terms, with their sizes only.
SELECT term, block, octet_length(chunk_ids) FROM penstock.postings
WHERE tenant = %(tenant)s AND term > %(after)s ORDER BY term, block LIMIT %(limit)s

-- name: take_lists
DELETE FROM penstock.postings p
USING unnest(%(terms)s::text[], %(blocks)s::bigint[]) w (term, block)
WHERE p.tenant = %(tenant)s AND p.term = w.term AND p.block = w.block
RETURNING p.term, p.chunk_ids, p.frequencies, p.lengths
