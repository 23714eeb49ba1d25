"""DeepFM against its equations, written as loops."""

from __future__ import annotations

from llmcf_cli.rec.config import DeepFMConfig
from llmcf_cli.rec.ranking.deepfm import DeepFM


def test_it_adds_linear_term_pairs_and_mlp(build, loops, fields, context):
    model = build(DeepFM, DeepFMConfig(hidden=(7, 5)), context)

    def reference(b):
        v = fields.fields_BFD[b].tolist()
        pairs = sum(x * y for i in range(len(v)) for j in range(i + 1, len(v)) for x, y in zip(v[i], v[j], strict=True))
        return loops.linear_deep(model, fields, context, b) + pairs

    loops.check(model, fields, context, reference)
