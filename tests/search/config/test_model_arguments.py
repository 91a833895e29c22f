"""Arguments of networks, from texts."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.errors import ConfigError
from search.config.correlation_config import CorrelationConfig
from search.config.family_config import FamilyConfig
from search.config.model_arguments import model_arguments
from search.config.search_config import SearchConfig


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("depth=20", 20),
        ("n=1_000", 1000),
        ("n=-3", -3),
        ("rate=1.5", 1.5),
        ("rate=1e-3", 1e-3),
        ("bias=true", True),
        ("bias = false ", False),
        ("act=null", None),
        ("act=relu", "relu"),
        ('act="20"', "20"),
        ("act='20'", "20"),
        ("act=", ""),
        ("act=a=b", "a=b"),
        ("act=True", "True"),
        ("sizes=[1, 2]", "[1, 2]"),
        ("when=2020-01-01", "2020-01-01"),
        ("rate=inf", "inf"),
        ("rate=NaN", "NaN"),
        ("deep=" + "[" * 5000, "[" * 5000),
        ("trick=1\nother = 2", "1\nother = 2"),
    ],
)
def test_values_are_scalars_of_toml_or_json_and_texts_otherwise(text: str, value: Any) -> None:
    (read,) = model_arguments([text]).values()
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["depth"], "model_arg must be NAME=VALUE, such as depth=20, got 'depth'"),
        (["=3"], "model_arg must be NAME=VALUE"),
        (["a-b=3"], "model_arg must be NAME=VALUE"),
        (["a=1", "b=2", "a=3"], "model_arg gives a twice"),
    ],
)
@pytest.mark.parametrize("config", [SearchConfig, CorrelationConfig])
def test_what_is_no_argument_is_refused(config: Any, texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(model_arg=tuple(texts))
    assert caught.value.field == "model_arg"


def test_a_family_of_a_stored_network_takes_none() -> None:
    with pytest.raises(ConfigError, match="model_arg has no effect without --model"):
        FamilyConfig("some/folder", model_arg=("depth=3",))
