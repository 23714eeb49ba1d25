"""Bundles that are changed on purpose."""

from __future__ import annotations

import json

from llmcf_cli.core.hashing import digest_file, digest_json


def sealed(bundle, change=lambda manifest: None):
    """Edit bundle.json, and bring digests up to date: what a forger, or another program, would leave."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest.pop("digest")
    change(manifest)
    for name, record in manifest["files"].items():
        record.update(sha256=digest_file(bundle / name), bytes=(bundle / name).stat().st_size)
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"digest": digest_json(manifest)}))
    return bundle
