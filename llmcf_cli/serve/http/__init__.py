"""Answering over HTTP: `llmcf serve`. Needs the extra `serve`."""
