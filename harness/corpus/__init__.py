"""Corpus: what must be caught: mutants, plants and hand-made objects."""
