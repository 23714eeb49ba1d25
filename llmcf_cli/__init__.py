"""llmcf: LLM-enhanced collaborative filtering, from a declarative recipe to a servable model."""

__version__ = "0.1.0"
