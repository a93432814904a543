"""Shadow: every executed instruction's ORC entry against a shadow call stack."""
