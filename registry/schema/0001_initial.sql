-- Schema 1. Released: never edited; a change is a new file with the next number. docs/registry.md explains each table.
-- Words and codes stored here (states, outcomes, document kinds) are on-disk values and frozen.

CREATE TABLE series (
  id    TEXT PRIMARY KEY,
  title TEXT NOT NULL,
  goal  TEXT NOT NULL,
  json  TEXT NOT NULL
) STRICT;

-- AUTOINCREMENT: a number is never given twice, even if the run with the highest one is deleted.
CREATE TABLE runs (
  number        INTEGER PRIMARY KEY AUTOINCREMENT,
  series        TEXT NOT NULL REFERENCES series(id),
  run           TEXT NOT NULL,
  seed          INTEGER NOT NULL,
  batch         TEXT NOT NULL,
  folder        TEXT UNIQUE,              -- NULL only inside the transaction that adds the run
  config_sha256 TEXT NOT NULL,
  priority      INTEGER NOT NULL,
  state         TEXT NOT NULL CHECK (state IN ('queued', 'blocked', 'starting', 'running', 'succeeded', 'failed',
                                               'killed', 'lost', 'stalled', 'skipped')),
  exit_code     INTEGER,
  signal        INTEGER,
  detail        TEXT NOT NULL DEFAULT '',
  attempt       INTEGER NOT NULL DEFAULT 0,
  created       REAL NOT NULL,            -- unix seconds, as every time here
  started       REAL,                     -- of the latest attempt
  ended         REAL
) STRICT;
CREATE INDEX runs_by_series ON runs(series, run, seed);
CREATE INDEX runs_by_batch ON runs(batch);
CREATE INDEX runs_unfinished ON runs(state) WHERE state IN ('queued', 'blocked', 'starting', 'running');

-- The long texts of a run stand apart, so that a listing does not page through them.
CREATE TABLE run_texts (
  run              INTEGER PRIMARY KEY REFERENCES runs(number) ON DELETE CASCADE,
  config_json      TEXT NOT NULL,
  derived_json     TEXT NOT NULL,
  run_json         TEXT NOT NULL,
  code_json        TEXT NOT NULL,
  environment_json TEXT NOT NULL,
  inputs_json      TEXT NOT NULL
) STRICT;

CREATE TABLE run_dependencies (
  run      INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  after    INTEGER NOT NULL REFERENCES runs(number),
  PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_dependencies_by_after ON run_dependencies(after);

CREATE TABLE attempts (
  run       INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  attempt   INTEGER NOT NULL,             -- from 1
  state     TEXT NOT NULL,                -- the latest state of the run during this attempt
  started   REAL NOT NULL,
  ended     REAL,
  exit_code INTEGER,
  signal    INTEGER,
  detail    TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (run, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE progress (
  run         INTEGER PRIMARY KEY REFERENCES runs(number) ON DELETE CASCADE,
  step        INTEGER NOT NULL,
  total_steps INTEGER NOT NULL,
  score       REAL,
  accuracy    REAL,
  last_time   REAL NOT NULL
) STRICT;

CREATE TABLE metric_keys (
  id   INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE metrics (
  run   INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  step  INTEGER NOT NULL,
  key   INTEGER NOT NULL REFERENCES metric_keys(id),
  value REAL,                             -- NULL is NaN; infinities are stored as they are
  PRIMARY KEY (run, step, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE evaluations (
  id               INTEGER PRIMARY KEY,
  run              INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  step             INTEGER NOT NULL,
  quant            TEXT NOT NULL,         -- label of the quantization it was measured under
  trained_quant    TEXT NOT NULL,
  problems         INTEGER NOT NULL,
  correct          INTEGER NOT NULL,
  format_right     INTEGER NOT NULL,
  arithmetic_right INTEGER NOT NULL,
  data_sha256      TEXT NOT NULL,
  UNIQUE (run, step, quant)
) STRICT;

CREATE TABLE outcomes (
  evaluation       INTEGER NOT NULL REFERENCES evaluations(id) ON DELETE CASCADE,
  problem          INTEGER NOT NULL,      -- index in the test file
  outcome          INTEGER NOT NULL CHECK (outcome BETWEEN 0 AND 3),  -- 0 correct, 1 wrong, 2 unparsable, 3 scorer_error
  correct          INTEGER NOT NULL CHECK (correct IN (0, 1)),
  format_right     INTEGER NOT NULL CHECK (format_right IN (0, 1)),
  arithmetic_right INTEGER NOT NULL CHECK (arithmetic_right IN (0, 1)),
  PRIMARY KEY (evaluation, problem)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  id      INTEGER PRIMARY KEY,
  run     INTEGER REFERENCES runs(number) ON DELETE CASCADE,  -- NULL: of no run
  time    REAL NOT NULL,
  step    INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  message TEXT NOT NULL,
  data    TEXT NOT NULL
) STRICT;
-- The same event twice is a replay.
CREATE UNIQUE INDEX events_once ON events(ifnull(run, 0), time, step, kind, message, data);

CREATE TABLE documents (
  run  INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  kind TEXT NOT NULL,                     -- the file's name in the run folder, without .json
  json TEXT NOT NULL,
  PRIMARY KEY (run, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE ingested (
  run   INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  file  TEXT NOT NULL,
  bytes INTEGER NOT NULL CHECK (bytes >= 0),
  PRIMARY KEY (run, file)
) STRICT, WITHOUT ROWID;
