"""Tables from users: one reader for every format, and one set of conversions, exact or NULL and counted."""
