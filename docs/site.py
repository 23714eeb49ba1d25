"""A hook of mkdocs: pages that lie beside `docs/`, and links that lead out of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md"} | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}
"""Page → the file that it is made of."""
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages, and the files of the repository that some page names."""
    for script in ("site.py", "versions.py"):
        files.remove(files.src_uris[script])
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page in [one for one in files if one.src_uri.endswith(".md")]:
        for _, target in _LINK.findall(page.content_string):
            found = _outside(page.src_uri, target)
            if found is not None and found.is_file() and f"files/{_name(found)}" not in files.src_uris:
                files.append(File.generated(config, f"files/{_name(found)}", abs_src_path=str(found)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the site has them: files that are no pages are copied; a folder is only named."""

    def linked(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, mark, anchor = target.partition("#")
        place = (_folder(page.file.src_uri) / path).resolve()
        own = {(ROOT / source).resolve(): name for name, source in PAGES.items()}
        outside = _outside(page.file.src_uri, target)
        if "://" in target or not path:
            return found[0]
        if place in own:
            return f"{text}({own[place]}{mark}{anchor})"
        if outside is not None:
            return f"{text}(files/{_name(outside)})" if outside.is_file() else text[1:-1]
        if place.exists():
            return f"{text}({os.path.relpath(place, ROOT / 'docs')}{mark}{anchor})"
        return found[0]

    parts = _FENCE.split(markdown)
    return "".join(part if n % 2 else _LINK.sub(linked, part) for n, part in enumerate(parts))


def _folder(page: str) -> Path:
    """Where the links of a page start."""
    return ROOT if page in PAGES else ROOT / "docs"


def _outside(page: str, target: str) -> Path | None:
    """The file or folder of the repository that a link leads to, if it is no page of the site."""
    if "://" in target or target.startswith("#"):
        return None
    place = (_folder(page) / target.partition("#")[0]).resolve()
    inside = place.is_relative_to(ROOT / "docs") or place in {(ROOT / one).resolve() for one in PAGES.values()}
    return place if place.exists() and not inside and place.is_relative_to(ROOT) else None


def _name(place: Path) -> str:
    return place.relative_to(ROOT).as_posix()
