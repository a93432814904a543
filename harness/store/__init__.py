"""Store: what runs came to, kept in a database."""
