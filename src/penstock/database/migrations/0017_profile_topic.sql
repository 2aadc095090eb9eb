-- What happens to profiles, as a topic of the log (ADR 21). Events of both tables draw their numbers
-- from one sequence, under the lock of their kind: within a kind they are in the order of commits
-- across both.

SELECT setval('penstock.profile_events_number_seq', 1 + greatest(
    (SELECT coalesce(max(number), 0) FROM penstock.profile_events),
    (SELECT coalesce(max(number), 0) FROM penstock.profile_member_events)));
ALTER TABLE penstock.profile_member_events ALTER COLUMN number DROP IDENTITY;
ALTER TABLE penstock.profile_member_events ALTER COLUMN number
    SET DEFAULT nextval('penstock.profile_events_number_seq');

-- Kinds that a source follows: while there is one, whoever listens is told of commits with events.
CREATE TABLE penstock.profile_followers (
    tenant      text NOT NULL,
    kind        text NOT NULL COLLATE "C",
    PRIMARY KEY (tenant, kind)
);
ALTER TABLE penstock.profile_followers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY written ON penstock.profile_followers TO CURRENT_USER USING (true) WITH CHECK (true);

CREATE FUNCTION penstock.tell_of_profiles() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM penstock.profile_followers) THEN
        PERFORM pg_notify('penstock_profiles', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER told AFTER INSERT ON penstock.profile_events
    FOR EACH STATEMENT EXECUTE FUNCTION penstock.tell_of_profiles();
CREATE TRIGGER told AFTER INSERT ON penstock.profile_member_events
    FOR EACH STATEMENT EXECUTE FUNCTION penstock.tell_of_profiles();
