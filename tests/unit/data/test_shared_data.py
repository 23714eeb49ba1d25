"""The Amazon 2014 sets, where they lie beside the project: `LLMCF_SHARED_DATA`, or `../shared/data`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("LLMCF_SHARED_DATA") or REPOSITORY.parent / "shared" / "data")

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no shared data at {FOLDER}; set LLMCF_SHARED_DATA"),
]


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [
        ("beauty", 22_363, 12_101, 198_502), ("toys", 19_412, 11_924, 167_597), ("sports", 35_598, 18_357, 296_337),
    ],
)  # fmt: skip
def test_amazon(run_to, name, users, items, interactions):
    folder = FOLDER / f"amazon2014_{name}"
    report, con = run_to(
        {
            "source": {
                "type": "parquet", "interactions": str(folder / "interactions.parquet"),
                "items": str(folder / "items.parquet"), "columns": {"position": "position"},
            },
            "label": {"type": "implicit", "negatives": "popularity"},
            "split": "leave_one_out",
            "repeats": "first",
            "k_core": {"user": 5, "item": 5},
            "features": {"item": {"categories": "multi"}},
        }
    )  # fmt: skip
    assert (report.users, report.items, report.interactions) == (users, items, interactions)
    assert report.clock == "per_user"
    assert report.texts[0].blank == 0
    counts = {count.split: (count.positive, count.negative) for count in report.samples}
    assert counts["test"] == counts["validation"] == (users, users)
    assert sum(positive for positive, _ in counts.values()) == interactions
    own = """
        SELECT count(*) FROM sample s WHERE s.label = 0 AND EXISTS (FROM interaction i
            WHERE i.user_row = s.user_row AND i.item_row = s.item_row AND i.time <= s.time)
    """
    assert con.execute(own).fetchone()[0] == report.negatives.violations == 0
    assert report.negatives.p > 0.005
    # every position below the sample's own is in the history, up to its length
    lengths = "SELECT count(*) FROM sample WHERE len(history) <> least(time, 20)"
    assert con.execute(lengths).fetchone()[0] == 0
    assert con.execute("SELECT categories[1] FROM item WHERE item_id IS NOT NULL LIMIT 1").fetchone()[0]
