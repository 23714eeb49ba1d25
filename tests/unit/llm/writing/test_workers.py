"""The cache of generated texts: shared by processes, its failures, and files of an earlier version."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.engines.base import Completion, Failure
from llmcf_cli.llm.writing.texts import Ask, TextCache
from llmcf_cli.llm.writing.workers import SharedTexts
from llmcf_cli.store.tables import GENERATION, GENERATION_FAILURE

WORKER = """
import sys, time
from pathlib import Path
from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.engines.base import Completion
from llmcf_cli.llm.writing.texts import Ask, TextCache
from llmcf_cli.llm.writing.workers import SharedTexts

class Slow:
    samples = 2
    def decode_settings(self, seed):
        return {"seed": seed}
    def batches(self, lengths):
        return [list(range(i, min(i + 3, len(lengths)))) for i in range(0, len(lengths), 3)]
    def generate(self, chats, seeds):
        with log.open("a") as handle:
            handle.writelines(f"{chat[0]['content']} {seed}\\n" for chat, seed in zip(chats, seeds))
        print("MAKING", flush=True)
        time.sleep(float(sys.argv[3]))
        return [Completion(f"{chat[0]['content']} {seed}", "stop", 1, 1, 0.0) for chat, seed in zip(chats, seeds)]

log = Path(sys.argv[2])
asks = [Ask([{"role": "user", "content": str(n)}], f"hash{n}", 5, False) for n in range(30)]
with SharedTexts(Path(sys.argv[1])) as store, SILENT.task("t", 30, "prompts") as task:
    texts = TextCache(store, Slow(), "m", 1)
    texts.complete(asks, task)
    print("END", texts.generated, texts.cached, len(texts.of(asks)), flush=True)
