"""The text: every edge between instructions, and what executing it tells."""
