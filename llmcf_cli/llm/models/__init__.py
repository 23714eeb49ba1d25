"""Language models and text encoders on disk."""

from llmcf_cli.llm.models.load import load_tokenizer

__all__ = ["load_tokenizer"]
