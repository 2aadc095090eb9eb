-- A second store of chunks follows this database (ADR 16). What it still has to do is a set: one
-- row for each change of a document since the store was attached, deleted once the store has it and
-- it can be found there. seq is given out under the document's lock, so it rises with its versions.
CREATE TABLE penstock.second_stores (
    tenant      text NOT NULL,
    name        text NOT NULL,
    attached_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    model       smallint,                 -- whose vectors it has
    searchable_at timestamptz,            -- all that was committed before can be found
    ages        jsonb NOT NULL DEFAULT '{}', -- source to as_of, in the snapshot of that moment
    PRIMARY KEY (tenant, name)
);
CREATE TABLE penstock.second_store_work (
    seq         bigint GENERATED ALWAYS AS IDENTITY,
    tenant      text NOT NULL,
    store       text NOT NULL,
    document_id bigint NOT NULL,
    gone        bigint[] NOT NULL,        -- chunks that left the document
    PRIMARY KEY (tenant, store, document_id, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE penstock.second_stores ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE penstock.second_store_work ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.second_stores TO penstock_reader
    USING (tenant = penstock.tenant());
CREATE POLICY readable ON penstock.second_store_work TO penstock_reader
    USING (tenant = penstock.tenant());
CREATE POLICY written ON penstock.second_stores TO CURRENT_USER USING (true) WITH CHECK (true);
CREATE POLICY written ON penstock.second_store_work TO CURRENT_USER USING (true) WITH CHECK (true);
GRANT SELECT ON penstock.second_stores, penstock.second_store_work TO penstock_reader;

-- The triggers themselves are made when a store is attached: who has none pays nothing.
CREATE FUNCTION penstock.note_second_store_work() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO penstock.second_store_work (tenant, store, document_id, gone)
        SELECT n.tenant, s.name, n.id, '{}' FROM after n
        JOIN penstock.second_stores s ON s.tenant = n.tenant;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO penstock.second_store_work (tenant, store, document_id, gone)
        SELECT n.tenant, s.name, n.id,
               ARRAY(SELECT unnest(o.layout) EXCEPT SELECT unnest(n.layout))
        FROM after n JOIN before o USING (id)
        JOIN penstock.second_stores s ON s.tenant = n.tenant;
    ELSE
        INSERT INTO penstock.second_store_work (tenant, store, document_id, gone)
        SELECT o.tenant, s.name, o.id, o.layout FROM before o
        JOIN penstock.second_stores s ON s.tenant = o.tenant;
    END IF;
    RETURN NULL;
END $$;
