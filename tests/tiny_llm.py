"""A tiny chat model and a tiny data set, for tests that need real ones."""

from __future__ import annotations

import random
from pathlib import Path

import duckdb

from llmcf_cli.store.tables import INTERACTION, ITEM, META, SAMPLE, USER

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEXT = (
    "the user liked a film about space travel and quiet rivers because its story was warm yet bold while "
    "another one felt slow so they did not enjoy it much Yes No next item earlier choices answer with"
)
WORDS = TEXT.split()


def save_tiny_model(folder: Path, *, context: int = 512) -> Path:
    """A random Llama (2 layers, dimension 32) with a small byte-level tokenizer and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", model_max_length=context)
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=context, bos_token_id=None, eos_token_id=fast.eos_token_id,
        tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_tiny_data(file: Path, *, users: int = 6, items: int = 20, samples: int = 80) -> Path:
    """A DuckDB file as ingest leaves it: every third sample negative, the last quarter not train."""
    chance = random.Random(7)
    with duckdb.connect(str(file)) as connection:
        for table in (USER, ITEM, SAMPLE, INTERACTION, META):
            connection.execute(table.ddl())
        connection.executemany(
            'INSERT INTO "user" VALUES (?, ?, ?)',
            [(u, f"u{u}", f"{20 + u} years old") for u in range(1, users + 1)],
        )
        titles = [" ".join(chance.sample(WORDS, 3)).title() for _ in range(items)]
        connection.executemany(
            "INSERT INTO item VALUES (?, ?, ?)",
            [(i, f"i{i}", f"{title} {i} (19{60 + i}), drama") for i, title in enumerate(titles, 1)],
        )
        rows = []
        for n in range(samples):
            history = [chance.randint(1, items) for _ in range(min(n // 6, 8))]
            split = "train" if n < samples * 3 // 4 else "validation" if n % 2 else "test"
            rows.append((n, n % users + 1, n % items + 1, int(n % 3 > 0), 1000 + n, split, history))
        connection.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute(
            "INSERT INTO interaction SELECT user_row, item_row, NULL, time, "
            "row_number() OVER (PARTITION BY user_row ORDER BY time) FROM sample"
        )
        connection.execute("INSERT INTO meta VALUES ('clock', 'per_user')")
    return file
