"""Inputs that once hung, filled memory or ended in a traceback, and their relatives; each name says what it is."""

import gzip
import json

_EXTENDS = "extends: quickstart\n"


def _many(count, entry):
    return "".join(entry.format(i) for i in range(count))


def _bomb():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))])


_VARIANT = "    - {{name: v{0}, set: {{rec.fit.epochs: {0}1}}}}\n"
_CHOICES = f"{{choices: [{', '.join(map(str, range(1, 100)))}]}}"

RECIPES = {
    "40,000 unknown keys": _EXTENDS + _many(40_000, "k{0}: 1\n"),
    "1,500 unknown keys": _EXTENDS + "rec:\n  fit:\n" + _many(1_500, "    k{0}: 1\n"),
    "1,900 variants": f"{_EXTENDS}rec:\n  variants:\n{_many(1_900, _VARIANT)}",
    "100 variants, 30 wrong values each": f"{_EXTENDS}rec:\n  variants:\n"
    + "".join(
        f"    - {{name: v{i}, set: {{{', '.join(f'rec.fit.e{j}: 1' for j in range(30))}}}}}\n" for i in range(100)
    ),
    "a search of 49,500 values": f"{_EXTENDS}search:\n  trials: 3\n  space:\n"
    + "".join(f"    rec.fit.{name}: {_CHOICES}\n" for name in ("epochs", "patience", "batch_size", "learning_rate"))
    + f"rec:\n  variants:\n{_many(100, _VARIANT)}",
    "50,000 seeds": f"{_EXTENDS}rec: {{seeds: [{', '.join(map(str, range(50_000)))}]}}\n",
    "1,900 seeds": f"{_EXTENDS}rec: {{seeds: [{', '.join(map(str, range(1_900)))}]}}\n",
    "the same objective 1,900 times": f"{_EXTENDS}rec: {{objectives: [{', '.join(['bce'] * 1_900)}]}}\n",
    "1,900 wrong seeds": f"{_EXTENDS}rec: {{seeds: [{', '.join(['x'] * 1_900)}]}}\n",
    "1,900 unknown sources": f"{_EXTENDS}llm: {{mix: [{', '.join(['{source: nope, share: 1}'] * 1_900)}]}}\n",
    "a seed of 5,000 digits": f"{_EXTENDS}seed: {'9' * 5_000}\n",
    "a seed of 400,000 hexadecimal digits": f"{_EXTENDS}seed: 0x{'f' * 400_000}\n",
    "half a character as a name": f'{_EXTENDS}name: "\\ud800"\n',
    "half a character as a path": f'{_EXTENDS}dataset: {{source: {{path: "\\ud800"}}}}\n',
    "half a character as a key": f'{_EXTENDS}"\\ud800": 1\n',
    "NUL in a path": f'{_EXTENDS}dataset: {{source: {{path: "a\\0b"}}}}\n',
    "extends no user's home": 'extends: "~nosuchuser"\n',
    "extends a path of 5,000 characters": f"extends: {'a' * 5_000}.yaml\n",
    "a path of 5,000 characters": f"{_EXTENDS}dataset: {{source: {{path: {'a' * 5_000}}}}}\n",
    "lists in lists": f"{_EXTENDS}x: {'[' * 100_000}{']' * 100_000}\n",
    "lists in blocks": "x:\n" + "".join(f"{'  ' * i}- a:\n" for i in range(1, 90)),
    "aliases of aliases": _EXTENDS + _bomb(),
    "an alias of itself": "x: &a [*a]\n",
    "a merge of itself": "x: &a {<<: *a}\n",
    "merges of merges": "a0: &a0 {k: 1}\n"
    + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 4)}]\n" for i in range(1, 30)),
    "20,000 conditions": f'{_EXTENDS}dataset: {{filter: {{items: "{" and ".join(["a > 1"] * 20_000)}"}}}}\n',
    "20,000 brackets": f'{_EXTENDS}dataset: {{filter: {{items: "{"(" * 20_000}a{")" * 20_000}"}}}}\n',
    "a template of open tags": f'{_EXTENDS}dataset: {{text: {{item: "{"{{x" * 2_000}"}}}}\n',
    "a template of open sections": f'{_EXTENDS}dataset: {{text: {{item: "{"{{#x}}" * 1_600}"}}}}\n',
    "a template with 400 blanks": f'{_EXTENDS}dataset: {{text: {{item: "{{{{{" " * 400}x}}}}"}}}}\n',
    "a key of 400,000 characters": f"{_EXTENDS}{'k' * 400_000}: 1\n",
    "a text of 400,000 characters": f"{_EXTENDS}description: {'a' * 400_000}\n",
    "a megabyte of comments": _EXTENDS + "# x\n" * 260_000,
    "a tag": f"{_EXTENDS}x: !!python/object/apply:os.system [id]\n",
    "nothing": "",
}


