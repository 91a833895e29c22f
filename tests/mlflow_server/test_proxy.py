"""Servers of this machine are reached past a proxy of the environment."""

import os
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest
import requests

from mlflow_server.reach import reach_loopback_directly, require_reachable


@pytest.fixture(autouse=True)
def _dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")
    monkeypatch.setenv("no_proxy", "")  # so that whatever is set is undone


@pytest.fixture
def url():
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_dead_proxy_does_not_keep_from_loopback(url: str) -> None:
    reach_loopback_directly()
    require_reachable(url)
    assert requests.get(url, timeout=5).ok
    assert httpx.get(url, timeout=5).is_success


def test_other_hosts_keep_their_proxy_and_what_was_left_out_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "intern.example, 127.0.0.1")
    reach_loopback_directly()
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"]
    assert os.environ["NO_PROXY"] == "intern.example,127.0.0.1,localhost,::1"
    assert urllib.request.proxy_bypass("localhost")
    assert not urllib.request.proxy_bypass("elsewhere.example")


def test_without_a_proxy_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.delenv("no_proxy")
    reach_loopback_directly()
    assert "no_proxy" not in os.environ
