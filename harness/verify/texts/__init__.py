"""The texts of patched sites: each executed, and compared with the table."""
