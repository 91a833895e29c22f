"""What the service must refuse in bodies, settings, headers and queries: a list of attempts."""

import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from refusals import ARCHITECTURE, ID, check_refused, every_route, untouched

from search.service.access.settings_body import MAX_BYTES

WEIGHTS = f"/v1/architectures/{ARCHITECTURE}/weights"

# ---- bodies


def test_a_body_of_100_mb_is_not_waited_for(service: Any) -> None:
    with untouched(service):
        for method, target in every_route(service):
            answer = service.ask(
                method, target, b"", headers={"content-length": str(100 * 1024**2)}
            )
            check_refused(answer, 413)
            assert answer.num_read == 0


def test_a_body_without_a_length_is_cut_off(service: Any) -> None:
    part = b" " * 4096
    with untouched(service):
        for target in ("/v1/searches", "/v1/preflight"):
            answer = service.ask("POST", target, (part for _ in range(100 * 256)))
            check_refused(answer, 413)
            assert answer.num_read <= MAX_BYTES + len(part)
        for method, target in every_route(service):
            if method != "POST":
                headers = {"origin": "http://evil.example"}
                endless = (part for _ in range(100 * 256))
                assert service.ask(method, target, endless, headers=headers).num_read == 0


@pytest.mark.parametrize("length", ["-1", "1e3", "²", "9" * 5000, "", "0x10", "+5", "1, 2"])
def test_a_length_that_is_none(service: Any, length: str) -> None:
    with untouched(service):
        for method, target in every_route(service):
            pairs = [
                (b"host", b"127.0.0.1:8000"),
                (b"content-length", length.encode("latin-1")),
            ]
            check_refused(service.ask(method, target, headers=pairs), 400, 413)


JSON, TOML = "application/json", "application/toml"
DEEP = 30_000
BODIES: dict[str, tuple[bytes, str, tuple[int, ...]]] = {
    "nothing": (b"", JSON, (400,)),
    "no JSON": (b"{'a': 1}", JSON, (400,)),
    "no UTF-8": (b'{"model": "\xff"}', JSON, (400,)),
    "UTF-16": ('{"model": "digits-vgg"}'.encode("utf-16"), JSON, (400,)),
    "a list": (b"[]", JSON, (422,)),
    "null": (b"null", JSON, (422,)),
    "NaN": (b'{"trials": NaN}', JSON, (400,)),
    "Infinity": (b'{"trials": -Infinity}', JSON, (400,)),
    "infinite by its exponent": (b'{"training": {"learning_rate": 1e999}}', JSON, (422,)),
    "a huge integer": (b'{"trials": ' + b"9" * 4000 + b"}", JSON, (422,)),
    "an integer too long to read": (b'{"trials": ' + b"9" * 60_000 + b"}", JSON, (400,)),
    "deep lists": (b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}", JSON, (400,)),
    "deep objects": (b'{"a":' * 9000 + b"1" + b"}" * 9000, JSON, (400,)),
    "somewhat deep lists": (b'{"a": ' + b"[" * 700 + b"]" * 700 + b"}", JSON, (400, 422)),
    "somewhat deep objects": (b'{"a":' * 300 + b"1" + b"}" * 300, JSON, (400, 422)),
    "half a character": (rb'{"model": "\ud800"}', JSON, (422,)),
    "half a character in a name": (rb'{"\udfff": 1}', JSON, (422,)),
    "a zero byte": (rb'{"model": "a\u0000b"}', JSON, (422,)),
    "many names": (json.dumps({f"n{i}": 1 for i in range(5000)}).encode(), JSON, (422,)),
    "many items": (json.dumps({"budget": ["flops=10%"] * 5000}).encode(), JSON, (422,)),
    "gzip": (gzip.compress(b'{"data": {"source": "digits"}}'), JSON, (400,)),
    "a gzip bomb": (gzip.compress(b" " * 40_000_000), JSON, (400,)),
    "as a form": (b"model=digits-vgg", "application/x-www-form-urlencoded", (415,)),
    "as text": (b'{"model": "digits-vgg"}', "text/plain", (415,)),
    "as nothing": (b'{"model": "digits-vgg"}', "", (415,)),
    "as files": (b"--x--", "multipart/form-data; boundary=x", (415,)),
    "XML": (b'<!DOCTYPE x [<!ENTITY a "aaa">]><x>&a;</x>', "application/xml", (415,)),
    "no TOML": (b"a = ", TOML, (400,)),
    "TOML: deep lists": (b"a = " + b"[" * DEEP, TOML, (400,)),
    "TOML: deep tables": (b"a = " + b"{a=" * 20_000, TOML, (400,)),
    "TOML: a long dotted key": (b".".join([b"a"] * DEEP) + b" = 1", TOML, (400,)),
    "TOML: a long dotted key in blanks": (b" . ".join([b"a"] * 16_000) + b" = 1", TOML, (400,)),
    "TOML: a long header": (b"[" + b".".join([b"a"] * DEEP) + b"]", TOML, (400,)),
    "TOML: dotted keys within the limit": (
        b"\n".join(b"[" + b".".join([b"a"] * 190) + b".b%d]" % i for i in range(165)),
        *(TOML, (400, 422)),
    ),
    "TOML: many tables": (b"[[a]]\n" * 10_000, TOML, (422,)),
    "TOML: nan": (b"[training]\nlearning_rate = nan", TOML, (422,)),
    "TOML: a date": (b"model = 1979-05-27", TOML, (422,)),
}


