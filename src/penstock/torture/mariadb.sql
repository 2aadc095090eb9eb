-- The shop of a campaign on MariaDB: the same tables as in source.sql, as far as MariaDB has them, and
-- the same ledger. Statements end with a line of their own: the bodies of triggers have semicolons.

-- name: tables
CREATE TABLE torture.ledger (
    stream varchar(20), name varchar(60), version bigint NOT NULL, gone bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (stream, name))
;;
CREATE TABLE shop.orders (
    id int PRIMARY KEY, version bigint, customer text NOT NULL, note text, total decimal(12,2),
    proof varchar(32))
;;
CREATE TABLE shop.`lines` (
    order_id int, line int, version bigint, sku varchar(40), quantity int, body text,
    proof varchar(32), PRIMARY KEY (order_id, line))
;;
CREATE TABLE shop.pairs (
    code varchar(20) PRIMARY KEY, version bigint, label text NOT NULL, body text, proof varchar(32))
;;
CREATE TABLE shop.pulse (id int PRIMARY KEY, version bigint, beat bigint NOT NULL)
;;

-- name: triggers
CREATE TRIGGER shop.TABLE_came BEFORE INSERT ON shop.`TABLE` FOR EACH ROW
BEGIN
    INSERT INTO torture.ledger (stream, name, version) VALUES ('shop.TABLE', KEY_NEW, 1)
        ON DUPLICATE KEY UPDATE version = version + 1;
    SET NEW.version = (SELECT version FROM torture.ledger WHERE stream = 'shop.TABLE' AND name = KEY_NEW);
    PROOF
END
;;
CREATE TRIGGER shop.TABLE_changed BEFORE UPDATE ON shop.`TABLE` FOR EACH ROW
BEGIN
    IF KEY_OLD <> KEY_NEW THEN
        UPDATE torture.ledger SET gone = gone + 1 WHERE stream = 'shop.TABLE' AND name = KEY_OLD;
    END IF;
    INSERT INTO torture.ledger (stream, name, version) VALUES ('shop.TABLE', KEY_NEW, 1)
        ON DUPLICATE KEY UPDATE version = version + 1;
    SET NEW.version = (SELECT version FROM torture.ledger WHERE stream = 'shop.TABLE' AND name = KEY_NEW);
    PROOF
END
;;
CREATE TRIGGER shop.TABLE_went BEFORE DELETE ON shop.`TABLE` FOR EACH ROW
    UPDATE torture.ledger SET gone = gone + 1 WHERE stream = 'shop.TABLE' AND name = KEY_OLD
;;

-- name: fill
INSERT INTO shop.pulse (id, beat) SELECT seq, 0 FROM seq_1_to_16
;;
INSERT INTO shop.orders (id, customer, note, total)
    SELECT seq, CONCAT('Customer ', seq, '.'),
        IF(seq % 5 = 0, REPEAT(CONCAT('Note ', seq, ' of a long kind. '), 120), CONCAT('Note ', seq, '.')), seq
    FROM seq_1_to_1000
;;
INSERT INTO shop.`lines` (order_id, line, sku, quantity, body)
    SELECT n.seq, l.seq, CONCAT('sku ', n.seq), l.seq, IF(n.seq % 7 = 0, REPEAT('body ', 600), NULL)
    FROM seq_1_to_1500 n JOIN seq_1_to_2 l
;;
INSERT INTO shop.pairs (code, label, body)
    SELECT CONCAT('c', seq), CONCAT('Label ', seq, '.'), IF(seq % 2 = 0, REPEAT(CONCAT('body ', seq, ' '), 500), NULL)
    FROM seq_1_to_200
;;
