"""What a task learns from labelled examples, one file a kind."""
