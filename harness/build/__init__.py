"""Build: a tree and a variant become artifacts."""
