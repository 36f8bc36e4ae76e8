-- 100,000 rows with indexes: filled, searched, joined, changed, rolled back and packed.
PRAGMA synchronous = OFF;
CREATE TABLE item (id INTEGER PRIMARY KEY, code INTEGER, name TEXT, price REAL);
CREATE TABLE sale (item INTEGER REFERENCES item, day INTEGER, quantity INTEGER);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
INSERT INTO item SELECT i, (i * 7919) % 100003, printf('item %06d of the %s kind', i, substr('abcdefgh', 1 + i % 8, 1)), (i % 977) / 8.0 FROM n;
CREATE UNIQUE INDEX item_code ON item (code);
CREATE INDEX item_name ON item (name, price);
INSERT INTO sale SELECT id, id % 365, id % 7 FROM item WHERE id % 3 = 0;
CREATE INDEX sale_day ON sale (day);
COMMIT;
SELECT count(*), sum(code), total(price) FROM item;
SELECT name FROM item WHERE code BETWEEN 500 AND 509 ORDER BY name;
SELECT day, count(*), sum(quantity * price) FROM sale JOIN item ON item.id = sale.item GROUP BY day ORDER BY 3 DESC LIMIT 5;
SELECT substr(name, 20), group_concat(id % 10, '') FROM item WHERE id < 200 GROUP BY 1 ORDER BY 1;
SELECT count(DISTINCT substr(name, 6, 4) || price) FROM item;
UPDATE item SET name = name || ', changed' WHERE id % 5 = 0;
DELETE FROM item WHERE id % 11 = 0;
BEGIN;
DELETE FROM item;
ROLLBACK;
SELECT count(*), sum(length(name)) FROM item;
VACUUM;
PRAGMA integrity_check;
