"""Names of the files of a run directory."""

CONFIG, EVENTS, METRICS, REPORT = "config.toml", "events.jsonl", "metrics.json", "report.html"
VALUES = "values.json"
