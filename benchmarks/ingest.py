"""Memory and time of `ingest`, negatives included, as the data set grows tenfold.

    python benchmarks/ingest.py [--quick]

Rows of Parquet by chance: 70 events per user and 500 per item on average, few users and items with many; one negative
per positive, drawn by popularity. Each size is ingested in an empty process. The ratio reported is the CPU time per row
of 10 million to that of 1 million; lower is better. The peak of 10 million has a limit, too. --quick: 300,000 rows and
1 million.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb

SIZES, QUICK = (1_000_000, 10_000_000), (300_000, 1_000_000)
TARGET, LIMIT = 1.3, 3.0
"""Most CPU time per row, in that of the smaller size; most GiB."""


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--ingest", nargs=2, metavar=("FILE", "OUT"), help="the measured process: ingest that file")
    options = parser.parse_args()
    if options.ingest:
        ingest_file(*map(Path, options.ingest))
        return
    found = [measure(size) for size in (QUICK if options.quick else SIZES)]
    print(f"{'rows':>12}{'samples':>12}{'µs a row':>10}{'peak GiB':>10}")
    for one in found:
        print(f"{one['rows']:>12,}{one['samples']:>12,}{one['microseconds']:>10.1f}{one['peak_gib']:>10.2f}")
    ratio = found[1]["microseconds"] / found[0]["microseconds"]
    ok = ratio <= TARGET and found[1]["peak_gib"] <= LIMIT
    detail = {"limit_gib": LIMIT, "sizes": found}
    print(json.dumps({"name": "ingest", "ratio": round(ratio, 2), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def measure(rows: int) -> dict[str, float]:
    """Make a file, and ingest it in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "events.parquet", Path(folder) / "out" / "data.duckdb"
        write_events(file, rows)
        command = [sys.executable, __file__, "--ingest", str(file), str(out)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    return {
        "rows": rows, "samples": found["samples"], "microseconds": round(1e6 * found["seconds"] / rows, 1),
        "peak_gib": round(found["peak"] / 2**30, 2),
    }  # fmt: skip


def write_events(file: Path, rows: int) -> None:
    """Events of users and items of which the first are the most frequent."""
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1; SELECT setseed(0.3)")
        connection.execute(
            f"COPY (SELECT 'u' || (floor(random() * random() * {rows // 70}))::INT AS user_id, "
            f"'i' || (floor(random() * random() * {rows // 500}))::INT AS item_id, "
            f"(1 + floor(random() * 5))::DOUBLE AS rating, (1500000000 + floor(random() * 1e8))::BIGINT AS t "
            f"FROM range({rows})) TO '{file}' (FORMAT parquet)"
        )


def ingest_file(file: Path, out: Path) -> None:
    """Ingest, and print what it took."""
    from llmcf_cli.data.ingest import ingest
    from llmcf_cli.recipe.dataset import DatasetSection

    source = {"type": "parquet", "interactions": str(file), "columns": {"rating": "rating", "time": "t"}}
    label = {"type": "implicit", "negatives": "popularity", "per_positive": 1}
    section = DatasetSection.model_validate({"source": source, "label": label, "split": "global_time"})
    before = cpu_seconds()
    report = ingest(section, locate=Path, seed=7, out=out)
    seconds = cpu_seconds() - before
    # Of this program; ru_maxrss starts with what the program had that started it.
    peak = 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])
    samples = sum(count.positive + count.negative for count in report.samples)
    print(json.dumps({"seconds": seconds, "peak": peak, "samples": samples}))


def cpu_seconds() -> float:
    """CPU time of this process so far, of all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
