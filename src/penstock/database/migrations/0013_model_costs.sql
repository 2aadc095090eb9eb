-- What language models cost, for whom, and how new ones do.

CREATE TABLE penstock.model_spending (
    tenant        text NOT NULL,
    day           date NOT NULL,
    key           text NOT NULL COLLATE "C",   -- the id of an API key; '' without one
    model         text NOT NULL COLLATE "C",
    requests      bigint NOT NULL DEFAULT 0,
    failed        bigint NOT NULL DEFAULT 0,
    input_tokens  bigint NOT NULL DEFAULT 0,
    output_tokens bigint NOT NULL DEFAULT 0,
    cached_tokens bigint NOT NULL DEFAULT 0,
    nanos         bigint NOT NULL DEFAULT 0,   -- billionths of the prices' currency
    unknown       bigint NOT NULL DEFAULT 0,   -- requests that cost nobody knows what
    PRIMARY KEY (tenant, day, key, model)
) WITH (fillfactor = 50);

-- Spent and put aside, so that a budget holds over all processes. The key '' is the tenant's whole.
CREATE TABLE penstock.model_budgets (
    tenant      text NOT NULL,
    day         date NOT NULL,
    key         text NOT NULL COLLATE "C",
    nanos       bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, day, key)
) WITH (fillfactor = 50);

-- Puts an amount aside for every key, or for none; the keys come sorted. One round trip, and no wait
-- for the disk: a server that crashes may forget what was put aside in its last half second.
CREATE FUNCTION penstock.put_aside(whose text, keys text[], mosts bigint[], amount bigint,
    OUT today date, OUT refused text, OUT taken bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    today := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    FOR i IN 1 .. cardinality(keys) LOOP
        INSERT INTO penstock.model_budgets AS b (tenant, day, key, nanos)
        VALUES (whose, today, keys[i], amount)
        ON CONFLICT (tenant, day, key) DO UPDATE SET nanos = b.nanos + excluded.nanos
        RETURNING nanos INTO taken;
        IF taken > mosts[i] THEN
            UPDATE penstock.model_budgets SET nanos = nanos - amount
            WHERE tenant = whose AND day = today AND key = ANY (keys[1:i]);
            refused := keys[i];
            taken := taken - amount;
            RETURN;
        END IF;
    END LOOP;
END $$;

CREATE TABLE penstock.model_canaries (
    tenant         text NOT NULL,
    model          text NOT NULL COLLATE "C",
    state          text NOT NULL DEFAULT 'running'
                   CHECK (state IN ('running', 'promoted', 'rolled back')),
    requests       bigint NOT NULL DEFAULT 0,
    errors         bigint NOT NULL DEFAULT 0,
    other_requests bigint NOT NULL DEFAULT 0,
    other_errors   bigint NOT NULL DEFAULT 0,
    reason         text NOT NULL DEFAULT '',
    changed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, model)
) WITH (fillfactor = 50);

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['model_spending', 'model_budgets', 'model_canaries'] LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
    END LOOP;
END $$;