"""


def _worker(cache: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(cache), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _end(worker: subprocess.Popen[str]) -> list[int]:
    line = worker.communicate(timeout=60)[0].splitlines()[-1]
    assert line.startswith("END")
    return list(map(int, line.split()[1:]))


def test_two_processes_share_the_calls_and_both_get_every_text(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache.sqlite", tmp_path / "calls.txt"
    workers = [_worker(cache, log, 0.25) for _ in range(2)]
    ends = [_end(worker) for worker in workers]
    assert sum(generated for generated, _, _ in ends) == 60
    assert all(generated > 0 and generated + cached == 60 and prompts == 30 for generated, cached, prompts in ends)
    calls = log.read_text().splitlines()
    assert len(calls) == len(set(calls)) == 60
    with closing(sqlite3.connect(cache)) as connection:
        assert connection.execute("SELECT count(*) FROM generation_lease").fetchone() == (0,)
    assert not list((tmp_path / "cache.workers").iterdir())


def test_what_a_killed_worker_was_making_the_other_makes(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache.sqlite", tmp_path / "calls.txt"
    doomed = _worker(cache, log, 600)
    assert doomed.stdout.readline() == "MAKING\n"
    other = _worker(cache, log, 0)
    for _ in range(10):  # all but the doomed worker's batch, so that it waits for that one
        assert other.stdout.readline() == "MAKING\n"
    doomed.send_signal(signal.SIGKILL)
    doomed.wait()
    assert _end(other) == [60, 0, 30]
    repeated = [call for call, count in Counter(log.read_text().splitlines()).items() if count == 2]
    assert len(repeated) == 3  # the batch that the kill cut off, and nothing else


class Flaky:
    """Answers each chat with its content; those named in `failing` fail as often as that says."""

    samples = 1

    def __init__(self, failing: dict[str, int], *, retryable: bool = True) -> None:
        self.failing, self.retryable, self.asked = dict(failing), retryable, Counter()

    def decode_settings(self, seed):
        return {"temperature": 0.5, "max_new_tokens": 9, "seed": seed}

    def batches(self, lengths):
        return [[index] for index in range(len(lengths))]

    def generate(self, chats, seeds):
        return [self._answer(chat[0]["content"]) for chat in chats]

    def _answer(self, content: str) -> Completion | Failure:
        self.asked[content] += 1
        if self.failing.get(content, 0):
            self.failing[content] -= 1
            return Failure("status 500", self.retryable)
        return Completion(content, "stop", 4, 2, 0.5)


def _asks(*contents: str) -> list[Ask]:
    return [Ask([{"role": "user", "content": c}], f"hash {c}", 4, False) for c in contents]


def _complete(cache: Path, engine: Flaky, asks: list[Ask], tries: int = 3) -> TextCache:
    with SharedTexts(cache) as store, SILENT.task("t", len(asks), "prompts") as task:
        texts = TextCache(store, engine, "m", 1, tries=tries)
        texts.complete(asks, task)
        texts.found, texts.lost = texts.of(asks), texts.set_aside(asks)
    return texts


def test_a_call_that_fails_is_retried_after_the_others_and_counts_its_attempts(tmp_path: Path) -> None:
    asks, engine = _asks("a", "b", "c"), Flaky({"a": 2})
    texts = _complete(tmp_path / "c.sqlite", engine, asks)
    assert engine.asked == {"a": 3, "b": 1, "c": 1}
    assert (texts.generated, texts.failed, texts.lost) == (3, 2, {})
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as connection:
        rows = connection.execute(
            "SELECT text, attempts, decode, seed, prompt_tokens, new_tokens, seconds, finished > 1e9 FROM generation "
            "ORDER BY text"
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM generation_failure").fetchone() == (0,)
    assert [row[:2] for row in rows] == [("a", 3), ("b", 1), ("c", 1)]
    assert all(json.loads(row[2]) == engine.decode_settings(1) and row[3] is not None for row in rows)
    assert {row[4:] for row in rows} == {(4, 2, 0.5, True)}


@pytest.mark.parametrize(("retryable", "attempts"), [(True, 3), (False, 1)])
def test_a_poisoned_call_is_set_aside_with_its_reason_and_the_rest_goes_on(
    tmp_path: Path, retryable: bool, attempts: int
) -> None:
    asks, cache = _asks("a", "b", "c"), tmp_path / "c.sqlite"
    texts = _complete(cache, Flaky({"b": 99}, retryable=retryable), asks)
    assert sorted(texts.found) == ["hash a", "hash c"]
    assert {key: (s.reason, s.attempts) for key, s in texts.lost.items()} == {"hash b": ("status 500", attempts)}
    resumed = Flaky({"b": 99})
    assert _complete(cache, resumed, asks).lost
    assert not resumed.asked
    with SharedTexts(cache) as store:
        TextCache(store, resumed, "m", 1).forget_failures()
    healed = Flaky({})
    assert not _complete(cache, healed, asks).lost
    assert healed.asked == {"b": 1}


def test_more_tries_try_again(tmp_path: Path) -> None:
    asks, cache = _asks("a"), tmp_path / "c.sqlite"
    assert _complete(cache, Flaky({"a": 99}), asks).lost
    engine = Flaky({"a": 1})
    assert not _complete(cache, engine, asks, tries=5).lost
    assert engine.asked == {"a": 2}


def test_an_error_leaves_finished_calls_and_no_lease(tmp_path: Path) -> None:
    class Broken(Flaky):
        def _answer(self, content):
            if content == "b":
                raise KeyboardInterrupt
            return super()._answer(content)

    asks, cache = _asks("a", "b", "c"), tmp_path / "c.sqlite"
    with pytest.raises(KeyboardInterrupt):
        _complete(cache, Broken({}), asks)
    engine = Flaky({})
    assert len(_complete(cache, engine, asks).found) == 3
    assert engine.asked == {"b": 1, "c": 1}


@pytest.mark.parametrize("kept_less", [False, True])
def test_texts_and_failures_of_an_earlier_version_are_taken_over_once(tmp_path: Path, kept_less: bool) -> None:
    cache, asks = tmp_path / "c.sqlite", _asks("a", "b")
    _complete(cache, Flaky({"b": 99}, retryable=False), asks)
    with duckdb.connect(str(tmp_path / "c.duckdb")) as earlier, closing(sqlite3.connect(cache)) as now:
        for table in (GENERATION, GENERATION_FAILURE):
            earlier.execute(table.ddl())
            rows = now.execute(f"SELECT * FROM {table.name}").fetchall()
            earlier.executemany(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(table.schema))})", rows)
        gone = "checksum" + (", decode, seed, attempts, finished" if kept_less else "")
        earlier.execute(f"CREATE TABLE old AS SELECT * EXCLUDE ({gone}) FROM generation; DROP TABLE generation")
        earlier.execute("ALTER TABLE old RENAME TO generation")
    cache.unlink()
    for _ in range(2):
        engine = Flaky({})
        texts = _complete(cache, engine, asks)
        assert engine.asked == {}
        assert texts.found["hash a"] == [("a", "stop")]
        assert texts.lost["hash b"].reason == "status 500"
        assert not (tmp_path / "c.duckdb").exists()
    assert (tmp_path / "c.duckdb.imported").is_file()


def test_an_earlier_cache_that_cannot_be_read_is_named_and_stays(tmp_path: Path) -> None:
    earlier = tmp_path / "c.duckdb"
    earlier.write_bytes(b"no database" * 1000)
    with refused("store-unreadable", StoreError, names=str(earlier)):
        _complete(tmp_path / "c.sqlite", Flaky({}), _asks("a"))
    assert earlier.read_bytes() == b"no database" * 1000


def test_a_process_that_holds_the_file_delays_a_run_but_does_not_end_it(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    _complete(cache, Flaky({}), _asks("a"))
    held = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); "
        "print('open', flush=True); time.sleep(1) if sys.argv[2] else sys.stdin.read()"
    )
    with SharedTexts(cache) as store:
        command = [sys.executable, "-c", held, str(cache)]
        with subprocess.Popen([*command, "briefly"], stdout=subprocess.PIPE, text=True) as holder:
            holder.stdout.readline()
            with SILENT.task("t", 1, "prompts") as task:
                TextCache(store, Flaky({}), "m", 1).complete(_asks("b"), task)
            holder.wait()
        with subprocess.Popen([*command, ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            holder.stdout.readline()
            with refused("store-busy", StoreError, names=str(cache)), store.transaction(patience=0.3):
                pass
            holder.communicate("")


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with SharedTexts(tmp_path / "c.sqlite") as store:
        with pytest.raises(ZeroDivisionError), store.transaction() as connection:
            connection.execute("INSERT INTO generation_lease VALUES ('p', 'm', 'd', 0, 'w')")
            1 / 0  # noqa: B018
        with store.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM generation_lease").fetchone() == (0,)


def test_a_flipped_or_truncated_cache_is_named_or_gives_what_it_held(tmp_path: Path) -> None:
    whole, asks = tmp_path / "whole.sqlite", [Ask([], f"hash{n}", 5, False) for n in range(40)]
    with SharedTexts(whole) as store:
        calls = [(ask.prompt_hash, "m", "d", 0) for ask in asks]
        store.commit({call: (f"text of {call[0]} " * 20, "stop", 1, 2, 0.5, "{}", 7) for call in calls}, {})
    content, chance, found = whole.read_bytes(), random.Random(1), Counter()
    with closing(sqlite3.connect(whole)) as connection:
        expected = connection.execute("SELECT * FROM generation ORDER BY 1").fetchall()
    for number in range(60):
        cache = tmp_path / f"{number}.sqlite"
        broken = bytearray(content)
        if number % 6 == 0:
            del broken[chance.randrange(len(broken)) :]
        else:
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        cache.write_bytes(broken)
        try:
            with SharedTexts(cache) as store, store.transaction() as connection:
                rows = connection.execute("SELECT * FROM generation ORDER BY 1").fetchall()
            assert not broken or rows == expected, number
            found["harmless"] += 1
        except StoreError:
            found["named"] += 1
        cache.unlink(missing_ok=True)
    assert found["named"] > 5
