-- Scheduling: groups with limits, waiting for any end, paused and delayed runs, the kind of a failure, `assay clean`.

ALTER TABLE runs ADD COLUMN queue_group TEXT NOT NULL DEFAULT '';    -- '': in none
ALTER TABLE runs ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1));       -- paused by somebody
ALTER TABLE runs ADD COLUMN not_before REAL NOT NULL DEFAULT 0;      -- unix seconds; of a retry that waits for its time
ALTER TABLE runs ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0 CHECK (hidden IN (0, 1));   -- not in the short listing
-- Of failed, lost and stalled ends: 'infrastructure', 'code', 'stalled'; '' where nothing is said.
ALTER TABLE runs ADD COLUMN fault TEXT NOT NULL DEFAULT '';
ALTER TABLE attempts ADD COLUMN fault TEXT NOT NULL DEFAULT '';
-- 0: waits for success; 1: for any end.
ALTER TABLE run_dependencies ADD COLUMN any_end INTEGER NOT NULL DEFAULT 0 CHECK (any_end IN (0, 1));

CREATE TABLE queue_groups (
  name  TEXT PRIMARY KEY,
  slots INTEGER NOT NULL CHECK (slots >= 0)   -- runs of it that go at once
) STRICT;
