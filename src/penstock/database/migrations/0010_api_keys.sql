-- Keys of applications. The token itself is nowhere: only its SHA-256.
CREATE TABLE penstock.api_keys (
    id          text PRIMARY KEY,
    digest      bytea NOT NULL,
    label       text NOT NULL,
    user_name   text,
    user_groups text[] NOT NULL,
    tenant      text NOT NULL,
    scopes      text[] NOT NULL,
    created_at  bigint NOT NULL,
    expires_at  bigint,
    revoked_at  bigint
);
ALTER TABLE penstock.api_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DO $$ BEGIN
    EXECUTE 'CREATE POLICY written ON penstock.api_keys TO CURRENT_USER '
            'USING (true) WITH CHECK (true)';
END $$;
