"""Splits by cuts in time, in SQL; imported where nothing heavy may be."""


def split_sql(validation_from: int, test_from: int, time: str = "time") -> str:
    """SQL of the split of a time in microseconds: train, then validation, then test."""
    return (
        f"CASE WHEN {time} < {validation_from} THEN 'train' WHEN {time} < {test_from} THEN 'validation' ELSE 'test' END"
    )
