"""Foundations every other layer stands on: errors, configuration base, hashing, progress, seeding."""
