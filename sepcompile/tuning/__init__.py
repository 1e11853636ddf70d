"""Auto-tuning: the space of schedule records, the search in it, measuring on machines, and the database of results."""
