"""`espalier search`: what its flags make of a file and of a paper's recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import espalier

from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.studies import search_study


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[SearchConfig]:
    """The searches that would have run."""
    found: list[SearchConfig] = []

    def run(config: SearchConfig, **_: object) -> None:
        found.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(search_study, "run", run)
    return found


def test_a_recipe_can_be_overridden_by_flags(asked_for: list[SearchConfig]):
    espalier("search", "--recipe=copycat", "--batch-size=64")
    recipe = {**TrainingConfig.RECIPES["copycat"], "batch_size": 64}
    assert [config.training for config in asked_for] == [TrainingConfig(**recipe)]


def test_the_settings_of_a_file_override_a_recipe(asked_for: list[SearchConfig], tmp_path: Path):
    file = tmp_path / "search.toml"
    file.write_text("[training]\nepochs = 5\n")
    espalier("search", f"--config={file}", "--recipe=copycat")
    file.write_text("[training]\nepochs = 5\nrecipe = 'copycat'\n")
    espalier("search", f"--config={file}")
    recipe = {**TrainingConfig.RECIPES["copycat"], "epochs": 5}
    assert [config.training for config in asked_for] == [TrainingConfig(**recipe)] * 2


def test_an_unknown_recipe_is_refused(asked_for: list[SearchConfig]):
    for command in (("search",), ("family", "profile.json")):
        refused = espalier(*command, "--recipe=imagnet")
        assert (refused.status, asked_for) == (2, [])
        (line,) = refused.err.splitlines()
        assert "recipe must be the name of a recipe, got 'imagnet': did you mean" in line
