-- The spine: log, positions, live-table registry, knowledge base, dead letters, run reports.
-- Everything of ours is in the schema penstock; live tables are in one schema per source.
-- Positions are text that sorts like its source: always compared COLLATE "C".

-- The extension first: a user called penstock would otherwise get it into the schema penstock, which
-- is not on the search path of penstock_reader.
CREATE EXTENSION IF NOT EXISTS vector;
CREATE SCHEMA IF NOT EXISTS penstock;

-- ---------------------------------------------------------------- who reads
-- Serving reads as this role: row-level security applies to it and it cannot write.
-- Roles are shared by all databases of a server: another project may make it in the same moment,
-- or have made it as a user who did not let us grant it (then migrate.py says so beforehand).
DO $$
DECLARE
    membership text := CASE WHEN current_setting('server_version_num')::integer >= 160000
                            THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'penstock_reader') THEN
            CREATE ROLE penstock_reader NOLOGIN NOBYPASSRLS;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    BEGIN
        IF NOT pg_has_role(current_user, 'penstock_reader', membership) THEN
            GRANT penstock_reader TO CURRENT_USER;
        END IF;
    EXCEPTION WHEN unique_violation OR internal_error THEN  -- tuple concurrently updated
        IF NOT pg_has_role(current_user, 'penstock_reader', membership) THEN
            RAISE;
        END IF;
    END;
END $$;
GRANT USAGE ON SCHEMA penstock TO penstock_reader;

-- The tenant of the running transaction; unset means none, and none sees nothing.
CREATE FUNCTION penstock.tenant() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_setting('penstock.tenant', true);

-- Who asks, as a JSON array of principals; unset means nobody in particular.
CREATE FUNCTION penstock.principals() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
    RETURN ARRAY(SELECT jsonb_array_elements_text(
        coalesce(nullif(current_setting('penstock.principals', true), ''), '[]')::jsonb));

