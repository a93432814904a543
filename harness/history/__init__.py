"""History: what several runs say together."""
