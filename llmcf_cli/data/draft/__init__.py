"""A first recipe for tables that nobody has described: what their columns are, by their names and values, and why."""