-- ---------------------------------------------------------------- log
CREATE TABLE penstock.log_topics (
    topic       text PRIMARY KEY,
    tenant      text NOT NULL DEFAULT 'default',
    partitions  integer NOT NULL CHECK (partitions > 0),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The head of a partition. An append locks it until commit: that is what makes positions
-- become visible in order.
CREATE TABLE penstock.log_partitions (
    topic       text NOT NULL REFERENCES penstock.log_topics ON DELETE CASCADE,
    partition   integer NOT NULL,
    last        bigint NOT NULL DEFAULT 0,
    first       bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- One row per append and partition: a batch of changes. A batch without changes carries time only
-- and uses up one position.
CREATE TABLE penstock.log_batches (
    topic           text NOT NULL,
    partition       integer NOT NULL,
    last_position   bigint NOT NULL,
    first_position  bigint NOT NULL,
    changes         integer NOT NULL,
    streams         text[] NOT NULL,
    as_of           bigint,
    appended_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload         bytea,
    PRIMARY KEY (topic, partition, last_position),
    FOREIGN KEY (topic, partition) REFERENCES penstock.log_partitions ON DELETE CASCADE
);
-- The payload is compressed by the codec when that pays; PostgreSQL should not try again.
ALTER TABLE penstock.log_batches ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX log_batches_by_time ON penstock.log_batches (topic, partition, appended_at);

CREATE TABLE penstock.producers (
    producer    text PRIMARY KEY,
    epoch       bigint NOT NULL DEFAULT 0,
    opened_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE penstock.producer_state (
    producer    text NOT NULL REFERENCES penstock.producers ON DELETE CASCADE,
    name        text NOT NULL COLLATE "C",
    value       text NOT NULL,
    PRIMARY KEY (producer, name)
) WITH (fillfactor = 80);

-- ---------------------------------------------------------------- positions of consumers
-- Moved in the transaction that stores the results. as_of: everything that the source had
-- committed by then is in the stores.
CREATE TABLE penstock.consumers (
    consumer    text NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    position    bigint NOT NULL DEFAULT 0,
    source      text,
    source_position text COLLATE "C",
    as_of       bigint,
    moved_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, topic, partition)
) WITH (fillfactor = 50);

-- ---------------------------------------------------------------- dead letters
CREATE TABLE penstock.dead_letters (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL DEFAULT 'default',
    pipeline    text NOT NULL,
    source      text NOT NULL,
    stream      text NOT NULL,
    key         jsonb NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    log_position bigint NOT NULL,
    position    text NOT NULL COLLATE "C",
    reason      text NOT NULL,
    payload     bytea NOT NULL,
    attempts    integer NOT NULL DEFAULT 1,
    buried_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (pipeline, topic, partition, log_position, source, stream, key)
);

-- ---------------------------------------------------------------- live tables
CREATE TABLE penstock.live_tables (
    source      text NOT NULL,
    stream      text NOT NULL,
    tenant      text NOT NULL DEFAULT 'default',
    schema_name text NOT NULL,
    table_name  text NOT NULL,
    columns     jsonb NOT NULL,          -- [[name, type, key], ...] as the source has them
    columns_at  text COLLATE "C",        -- changes at or before this position may have older columns
    truncated_at text COLLATE "C",       -- changes at or before this position are gone
    reread      text,                    -- why rows may differ until the source is read again
    PRIMARY KEY (source, stream),
    UNIQUE (schema_name, table_name)
);

-- Rows of live tables that are gone: an older version, arriving late, must not bring them back.
-- Removed when they are old and no dead letter of the key waits to be tried again.
CREATE TABLE penstock.tombstones (
    source      text NOT NULL,
    stream      text NOT NULL,
    key         text NOT NULL COLLATE "C",
    position    text NOT NULL COLLATE "C",
    buried_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, stream, key)
) WITH (fillfactor = 80);

-- ---------------------------------------------------------------- knowledge base
CREATE TABLE penstock.models (
    id          smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    dimensions  integer NOT NULL
);

-- A document, or the searched text of a row (then stream and row_key are set), in its present
-- version. A deleted one stays as a tombstone (deleted_at) so that an older version, arriving
-- later, cannot bring it back. layout, starts and ends list the chunks in reading order with their
-- character offsets: an edit rewrites one row here, not all chunks behind it.
CREATE TABLE penstock.documents (
    id          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL DEFAULT 'default',
    source      text NOT NULL,
    key         text NOT NULL COLLATE "C",
    stream      text,
    row_key     jsonb,
    title       text NOT NULL DEFAULT '',
    media_type  text NOT NULL DEFAULT '',
    content_hash text NOT NULL DEFAULT '',
    metadata    jsonb NOT NULL DEFAULT '{}',
    allow       text[],
    deny        text[] NOT NULL DEFAULT '{}',
    position    text NOT NULL COLLATE "C",
    committed_at bigint NOT NULL,
    indexed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    deleted_at  timestamptz,
    layout      bigint[] NOT NULL DEFAULT '{}',
    starts      integer[] NOT NULL DEFAULT '{}',
    ends        integer[] NOT NULL DEFAULT '{}',
    UNIQUE (tenant, source, key)
);
CREATE INDEX documents_by_stream ON penstock.documents (source, stream) WHERE deleted_at IS NULL;

-- A chunk never changes: it is there or not. The same text twice in a document is one chunk that
-- the layout names twice. hash is that of the embedded text (what the model read).
CREATE TABLE penstock.chunks (
    id          bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL DEFAULT 'default',
    document_id bigint NOT NULL,
    hash        bytea NOT NULL,
    model       smallint NOT NULL,
    heading     text NOT NULL DEFAULT '',
    text        text NOT NULL,
    terms       integer NOT NULL DEFAULT 0,   -- length for BM25
    tokens      integer NOT NULL DEFAULT 0,   -- length for the model
    UNIQUE (document_id, hash)
);
CREATE INDEX chunks_by_hash ON penstock.chunks (tenant, model, hash);

-- One vector per embedded text and model, shared by all chunks with that text. The column has no
-- fixed dimension because models differ: indexes and queries cast to halfvec(n).
CREATE TABLE penstock.vectors (
    tenant      text NOT NULL DEFAULT 'default',
    model       smallint NOT NULL REFERENCES penstock.models,
    hash        bytea NOT NULL,
    embedding   halfvec NOT NULL,
    PRIMARY KEY (tenant, model, hash)
);
ALTER TABLE penstock.vectors ALTER COLUMN embedding SET STORAGE PLAIN;

-- Vectors that may have lost their last chunk. They are kept a while (a rename, an undo) and then
-- removed, unless a chunk uses them again.
CREATE TABLE penstock.loose_vectors (
    tenant      text NOT NULL DEFAULT 'default',
    model       smallint NOT NULL,
    hash        bytea NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, model, hash)
);

