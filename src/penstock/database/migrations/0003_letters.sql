-- A dead letter is a change, and a change is where it stands in its source. The place in the log of
-- the batch in which it was met is not part of that: after a crash the batch may reach further, and
-- two changes of one key may be bad in one batch.
DELETE FROM penstock.dead_letters AS old USING penstock.dead_letters AS new
WHERE old.id < new.id
    AND (old.pipeline, old.topic, old.partition, old.source, old.stream, old.key, old.position)
      = (new.pipeline, new.topic, new.partition, new.source, new.stream, new.key, new.position);
DO $$
DECLARE
    name text := (SELECT conname FROM pg_constraint
                  WHERE conrelid = 'penstock.dead_letters'::regclass AND contype = 'u');
BEGIN
    EXECUTE format('ALTER TABLE penstock.dead_letters DROP CONSTRAINT %I', name);
END $$;
ALTER TABLE penstock.dead_letters ADD CONSTRAINT dead_letters_change
    UNIQUE (pipeline, topic, partition, source, stream, key, position);
