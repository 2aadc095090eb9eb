-- In the project's database: what must never be committed there is written down when it is.

-- name: ledger
CREATE SCHEMA IF NOT EXISTS torture;
CREATE TABLE IF NOT EXISTS torture.witnessed (what text, subject text, was text, became text);
CREATE OR REPLACE FUNCTION torture.consumer_went_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO torture.witnessed VALUES ('position went back', OLD.consumer || ' on ' || OLD.topic,
        OLD.position::text, NEW.position::text);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER torture BEFORE UPDATE ON penstock.consumers
    FOR EACH ROW WHEN (NEW.position < OLD.position) EXECUTE FUNCTION torture.consumer_went_back();
CREATE OR REPLACE FUNCTION torture.source_went_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO torture.witnessed VALUES ('source position went back', OLD.producer, OLD.value, NEW.value);
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER torture BEFORE UPDATE ON penstock.producer_state
    FOR EACH ROW WHEN (OLD.name = 'position' AND NEW.value < OLD.value COLLATE "C")
    EXECUTE FUNCTION torture.source_went_back();
CREATE OR REPLACE FUNCTION torture.row_went_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO torture.witnessed VALUES ('row went back', TG_TABLE_NAME || ' ' || to_jsonb(OLD)::text,
        OLD.version::text, NEW.version::text);
    RETURN NEW;
END $$;
