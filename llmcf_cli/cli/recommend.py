"""`llmcf recommend`: the items of the whole catalogue that suit a user best, without an LLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmcf_cli.cli.bundle import SignersOption
from llmcf_cli.core.errors import DataError

_EVENTS = 3  # of the user, shown beside the list


def recommend(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec wrote.")],
    user: Annotated[str, typer.Option("--user", metavar="U", help="User id.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the list.")] = 10,
    history: Annotated[
        str | None,
        typer.Option(
            "--history", metavar="ITEMS",
            help="Ids of items that the user took, oldest first, comma-separated or a JSON list; by default, the "
            "events that the bundle has of the user.",
        ),
    ] = None,
    allow: Annotated[
        str | None, typer.Option("--allow", metavar="ITEMS", help="Choose only among these ids, likewise.")
    ] = None,
    deny: Annotated[str, typer.Option("--deny", metavar="ITEMS", help="Leave out these ids, likewise.")] = "",
    seen: Annotated[bool, typer.Option("--seen", help="Include items that the user has taken.")] = False,
    signers: SignersOption = None,
) -> None:  # fmt: skip
    import pyarrow as pa
    from rich.text import Text

    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table
    from llmcf_cli.core.text import label, visible
    from llmcf_cli.serve.rows import last_of
    from llmcf_cli.serve.scorer import Scorer
    from llmcf_cli.stages.look.texts import texts_beside

    scorer = Scorer.load(bundle, signers=signers)
    given = None if history is None else _ids(history)
    request = {"user_id": user, "history": given}
    found = scorer.recommend(
        [request], k, allow=None if allow is None else _ids(allow), deny=_ids(deny), filter_seen=not seen
    )
    users, _ = scorer.encoded_users([request])
    (last,) = last_of(users, scorer.model.resources.catalog.items, _EVENTS)
    texts = texts_beside(bundle, [*found["item_id"].to_pylist(), *last])
    console().print(f"\nFor user {user}", style="italic", markup=False)
    table = plain_table("rank")
    for title in ("item_id", "score"):
        table.add_column(title, justify="right", no_wrap=True)
    if texts:
        table.add_column("text")
    for row in found.to_pylist():
        text = [Text(label(texts.get(row["item_id"], "")), no_wrap=True, overflow="ellipsis")] if texts else []
        table.add_row(str(row["rank"]), Text(visible(row["item_id"])), f"{row['score']:.4f}", *text)
    console().print(table)
    if last:
        named = "; ".join(label(texts.get(item, item)) for item in last)
        console().print(f"took last: {named}", style="dim", markup=False, soft_wrap=True)
    known_n = scorer.model.resources.catalog.items.rows(pa.array(given or [], pa.string())) > 0
    lacking = [item for item, known in zip(given or (), known_n, strict=True) if not known]
    if lacking:
        console().print(
            f"{len(lacking):,} of {len(known_n):,} items of the history are not in the catalogue and were ignored: "
            f"{', '.join(map(repr, lacking))}",
            style="yellow", markup=False, soft_wrap=True,
        )  # fmt: skip
    console().print(
        "items that the user took may be in the list" if seen else "items that the user took are left out",
        style="dim", markup=False,
    )  # fmt: skip


def _ids(text: str) -> list[str]:
    """Ids between commas, or those of a JSON list, in which an id may hold a comma."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(one, str | int) for one in found):
            raise DataError("not a JSON list of ids", code="json-invalid", where=text,
                            hint='write ids between commas, or as ["a,b", "c"]')  # fmt: skip
        return [str(one) for one in found]
    return [part.strip() for part in text.split(",") if part.strip()]
