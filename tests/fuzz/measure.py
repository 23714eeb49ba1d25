"""Run with `recipes` or `requests` and a folder: how each input of the corpus ends and what it costs, as JSON."""

import importlib.util
import json
import re
import resource
import sys
import time
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.serve.requests import RequestForm, read_requests


def corpus():
    spec = importlib.util.spec_from_file_location("corpus", Path(__file__).with_name("corpus.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(read, file):
    started = time.process_time()
    try:
        read(file)
        end = "loads"
    except LlmcfError as error:
        end = "refused" if len(str(error)) < 100_000 else "an error that nobody can read"
    except BaseException as error:
        end = f"{type(error).__name__}: {ascii(str(error))[:200]}"
    return {"end": end, "seconds": round(time.process_time() - started, 2), "peak_mb": peak_memory() >> 10}


def peak_memory():
    """KiB; `ru_maxrss` would start with what the program had that started this one."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])


def main(kind, folder):
    found = corpus()
    inputs = found.RECIPES if kind == "recipes" else found.REQUESTS
    read = load_recipe if kind == "recipes" else lambda file: read_requests(file, RequestForm())
    load_recipe("quickstart")  # modules are imported once, whoever wrote the recipe
    for name, content in inputs.items():
        file = folder / ("r.yaml" if kind == "recipes" else name)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        print(json.dumps({"name": name, **measured(read, file)}), flush=True)
        file.unlink()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
