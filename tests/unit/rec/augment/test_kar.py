"""KAR's adaptor against its equation, and what knowledge a sample may see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.rec.augment.base import AugmentInput, AugmentShape
from llmcf_cli.rec.augment.kar import KARAugmenter
from llmcf_cli.rec.config import DeepFMConfig, KARConfig, RankingConfig
from llmcf_cli.rec.input.base import Rows
from llmcf_cli.rec.input.knowledge import EntityKnowledge, KnowledgeLookup, Known, read_knowledge
from llmcf_cli.rec.input.text import TextOf
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.parts.embedding import FieldShape
from llmcf_cli.rec.retrieval.config import RetrievalConfig
from llmcf_cli.store.tables import knowledge as knowledge_table

T, B = 7, 5


def adaptor(**settings) -> KARAugmenter:
    torch.manual_seed(0)
    shape = AugmentShape(FieldShape(3, 4, 5), {"knowledge": T})
    augmenter = KARAugmenter(KARConfig(**{"dim": 3, "hidden": 4, **settings}), shape)
    torch.nn.init.normal_(augmenter.missing_user_D)
    torch.nn.init.normal_(augmenter.missing_item_D)
    return augmenter


def known() -> Known:
    torch.manual_seed(1)
    present_B = torch.tensor([True, False, True, True, False])
    return Known(torch.randn(B, T), present_B, torch.randn(B, T), present_B.flip(0))


def test_the_adaptor_is_the_gated_sum_of_shared_and_own_experts():
    augmenter, x = adaptor(shared_experts=2, specific_experts=3), known()
    found_BC = augmenter(AugmentInput(Rows(None), {"knowledge": x})).context_BC
    assert found_BC.shape == (B, augmenter.context_dim) == (B, 6)

    def expert(bank, number, vector_T):
        """One MLP by itself, from its slice of the bank's weights."""
        size = bank.weight_EHD.shape[1]
        rows = slice(number * size, (number + 1) * size)
        hidden = torch.relu(bank.hidden.weight[rows] @ vector_T + bank.hidden.bias[rows])
        return hidden @ bank.weight_EHD[number] + bank.bias_ED[number]

    kinds = (
        (x.user_BT, x.user_known_B, augmenter.user_experts, augmenter.user_gate, augmenter.missing_user_D),
        (x.item_BT, x.item_known_B, augmenter.item_experts, augmenter.item_gate, augmenter.missing_item_D),
    )
    for b in range(B):
        expected = []
        for text_BT, known_B, own, gate, missing_D in kinds:
            parts = [expert(augmenter.shared, e, text_BT[b]) for e in range(2)]
            parts += [expert(own, e, text_BT[b]) for e in range(3)]
            share = torch.exp(gate.weight @ text_BT[b] + gate.bias)
            mixed = sum(a * part for a, part in zip(share / share.sum(), parts, strict=True))
            expected.append(mixed if known_B[b] else missing_D)
        torch.testing.assert_close(found_BC[b], torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_what_is_not_known_cannot_matter():
    augmenter, x = adaptor(), known()
    before_BC = augmenter(AugmentInput(Rows(None), {"knowledge": x})).context_BC
    other = dataclasses.replace(x, user_BT=torch.where(x.user_known_B[:, None], x.user_BT, 9.0))
    assert torch.equal(augmenter(AugmentInput(Rows(None), {"knowledge": other})).context_BC, before_BC)


def test_texts_may_stand_beside_knowledge():
    shape = AugmentShape(FieldShape(3, 4, 5), {"knowledge": T, "text": 6})
    torch.manual_seed(0)
    augmenter, x = KARAugmenter(KARConfig(dim=3, features=("text",)), shape), known()
    text = TextOf(torch.randn(B, 6), torch.randn(B, 6))
    found_BC = augmenter(AugmentInput(Rows(None, {"text": text}), {"knowledge": x})).context_BC
    assert found_BC.shape == (B, augmenter.context_dim) == (B, 9)
    read_BX = torch.cat([text.item_BT, text.history_BT, text.item_BT * text.history_BT], 1)
    torch.testing.assert_close(found_BC[:, 6:], augmenter.text.mlp(read_BX))
    plain = KARAugmenter(KARConfig(dim=3), shape)
    assert plain.load_state_dict(augmenter.state_dict(), strict=False).missing_keys == []
    assert torch.equal(plain(AugmentInput(Rows(None), {"knowledge": x})).context_BC, found_BC[:, :6])


def test_texts_beside_knowledge_are_of_ranking_only():
    with_texts = KARConfig(features=("text",))
    assert (RankingConfig().takes(with_texts), RetrievalConfig().takes(with_texts)) == (True, False)
    assert with_texts.needs == {"knowledge", "text"}
    assert RetrievalConfig().takes(KARConfig())
    assert KARConfig().needs == {"knowledge"}


@given(st.data())
def test_a_text_is_for_samples_strictly_later_than_what_it_was_written_from(data):
    """The guard: whatever the times, no row gets a vector at or before its text's last event."""
    times = st.integers(-50, 50)
    as_of = np.array([0, *data.draw(st.lists(times, min_size=3, max_size=3))])
    slot_R = np.array([0, 2, 0, 1, 3])
    vector_NT = np.vstack([np.zeros(T), np.eye(T)[:3] + 1]).astype(np.float32)
    lookup = KnowledgeLookup(EntityKnowledge(slot_R, vector_NT, as_of))
    row_B = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=8)))
    time_B = torch.tensor(data.draw(st.lists(times, min_size=len(row_B), max_size=len(row_B))))
    found_BT, known_B = lookup(row_B, time_B)
    for row, time, vector_T, is_known in zip(row_B.tolist(), time_B.tolist(), found_BT, known_B.tolist(), strict=True):
        slot = slot_R[row]
        assert is_known == (slot > 0 and time > as_of[slot])
        assert vector_T.tolist() == (vector_NT[slot].tolist() if is_known else [0.0] * T)


