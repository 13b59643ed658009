"""Who may call, how often, and whether a call is admitted."""
