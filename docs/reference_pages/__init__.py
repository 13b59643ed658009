"""Writer of the generated parts of docs/reference: tables that say what the code says."""
