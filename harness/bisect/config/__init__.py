"""Config: which options of two configurations make a finding; ``reduce`` is pure."""
