"""Results as tables, pictures and sentences of the documentation."""
