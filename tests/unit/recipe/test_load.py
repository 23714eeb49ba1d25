"""Loading: extends, --set, origins, and all problems at once with their places."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import find_recipe, load_recipe
from llmcf_cli.recipe.schema import Recipe


def problems(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


def only(path, *overrides):
    (problem,) = problems(path, *overrides)
    return problem


def test_a_recipe_with_its_defaults(write):
    loaded = load_recipe(write())
    assert isinstance(loaded.recipe, Recipe)
    assert loaded.recipe.name == "tiny"
    assert loaded.recipe.rec.backbone.type == "deepfm"
    assert loaded.recipe.rec.augment.type == "ict"
    assert [objective.type for objective in loaded.recipe.rec.objectives] == ["bce"]
    assert loaded.base == loaded.path.parent
    assert loaded.files == (loaded.path,)
    assert loaded.roots == (library_dir(),)


def test_every_leaf_has_an_origin_and_no_other_key_does(write):
    path = write()
    loaded = load_recipe(path, ["rec.fit.epochs=3"])

    def leaves(value, at=()):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if not value or not isinstance(value, dict | list):
            return {".".join(map(str, at))}
        return set().union(*(leaves(below, (*at, key)) for key, below in items))

    assert set(loaded.origins) == leaves(loaded.recipe.model_dump(mode="json"))
    shown = {key: str(origin) for key, origin in loaded.origins.items()}
    assert shown["name"] == f"{path}:1"
    assert shown["dataset.source.path"] == f"{path}:3"
    assert shown["llm.mix.0.share"] == f"{path}:9"
    assert shown["llm.tune.type"] == f"{path}:10"
    assert shown["rec.backbone.hidden.1"] == f"{path}:18"
    assert shown["rec.fit.epochs"] == "--set rec.fit.epochs=3"
    assert shown["rec.fit.patience"] == shown["llm.tune.epochs"] == "default"


def test_the_resolved_recipe_loads_to_itself(write):
    first = load_recipe(write()).recipe
    data = json.loads(first.model_dump_json())
    assert Recipe.model_validate(data) == first


# ---- extends


def test_a_variant_changes_what_it_says(write):
    base = write()
    variant = write(
        "extends: tiny.yaml\nname: variant\nrec:\n  backbone: {hidden: [4]}\n  fit: {epochs: 2}\n", "sub.yaml"
    )
    loaded = load_recipe(variant)
    assert loaded.recipe.rec.backbone.hidden == (4,)
    assert loaded.recipe.rec.backbone.embedding_dim == 8
    assert loaded.recipe.dataset == load_recipe(base).recipe.dataset
    assert loaded.files == (variant, base)
    assert str(loaded.origins["rec.fit.epochs"]) == f"{variant}:5"
    assert str(loaded.origins["rec.backbone.embedding_dim"]) == f"{base}:18"


def test_another_type_drops_the_old_settings(write):
    write()
    variant = write("extends: tiny.yaml\nrec: {backbone: {type: din, embedding_dim: 16}}\n", "din.yaml")
    recipe = load_recipe(variant).recipe
    default = load_recipe(variant, ["rec.backbone=deepfm"]).recipe
    assert recipe.rec.backbone.type == "din"
    assert recipe.rec.backbone.embedding_dim == 16
    assert default.rec.backbone.hidden != (16, 4)


def test_chains_across_folders_resolve_beside_each_file(write):
    base = write(name="base/tiny.yaml")
    middle = write("extends: ../base/tiny.yaml\nseed: 1\n", "variants/middle.yaml")
    top = write("extends: middle.yaml\nname: top\n", "variants/top.yaml")
    loaded = load_recipe(top)
    assert (loaded.recipe.name, loaded.recipe.seed) == ("top", 1)
    assert [file.resolve() for file in loaded.files] == [top, middle, base]
    assert loaded.base == top.parent
    assert loaded.roots[0].resolve() == base.parent


def test_extending_a_library_recipe_by_name(write):
    loaded = load_recipe(write("extends: quickstart\nname: mine\n"))
    assert loaded.recipe.name == "mine"
    assert loaded.files[1] == library_dir() / "quickstart.yaml"


def test_circles_are_found(write):
    write("extends: b.yaml\n", "a.yaml")
    problem = only(write("extends: a.yaml\nname: b\n", "b.yaml"))
    assert problem.code == "recipe-extends"
    assert "a.yaml" in problem.what
    own = write("name: self\nextends: self.yaml\n", "self.yaml")
    assert str(only(own).where) == f"{own}:2"


@pytest.mark.parametrize(
    ("extends", "what"),
    [
        ("gone.yaml", "no such file"),
        ("quickstrat", 'did you mean "quickstart"'),
        ("[a]", "must be a file"),
        ("''", "must be"),
    ],
)
def test_bad_extends(write, extends, what):
    path = write(f"name: x\nextends: {extends}\n")
    problem = only(path)
    assert what in problem.what
    assert str(problem.where) == f"{path}:2: extends"


# ---- names


def test_a_library_recipe_by_name():
    assert find_recipe("quickstart") == library_dir() / "quickstart.yaml"


def test_a_name_without_its_ending_is_told_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: quickstart\n")
    assert only("mine").what == "no recipe mine; did you mean mine.yaml?"


def test_unknown_names_and_missing_files(tmp_path):
    assert 'did you mean "quickstart"' in only("quikstart").what
    assert "quickstart" in only("quikstart").allowed
    assert only(tmp_path / "none.yaml").code == "path-missing"
    (tmp_path / "mine.yaml").touch()
    assert "mine.yaml" in only(tmp_path / "mien.yaml").what
    assert only(tmp_path).code == "path-missing"


# ---- --set


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("rec.fit.learning_rate=1e-5", lambda r: r.rec.fit.learning_rate, 1e-5),
        ("llm.mix.0.share=1.0", lambda r: r.llm.mix[0].share, 1.0),
        ("rec.backbone.hidden=[5, 6]", lambda r: r.rec.backbone.hidden, (5, 6)),
        ("rec.backbone.hidden.1=9", lambda r: r.rec.backbone.hidden, (16, 9)),
        ("rec.backbone=din", lambda r: r.rec.backbone.type, "din"),
        ("rec.backbone={embedding_dim: 4}", lambda r: r.rec.backbone.embedding_dim, 4),
        # defaults that the recipe does not write: a component, a list of components, a section
        ("match.search.query_block=7", lambda r: r.match.search.query_block, 7),
        ("rec.objectives.0.weight=0.5", lambda r: r.rec.objectives[0].weight, 0.5),
        ("dataset.k_core.user=3", lambda r: r.dataset.k_core.user, 3),
        ("description=a: b", lambda r: r.description, None),
        ("description='a: b'", lambda r: r.description, "a: b"),
        ("description=a=b", lambda r: r.description, "a=b"),
    ],
)
def test_set(write, override, read, expected):
    if expected is None:
        assert only(write(), override).code == "value-invalid"
        return
    loaded = load_recipe(write(), [override])
    assert read(loaded.recipe) == expected
    key = override.partition("=")[0]
    assert any(str(origin) == f"--set {override}" for name, origin in loaded.origins.items() if name.startswith(key))


def test_sets_apply_in_order_on_top_of_extends(write):
    write()
    variant = write("extends: tiny.yaml\nseed: 5\n", "v.yaml")
    assert load_recipe(variant, ["seed=6", "seed=7"]).recipe.seed == 7


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("rec.fit.epocs=3", "did you mean `rec.fit.epochs`?"),
        ("rek.fit.epochs=3", "did you mean `rec`?"),
        ("rec.backbone.hiden=3", "did you mean `rec.backbone.hidden`?"),
        ("llm.mix.3.share=1", "unknown key `llm.mix.3`"),
        ("llm.model.x=3", "is a value"),
        ("rec.fit.epochs", "not of the form KEY=VALUE"),
        ("=3", "not of the form KEY=VALUE"),
        ("rec..fit=3", "not of the form KEY=VALUE"),
        ("rec.fit.epochs=[1", "not valid YAML"),
        ("rec.fit.epochs=!x 1", "not allowed"),
        ("rec.fit.epochs=ten", 'must be a whole number, found "ten"'),
        ("match.search.tile=3", "unknown key `tile`"),
    ],
)
def test_bad_sets(write, override, what):
    problem = only(write(), override)
    assert what in problem.what
    assert str(problem.where).startswith(f"--set {override}")


def test_good_sets_are_still_checked_beside_bad_ones(write):
    found = problems(write(), "rec.fit.epocs=3", "rec.fit.patience=-1")
    assert [str(problem.where).split(":")[0] for problem in found] == [
        "--set rec.fit.epocs=3",
        "--set rec.fit.patience=-1",
    ]


# ---- problems


def test_all_problems_at_once_in_the_order_of_the_file(write, minimal):
    text = minimal.replace("positive_from: 4", "positive_from: four").replace("tune: full", "tune: ful")
    text = text.replace("share: 1}", "share: 0.4}").replace("count: 20", "cuont: 20").replace("hidden:", "hiden:")
    path = write(text + "  fit: {epochs: 0, lerning_rate: 1, monitor: acc}\n  compare: text\nextra: 1\n")
    shown = [(str(problem.where).removeprefix(f"{path}:"), problem.what) for problem in problems(path)]
    assert shown == [
        ("4: dataset.label.positive_from", 'must be a number, found "four"'),
        ("8: llm.mix", "the shares of llm.mix sum to 0.4, not 1"),
        ("10: llm.tune", 'unknown tuner "ful"; did you mean "full"?'),
        ("13: cot.sample.cuont", "unknown key `cuont`; did you mean `count`?"),
        ("18: rec.backbone.hiden", "unknown key `hiden`; did you mean `hidden`?"),
        ("19: rec.fit.epochs", "must be at least 1, found 0"),
        ("19: rec.fit.lerning_rate", "unknown key `lerning_rate`; did you mean `learning_rate`?"),
        ("19: rec.fit.monitor", 'cannot be "acc"; did you mean `auc`?'),
        ("20: rec.compare", 'must be a list, found "text"'),
        ("21: extra", "unknown key `extra`"),
    ]


def test_shares_that_do_not_sum_to_one(write, minimal):
    problem = only(write(minimal.replace("share: 1}", "share: 0.4}")))
    assert problem.what == "the shares of llm.mix sum to 0.4, not 1"
    assert str(problem.where).endswith(":8: llm.mix")


@pytest.mark.parametrize(("share", "what"), [("2", "must be at most 1, found 2"), ("x", 'must be a number, found "x"')])
def test_a_wrong_entry_of_a_list_is_one_problem(write, minimal, share, what):
    assert only(write(minimal.replace("share: 1}", f"share: {share}}}"))).what == what


def test_an_empty_list_is_too_short(write):
    assert only(write(), "llm.mix=[]").what == "must have at least 1 entry, found []"


def test_missing_keys_say_what_they_are_for(write, minimal):
    problem = only(write(minimal.replace("{type: text, encoder: encoder}", "text")))
    assert problem.what == "missing key `encoder`"
    assert str(problem.where).endswith(":16: match.space.encoder")
    assert problem.hint.startswith("add `encoder:` (")


def test_what_is_allowed_is_listed(write):
    assert only(write(), "rec.fit.monitor=acc").allowed == ("auc", "logloss", "gauc")
    assert "din" in only(write(), "rec.backbone=dinn").allowed
    assert "epochs" in only(write(), "rec.fit.epocs=1").allowed


def test_a_component_without_type_lists_the_known_ones(write, minimal):
    problem = only(write(minimal.replace("tune: full", "tune: {epochs: 2}")))
    assert problem.code == "type-missing"
    assert "lora" in problem.what


def test_an_empty_section_is_named(write, minimal):
    problem = only(write(minimal + "  fit:\n"))
    assert problem.what == "must be a mapping of keys to values, found nothing"
    assert str(problem.where).endswith(":19: rec.fit")


def test_the_message_reads_as_one_text(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(), ["rec.fit.epochs=0"])
    text = str(caught.value)
    assert text.startswith("1 problem in the recipe:\n- --set rec.fit.epochs=0: rec.fit.epochs: must be at least 1")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc-", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "a", "path"]), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = ["name", "seed", "dataset", "dataset.source", "llm.mix", "llm.mix.0", "cot.sample", "match.space",
        "match.search", "rec", "rec.augment", "rec.objectives", "rec.fit", "rec.fit.epochs", "rec.compare"]  # fmt: skip


@given(key=st.sampled_from(KEYS), content=json_like)
def test_any_value_anywhere_either_loads_or_is_a_recipe_error(key, content):
    try:
        load_recipe("quickstart", [f"{key}={json.dumps(content)}"])
    except RecipeError as error:
        found = error
    else:
        return
    assert found.problems
    assert all(str(problem.where) for problem in found.problems)


@pytest.mark.parametrize(
    ("changes", "need"),
    [
        (["rec.augment=kar"], "`kar` needs the section `knowledge`"),
        (["rec.compare=[none, kar]"], "`kar` needs the section `knowledge`"),
        (["rec.objectives=[bce, distill]"], "`distill` needs the section `teacher`"),
    ],
)
def test_a_component_without_the_section_it_needs_is_named(write, changes, need):
    with pytest.raises(RecipeError, match=need):
        load_recipe(write(), changes)


def test_with_its_section_it_is_fine(write):
    sections = ["knowledge={user_prompt: prompts/kar_user.yaml, item_prompt: prompts/kar_item.yaml}", "teacher={}"]
    recipe = load_recipe(write(), [*sections, "rec.augment=kar", "rec.objectives=[bce, distill]"]).recipe
    assert recipe.knowledge.engine.type == "transformers"
    assert recipe.teacher.sample.fraction == 1
