from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.models.encoder import TextEncoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    """A random two-layer BERT with mean pooling."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(folder / "bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    reader = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[reader, Pooling(24)], device="cpu").save(str(folder / "encoder"))
    return TextEncoder(folder / "encoder")


def test_unit_vectors_in_the_order_of_the_texts(encoder: TextEncoder) -> None:
    texts = ["a b c", "z", "", "q r s t u v w", "a b c", "   "]
    vectors_NT = encoder.encode(texts, batch=2)
    assert vectors_NT.shape == (6, encoder.dim) == (6, 24)
    assert vectors_NT.dtype == np.float32
    assert np.linalg.norm(vectors_NT, axis=1) == pytest.approx([1, 1, 0, 1, 1, 0], abs=1e-5)
    assert (vectors_NT[0] == vectors_NT[4]).all()
    for row in (0, 1, 3):
        assert vectors_NT[row] == pytest.approx(encoder.encode([texts[row]])[0], abs=1e-5)
    assert abs(vectors_NT[0] - vectors_NT[1]).max() > 0.01


def test_streams_and_repeats_exactly(encoder: TextEncoder) -> None:
    blocks = [["a b", "c"], ["d e f"], []]
    streamed = list(encoder.encode_stream(blocks))
    assert [vectors.shape for vectors in streamed] == [(2, 24), (1, 24), (0, 24)]
    assert (streamed[0] == encoder.encode(blocks[0])).all()


def test_an_arrow_column_and_blocks_give_what_a_list_gives(encoder: TextEncoder) -> None:
    texts = [f"{'a b c d e f'[: 1 + i % 11]} {chr(97 + i % 26)}" for i in range(70)]
    column = pa.chunked_array([texts[:9], texts[9:]])
    of_list = encoder.encode(texts, batch=2)  # 32 texts to a block
    assert (encoder.encode(column, batch=2) == of_list).all()
    assert np.allclose(np.concatenate([encoder.encode([text]) for text in texts]), of_list, atol=1e-5)


def test_a_block_is_let_go_before_the_next_is_read(encoder: TextEncoder) -> None:
    class Text(str):
        pass

    alive: weakref.WeakSet[Text] = weakref.WeakSet()

    def blocks() -> Iterator[list[str]]:
        for number in range(4):
            block = [Text(f"a b {number} {i}") for i in range(5)]
            for text in block:
                alive.add(text)
            assert len(alive) == 5
            yield block
            del block, text

    assert len(list(encoder.encode_stream(blocks()))) == 4


def test_folders_without_an_encoder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError):
            TextEncoder(path)


def test_texts_longer_than_the_encoder_reads_are_counted(encoder: TextEncoder) -> None:
    """It reads 64 tokens; each letter, and each word that it does not know, is one."""
    fits, long = " ".join("a" * 64), " ".join("a" * 65)
    texts = [fits, long, long, "é " * 64, "é " * 65, "x" * 500, "", "  "]
    before = (encoder.texts, encoder.cut)
    vectors_NT = encoder.encode(texts)
    assert (encoder.texts - before[0], encoder.cut - before[1]) == (6, 3)
    assert encoder.longest == 64
    assert encoder.counts["cut_share"] == encoder.cut / encoder.texts
    assert vectors_NT[1] == pytest.approx(vectors_NT[0], abs=1e-5), "the 65th word is not read"


def test_what_was_cut_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from llmcf_cli.cli.findings import embed
    from llmcf_cli.stages.steps.embed import EmbedReport, EncodedTexts

    read = {"texts": 4_000, "cut": 1_000, "cut_share": 0.25, "longest": 256}
    embed(EmbedReport(4_000, 3, 1.0, EncodedTexts(**read)))
    said = capsys.readouterr().out
    assert "1,000 of 4,000" in said
    assert "25.0%" in said
    assert "256" in said
    embed(EmbedReport(4_000, 3, 1.0, EncodedTexts(**read | {"cut": 0, "cut_share": 0.0})))
    assert "256" not in capsys.readouterr().out
