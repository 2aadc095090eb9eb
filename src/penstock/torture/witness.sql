-- In the project's database: what must never be committed there is written down when it is.

-- name: ledger
CREATE SCHEMA IF NOT EXISTS torture;
CREATE TABLE IF NOT EXISTS torture.witnessed (what text, subject text, was text, became text);
-- When a table's copy begins and ends, by the end of each partition of the log just then.
CREATE TABLE IF NOT EXISTS torture.copies (
    number bigint GENERATED ALWAYS AS IDENTITY, stream text, partition int, begins boolean, at bigint);
TRUNCATE torture.copies;
CREATE OR REPLACE FUNCTION torture.note_copy(name text, value text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO torture.copies (stream, partition, begins, at)
    SELECT split_part(name, ':', 2), p.partition,
        name LIKE 'copy:%' OR value IS NULL OR value LIKE '[%', p.last
    FROM penstock.log_partitions p
    WHERE p.topic = 'shop' AND (name LIKE 'table:%' OR value IS NOT NULL) $$;
CREATE OR REPLACE FUNCTION torture.copy_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM torture.note_copy(coalesce(NEW.name, OLD.name), NEW.value);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER torture_copy_came AFTER INSERT ON penstock.producer_state
    FOR EACH ROW WHEN (NEW.name LIKE 'table:%' OR NEW.name LIKE 'copy:%')
    EXECUTE FUNCTION torture.copy_changed();
CREATE OR REPLACE TRIGGER torture_copy_ended AFTER UPDATE ON penstock.producer_state
    FOR EACH ROW WHEN (NEW.name LIKE 'table:%' AND NEW.value = 'done' AND OLD.value <> 'done')
    EXECUTE FUNCTION torture.copy_changed();
CREATE OR REPLACE TRIGGER torture_copy_went AFTER DELETE ON penstock.producer_state
    FOR EACH ROW WHEN (OLD.name LIKE 'table:%' OR OLD.name LIKE 'copy:%')
    EXECUTE FUNCTION torture.copy_changed();
SELECT torture.note_copy(name, value) FROM penstock.producer_state
WHERE producer = 'shop' AND (name LIKE 'table:%' OR name LIKE 'copy:%') ORDER BY name DESC;
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
