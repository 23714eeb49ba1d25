"""Chats as tokens, for scripts that look at what a model is told: `encode_pair` under the path that they know."""

from llmcf_cli.llm.prompts.chat import encode_pair

__all__ = ["encode_pair"]
