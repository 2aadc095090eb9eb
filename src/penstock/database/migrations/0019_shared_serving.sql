-- What several processes that serve the API share with the one that runs. Nothing here is
-- promised to anybody: whoever sent it waits for an answer, and sends it again if there is none.
-- So it need not outlive a crash of the server.

-- Documents on their way to the process that carries their source. `news` is emptied with the
-- answer: at (the time of the changes) and repeated, or why not.
CREATE UNLOGGED TABLE penstock.pushes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text NOT NULL,
    source      text NOT NULL,
    once        text,
    parcel      bytea,
    expires_at  timestamptz NOT NULL,
    taken       boolean NOT NULL DEFAULT false,
    answer      jsonb
);
CREATE INDEX pushes_waiting ON penstock.pushes (tenant, source, id) WHERE NOT taken;

-- What is left of the requests that a key (by its digest), or all keys of a tenant, may make, and
-- how many the one that asked last was given.
CREATE UNLOGGED TABLE penstock.rate_buckets (
    tenant      text NOT NULL,
    name        text NOT NULL COLLATE "C",
    tokens      double precision NOT NULL,
    granted     double precision NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, name)
);

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['pushes', 'rate_buckets'] LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
    END LOOP;
END $$;
