-- Models: what endpoints were asked, what they gave at first, and which model is searched.

-- ---------------------------------------------------------------- endpoints
-- Counted before a request is sent, so that a budget holds over all processes.
CREATE TABLE penstock.model_usage (
    model       text NOT NULL,
    day         date NOT NULL,
    requests    bigint NOT NULL DEFAULT 0,
    characters  bigint NOT NULL DEFAULT 0,
    tokens      bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (model, day)
) WITH (fillfactor = 50);

-- The generic cell rate algorithm: up to when the rates of requests and of tokens are taken.
CREATE TABLE penstock.model_pace (
    model       text PRIMARY KEY,
    request_at  timestamptz NOT NULL,
    token_at    timestamptz NOT NULL
) WITH (fillfactor = 50);

-- The vector of one fixed text as the model first gave it (float32, little-endian).
CREATE TABLE penstock.model_references (
    model       text PRIMARY KEY,
    probe       bytea NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- ---------------------------------------------------------------- storage
-- halfvec: 2 bytes a number. int8: 1 byte, in bytes, beside its signs. binary: signs only.
ALTER TABLE penstock.models ADD COLUMN storage text NOT NULL DEFAULT 'halfvec';
ALTER TABLE penstock.vectors ALTER COLUMN embedding DROP NOT NULL,
    ADD COLUMN signs bit varying,
    ADD COLUMN bytes bytea,
    ADD CONSTRAINT vectors_are_there CHECK (num_nonnulls(embedding, signs) = 1);
ALTER TABLE penstock.vectors ALTER COLUMN signs SET STORAGE PLAIN,
    ALTER COLUMN bytes SET STORAGE PLAIN;

-- ---------------------------------------------------------------- which model is searched
-- One row a tenant. shadow is filled beside; previous is kept until it is dropped.
CREATE TABLE penstock.serving_models (
    tenant      text PRIMARY KEY DEFAULT 'default',
    model       smallint NOT NULL REFERENCES penstock.models,
    previous    smallint REFERENCES penstock.models,
    shadow      smallint REFERENCES penstock.models,
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE penstock.serving_models ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.serving_models TO penstock_reader
    USING (tenant = penstock.tenant());
DO $$ BEGIN
    EXECUTE 'CREATE POLICY written ON penstock.serving_models TO CURRENT_USER '
            'USING (true) WITH CHECK (true)';
END $$;
GRANT SELECT ON penstock.serving_models TO penstock_reader;

-- A knowledge base that is there already: the model of its chunks (of most of them) is searched.
INSERT INTO penstock.serving_models (tenant, model)
SELECT DISTINCT ON (tenant) tenant, model FROM (
    SELECT tenant, model, count(*) AS chunks FROM penstock.chunks GROUP BY tenant, model) counted
ORDER BY tenant, chunks DESC;

-- What the model read is before || substr(text, skipped + 1): another model can read the same.
-- A chunk belongs to no model any more (model is the one that it was cut for): its vectors are
-- those with its hash.
ALTER TABLE penstock.chunks ADD COLUMN before text NOT NULL DEFAULT '',
    ADD COLUMN skipped integer NOT NULL DEFAULT 0;
DROP INDEX penstock.chunks_by_hash;
CREATE INDEX chunks_by_hash ON penstock.chunks (tenant, hash);
