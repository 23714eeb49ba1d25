"""Assets made on the spot, and progress that remembers, for the tests of `store/assets.py` and `store/fetch.py`."""

import hashlib

from llmcf_cli.store.catalogue import Asset


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def asset(name, files, wheels=None):
    """An asset from {path: (source, content it should have)}."""
    listed = [
        {"path": path, "source": source, "sha256": sha(content), "size": len(content)}
        for path, (source, content) in files.items()
    ]
    common = {"kind": "dataset", "description": "d", "licence": "CC0"}
    return Asset.model_validate({"name": name, **common, "files": listed, "wheels": wheels or {}})


class Lines:
    """Progress that remembers."""

    def __init__(self):
        self.said, self.moved, self.tasks = [], 0, []

    def say(self, text):
        self.said.append(text)

    def task(self, name, total, unit, done=0):
        self.tasks.append((name, total, unit))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def advance(self, amount=1):
        self.moved += amount

    def skip(self, amount):
        pass

    def note(self, text):
        pass
