"""The teacher: P(Yes) by the full softmax whatever the batch, the mix's own question, and no answer asked twice."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.data.config import ImplicitLabelConfig
from llmcf_cli.llm.asking.answers import AnswerScorer, surface_forms
from llmcf_cli.llm.asking.reading import Reader
from llmcf_cli.llm.asking.teacher import ask_teacher
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.mix.mixture import MixContext, RecommendationSource
from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.recipe.asking import TeacherSection
from llmcf_cli.recipe.words import Words, words_of
from llmcf_cli.store.tables import TEACHER_SCORE

TEXTS = [f"the user liked a film about {' '.join(['space travel'] * n)}. Answer with Yes or No." for n in (1, 5, 2, 9)]


@pytest.fixture(scope="module")
def scorer(tiny_model: Path) -> AnswerScorer:
    return AnswerScorer(Reader(tiny_model, "fp32"), "Yes", "No")


@pytest.fixture
def ask(tmp_path: Path, tiny_data: Path, tiny_model: Path):
    def run(
        question: RecommendationMixConfig | None = None, *, seed: int = 1, progress=None, words: Words = Words(),
        **section: object,
    ):  # fmt: skip
        section = {"precision": "fp32", "min_mass": 0, **section}
        report = ask_teacher(
            TeacherSection.model_validate(section), question or RecommendationMixConfig(), data=tiny_data,
            model=tiny_model, model_digest="m", cache=tmp_path / "answers.duckdb", out=tmp_path / "scores.parquet",
            seed=seed, words=words, progress=progress or SilentProgress(),
        )  # fmt: skip
        return report, pq.read_table(tmp_path / "scores.parquet")

    return run


def brute_force(scorer: AnswerScorer, prompt: list[int]) -> tuple[float, float]:
    """One prompt, all logits, the whole softmax, and every token that reads like an answer."""
    with torch.no_grad():
        probability_V = scorer.reader._weights()(torch.tensor([prompt])).logits[0, -1].double().softmax(0)
    mass = {"yes": 0.0, "no": 0.0}
    for token, probability in enumerate(probability_V.tolist()):
        text = scorer.reader.tokenizer.decode([token], skip_special_tokens=True).strip().lower()
        if text in mass:
            mass[text] += probability
    return np.log(mass["yes"] / mass["no"]), mass["yes"] + mass["no"]


def test_the_score_is_the_full_softmaxs_over_all_forms(scorer: AnswerScorer) -> None:
    prompts = scorer.encode(TEXTS)
    logit_B, mass_B = scorer.score(prompts)
    for prompt, logit, mass in zip(prompts, logit_B.tolist(), mass_B.tolist(), strict=True):
        expected = brute_force(scorer, prompt)
        assert (logit, mass) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert logit_B.std() > 1e-3


def test_a_score_does_not_depend_on_what_its_row_holds(scorer: AnswerScorer) -> None:
    prompts = scorer.encode(TEXTS)
    together = scorer.score(prompts)[0]
    again = scorer.score(prompts[::-1])[0].flip(0)
    alone = torch.cat([scorer.score([prompt])[0] for prompt in prompts])
    for other in (again, alone):
        torch.testing.assert_close(other, together, rtol=1e-4, atol=1e-5)


def test_forms_are_the_tokens_that_read_like_the_answer() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(["Yes Yes", "yes yes", "No No", "no no", "now Yesterday"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    yes, no = surface_forms(tokenizer, "Yes", "No")
    texts = [{tokenizer.decode([token]) for token in tokens} for tokens in (yes, no)]
    assert texts[0] >= {"Yes", " Yes", "yes", " yes"}
    assert texts[1] >= {"No", " No", "no", " no"}
    assert not set(yes) & set(no)
    assert {text.strip().lower() for text in texts[0]} == {"yes"}


@pytest.mark.parametrize(("positive", "negative", "code"), [
    ("Certainly not today", "No", "answer-no-token"), ("yes", "Yes ", "answers-ambiguous"),
])  # fmt: skip
def test_answers_that_cannot_be_told_apart_by_a_token_are_refused(tiny_model, positive, negative, code) -> None:
    with refused(code, ModelError):
        AnswerScorer(Reader(tiny_model, "fp32"), positive, negative)


def test_every_chosen_train_sample_has_a_score_and_no_other(ask, tiny_data: Path) -> None:
    report, table = ask()
    assert table.schema.equals(TEACHER_SCORE.schema)
    with duckdb.connect(str(tiny_data), read_only=True) as connection:
        train = connection.execute("SELECT sample_id FROM sample WHERE split = 'train' ORDER BY 1").fetchall()
    assert table["sample_id"].to_pylist() == [row[0] for row in train]
    assert report.scored == report.wanted == 60
    assert 0 < report.mass < 1
    assert 0 <= report.auc <= 1
    assert np.isfinite(table["logit"].to_numpy()).all()


def test_more_samples_contain_and_reuse_fewer(ask) -> None:
    few, small = ask(sample={"count": 20, "balance": "labels"})
    many, large = ask(sample={"count": 40, "balance": "labels"})
    assert (few.asked, few.cached, many.asked, many.cached) == (20, 0, 20, 20)
    scores = dict(zip(large["sample_id"].to_pylist(), large["logit"].to_pylist(), strict=True))
    for sample_id, logit in zip(small["sample_id"].to_pylist(), small["logit"].to_pylist(), strict=True):
        assert scores[sample_id] == logit
    assert ask(sample={"count": 40}, seed=2)[1]["sample_id"] != large["sample_id"]
    with refused("sample-too-large", LlmcfError, names=r"61"):
        ask(sample={"count": 61})


def test_it_is_asked_what_the_model_is_tuned_on(ask, tiny_data: Path, tiny_model: Path) -> None:
    config = RecommendationMixConfig(max_history=2, balance="none")
    context = MixContext(tiny_data, Path, load_tokenizer(tiny_model), 512, seed=1)
    tuned_on = {sample.prompt[-1]["content"] for sample in RecommendationSource(config, context).draw(60)}
    report, _ = ask(config)
    assert {example["question"] for example in report.examples} <= tuned_on


def test_long_questions_lose_their_oldest_history_and_impossible_ones_have_no_score(ask) -> None:
    report, table = ask(max_prompt_tokens=115)
    assert report.histories_shortened > 0
    assert report.scored + report.too_long == report.wanted == 60
    assert table.num_rows == report.scored
    with refused("prompt-too-long", LlmcfError, names="60"):
        ask(max_prompt_tokens=5)


class StopAfter(SilentProgress):
    """Interrupts when a number of advances is reached."""

    def __init__(self, advances: int) -> None:
        self.left = advances

    def task(self, *args, **kwargs):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None

    def note(self, text):
        pass

    def advance(self, amount=1):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_asks_only_what_is_missing_and_ends_the_same(ask, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(max_batch=4, progress=StopAfter(7))  # two advances are of what is too long or cached: none here
    resumed, scores = ask(max_batch=4)
    assert 0 < resumed.cached < 60
    assert resumed.asked == 60 - resumed.cached
    (tmp_path / "answers.duckdb").unlink()
    whole, expected = ask(max_batch=4)
    assert whole.asked == 60
    assert scores["sample_id"] == expected["sample_id"]
    np.testing.assert_allclose(scores["logit"].to_numpy(), expected["logit"].to_numpy(), atol=1e-4)


def test_a_teacher_that_hardly_ever_answers_is_refused(ask) -> None:
    report, _ = ask()
    with pytest.raises(ModelError) as error:
        ask(min_mass=min(1.0, 1.01 * report.mass))
    assert "teacher.min_mass" in error.value.hint
    assert ask(min_mass=0.99 * report.mass)[0].asked == 0, "the answers are kept"


def test_words_of_the_label_are_asked(ask) -> None:
    texts = {words: ask(words=words)[0].examples[0]["question"] for words in (Words(), words_of(ImplicitLabelConfig()))}
    liked, chose = texts.values()
    assert "Will the user like it?" in liked
    assert chose == liked.replace("Will the user like it?", "Will the user choose it?")