-- BM25: posting lists. A commit adds one row to fresh_postings: a block that holds the lists of all
-- its terms. Fresh blocks are merged later into lists by term (as in a log-structured merge tree);
-- readers look at both.
CREATE SEQUENCE penstock.posting_blocks;
CREATE TABLE penstock.fresh_postings (
    tenant      text NOT NULL DEFAULT 'default',
    block       bigint NOT NULL DEFAULT nextval('penstock.posting_blocks'),
    payload     bytea NOT NULL,
    PRIMARY KEY (tenant, block)
);
ALTER TABLE penstock.fresh_postings ALTER COLUMN payload SET STORAGE EXTERNAL;

-- The lists of one term, in as many blocks as there were merges. chunk_ids int64, frequencies uint16, lengths uint16: little-endian arrays of equal
-- length. Chunks that are gone stay listed until the next merge; readers check.
CREATE TABLE penstock.postings (
    tenant      text NOT NULL DEFAULT 'default',
    term        text NOT NULL COLLATE "C",
    block       bigint NOT NULL,
    chunk_ids   bytea NOT NULL,
    frequencies bytea NOT NULL,
    lengths     bytea NOT NULL,
    PRIMARY KEY (tenant, term, block)
);
ALTER TABLE penstock.postings ALTER COLUMN chunk_ids SET STORAGE EXTERNAL,
    ALTER COLUMN frequencies SET STORAGE EXTERNAL, ALTER COLUMN lengths SET STORAGE EXTERNAL;

-- How many chunks and terms there are, per writer so that writers do not wait for each other.
CREATE TABLE penstock.text_statistics (
    tenant      text NOT NULL DEFAULT 'default',
    writer      text NOT NULL,
    chunks      bigint NOT NULL DEFAULT 0,
    terms       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, writer)
) WITH (fillfactor = 50);

-- ---------------------------------------------------------------- what runs
CREATE TABLE penstock.run_reports (
    instance    text PRIMARY KEY,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    report      jsonb NOT NULL
);

-- ---------------------------------------------------------------- row-level security
-- Writers are the owner with BYPASSRLS (or a superuser); readers are penstock_reader.
ALTER TABLE penstock.documents ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
-- allow NULL: everybody of the tenant. The sub-selects are worked out once per query: a function of
-- the lists would be called for every document.
CREATE POLICY readable ON penstock.documents TO penstock_reader
    USING (tenant = (SELECT penstock.tenant())
        AND (allow IS NULL OR allow && (SELECT penstock.principals()))
        AND NOT (deny && (SELECT penstock.principals())));
ALTER TABLE penstock.chunks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.chunks TO penstock_reader USING (tenant = penstock.tenant());
ALTER TABLE penstock.vectors ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.vectors TO penstock_reader USING (tenant = penstock.tenant());
ALTER TABLE penstock.postings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.postings TO penstock_reader USING (tenant = penstock.tenant());
ALTER TABLE penstock.fresh_postings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.fresh_postings TO penstock_reader
    USING (tenant = penstock.tenant());
ALTER TABLE penstock.text_statistics ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.text_statistics TO penstock_reader
    USING (tenant = penstock.tenant());

-- FORCE also binds an owner without BYPASSRLS: such an owner may do everything.
DO $$
DECLARE relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['documents', 'chunks', 'vectors', 'postings', 'fresh_postings',
                                    'text_statistics']
    LOOP
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER USING (true) WITH CHECK (true)', relation);
    END LOOP;
END $$;

GRANT SELECT ON penstock.documents, penstock.chunks, penstock.vectors, penstock.postings,
    penstock.fresh_postings, penstock.text_statistics, penstock.models, penstock.consumers, penstock.live_tables,
    penstock.log_partitions TO penstock_reader;
