"""A tiny data set in and, row by row, what must come out."""

from __future__ import annotations

SECOND = 1_000_000  # of a sample's time


def in_seconds(row):
    return row | {"time": row["time"] / SECOND}


def test_movies(run, movies):
    result = run(
        {
            "source": {"type": "recbole", "path": str(movies), "multi": ["class"]},
            "label": {"type": "rating", "positive_from": 4},
            "split": {"type": "global_time", "validation": 0.2, "test": 0.2},
            "history": {"max_length": 2},
            "text": {
                "item": "{{movie_title}} ({{release_year}}): {{class}}",
                "user": "a {{age}}-year-old {{occupation}}",
            },
            "features": {
                "item": {"movie_title": "categorical", "release_year": "categorical", "class": "multi"},
                "user": {"age": "categorical", "occupation": "categorical"},
            },
        }
    )
    assert result["item"] == [
        {"item_row": 1, "item_id": "m1", "text": '"Crocodile" Dundee (1986): Adventure, Comedy',
         "movie_title": '"Crocodile" Dundee', "release_year": "1986", "class": ["Adventure", "Comedy"]},
        {"item_row": 2, "item_id": "m2", "text": "Shawshank Redemption, The (1994): Drama",
         "movie_title": "Shawshank Redemption, The", "release_year": "1994", "class": ["Drama"]},
        {"item_row": 3, "item_id": "m3", "text": "Toy Story: Animation, Children's, Comedy",
         "movie_title": "Toy Story", "release_year": None, "class": ["Animation", "Children's", "Comedy"]},
        {"item_row": 4, "item_id": "m4", "text": 'The "Half-open (1999)',
         "movie_title": 'The "Half-open', "release_year": "1999", "class": []},
        {"item_row": 5, "item_id": "m9", "text": "", "movie_title": None, "release_year": None, "class": []},
    ]  # fmt: skip
    assert result["user"] == [
        {
            "user_row": 1,
            "user_id": "u1",
            "text": "a 24-year-old technician",
            "age": "24",
            "occupation": "technician",
        },
        {"user_row": 2, "user_id": "u2", "text": "a -year-old", "age": None, "occupation": None},
    ]
    assert [tuple(row.values()) for row in result["interaction"]] == [
        (1, 1, 5.0, 100, 1), (1, 1, 3.0, 400, 5), (1, 2, 2.0, 200, 2), (1, 3, 4.0, 300, 4), (1, 4, 4.5, 300, 3),
        (2, 2, 4.0, 150, 1), (2, 3, 5.0, 500, 3), (2, 5, 1.0, 250, 2),
    ]  # fmt: skip
    assert [(*row.values(),) for row in map(in_seconds, result["sample"])] == [
        (0, 1, 1, 1, 100, "train", []),
        (1, 2, 2, 1, 150, "train", []),
        (2, 1, 2, 0, 200, "train", [1]),
        (3, 2, 5, 0, 250, "train", [2]),
        (4, 1, 3, 1, 300, "validation", [1]),
        (5, 1, 4, 1, 300, "validation", [1]),
        (6, 1, 1, 0, 400, "test", [4, 3]),
        (7, 2, 3, 1, 500, "test", [2]),
    ]
    report = result.report
    assert (report.users, report.items, report.interactions, report.clock) == (2, 5, 8, "global")
    assert [(c.split, c.positive, c.negative) for c in report.samples] == [
        ("train", 2, 2), ("validation", 2, 0), ("test", 1, 1),
    ]  # fmt: skip
    assert (report.history_median, report.history_empty) == (1.0, 2)
    assert [(count.entity, count.blank) for count in report.texts] == [("item", 1), ("user", 0)]
    assert result.step("number items").reason == "without interactions; 1 of those kept have no row in the item table"
    assert result.step("number items").dropped == 1
    assert [row["name"] for row in result["ingest_step"]] == [step.name for step in report.steps]
    assert {row["key"]: row["value"] for row in result["meta"]}["clock"] == "global"


def test_all_events_in_the_history(run, movies):
    result = run(
        {
            "source": {"type": "recbole", "path": str(movies)}, "label": "rating", "split": "leave_one_out",
            "history": {"max_length": 3, "events": "all"},
        }
    )  # fmt: skip
    by_key = {(r["user_row"], r["item_row"], r["time"]): r["history"] for r in map(in_seconds, result["sample"])}
    assert by_key[1, 1, 400] == [2, 4, 3]
    assert by_key[1, 3, 300] == by_key[1, 4, 300] == [1, 2]
    assert by_key[2, 3, 500] == [2, 5]
    assert result["item"][0]["text"] == '"Crocodile" Dundee, 1986, Adventure Comedy'
    assert result["item"][3]["text"] == 'The "Half-open, 1999'
