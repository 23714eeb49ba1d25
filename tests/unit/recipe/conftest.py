from pathlib import Path

import pytest

MINIMAL = """\
name: tiny
dataset:
  source: {type: recbole, path: data}
  label: {type: rating, positive_from: 4}
  split: {type: global_time, validation: 0.1, test: 0.1}
llm:
  model: model
  mix:
    - {source: recommendation, share: 1}
  tune: full
cot:
  prompt: prompts/single.yaml
  sample: {count: 20}
  engine: transformers
match:
  space: {type: text, encoder: encoder}
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16, 4]}
"""


@pytest.fixture
def write(tmp_path):
    """Write a YAML file into the test's folder and return its path."""

    def write(text: str = MINIMAL, name: str = "tiny.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def minimal() -> str:
    return MINIMAL
