"""What clients may ask for: as much as the operator lets them."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from refusals import check_refused, untouched

from pruning.errors import ConfigError
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.models import digits_resnet, digits_vgg
from search.service.access.settings_policy import SettingsPolicy
from search.service.problem_details import ProblemError
from search.service.service_config import LimitsConfig, ServiceConfig
from search.service.torch_worker.tasks import Server, check_settings
from search.service.torch_worker.worker import OverTimeError, Refusal, TorchWorker
from search.tasks.score import ACCURACY

SMALL = LimitsConfig(
    most_params=300_000, most_image_size=32, most_trials=10, most_epochs=400, most_concurrency=2
)
HERE = Server("cpu", 10**9, 1000)
DIGITS: dict[str, Any] = {"data": {"source": "digits"}, "budget": ["flops=60%"]}


@pytest.fixture(scope="module")
def tight(
    serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, patient: None
) -> Iterator[Any]:
    """A service with low limits, which lets networks be registered under one name."""
    with serve(tmp_path_factory.mktemp("tight")) as running:
        running.components.policy = SettingsPolicy(running.home / "data", (), ("ours",), SMALL)
        yield running


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"trials": 11}, "trials"),
        ({"concurrency": 3}, "concurrency"),
        ({"data": {"source": "digits", "image_size": 33}}, "data.image_size"),
        ({"training": {"epochs": 401}}, "training.epochs"),
        ({"training": {"fine_tune_epochs": 401}}, "training.fine_tune_epochs"),
        ({"training": {"scratch_epochs": 401}}, "training.scratch_epochs"),
        (
            {"criterion": ["scaling-factors"], "gates": {"settle_epochs": 401}},
            "gates.settle_epochs",
        ),
        ({"training": {"epochs": 300, "fine_tune_epochs": 300}}, "training.scratch_epochs"),
        ({"resources": {"memory_gb": 2}}, "resources.memory_gb"),
        ({"model": "resnet56"}, "model"),
        ({"model": "wrn-394-32"}, "model"),
        *(({"register": name}, "register") for name in ("production", "ours-2", "OURS", "our")),
    ],
    ids=str,
)
def test_more_than_the_operator_allows(tight: Any, settings: dict[str, Any], field: str) -> None:
    with untouched(tight):
        for target in ("/v1/searches", "/v1/preflight"):
            answer = tight.ask("POST", target, json.dumps(DIGITS | settings).encode())
            check_refused(answer, 422, field=field)


def test_defaults_count_like_what_was_asked_for(tight: Any) -> None:
    tight.components.policy = SettingsPolicy(
        tight.home / "data", (), (), LimitsConfig(most_epochs=100)
    )
    with untouched(tight):
        answer = tight.ask("POST", "/v1/searches", json.dumps(DIGITS).encode())
        check_refused(answer, 422, field="training.epochs")
    tight.components.policy = SettingsPolicy(tight.home / "data", (), ("ours",), SMALL)


def test_what_is_allowed_is_launched_within_the_memory_of_the_operator(tight: Any) -> None:
    tight.components.policy = SettingsPolicy(tight.home / "data", (), ("ours",))
    body = json.dumps(DIGITS | {"register": "ours"}).encode()
    answer = tight.ask("POST", "/v1/searches", body)
    assert answer.status == 201
    assert answer.json["settings"]["resources"]["memory_gb"] == LimitsConfig().memory_gb
    tight.components.policy = SettingsPolicy(tight.home / "data", (), ("ours",), SMALL)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"model": "timm:resnet18", "model_arg": ["act_layer=relu"]}, "model_arg"),
        (
            {"model": "torchvision:alexnet", "model_arg": ["n=3", "weights=X"]},
            "model_arg",
        ),
        ({"model_arg": ["path=null"]}, "model_arg"),
        ({"model": "tim:resnet18"}, "model"),
    ],
)
def test_texts_for_a_network_are_refused(
    tmp_path: Path, settings: dict[str, Any], field: str
) -> None:
    """They may name files; numbers, true and false cannot."""
    policy = SettingsPolicy(tmp_path)
    with pytest.raises(ProblemError) as caught:
        policy.resolve(DIGITS | settings)
    assert (caught.value.status, caught.value.field) == (422, field)
    numbers = {"model": "timm:resnet18", "model_arg": ["drop_rate=0.5", "bias=true", "n=3"]}
    assert policy.resolve(DIGITS | numbers)["model_arg"] == numbers["model_arg"]


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [("", "5400s"), ("2h", "5400s"), ("1d", "5400s"), ("89min", "89min"), ("1.5h", "1.5h")],
)
def test_a_search_works_no_longer_than_it_may(tight: Any, asked: str, allowed: str) -> None:
    """It gets a time budget, with which it ends with results; also when it is resumed."""
    policy = SettingsPolicy(tight.home / "data", limits=LimitsConfig(most_hours=1.5))
    content = (
        DIGITS | {"model": "digits-vgg"} | ({"resources": {"time_budget": asked}} if asked else {})
    )
    for settings in (policy.resolve(content), policy.resolve_stored(content)):
        assert settings["resources"]["time_budget"] == allowed
        assert (
            from_mapping(SearchConfig, {**settings, "name": "a"}).resources.budget_seconds
            is not None
        )
    anything = SettingsPolicy(tight.home / "data").resolve(content)
    assert anything["resources"].get("time_budget", "") == asked


@pytest.mark.parametrize("asked", ["soon", 5, None, "0s"])
def test_a_time_budget_that_is_none_is_told(tight: Any, asked: object) -> None:
    tight.components.policy = SettingsPolicy(
        tight.home / "data", limits=LimitsConfig(most_hours=1.5)
    )
    body = json.dumps(DIGITS | {"resources": {"time_budget": asked}}).encode()
    check_refused(tight.ask("POST", "/v1/preflight", body), 422)


def test_an_owner_is_told_of_too_many_searches(tight: Any) -> None:
    counts = tight.components.queue.counts
    num = counts()["queued"] + counts()["running"]
    tight.components.policy = SettingsPolicy(
        tight.home / "data", limits=LimitsConfig(most_searches=num + 1)
    )
    body, headers = json.dumps(DIGITS).encode(), {"idempotency-key": "one"}
    assert tight.ask("POST", "/v1/searches", body, headers=headers).status == 201
    answer = tight.ask("POST", "/v1/searches", body)
    check_refused(answer, 429)
    assert int(answer.headers["retry-after"]) > 0
    assert tight.ask("POST", "/v1/searches", body, headers=headers).status == 200
    assert counts()["queued"] + counts()["running"] == num + 1


@pytest.mark.parametrize("name", list(vars(LimitsConfig())))
def test_a_limit_is_a_number_above_none(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        LimitsConfig(**{name: 0})
    assert ServiceConfig(limits=LimitsConfig(**{name: 1})).limits != LimitsConfig()


def test_a_huge_network_is_counted_without_memory() -> None:
    """6.4 G parameters, which took 24 GB."""
    process, begun = psutil.Process(), time.process_time()
    before = process.memory_info().rss
    found = check_settings("search", DIGITS | {"model": "wrn-394-32"}, HERE)
    assert isinstance(found, Refusal)
    assert "this server allows 1,000,000,000" in found.detail
    assert process.memory_info().rss - before < 500 * 10**6
    assert time.process_time() - begun < 30


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"gpus_per_trial": 1.5}, "resources.gpus_per_trial"),
        ({"gpus_per_trial": 64}, "resources.gpus_per_trial"),
        ({"cpus_per_trial": 1000}, "resources.cpus_per_trial"),
    ],
    ids=str,
)
def test_more_than_the_machine_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], field: str
) -> None:
    """On a cluster it is known only there; no machine has one and a half GPUs for a trial."""
    monkeypatch.setattr("search.service.torch_worker.tasks._preflight", pytest.fail)
    found = check_settings("search", DIGITS | {"resources": resources}, HERE)
    assert isinstance(found, Refusal)
    assert found.field == field


def test_what_a_cluster_has_is_not_known_to_the_service() -> None:
    asked = DIGITS | {"resources": {"cpus_per_trial": 1000, "gpus_per_trial": 2.0}}
    found = check_settings("search", asked, Server("auto", 10**9, 1000, on_cluster=True))
    assert not isinstance(found, Refusal)
    assert found["settings"]["resources"]["gpus_per_trial"] == 2


GREEDY = """
import torch
from torch import nn