@pytest.mark.parametrize("what", BODIES)
def test_no_body_is_too_much(service: Any, what: str) -> None:
    body, kind, statuses = BODIES[what]
    assert len(body) < MAX_BYTES, "the limit would refuse it, not the reader"
    with untouched(service):
        for target in ("/v1/searches", "/v1/preflight"):
            began = time.process_time()
            headers = {"content-type": kind, "content-encoding": "gzip"}
            check_refused(service.ask("POST", target, body, headers=headers), *statuses)
            assert time.process_time() - began < 2


# ---- settings

SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    **{
        f"{kind} {place!r}": ({"data": {"source": f"{kind}:{place}"}}, "data.source")
        for kind in ("imagefolder", "csv")
        for place in (
            "..",
            "../..",
            "/",
            "/etc",
            "",
            ".",
            "a/../..",
            "linked",
            "linked/x",
            "~/../..",
        )
    },
    **{
        f"the data {source!r}": ({"data": {"source": source}}, "data.source")
        for source in (
            *("os:system", "builtins:eval", "allowed:other", ":", ":x", "a:", "csv.x:/etc"),
            *(" csv:x", "CSV:x", "imagefolder :x", "torchvision:x"),
        )
    },
    **{
        f"a teacher in {place!r}": ({"training": {"distill_from": place}}, "training.distill_from")
        for place in ("..", "/etc", "../runs/done/architectures/a-1", "linked", "./..", "a/../../x")
    },
    **{
        f"weights in {place!r}": ({"weights": place}, "weights")
        for place in ("..", "/etc/passwd", "../runs/done/architectures/a-1", "linked", "a/../../x")
    },
    **{
        f"the builder {model!r}": ({"model": model}, "model")
        for model in (
            *("os:system", "subprocess:run", "builtins:eval", "allowed:other", "allowed:net.x"),
            *("torchvision.ops:x", " torchvision:x", ":", ":x", "a:", "os:system:torchvision:"),
            *("torchvision:os.system", "torchvision:../x", "torchvision:get_model", "../../etc/x"),
        )
    },
    **{
        f"the server's {field}": (
            {table: {name: value}} if table else {name: value},
            field,
        )
        for field, value in {
            **{"runs": "/tmp", "mlflow_url": "http://evil.example", "device": "cuda"},
            **{"data.root": "/etc", "data.download": True, "study.storage": "sqlite:////tmp/x"},
            "resources.ray_address": "evil.example:6379",
        }.items()
        for table, _, name in [field.rpartition(".")]
    },
    "a setting with a dot in its name": ({"data.root": "/etc"}, "data.root"),
    **{
        f"the name {name!r}": ({"name": name}, "name")
        for name in (
            *(
                "..",
                ".",
                "../x",
                "a/b",
                "/etc",
                "a\\b",
                "-rf",
                ".hidden",
                "a b",
                "a\nb",
                "ä",
                "a" * 81,
            ),
            *(
                "service.db-journal",
                "audit.jsonl",
                "mlflow-server.log",
                "MLflow.db-wal",
                "mlruns",
                "--help",
            ),
        )
    },
    "a long text": ({"model": "a" * 301}, "model"),
    "a huge picture": ({"data": {"image_size": 100_000}}, "data.image_size"),
    "a huge network": ({"model": "wrn-100000-1000"}, "model"),
    "a number too large for any network": ({"model": f"wrn-{'9' * 200}-1"}, "model"),
    "many trials": ({"trials": 10**9}, "trials"),
    "many processes": ({"data": {"workers": 10**6}}, "data.workers"),
    "a setting there is not": ({"shell": "id"}, "shell"),
    "a setting of another kind": ({"trials": "8; id"}, "trials"),
}


