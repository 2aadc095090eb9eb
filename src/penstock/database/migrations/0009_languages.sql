-- The languages of the documents of a tenant: a question is read in each of them. One row for each
-- language, added with its first document and kept.
CREATE TABLE penstock.languages (
    tenant      text NOT NULL DEFAULT 'default',
    language    text NOT NULL,
    PRIMARY KEY (tenant, language)
);
ALTER TABLE penstock.languages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY readable ON penstock.languages TO penstock_reader USING (tenant = penstock.tenant());
DO $$ BEGIN
    EXECUTE 'CREATE POLICY written ON penstock.languages TO CURRENT_USER '
            'USING (true) WITH CHECK (true)';
END $$;
GRANT SELECT ON penstock.languages TO penstock_reader;
