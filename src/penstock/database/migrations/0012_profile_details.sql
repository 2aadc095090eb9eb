-- What is known of people beside their traits (ADR 26): rows with the time of what they tell, kept
-- under the record that they belong to, so that whoever has the record has them; who is in which
-- segment; and whose membership has to be looked at.

-- A row that is gone stays as a tombstone (columns IS NULL), as records do. at IS NULL: it tells no
-- time, or an impossible one. owner IS NULL: it bears no identifier.
CREATE TABLE penstock.profile_facts (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    source      text NOT NULL COLLATE "C",
    stream      text NOT NULL COLLATE "C",
    key         text NOT NULL COLLATE "C",
    owner       bigint,
    at          bigint,
    columns     jsonb,
    position    text NOT NULL COLLATE "C",
    noted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, kind, source, stream, key)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX profile_facts_by_owner ON penstock.profile_facts (owner, at) WHERE owner IS NOT NULL;

-- Segments as they were when everybody was last looked at.
CREATE TABLE penstock.profile_segments (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    segment     text NOT NULL COLLATE "C",
    definition  text NOT NULL,
    PRIMARY KEY (tenant, kind, segment)
);
CREATE TABLE penstock.profile_members (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    segment     text NOT NULL COLLATE "C",
    profile     text NOT NULL COLLATE "C",
    since       bigint NOT NULL,
    PRIMARY KEY (tenant, kind, segment, profile)
);
CREATE INDEX profile_members_by_profile ON penstock.profile_members (tenant, kind, profile);
-- Numbers rise with the commits of a kind, as those of profile_events do.
CREATE TABLE penstock.profile_member_events (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    number      bigint GENERATED ALWAYS AS IDENTITY,
    segment     text NOT NULL COLLATE "C",
    profile     text NOT NULL COLLATE "C",
    event       text NOT NULL CHECK (event IN ('entered', 'left')),
    happened_at bigint NOT NULL,
    PRIMARY KEY (tenant, kind, number)
);
CREATE INDEX profile_member_events_of_segment
    ON penstock.profile_member_events (tenant, kind, segment, number);
-- Whom something has changed for (due_at 0), or for whom a window moves over a row then.
CREATE TABLE penstock.profile_due (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    profile     text NOT NULL COLLATE "C",
    due_at      bigint NOT NULL,
    PRIMARY KEY (tenant, kind, profile)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX profile_due_by_time ON penstock.profile_due (tenant, kind, due_at);

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['profile_facts', 'profile_segments', 'profile_members',
        'profile_member_events', 'profile_due'] LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY readable ON penstock.%I TO penstock_reader USING '
            '(tenant = (SELECT penstock.tenant()) '
            'AND kind IN (SELECT penstock.readable_profiles()))', relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
        EXECUTE format('GRANT SELECT ON penstock.%I TO penstock_reader', relation);
    END LOOP;
END $$;