LOOKED_UP = {
    *("the builder 'torchvision:os.system'", "the builder 'torchvision:../x'"),
    *("the builder 'torchvision:get_model'", "the builder '../../etc/x'"),
    *("a setting there is not", "a setting of another kind"),
}
"""Names and types, which search.config.search_config knows; it imports nothing for them."""


@pytest.fixture(scope="module")
def choosy(
    serve: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, patient: None
) -> Iterator[Any]:
    """A service with a data folder that has a link out of it, and one builder that is allowed."""
    with serve(tmp_path_factory.mktemp("choosy"), builders=("allowed:net",)) as running:
        running.finish()
        (running.home / "data" / "linked").symlink_to("/etc")
        yield running


@pytest.mark.parametrize("what", SETTINGS)
def test_no_setting_leads_out(choosy: Any, what: str) -> None:
    settings, field = SETTINGS[what]
    asked = [name for name in choosy.components.worker.asked if name == "check_settings"]
    with untouched(choosy):
        for target in ("/v1/searches", "/v1/preflight"):
            answer = choosy.ask("POST", target, json.dumps(settings).encode())
            check_refused(answer, 422, field=field)
    if what not in LOOKED_UP:  # it was not even opened or imported
        assert [n for n in choosy.components.worker.asked if n == "check_settings"] == asked


@pytest.mark.parametrize(
    "key", ["a\r\nset-cookie: a=b", "a\nb", "a\x00b", "ä", "a" * 201, "\x7f", "\t"]
)
def test_no_key_leads_out(service: Any, key: str) -> None:
    with untouched(service):
        body = json.dumps({"data": {"source": "digits"}}).encode()
        answer = service.ask("POST", "/v1/searches", body, headers={"Idempotency-Key": key})
        check_refused(answer, 422, field="Idempotency-Key")
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "query",
    [
        *("front?flops_max=9999999999999999999999T", "front?flops_max=1e400"),
        *("front?flops_max=nan", "front?params_max=-1", "front?flops_max=%00", "front?sort=id"),
        *("front?sort=flops%3Bdrop", "front?flops_max=" + "9" * 31, "front?flops_max=1%0aM"),
    ],
)
def test_no_bound_is_too_much(service: Any, query: str) -> None:
    with untouched(service):
        answer = service.ask("GET", f"/v1/searches/{ID}/{query}")
        if answer.status != 200:
            check_refused(answer, 422)