def net(num_classes):
    torch.zeros(1).item()
    torch.empty(7 * 10**9, dtype=torch.uint8)
    return nn.Linear(1, num_classes)
"""


def test_a_preflight_takes_no_more_memory_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network cannot be counted without memory; the process is there for the next one."""
    (tmp_path / "greedy.py").write_text(GREEDY)
    monkeypatch.chdir(tmp_path)
    worker = TorchWorker(3.0)

    async def try_both() -> Any:
        with pytest.raises(ProblemError, match="allocate"):
            await worker.run(check_settings, "search", DIGITS | {"model": "greedy:net"}, HERE)
        before = psutil.Process().children()
        found = await worker.run(check_settings, "search", DIGITS, HERE)
        assert psutil.Process().children() == before
        return found

    try:
        assert asyncio.run(try_both())["frame"]["base"]["params"] == 288_170
    finally:
        worker.close()


def test_only_tasks_that_the_operator_allows_run(tight: Any) -> None:
    """Those of this package do; one given in Python has no name that anything could be made by."""
    policy = SettingsPolicy(tight.home / "data", tasks=("mine:Task",))
    for name in ("segmentation", "regression", "mine:Task"):
        assert policy.resolve({"task": name})["task"] == name
    for name in ("mine:Other", "os:system", "python:mine.Task"):
        with pytest.raises(ProblemError, match=r"has not allowed \(--task\): mine:Task") as refused:
            policy.resolve({"task": name})
        assert (refused.value.status, refused.value.field) == (422, "task")


