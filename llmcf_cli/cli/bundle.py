"""`llmcf bundle`: who made a bundle, whether it is what they made, and two bundles as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec wrote.")]
SignersOption = Annotated[
    Path | None,
    typer.Option("--signers", metavar="FILE", help="Require a signature by one of these public keys, one per line."),
]


@app.command()
def sign(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Ed25519 private key, e.g. ~/.ssh/id_ed25519.")],
) -> None:
    """Sign a bundle with an SSH key."""
    from llmcf_cli.rec.bundle.bundle import MANIFEST
    from llmcf_cli.rec.bundle.signature import sign as sign_bundle
    from llmcf_cli.serve.scorer import Scorer

    Scorer.load(bundle)  # nobody vouches for what is broken
    made = sign_bundle(
        bundle, MANIFEST, key.expanduser(), lambda: typer.prompt(f"passphrase for {key}", hide_input=True)
    )
    typer.echo(f"signed by {made}: {bundle}")


@app.command()
def verify(bundle: BundleArgument, signers: SignersOption = None) -> None:
    """Check a bundle's files and signature; show who signed it."""
    from llmcf_cli.rec.bundle.bundle import MANIFEST
    from llmcf_cli.rec.bundle.signature import check_signer, fingerprint, signer
    from llmcf_cli.serve.scorer import Scorer

    if signers is not None:
        who = f"signed by {check_signer(bundle, MANIFEST, signers)}"
    else:
        found = signer(bundle, MANIFEST)
        who = "not signed" if found is None else f"signed by {fingerprint(found)}, not checked: no --signers"
    Scorer.load(bundle)
    typer.echo(f"ok: {bundle}, {who}")


@app.command()
def cascade(
    retrieval: Annotated[
        Path, typer.Argument(metavar="RETRIEVAL", help="A bundle of the task `retrieval`: finds the candidates.")
    ],
    ranking: Annotated[Path, typer.Argument(metavar="RANKING", help="A bundle of the task `ranking`: orders them.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to create.")],
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, max=20_000, help="Candidates to find for each list.")
    ] = 200,
) -> None:
    """Combine two bundles: the first finds candidates, the second ranks them."""
    from llmcf_cli.rec.bundle.cascade import CascadeManifest, write_cascade
    from llmcf_cli.serve.scorer import Scorer

    finds, ranks = Scorer.load(retrieval), Scorer.load(ranking)
    ranks.put_behind(finds, candidates)
    write_cascade(
        out, retrieval, ranking, CascadeManifest(candidates=candidates, retrieve=finds.digest, rank=ranks.digest)
    )
    typer.echo(f"ok: {out}, {candidates:,} candidates")


@app.command()
def vectors(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder to create: a LanceDB database.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1_000, help="Items per search.")] = 10,
    recall: Annotated[
        float, typer.Option("--recall", min=0, max=1, help="Share of the exact result that the index must find.")
    ] = 0.95,
    signers: SignersOption = None,
) -> None:
    """Export item and user vectors for a search engine, with an index whose recall is measured."""
    from llmcf_cli.cli.console import make_progress
    from llmcf_cli.serve.scorer import Scorer
    from llmcf_cli.serve.vectors import ITEMS, export

    made = export(Scorer.load(bundle, signers=signers), out, k=k, recall=recall, progress=make_progress())
    typer.echo(f"ok: {out}, {made.items:,} items and {made.users:,} users as {made.dim}-dimensional vectors")
    if made.best is None:
        why = "the bundle has no users' events" if not made.queries else "search over so few items is exact"
        typer.echo(f"recall not measured: {why}")
        return
    typer.echo(
        f"index of {ITEMS}: {made.best.probes} of {made.partitions} partitions find {made.best.recall:.4f} of the {k} "
        f"best items, {made.best.p50_ms:.2f} ms per search; comparing all takes {made.exact_p50_ms:.2f} ms "
        f"(medians of {made.queries:,} users)"
    )
