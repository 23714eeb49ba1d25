"""Mistakes in several places of a data set's section are told together: none hides another."""

import pytest

from llmcf_cli.recipe.load import check_recipe
from llmcf_cli.recipe.problems import in_order
from llmcf_cli.stages.files import file_problems, locator_of

RECIPE = """\
extends: quickstart
name: mine
dataset:
  source:
    type: csv
    interactions: orders.csv
    items: items.csv
    item_key: code
    multi: [tags]
    columns: {user: customer, item: made, time: day, time_format: day_first, time_zone: Europe/Berlin}
  derive:
    interactions: {made: upper(code)}
  filter: {interactions: number(amount) > 0}
  label: {type: implicit, negatives: popularity, per_positive: 1}
  text: {item: "{{title}}", user: ""}
  features: {item: {tags: multi, title: categorical}}
"""
FAULTS = {
    "zone": ("Europe/Berlin", "Europe/Berln", "Europe/Berlin"),
    "filter": ("number(amount)", "amount", "number(amount)"),
    "feature": ("title: categorical", "titel: categorical", "title"),
    "kind": ("tags: multi,", "tags: multi, title: multi,", "multi"),
    "text": ("{{title}}", "{{titel}}", "title"),
    "key": ("item_key: code", "item_key: cdoe", "code"),
    "user": ("user: customer", "user: custmer", "customer"),
    "multi": ("multi: [tags]", "multi: [tgas]", "tags"),
    "function": ("upper(code)", "uper(code)", "upper"),
}


def problems(folder, text):
    (folder / "orders.csv").write_text(
        "customer,code,day,amount\n" + "".join(f"u,i,{d}.01.2025,1\n" for d in range(1, 9))
    )
    (folder / "items.csv").write_text("code,title,tags\ni,one,a|b\n")
    (folder / "mine.yaml").write_text(text)
    recipe = check_recipe(folder / "mine.yaml")
    return [
        str(problem) for problem in in_order([*recipe.problems, *file_problems(recipe.root, locator_of(recipe)).wrong])
    ]


@pytest.mark.parametrize(
    "faults",
    [(), ("zone", "filter", "feature"), ("multi", "function", "text"), ("key", "user", "text", "feature"), ("kind",),
     ("filter", "feature", "text", "user")],
)  # fmt: skip
def test_each_is_told_with_what_is_right(tmp_path, faults):
    text = RECIPE
    if "kind" in faults:
        text = text.replace("title: categorical", "")
    for fault in faults:
        old, new, _ = FAULTS[fault]
        assert old in text
        text = text.replace(old, new)
    told = problems(tmp_path, text)
    assert len(told) >= len(faults)
    for fault in faults:
        assert any(FAULTS[fault][2] in one for one in told), (fault, told)
    assert faults or not told