def _object(**more):
    return json.dumps({"user_id": "u", "item_id": "1", **more})


_DIGITS = "9" * 5_000


def _raw(more):
    return f'{{"user_id": "u", "item_id": "1", {more}}}'


REQUESTS = {
    "long_header.csv": f"user_id,item_id,{'x' * 200_000}\nu,1,2\n",
    "endless_header.csv": "x" * 3_000_000,
    "endless_quote.csv": 'user_id,item_id,"' + "x\n" * 1_000_000,
    "5,000 columns.csv": f"user_id,item_id,{','.join(f'c{i}' for i in range(5_000))}\nu,1{',1' * 5_000}\n",
    "1,900 columns.csv": f"user_id,item_id,{','.join(f'c{i}' for i in range(1_900))}\nu,1{',1' * 1_900}\n",
    "1,900 nameless columns.csv": f"user_id,item_id{',' * 1_900}\nu,1{',' * 1_900}\n",
    "50,000 nameless columns.csv": f"user_id,item_id{',' * 50_000}\nu,1\n",
    "nul.csv": "user_id,item_id\nu\0,1\n",
    "half_character.csv": b"user_id,item_id\n\xed\xa0\x80,1\n",
    "long_cell.csv": f"user_id,item_id\n{'u' * 1_900_000},1\n",
    "50,000 keys.jsonl": _object(**{f"k{i}": 1 for i in range(50_000)}),
    "1,900 keys.jsonl": _object(**{f"k{i}": 1 for i in range(1_900)}),
    "other keys each.jsonl": "\n".join(_object(**{f"k{i}": 1}) for i in range(5_000)),
    "deep_list.jsonl": _raw('"history": ' + "[" * 900 + "]" * 900),
    "deeper_list.jsonl": _raw('"history": ' + "[" * 100_000 + "]" * 100_000),
    "deep_object.jsonl": _raw('"x": ' + '{"a": ' * 900 + "1" + "}" * 900),
    "broken_array.json": "[" + _object() + "," + _object() + ',{"a":',
    "open_text.json": '[{"a": "' + "x" * 5_000_000,
    "deep_array.json": "[" * 200_000,
    "5,000 digits.jsonl": f'{{"user_id": {_DIGITS}, "item_id": "1", "time": {_DIGITS}}}',
    "large exponent.jsonl": f'{{"user_id": 1e400, "item_id": "1", "time": 1e{_DIGITS}}}',
    "half_character.jsonl": '{"user_id": "\\ud800", "item_id": "1"}',
    "half_character_key.jsonl": _raw('"\\ud800": 1'),
    "nul_key.jsonl": _raw('"\\u0000": 1'),
    "empty_key.jsonl": _raw('"": 1'),
    "long_key.jsonl": _raw('"' + "k" * 1_000_000 + '": 1'),
    "brackets as a history.jsonl": _object(history="[" * 100_000),
    "a million items as a text.jsonl": _object(history=f"[{'1,' * 1_000_000}1]"),
    "signs as a history.jsonl": _object(history=f"[{'-' * 9_000}1]"),
    "junk.parquet": b"PAR1" + bytes(1_000) + b"PAR1",
    "junk.csv.gz": b"\x1f\x8b" + bytes(100),
    "bomb.jsonl.gz": gzip.compress(b'{"user_id": "u", "item_id": "' + b"x" * 100_000_000),
}
