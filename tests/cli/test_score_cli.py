"""The command around the scorer."""

from refusals import refused

from llmcf_cli.cli.score import score
from llmcf_cli.core.errors import DataError


def test_scores_are_written_by_the_ending_or_not_at_all(tmp_path):
    with refused("file-ending", DataError):
        score(tmp_path, tmp_path / "requests.csv", tmp_path / "scores.txt")