def test_a_users_text_reaches_no_sample_that_it_may_tell_about(world):
    """The same in the model: another text changes the logits of later samples of that user and of no others."""
    model = RecModel(world.data.resources, DeepFMConfig(), KARConfig(), seed=2).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = world.data.batch("train")
    before = model(batch).score_B
    user = 5
    slot = model.inputs["knowledge"].users.slot_R[user]
    as_of = model.inputs["knowledge"].users.as_of_N[slot]
    model.inputs["knowledge"].users.vector_NT = model.inputs[
        "knowledge"
    ].users.vector_NT.clone()  # the world's own stays as it is
    model.inputs["knowledge"].users.vector_NT[slot] *= -1
    changed = (model(batch).score_B - before).abs() > 1e-6
    theirs = batch.user_row_B == user
    assert torch.equal(changed, theirs & (batch.time_B > as_of))
    assert changed.any()
    assert (theirs & ~changed).any()


def test_the_table_becomes_slots_with_nothing_for_the_others(world):
    found = read_knowledge(world.knowledge, 30, 24)
    rows = world.knowledge.to_pylist()
    for part, entity in ((found.users, "user"), (found.items, "item")):
        mine = {row["row"]: row for row in rows if row["entity"] == entity}
        for row, slot in enumerate(part.slot_R):
            assert (slot > 0) == (row in mine)
            if row in mine:
                np.testing.assert_array_equal(part.vector_NT[slot], np.array(mine[row]["vector"], np.float32))
                assert part.as_of_N[slot] == mine[row]["as_of"]
    longer = found.items.extended(26)
    assert longer.slot_R.tolist() == [*found.items.slot_R.tolist(), 0, 0]
    only_items = read_knowledge(world.knowledge.filter(pa.compute.equal(world.knowledge["entity"], "item")), 30, 24)
    assert not only_items.users.slot_R.any()
    assert only_items.users.vector_NT.shape == (1, 12)


@pytest.mark.parametrize("row", [0, 31, 1])
def test_rows_that_do_not_fit_the_catalogue_are_refused(row):
    rows = [{"entity": "user", "row": r, "as_of": 0, "vector": [1.0] * T} for r in (row, 1)]
    table = pa.Table.from_pylist(rows, schema=knowledge_table(T).schema)
    with refused("knowledge-unfit", DataError, names="30"):
        read_knowledge(table, 30, 24)


def test_without_knowledge_the_stage_to_run_is_named(world):
    resources = world.data.resources.holding(knowledge=None)
    with pytest.raises(ModelError, match="llmcf knowledge"):
        RecModel(resources, DeepFMConfig(), KARConfig())
