-- What a repair by comparison asks of the stores and does there.

-- name: lower_tombstones
UPDATE penstock.tombstones SET position = %(position)s
WHERE source = %(source)s AND position > %(position)s COLLATE "C"

-- name: lower_documents
UPDATE penstock.documents SET position = %(position)s
WHERE tenant = %(tenant)s AND source = %(source)s AND position > %(position)s COLLATE "C"

-- name: lower_registry
UPDATE penstock.live_tables
SET truncated_at = CASE WHEN truncated_at IS NOT NULL
                        THEN least(truncated_at, %(position)s COLLATE "C") END,
    columns_at = CASE WHEN columns_at IS NOT NULL
                      THEN least(columns_at, %(position)s COLLATE "C") END
WHERE source = %(source)s

-- name: compared
-- Every row was compared with the source: none is in doubt.
UPDATE penstock.live_tables SET reread = NULL
WHERE source = %(source)s AND stream = ANY (%(streams)s) AND reread IS NOT NULL
