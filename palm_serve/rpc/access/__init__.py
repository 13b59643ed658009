"""Access control of calls: tokens, admission, rate limits."""
