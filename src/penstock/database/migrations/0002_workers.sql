-- A log may be elsewhere (Kafka): log_topics and log_partitions then hold a copy of its ends.
-- log says which log, and which topic in it, the positions of consumers belong to.
ALTER TABLE penstock.log_topics ADD COLUMN log text NOT NULL DEFAULT 'embedded';

-- ---------------------------------------------------------------- workers
-- The processes that share the work of a project. Each says every second that it lives; one that
-- has not for a while, or whose session has ended, has nothing any more. The server's clock counts.
CREATE TABLE penstock.workers (
    worker      text PRIMARY KEY,
    session_key bigint NOT NULL,         -- an advisory lock that its session holds while it lives
    expires_at  timestamptz NOT NULL,
    joined_at   timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- What is to be done by one of them: a source, a partition, the upkeep. Who has none is free.
CREATE TABLE penstock.leases (
    kind        text NOT NULL,
    item        text NOT NULL,
    worker      text REFERENCES penstock.workers ON DELETE SET NULL,
    taken_at    timestamptz,
    PRIMARY KEY (kind, item)
) WITH (fillfactor = 50);
CREATE INDEX leases_by_worker ON penstock.leases (worker);
