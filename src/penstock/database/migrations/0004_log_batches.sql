-- An append has its partition's row locked, so asking again for each batch whether the partition is
-- there was a tenth of an append, a fifth where many topics share a transaction.
ALTER TABLE penstock.log_batches DROP CONSTRAINT log_batches_topic_partition_fkey;

CREATE FUNCTION penstock.remove_batches() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM penstock.log_batches WHERE topic = old.topic AND partition = old.partition;
    RETURN NULL;
END $$;

CREATE TRIGGER remove_batches AFTER DELETE ON penstock.log_partitions
    FOR EACH ROW EXECUTE FUNCTION penstock.remove_batches();
