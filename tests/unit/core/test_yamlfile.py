"""Strict YAML: what is read, what is refused, and that what is written reads back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.core.tree import Origin, plain
from llmcf_cli.core.yamlfile import dump_lines, dump_yaml, read_value, read_yaml


def value(text):
    return plain(read_value(text, Origin(override="x")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5", 1e-5), ("1.0E+3", 1000.0), (".5", 0.5), ("-2.", -2.0), ("7", 7), ("007", 7), ("1_000", 1000),
        ("0x1f", 31), ("0o17", 15), ("true", True), ("FALSE", False), ("~", None), ("", None), ("null", None),
        ("no", "no"), ("Yes", "Yes"), ("on", "on"), ("2024-01-01", "2024-01-01"), ("12:30:00", "12:30:00"),
        ("'7'", "7"),
        ("1e", "1e"), ("[200, 80]", [200, 80]), ("{a: {b: 1}}", {"a": {"b": 1}}), ("!!str 5", "5"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, expected):
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_infinities_and_nan_are_numbers():
    assert value(".inf") == math.inf
    assert value("-.INF") == -math.inf
    assert math.isnan(value(".nan"))


@pytest.fixture
def write(tmp_path):
    """Write a YAML file into the test's folder and return its path."""

    def write(text, name="r.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_each_value_knows_its_line(write):
    path = write("a: 1\nb:\n  c: 2\n  d:\n    - 3\n    - 4\n")
    root = read_yaml(path)
    assert root.value["a"].origin == Origin(path, 1)
    assert root.value["b"].value["c"].origin.line == 3
    assert [item.origin.line for item in root.value["b"].value["d"].value] == [5, 6]


def test_anchors_aliases_and_merge_keys(write):
    path = write("base: &b {x: 1, y: 2}\nsame: *b\nmore:\n  <<: *b\n  y: 3\n")
    assert plain(read_yaml(path)) == {
        "base": {"x": 1, "y": 2},
        "same": {"x": 1, "y": 2},
        "more": {"x": 1, "y": 3},
    }


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "yaml-key-twice"),
        ("a:\n  b: 1\n  b: 2\n", 3, "yaml-key-twice"),
        ("a: 1\nb: !secret x\n", 2, "yaml-refused"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "yaml-refused"),
        ("a: 1\n? [1, 2]\n: 3\n", 2, "yaml-refused"),
        ("a: 1\n  b: 2\n", 2, "yaml-invalid"),
        ("a: [1\n", 2, "yaml-invalid"),
        ("a: 1\n---\nb: 2\n", 2, "yaml-invalid"),
        ("a: !!int seven\n", 1, "value-invalid"),
        ("- 1\n", 1, "yaml-no-mapping"),
        ("a: &a [*a]\n", 1, "yaml-limit"),
        ("a: " + "[" * 3000, 1, "yaml-limit"),
    ],
)
def test_refused_with_its_line(write, text, line, code):
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        read_yaml(path)
    problem = caught.value.problems[0]
    assert problem.code == code
    assert problem.where.file == str(path)
    if code != "yaml-limit":
        assert problem.where.line == line


def test_every_problem_of_a_file_at_once(write):
    with pytest.raises(RecipeError) as caught:
        read_yaml(write("a: 1\na: 2\nb: !x 1\nc: !y 2\n"))
    assert [problem.where.line for problem in caught.value.problems] == [2, 3, 4]


def test_a_bomb_of_aliases_is_refused(write):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with refused("yaml-limit", RecipeError):
        read_yaml(write("\n".join(lines)))


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "yaml-empty"), (b"# only a comment\n", "yaml-empty"), (b"a: \xff\n", "file-unreadable"),
     (b"a: \x07\n", "yaml-invalid"),
     (b"a: " + b"x" * (1 << 20), "file-limit")],
)  # fmt: skip
def test_files_that_are_no_recipe(tmp_path, content, code):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with refused(code, RecipeError):
        read_yaml(path)


def test_missing_file_and_folder(tmp_path):
    with refused("path-missing", RecipeError):
        read_yaml(tmp_path / "none.yaml")
    with refused("path-missing", RecipeError):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_ignored(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert plain(read_yaml(path)) == {"a": 1}


text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
data = st.recursive(
    scalars | st.sampled_from(["no", "1e5", "0o7", "~", "<<", "1_0", "multi\nline\n", "{{x}}: #y", "2024-01-01"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=15,
)  # fmt: skip


@given(st.dictionaries(text, data, min_size=1, max_size=4))
def test_what_is_written_reads_back(content):
    assert value(dump_yaml(content)) == content


def test_lines_carry_the_key_path_that_starts_on_them():
    lines = dump_lines({"a": {"b": 1, "c": [2, 3]}, "d": [{"e": "x\ny\n"}]})
    assert [(text.strip(), key) for text, key in lines if key] == [
        ("b: 1", "a.b"), ("c: [2, 3]", "a.c.0"), ("- e: |", "d.0.e")
    ]  # fmt: skip


@pytest.mark.parametrize("text", ['x: "\\ud800"', 'x: "a\\0b"', '"\\udfff": 1'])
def test_what_no_file_can_hold_is_refused(write, text):
    with pytest.raises(RecipeError):
        read_yaml(write(text))
