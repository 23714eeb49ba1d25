"""Which bundle is served: the file that names it, and how another one takes its place."""
