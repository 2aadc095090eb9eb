-- The source of a campaign: tables of different kinds, and a ledger that is kept by triggers, in the
-- transaction of each change. Nothing here knows of Penstock.

-- name: ledger
CREATE SCHEMA torture;
-- version: how many rows have stood under this key; gone: how many left it (not by a truncate).
CREATE TABLE torture.ledger (
    stream text, key text[], version bigint NOT NULL, gone bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, key)) WITH (fillfactor = 50);
CREATE FUNCTION torture.came(text, text[]) RETURNS bigint LANGUAGE sql AS $$
    INSERT INTO torture.ledger AS l (stream, key, version) VALUES ($1, $2, 1)
    ON CONFLICT (stream, key) DO UPDATE SET version = l.version + 1 RETURNING version $$;
CREATE FUNCTION torture.went(text, text[]) RETURNS void LANGUAGE sql AS $$
    UPDATE torture.ledger SET gone = gone + 1 WHERE stream = $1 AND key = $2 $$;

-- name: tables
-- A plain key, searched text, a text that is stored out of line; altered while it is used.
CREATE TABLE orders (
    id integer PRIMARY KEY, version bigint, customer text NOT NULL, note text, total numeric(12,2),
    placed timestamptz NOT NULL DEFAULT clock_timestamp(), proof text);
ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL;
CREATE FUNCTION torture.orders() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM torture.went('public.orders', ARRAY[OLD.id::text]);
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
        PERFORM torture.went('public.orders', ARRAY[OLD.id::text]);
    END IF;
    NEW.version = torture.came('public.orders', ARRAY[NEW.id::text]);
    NEW.proof = md5(concat_ws('|', NEW.id, NEW.version, NEW.customer, NEW.note, NEW.total));
    RETURN NEW;
END $$;
CREATE TRIGGER ledger BEFORE INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION torture.orders();

-- A key of two columns; truncated and altered now and then, and changed by large transactions.
CREATE TABLE lines (
    order_id integer, line integer, version bigint, sku text, quantity integer, body text, proof text,
    PRIMARY KEY (order_id, line));
ALTER TABLE lines ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE FUNCTION torture.lines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM torture.went('public.lines', ARRAY[OLD.order_id, OLD.line]::text[]);
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND (NEW.order_id, NEW.line) <> (OLD.order_id, OLD.line) THEN
        PERFORM torture.went('public.lines', ARRAY[OLD.order_id, OLD.line]::text[]);
    END IF;
    NEW.version = torture.came('public.lines', ARRAY[NEW.order_id, NEW.line]::text[]);
    NEW.proof = md5(concat_ws('|', NEW.order_id, NEW.line, NEW.version, NEW.sku, NEW.quantity, NEW.body));
    RETURN NEW;
END $$;
CREATE TRIGGER ledger BEFORE INSERT OR UPDATE OR DELETE ON lines
    FOR EACH ROW EXECUTE FUNCTION torture.lines();

-- A key that rows trade within one statement, and old rows in full.
CREATE TABLE pairs (
    code text, version bigint, label text NOT NULL, body text, proof text,
    PRIMARY KEY (code) DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE pairs REPLICA IDENTITY FULL;
ALTER TABLE pairs ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE FUNCTION torture.pairs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM torture.went('public.pairs', ARRAY[OLD.code]);
        RETURN OLD;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.code <> OLD.code THEN
        PERFORM torture.went('public.pairs', ARRAY[OLD.code]);
    END IF;
    NEW.version = torture.came('public.pairs', ARRAY[NEW.code]);
    NEW.proof = md5(concat_ws('|', NEW.code, NEW.version, NEW.label, NEW.body));
    RETURN NEW;
END $$;
CREATE TRIGGER ledger BEFORE INSERT OR UPDATE OR DELETE ON pairs
    FOR EACH ROW EXECUTE FUNCTION torture.pairs();

-- What the campaign writes to see whether the stream is alive.
CREATE TABLE pulse (id integer PRIMARY KEY, version bigint, beat bigint NOT NULL);
CREATE FUNCTION torture.pulse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version = torture.came('public.pulse', ARRAY[NEW.id::text]);
    RETURN NEW;
END $$;
CREATE TRIGGER ledger BEFORE INSERT OR UPDATE ON pulse
    FOR EACH ROW EXECUTE FUNCTION torture.pulse();

-- name: fill
-- As many rows of the pulse as there are partitions at most, so that some are in each.
INSERT INTO pulse (id, beat) SELECT n, 0 FROM generate_series(1, 16) n;
INSERT INTO orders (id, customer, note, total)
    SELECT n, 'Customer ' || n || '.', CASE WHEN n % 5 = 0 THEN repeat('Note ' || n || ' of a long kind. ', 120)
        ELSE 'Note ' || n || '.' END, n FROM generate_series(1, 2000) n;
INSERT INTO lines (order_id, line, sku, quantity, body)
    SELECT n, l, 'sku ' || n, l, CASE WHEN n % 7 = 0 THEN repeat('body ', 600) END
    FROM generate_series(1, 3500) n, generate_series(1, 2) l;
INSERT INTO pairs (code, label, body)
    SELECT 'c' || n, 'Label ' || n || '.', CASE WHEN n % 2 = 0 THEN repeat('body ' || n || ' ', 500) END
    FROM generate_series(1, 200) n;
