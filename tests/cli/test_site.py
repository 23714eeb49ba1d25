"""The documentation site: built strictly, every link leads somewhere, and nothing comes from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
SECTIONS = ["Start", "Your own data", "Concepts", "How to", "Reference", "Results", "Glossary"]


class Page(HTMLParser):
    """Links, what is loaded, anchors, and the text of the tabs."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.update(found[name] for name in ("id", "name") if found.get(name))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in LOADS and found.get(LOADS[tag]):
            self.loads.append(found[LOADS[tag]])


def test_versions_are_listed_newest_first_and_the_start_leads_to_the_newest(tmp_path):
    for name in ("0.9.0", "0.10.0", "1.0.0.dev1", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text("")
    done = subprocess.run([sys.executable, ROOT / "docs" / "versions.py", tmp_path], check=False)
    assert done.returncode == 0
    listed = json.loads((tmp_path / "versions.json").read_text())
    assert [one["version"] for one in listed] == ["0.10.0", "0.9.0", "1.0.0.dev1"]
    assert [one["aliases"] for one in listed] == [["latest"], [], []]
    assert "0.10.0/index.html" in (tmp_path / "index.html").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="needs the dependency group `docs`")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)], cwd=ROOT,
        capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.relative_to(out).as_posix(): Page(path) for path in out.rglob("*.html")}, out


def test_every_link_leads_to_a_page_and_an_anchor_of_the_site(site):
    pages, out = site
    broken = []
    for name, page in pages.items():
        if name == "404.html":
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (out / name).parent.joinpath(unquote(parts.path)).resolve() if parts.path else out / name
            place = target / "index.html" if target.is_dir() else target
            anchors = pages[place.relative_to(out).as_posix()].anchors if place.suffix == ".html" else None
            fine = place.is_file() and (not parts.fragment or anchors is None or unquote(parts.fragment) in anchors)
            broken += [] if fine else [f"{name}: {link}"]
    assert not broken
    assert sum(len(page.links) for page in pages.values()) > 500


def test_nothing_is_loaded_from_elsewhere(site):
    pages, out = site
    assert not [(name, load) for name, page in pages.items() for load in page.loads
                if urlsplit(load).netloc or urlsplit(load).scheme not in ("", "data")]  # fmt: skip
    styles = "".join(path.read_text(encoding="utf-8") for path in out.rglob("*.css"))
    assert "url(http" not in styles
    assert "@import" not in styles


def test_every_document_is_a_page(site):
    pages, out = site
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert documents <= {name.removesuffix(".html") for name in pages}
    start = (out / "index.html").read_text(encoding="utf-8")
    assert all(f"{section}\n" in start for section in SECTIONS)
    assert (out / "search/search_index.json").stat().st_size > 100_000
