-- The ledger of answers: what was asked, what was told, what came back. Entries of a tenant are
-- numbered without gaps and each holds the hash of the one before, so that a changed, missing or
-- added one shows. What an entry says of people is apart from it (its content, and the items of its
-- context): the chain holds only its salted hash, so that it can be erased without breaking the chain.

CREATE TABLE penstock.ledger_heads (
    tenant         text PRIMARY KEY,
    key            bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()),
    number         bigint NOT NULL DEFAULT 0,
    hash           bytea NOT NULL,
    trimmed_number bigint NOT NULL DEFAULT 0,
    trimmed_hash   bytea NOT NULL,
    followed       boolean NOT NULL DEFAULT false
);

-- facts: JSON as it was hashed, about no person. hash = sha256(before, number, sha256(facts), content_hash).
CREATE TABLE penstock.ledger_entries (
    tenant       text NOT NULL,
    number       bigint NOT NULL,
    id           text NOT NULL COLLATE "C",
    kind         text NOT NULL CHECK (kind IN
                    ('answer', 'context', 'interaction', 'feedback', 'erasure', 'checkpoint')),
    at           bigint NOT NULL,
    facts        text NOT NULL,
    content_hash bytea NOT NULL,
    before       bytea NOT NULL,
    hash         bytea NOT NULL,
    PRIMARY KEY (tenant, number)
);
CREATE UNIQUE INDEX ledger_entries_by_id ON penstock.ledger_entries (tenant, id);

-- owner: a keyed hash of whose it is; about: the id of the entry that this one is about.
CREATE TABLE penstock.ledger_contents (
    tenant      text NOT NULL,
    number      bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('kept', 'hashed', 'redacted')),
    salt        bytea,
    body        text,
    owner       bytea,
    about       text COLLATE "C",
    PRIMARY KEY (tenant, number)
);
CREATE INDEX ledger_contents_by_owner ON penstock.ledger_contents (tenant, owner) WHERE owner IS NOT NULL;
CREATE INDEX ledger_contents_by_about ON penstock.ledger_contents (tenant, about) WHERE about IS NOT NULL;

-- Passages, rows, profiles and prompt templates, once each, under a keyed hash of their text.
CREATE TABLE penstock.ledger_items (
    tenant  text NOT NULL,
    hash    bytea NOT NULL,
    kind    text NOT NULL,
    source  text COLLATE "C",
    key     text COLLATE "C",
    body    text NOT NULL,
    PRIMARY KEY (tenant, hash)
);
CREATE INDEX ledger_items_by_key ON penstock.ledger_items (tenant, source, key) WHERE key IS NOT NULL;

CREATE TABLE penstock.ledger_uses (
    tenant  text NOT NULL,
    hash    bytea NOT NULL,
    number  bigint NOT NULL,
    PRIMARY KEY (tenant, hash, number)
);
CREATE INDEX ledger_uses_by_number ON penstock.ledger_uses (tenant, number);

-- What was sent with an idempotency key, so that the same is taken once.
CREATE TABLE penstock.ledger_once (
    tenant  text NOT NULL,
    owner   bytea NOT NULL,
    once    bytea NOT NULL,
    digest  bytea NOT NULL,
    number  bigint NOT NULL,
    PRIMARY KEY (tenant, owner, once)
);
CREATE INDEX ledger_once_by_number ON penstock.ledger_once (tenant, number);

-- ---------------------------------------------------------------- writing
-- Appends entries and returns, for each in its place, its number. One that was sent before under
-- its key (once, digest) is not appended again: other says whether it was another one then.
CREATE FUNCTION penstock.append_ledger(of_tenant text, entries jsonb, items jsonb)
RETURNS TABLE (place bigint, entry_id text, entry_number bigint, other boolean)
LANGUAGE plpgsql AS $$
DECLARE
    head penstock.ledger_heads;
    one jsonb;
    known penstock.ledger_once;
    made bytea;
