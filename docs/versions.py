"""`site/` as a site of several versions: `versions.json`, by which each page offers the others, and a start page.

    python docs/versions.py site

Each folder with an `index.html` is a version: `make site` builds one, and leaves those that are there. The theme reads
`versions.json` beside them; any static server will do. What is built last of a version replaces what was there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

_START = """<!doctype html><meta charset="utf-8"><title>llmcf</title>
<meta http-equiv="refresh" content="0; url={newest}/index.html"><a href="{newest}/index.html">llmcf {newest}</a>
"""


def versions(site: Path) -> list[str]:
    """The versions that are built, newest first; finished ones before those under way."""
    found: list[Version] = []
    for page in site.glob("*/index.html"):
        try:
            found.append(Version(page.parent.name))
        except InvalidVersion:
            continue
    return [str(one) for one in sorted(found, key=lambda one: (not one.is_prerelease, one), reverse=True)]


def main(site: Path) -> None:
    """Write both files."""
    found = versions(site)
    if not found:
        sys.exit(f"{site}: no version is built there: make site")
    listed = [{"version": one, "title": one, "aliases": ["latest"] if one == found[0] else []} for one in found]
    (site / "versions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (site / "index.html").write_text(_START.format(newest=found[0]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