@pytest.mark.parametrize("last", ["7", "999999999999999", "0", "-1", "x", "٣", "1" * 16])
def test_events_go_on_behind_any_id(service: Any, last: str) -> None:
    whole = service.ask("GET", f"/v1/searches/{ID}/events").body
    answer = service.ask("GET", f"/v1/searches/{ID}/events", headers={"Last-Event-ID": last})
    if answer.status == 200:
        assert answer.body == whole  # no line ends there: from the beginning
    else:
        check_refused(answer, 422, field="Last-Event-ID")


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("bytes=2-4", b"igh"),
        ("bytes=-2", b"ts"),
        ("bytes=5-99999", b"ts"),
        *((malformed, b"weights") for malformed in ("bytes=5-2", "bytes=x", "bytes=", "bytes=-")),
        ("lines=1-2", b"weights"),
    ],
)
def test_a_part_of_a_file(service: Any, part: str, content: bytes) -> None:
    answer = service.ask("GET", WEIGHTS, headers={"Range": part})
    assert answer.status == (200 if content == b"weights" else 206)
    assert answer.body == content


def test_a_part_of_a_file_that_is_not_there(service: Any) -> None:
    answer = service.ask("GET", WEIGHTS, headers={"Range": "bytes=99999-"})
    check_refused(answer, 416, field="Range")
    assert answer.headers["content-range"] == "bytes */7"
    headers = {"Range": "bytes=99999-", "If-Range": '"of another one"'}
    assert service.ask("GET", WEIGHTS, headers=headers).body == b"weights"


DAMAGED = ("{", "[]", "7", '{"a": NaN}', "[" * 100_000, '{"widths": 7}')


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_wrong_on_the_disk_is_told_without_a_traceback(service: Any, content: str) -> None:
    name = f"damaged-{DAMAGED.index(content)}"
    service.finish(name, ["a-1"])
    damaged: list[Path] = [p for p in (service.runs / name).rglob("*.json") if p.is_file()]
    for file in damaged:
        file.write_text(content)
    check_refused(service.ask("GET", f"/v1/searches/{name}/verdict"), 409)
    check_refused(service.ask("GET", f"/v1/architectures/{name}:a-1"), 409)


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(service: Any) -> None:
    service.finish("piped", ["a-1"])
    for file in (p for p in (service.runs / "piped").rglob("*") if p.is_file()):
        file.unlink()
        os.mkfifo(file)
    with untouched(service):
        for _, target in every_route(service, "GET"):
            answer = service.ask("GET", target.replace(ID, "piped", 1), timeout=5)
            assert answer.status in (200, 404, 409)


def test_nothing_was_launched(service: Any) -> None:
    assert service.launcher.launched == []


def test_streams_of_events_are_bounded(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/v1/searches/{ID}/events"
    assert service.ask("GET", path).status == 200
    assert service.components.streams.total() == 0  # over, and counted no more
    monkeypatch.setattr(service.components, "streams", Counter({"127.0.0.1": 64}))
    assert service.ask("GET", path).status == 429
    monkeypatch.setattr(service.components, "streams", Counter({"127.0.0.2": 64}))
    assert service.ask("GET", path).status == 200
    monkeypatch.setattr(
        service.components, "streams", Counter({f"127.0.0.{n}": 64 for n in range(4)})
    )
    assert service.ask("GET", path).status == 429


def test_architectures_come_in_pages(service: Any) -> None:
    service.finish("many", [f"n-{number}" for number in range(5)])
    path = "/v1/searches/many/architectures"
    everything = service.ask("GET", path).json
    assert (len(everything["items"]), everything["next_offset"]) == (5, None)
    keys, offset = [], 0
    while offset is not None:
        page = service.ask("GET", f"{path}?limit=2&offset={offset}").json
        assert page["total"] == 5
        keys += [item["key"] for item in page["items"]]
        offset = page["next_offset"]
    assert keys == [item["key"] for item in everything["items"]]
    assert service.ask("GET", f"{path}?offset=9").json["items"] == []
    check_refused(service.ask("GET", f"{path}?limit=0"), 422)