BEGIN
    SELECT * INTO STRICT head FROM penstock.ledger_heads h WHERE h.tenant = of_tenant FOR UPDATE;
    INSERT INTO penstock.ledger_items (tenant, hash, kind, source, key, body)
    SELECT of_tenant, decode(i.hash, 'hex'), i.kind, i.source, i.key, i.body
    FROM jsonb_to_recordset(items) AS i (hash text, kind text, source text, key text, body text)
    ON CONFLICT DO NOTHING;
    FOR place, one IN SELECT e.ordinality, e.value FROM jsonb_array_elements(entries)
                      WITH ORDINALITY e LOOP
        IF one ->> 'once' IS NOT NULL THEN
            SELECT * INTO known FROM penstock.ledger_once o
            WHERE o.tenant = of_tenant AND o.owner = decode(one ->> 'owner', 'hex')
              AND o.once = decode(one ->> 'once', 'hex');
            IF FOUND THEN
                entry_number := known.number;
                entry_id := (SELECT e.id FROM penstock.ledger_entries e
                             WHERE e.tenant = of_tenant AND e.number = known.number);
                other := known.digest <> decode(one ->> 'digest', 'hex');
                RETURN NEXT;
                CONTINUE;
            END IF;
            INSERT INTO penstock.ledger_once (tenant, owner, once, digest, number)
            VALUES (of_tenant, decode(one ->> 'owner', 'hex'), decode(one ->> 'once', 'hex'),
                    decode(one ->> 'digest', 'hex'), head.number + 1);
        END IF;
        head.number := head.number + 1;
        made := sha256(head.hash || int8send(head.number)
            || sha256(convert_to(one ->> 'facts', 'UTF8')) || decode(one ->> 'content_hash', 'hex'));
        INSERT INTO penstock.ledger_entries
            (tenant, number, id, kind, at, facts, content_hash, before, hash)
        VALUES (of_tenant, head.number, one ->> 'id', one ->> 'kind', (one ->> 'at')::bigint,
                one ->> 'facts', decode(one ->> 'content_hash', 'hex'), head.hash, made);
        INSERT INTO penstock.ledger_contents (tenant, number, state, salt, body, owner, about)
        VALUES (of_tenant, head.number, one ->> 'state', decode(one ->> 'salt', 'hex'),
                one ->> 'body', decode(one ->> 'owner', 'hex'), one ->> 'about');
        INSERT INTO penstock.ledger_uses (tenant, hash, number)
        SELECT of_tenant, decode(u, 'hex'), head.number
        FROM jsonb_array_elements_text(one -> 'uses') u ON CONFLICT DO NOTHING;
        head.hash := made;
        entry_id := one ->> 'id';
        entry_number := head.number;
        other := false;
        RETURN NEXT;
    END LOOP;
    UPDATE penstock.ledger_heads h SET number = head.number, hash = head.hash
    WHERE h.tenant = of_tenant;
    IF head.followed THEN
        PERFORM pg_notify('penstock_ledger', of_tenant);
    END IF;
END $$;

