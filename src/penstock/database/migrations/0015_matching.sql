-- Fuzzy matches in the stored identity graph (ADR 25). A model is trained, prepared (blocks and matches
-- of all records are worked out under it, some at a time, while the one in use goes on) and then used.
-- All of one kind of a tenant is written under the kind's advisory lock.

-- Weights in clear text hold values that several records have: personal data. Readers never see them.
CREATE TABLE penstock.profile_models (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    number      bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('preparing', 'used', 'former')),
    version     text NOT NULL,           -- the hash of the weights
    weights     text NOT NULL,           -- JSON, of the form that its "format" names
    learned     jsonb NOT NULL,          -- what training found out, for people: no values
    trained_by  text NOT NULL,
    trained_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at     timestamptz,
    prepared_to bigint NOT NULL DEFAULT 0, -- records up to this id are prepared
    PRIMARY KEY (tenant, kind, number)
);
CREATE UNIQUE INDEX profile_models_used ON penstock.profile_models (tenant, kind, state)
    WHERE state <> 'former';

-- Which records are compared: those that share a block that is not too large. Blocks are hashes.
CREATE TABLE penstock.profile_blocks (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    model       bigint NOT NULL,
    block       text NOT NULL COLLATE "C",
    record      bigint NOT NULL,
    PRIMARY KEY (tenant, kind, model, block, record)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
-- Numbers of records are of one kind each. Without its name, no plan takes this index for the key.
CREATE INDEX profile_blocks_by_record ON penstock.profile_blocks (record, model);

-- Pairs that look like one person, or might: "one" has the smaller key. fields: [[name, bits], ...].
CREATE TABLE penstock.profile_matches (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    model       bigint NOT NULL,
    one         bigint NOT NULL,
    other       bigint NOT NULL,
    number      bigint GENERATED ALWAYS AS IDENTITY,
    weight      double precision NOT NULL,
    fields      jsonb NOT NULL,
    since       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, kind, model, one, other)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX profile_matches_by_other ON penstock.profile_matches (other, model);
CREATE UNIQUE INDEX profile_matches_by_number ON penstock.profile_matches (number);

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['profile_models', 'profile_blocks', 'profile_matches'] LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
    END LOOP;
END $$;
