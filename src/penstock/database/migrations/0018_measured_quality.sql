-- How good the answers of new models are, beside those of the others, and what was decided of them.

ALTER TABLE penstock.model_canaries
    ADD COLUMN judged       bigint NOT NULL DEFAULT 0,
    ADD COLUMN good         bigint NOT NULL DEFAULT 0,
    ADD COLUMN other_judged bigint NOT NULL DEFAULT 0,
    ADD COLUMN other_good   bigint NOT NULL DEFAULT 0;

CREATE TABLE penstock.model_canary_events (
    tenant  text NOT NULL,
    model   text NOT NULL COLLATE "C",
    number  bigint GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    state   text NOT NULL CHECK (state IN ('running', 'promoted', 'rolled back')),
    reason  text NOT NULL,
    PRIMARY KEY (tenant, model, number)
);
ALTER TABLE penstock.model_canary_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY written ON penstock.model_canary_events TO CURRENT_USER
    USING (true) WITH CHECK (true);