-- Makes the ledger of a tenant, if there is none, and has appends told to those who listen.
CREATE FUNCTION penstock.follow_ledger(of_tenant text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO penstock.ledger_heads (tenant, hash, trimmed_hash, followed)
    SELECT of_tenant, first, first, true
    FROM sha256(convert_to('penstock ledger of ' || of_tenant, 'UTF8')) first
    ON CONFLICT (tenant) DO UPDATE SET followed = true WHERE NOT ledger_heads.followed;
$$;

-- ---------------------------------------------------------------- append-only
CREATE FUNCTION penstock.ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'expected the ledger only to grow, got % on %', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'content is erased by the erasure, entries end by ledger.keep';
END $$;

-- Only what lies before the checkpoint may go.
CREATE FUNCTION penstock.ledger_keeps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.number > (SELECT h.trimmed_number FROM penstock.ledger_heads h WHERE h.tenant = OLD.tenant)
    THEN
        RAISE EXCEPTION 'expected the ledger only to grow, got % of entry %', TG_OP, OLD.number
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END $$;

-- Content is either as it was or erased.
CREATE FUNCTION penstock.ledger_redacts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> 'redacted' OR NEW.body IS NOT NULL OR NEW.salt IS NOT NULL
       OR NEW.owner IS NOT NULL
       OR (NEW.tenant, NEW.number) <> (OLD.tenant, OLD.number)
       OR NEW.about IS DISTINCT FROM OLD.about THEN
        RAISE EXCEPTION 'expected content of the ledger to be erased or left, got another of entry %',
            OLD.number USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

-- What an entry with content still uses stays.
CREATE FUNCTION penstock.ledger_unused() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'ledger_items' THEN
        IF EXISTS (SELECT FROM penstock.ledger_uses u WHERE u.tenant = OLD.tenant AND u.hash = OLD.hash)
        THEN
            RAISE EXCEPTION 'expected items of the ledger to stay while an entry uses them'
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    ELSIF EXISTS (SELECT FROM penstock.ledger_contents c WHERE c.tenant = OLD.tenant
                  AND c.number = OLD.number AND c.state <> 'redacted') THEN
        RAISE EXCEPTION 'expected entry % of the ledger to keep what it uses', OLD.number
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION penstock.ledger_advances() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.tenant <> OLD.tenant OR NEW.key <> OLD.key OR NEW.number < OLD.number
       OR NEW.trimmed_number < OLD.trimmed_number OR NEW.trimmed_number > NEW.number THEN
        RAISE EXCEPTION 'expected the head of the ledger to move on'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['ledger_heads', 'ledger_entries', 'ledger_contents',
        'ledger_items', 'ledger_uses', 'ledger_once'] LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
        EXECUTE format('CREATE TRIGGER kept BEFORE TRUNCATE ON penstock.%I '
            'FOR EACH STATEMENT EXECUTE FUNCTION penstock.ledger_refuses()', relation);
    END LOOP;
    FOREACH relation IN ARRAY ARRAY['ledger_entries', 'ledger_items', 'ledger_uses', 'ledger_once'] LOOP
        EXECUTE format('CREATE TRIGGER unchanged BEFORE UPDATE ON penstock.%I '
            'FOR EACH ROW EXECUTE FUNCTION penstock.ledger_refuses()', relation);
    END LOOP;
    FOREACH relation IN ARRAY ARRAY['ledger_entries', 'ledger_contents'] LOOP
        EXECUTE format('CREATE TRIGGER stays BEFORE DELETE ON penstock.%I '
            'FOR EACH ROW EXECUTE FUNCTION penstock.ledger_keeps()', relation);
    END LOOP;
    FOREACH relation IN ARRAY ARRAY['ledger_items', 'ledger_uses', 'ledger_once'] LOOP
        EXECUTE format('CREATE TRIGGER stays BEFORE DELETE ON penstock.%I '
            'FOR EACH ROW EXECUTE FUNCTION penstock.ledger_unused()', relation);
    END LOOP;
END $$;
CREATE TRIGGER redacted BEFORE UPDATE ON penstock.ledger_contents
    FOR EACH ROW EXECUTE FUNCTION penstock.ledger_redacts();
CREATE TRIGGER advances BEFORE UPDATE ON penstock.ledger_heads
    FOR EACH ROW EXECUTE FUNCTION penstock.ledger_advances();
CREATE TRIGGER stays BEFORE DELETE ON penstock.ledger_heads
    FOR EACH ROW EXECUTE FUNCTION penstock.ledger_refuses();

-- ---------------------------------------------------------------- conversations
-- What was asked before, of whom. owner is a keyed hash of whose a session is, as in
-- the ledger. What was answered stands there.
CREATE TABLE penstock.sessions (
    tenant     text NOT NULL,
    id         text NOT NULL COLLATE "C",
    owner      bytea NOT NULL,
    turns      integer NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    last_at    bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX sessions_by_owner ON penstock.sessions (tenant, owner);
CREATE INDEX sessions_by_time ON penstock.sessions (tenant, last_at);

-- said: the question as it came; asked: as it stands for itself; answer: its entry in the ledger.
CREATE TABLE penstock.session_turns (
    tenant  text NOT NULL,
    session text NOT NULL COLLATE "C",
    number  integer NOT NULL,
    said    text NOT NULL,
    asked   text NOT NULL,
    answer  text COLLATE "C",
    at      bigint NOT NULL,
    PRIMARY KEY (tenant, session, number),
    FOREIGN KEY (tenant, session) REFERENCES penstock.sessions (tenant, id) ON DELETE CASCADE
);

-- Forms of a conversation, as far as they are filled in.
CREATE TABLE penstock.session_forms (
    tenant  text NOT NULL,
    session text NOT NULL COLLATE "C",
    form    text NOT NULL COLLATE "C",
    filled  text NOT NULL,
    PRIMARY KEY (tenant, session, form),
    FOREIGN KEY (tenant, session) REFERENCES penstock.sessions (tenant, id) ON DELETE CASCADE
);

DO $$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['sessions', 'session_turns', 'session_forms'] LOOP
        EXECUTE format('ALTER TABLE penstock.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY',
            relation);
        EXECUTE format('CREATE POLICY written ON penstock.%I TO CURRENT_USER '
            'USING (true) WITH CHECK (true)', relation);
    END LOOP;
END $$;
