-- Erasure (ADR 27). A request is durable: whoever starts next goes on with it. What it has to find
-- (its plan) is kept sealed and only until it is finished; what stays is keyed digests and counts.

-- One secret of a tenant: suppressions are digests with it, receipts are signed with it.
CREATE TABLE penstock.erasure_secrets (
    tenant      text PRIMARY KEY,
    secret      bytea NOT NULL
);

CREATE TABLE penstock.erasures (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL,
    state       text NOT NULL CHECK (state IN ('erasing', 'cleaning', 'done')),
    subjects    text[] NOT NULL,         -- keyed digests of what was named
    reason      text NOT NULL,
    done        jsonb NOT NULL DEFAULT '{}', -- holder to how much it lost
    receipt     jsonb,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    lifted_at   timestamptz
);

CREATE TABLE penstock.erasure_plans (
    number      bigint PRIMARY KEY,
    tenant      text NOT NULL,
    seal        bytea NOT NULL,
    plan        bytea NOT NULL
);

-- What may not come back: keyed digests of records and of values that only they bore.
CREATE TABLE penstock.suppressions (
    tenant      text NOT NULL,
    digest      bytea NOT NULL,
    erasure     bigint NOT NULL,
    PRIMARY KEY (tenant, digest, erasure)
);

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['erasure_secrets', 'erasures', 'erasure_plans', 'suppressions']
    LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
    END LOOP;
END $$;
