-- Schema 4: metrics. Released: never edited.
-- One row a run and step instead of one a point: points packed as registry/metrics.cpp says.
CREATE TABLE metric_lines (
  run    INTEGER NOT NULL REFERENCES runs(number) ON DELETE CASCADE,
  step   INTEGER NOT NULL,
  points BLOB NOT NULL,
  PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;

INSERT INTO metric_lines(run, step, points)
  SELECT run, step, pack_points(key, value) FROM metrics GROUP BY run, step;

DROP TABLE metrics;
