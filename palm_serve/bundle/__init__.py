"""The bundle: the self-contained directory that training hands to serving."""
