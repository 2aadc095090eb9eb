-- The vectors of a text's tokens, beside that of the text: what passages are ranked again by. head
-- names their form; those of different heads are never compared. They come, stay and go with the
-- row, and are kept outside of it, as they are: comparing vectors of texts does not read them.
ALTER TABLE penstock.vectors ADD COLUMN head text, ADD COLUMN tokens bytea;
ALTER TABLE penstock.vectors ALTER COLUMN tokens SET STORAGE EXTERNAL;
