"""`llmcf bundle`: who made a bundle, and whether it is what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec left.")]
SignersOption = Annotated[
    Path | None,
    typer.Option("--signers", metavar="FILE", help="Only if signed by one of these public keys, a line each."),
]


@app.command()
def sign(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="An Ed25519 private key, e.g. ~/.ssh/id_ed25519.")],
) -> None:
    """Sign a bundle with an SSH key."""
    from llmcf_cli.rec.bundle.bundle import MANIFEST, load_bundle
    from llmcf_cli.rec.bundle.signature import sign as sign_bundle

    load_bundle(bundle)  # nobody vouches for what is broken
    made = sign_bundle(bundle, MANIFEST, key.expanduser(), lambda: typer.prompt(f"password of {key}", hide_input=True))
    typer.echo(f"signed by {made}: {bundle}")


@app.command()
def verify(bundle: BundleArgument, signers: SignersOption = None) -> None:
    """Check a bundle's files and signature, and say who signed it."""
    from llmcf_cli.rec.bundle.bundle import MANIFEST, load_bundle
    from llmcf_cli.rec.bundle.signature import check_signer, fingerprint, signer

    if signers is not None:
        who = f"signed by {check_signer(bundle, MANIFEST, signers)}"
    else:
        found = signer(bundle, MANIFEST)
        who = "not signed" if found is None else f"signed by {fingerprint(found)}, unknown to you without --signers"
    load_bundle(bundle)
    typer.echo(f"ok: {bundle}, {who}")
