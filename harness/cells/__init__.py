"""Cells: the matrix of all that is tested every night, one content-addressed result each."""
