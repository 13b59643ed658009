"""Training runs: from a job to a finished run directory."""