@pytest.mark.parametrize("source", ["builder", "torchvision:IMAGENET1K_V2", "timm:a1_in1k", ""])
def test_weights_that_are_in_no_file_stay_as_they_are_named(tmp_path: Path, source: str) -> None:
    assert SettingsPolicy(tmp_path).resolve(DIGITS | {"weights": source})["weights"] == source


def test_files_of_weights_lie_in_the_data_folder(tmp_path: Path) -> None:
    resolved = SettingsPolicy(tmp_path).resolve(DIGITS | {"weights": "nets/mine.pt"})
    assert resolved["weights"] == str(tmp_path.resolve() / "nets" / "mine.pt")


def test_weights_are_fitted_before_a_search_is_queued(tmp_path: Path) -> None:
    model = digits_vgg()
    torch.save(model.state_dict(), tmp_path / "own.pt")
    torch.save(digits_resnet().state_dict(), tmp_path / "other.pt")

    def checked(name: str) -> Any:
        return check_settings("search", DIGITS | {"weights": str(tmp_path / name)}, HERE)

    assert len(checked("own.pt")["settings"]["weights_digest"]) == 64
    for name, words in (("other.pt", "are of another network"), ("none.pt", "cannot be read")):
        refusal = checked(name)
        assert isinstance(refusal, Refusal)
        assert refusal.field == "weights"
        assert words in refusal.detail


def asked_of(service: Any, target: str, weights: str, **more: Any) -> Any:
    return service.ask("POST", target, json.dumps(DIGITS | {"weights": weights} | more).encode())


def test_a_preflight_measures_weights_as_the_command_line_does(tight: Any) -> None:
    torch.save(digits_vgg().state_dict(), tight.home / "data" / "own.pt")
    broken = {
        name: tensor * torch.nan if tensor.is_floating_point() else tensor
        for name, tensor in digits_vgg().state_dict().items()
    }
    torch.save(broken, tight.home / "data" / "nan.pt")
    few = {"data": {"source": "digits", "limit_train": 100, "workers": 2}}
    with untouched(tight):
        found = asked_of(tight, "/v1/preflight", "own.pt", **few).json
        assert 0 <= found["base_score"] < 0.5  # it was never trained
        own = f"own.pt: accuracy {ACCURACY.text(found['base_score'])} on the validation data"
        assert f"weights       {own}" in found["lines"]
        for name, words in (("nan.pt", "NaN"), ("none.pt", "cannot be read")):
            answer = asked_of(tight, "/v1/preflight", name, **few)
            check_refused(answer, 422, field="weights")
            assert words in answer.json["detail"]
            assert str(tight.home) not in answer.json["detail"]
        assert (
            tight.ask("POST", "/v1/preflight", json.dumps(DIGITS).encode()).json["base_score"]
            is None
        )


def test_a_preflight_whose_weights_take_too_long_to_measure_says_so(
    tight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(digits_vgg().state_dict(), tight.home / "data" / "own.pt")
    run, times = tight.components.worker.run, []

    async def slow(task: Any, *arguments: Any, caller: str = "") -> Any:
        times.append(arguments)
        if arguments[-1]:  # it measures
            raise OverTimeError(422, "this took longer than 120 s")
        return await run(task, *arguments, caller=caller)

    monkeypatch.setattr(tight.components.worker, "run", slow)
    with untouched(tight):
        found = asked_of(tight, "/v1/preflight", "own.pt").json
        assert found["lines"][1] == (
            "weights       own.pt: not measured, since this took longer than 120 s; a search "
            "begins with their score"
        )
        assert found["base_score"] is None
        check_refused(tight.ask("POST", "/v1/preflight", json.dumps(DIGITS).encode()), 422)
    assert len(times) == 3
