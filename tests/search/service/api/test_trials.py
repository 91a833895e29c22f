"""What a service tells of trials, and of what processes print."""

import json
from typing import Any

import pytest
from refusals import check_refused
from samples import epoch_record, outcome, trial_job

from search.storage.layout import EVENTS_FILE, LOG_FILE
from search.trials.jobs import job_to_mapping

BASE = {"flops": 2000, "params": 200}
PATH = "/v1/searches/trials/trials"


@pytest.fixture(scope="module")
def told(service: Any) -> Any:
    """A service with a search of three trials: one finished, one failed, one under way."""
    tasks = [trial_job(number) for number in range(3)]
    records = [vars(epoch_record(step, 2)) for step in (1, 2)]
    events: list[dict[str, Any]] = [
        {"event": "launched", "pid": 1, "lines": [], "trials": 3, "base": BASE, "limits": {}},
        *({"event": "started", "key": t.key, "job": job_to_mapping(t)} for t in tasks),
        {"event": "epochs", "key": tasks[0].key, "records": records[:1]},
        {"event": "epochs", "key": tasks[0].key, "records": records},  # told again
        {"event": "finished", "key": tasks[0].key, "outcomes": [outcome("x").to_mapping()]},
        {"event": "ended", "key": tasks[1].key, "state": "failed", "reason": "no luck"},
        {"event": "started", "key": "other", "job": {"proposal": {"of": "another version"}}},
    ]
    service.finish("trials", [])
    lines = [json.dumps({"time_ms": time, **event}) for time, event in enumerate(events)]
    (service.runs / "trials" / EVENTS_FILE).write_text("\n".join(lines) + "\n")
    return service


def test_every_trial_is_told_as_it_stands(told: Any) -> None:
    page = told.ask("GET", PATH).json
    assert (page["total"], page["next_offset"]) == (3, None)
    first, second, third = page["items"]
    proposal = trial_job(0).proposal
    assert (first["number"], first["state"], first["architectures"]) == (0, "finished", ["x"])
    assert (first["settings"], first["target_flops"]) == (proposal.settings, proposal.target_flops)
    assert (first["step"], first["num_steps"], first["started_ms"], first["ended_ms"]) == (
        2,
        2,
        1,
        6,
    )
    assert (second["state"], second["reason"], second["step"]) == ("failed", "no luck", None)
    assert (third["state"], third["ended_ms"]) == ("running", None)


def test_trials_come_in_pages(told: Any) -> None:
    page = told.ask("GET", f"{PATH}?limit=2").json
    assert ([item["number"] for item in page["items"]], page["next_offset"]) == ([0, 1], 2)
    page = told.ask("GET", f"{PATH}?limit=2&offset=2").json
    assert ([item["number"] for item in page["items"]], page["next_offset"]) == ([2], None)


def test_one_trial_comes_with_its_epochs(told: Any) -> None:
    found = told.ask("GET", f"{PATH}/0").json
    assert [epoch["step"] for epoch in found["curve"]] == [1, 2]
    assert found["curve"][1]["train_loss"] == 1.0
    check_refused(told.ask("GET", f"{PATH}/7"), 404)
    check_refused(told.ask("GET", f"{PATH}/0?repeat=1"), 404)
    check_refused(told.ask("GET", f"{PATH}/x"), 422)
    check_refused(told.ask("GET", "/v1/searches/nope/trials"), 404)


def test_a_search_that_has_not_begun_has_no_trials_and_no_log(told: Any) -> None:
    told.finish("fresh", [])
    (told.runs / "fresh" / EVENTS_FILE).unlink()
    assert told.ask("GET", "/v1/searches/fresh/trials").json["items"] == []
    assert told.ask("GET", "/v1/searches/fresh/log").body == b""


def test_the_log_is_told_from_its_end_without_the_servers_paths(told: Any) -> None:
    log = told.runs / "trials" / LOG_FILE
    log.write_text(f"first\nin {told.runs}/trials\nlast \u2264\n")
    answer = told.ask("GET", "/v1/searches/trials/log")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body.decode() == "first\nin RUNS/trials\nlast \u2264\n"
    end = told.ask("GET", "/v1/searches/trials/log?last=12").body.decode()
    assert end == "last \u2264\n"
    check_refused(told.ask("GET", "/v1/searches/trials/log?last=0"), 422)
    check_refused(told.ask("GET", "/v1/searches/nope/log"), 404)


def test_a_log_is_read_on_from_where_it_was_left(told: Any) -> None:
    """In whole lines while a process writes it; an offset within a path tells no part of it."""
    log, target = told.runs / "trials" / LOG_FILE, "/v1/searches/trials/log"
    log.write_bytes(f"one \u2264\n{told.runs}/x\nhal".encode())
    told.put("trials", state="running", handle="trials/1")
    try:
        first = told.ask("GET", f"{target}?offset=0")
        assert first.body.decode() == "one \u2264\nRUNS/x\n"
        offset = int(first.headers["next-offset"])
        assert log.read_bytes()[offset:] == b"hal"
        with log.open("ab") as stream:
            stream.write(b"f\n")
        second = told.ask("GET", f"{target}?offset={offset}")
        assert (second.body, int(second.headers["next-offset"])) == (b"half\n", log.stat().st_size)
        for inside in range(1, log.stat().st_size + 9):
            text = told.ask("GET", f"{target}?offset={inside}").body.decode()
            assert text in ("RUNS/x\nhalf\n", "half\n", "")
        parts, offset = "", 0
        while (part := told.ask("GET", f"{target}?offset={offset}&last=200")).body:
            parts, offset = parts + part.body.decode(), int(part.headers["next-offset"])
        assert parts == "one \u2264\nRUNS/x\nhalf\n"
    finally:
        told.put("trials", state="finished", handle="")
    log.write_bytes(b"no end")
    assert told.ask("GET", f"{target}?offset=0").body == b"no end"
    check_refused(told.ask("GET", f"{target}?offset=-1"), 422)
