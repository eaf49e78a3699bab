-- Schema 2: records, what people (and `assay verify`) say about a series, a run id or a run. Released: never edited.
-- Each is a line of records.jsonl in the series' or the run's folder first. None is ever changed or deleted; no cascade
-- either: a run that a record speaks of cannot be deleted.
CREATE TABLE records (
  id        INTEGER PRIMARY KEY,
  series    TEXT NOT NULL REFERENCES series(id),
  run       INTEGER REFERENCES runs(number),  -- NULL: the line stands in the series' file
  line_end  INTEGER NOT NULL CHECK (line_end > 0),  -- bytes of that file up to and with this line: its identity
  run_id    TEXT NOT NULL,                    -- '': the series as a whole
  kind      TEXT NOT NULL CHECK (kind IN ('hypothesis', 'note', 'tag', 'verdict', 'conclusion', 'cause', 'verify')),
  subject   TEXT NOT NULL,                    -- a note's number, a tag's word, a cause's name; '' for the others
  version   INTEGER NOT NULL,                 -- from 1, within (series, run, run_id, kind, subject)
  withdrawn INTEGER NOT NULL CHECK (withdrawn IN (0, 1)),
  time      REAL NOT NULL,
  author    TEXT NOT NULL,
  source    TEXT NOT NULL,                    -- command, series file, verify, import
  text      TEXT NOT NULL,
  data      TEXT NOT NULL                     -- JSON object
) STRICT;
CREATE UNIQUE INDEX records_once ON records(series, ifnull(run, 0), line_end);
CREATE UNIQUE INDEX records_versions ON records(series, ifnull(run, 0), run_id, kind, subject, version);
CREATE INDEX records_by_run ON records(run) WHERE run IS NOT NULL;
