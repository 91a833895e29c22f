"""What a service is started with."""

from __future__ import annotations

import os
from dataclasses import field
from pathlib import Path
from urllib.parse import urlsplit

from search.config.settings import Device, option, require, require_defaults, settings

DATABASE_VARIABLE = "ESPALIER_SERVICE_DATABASE"
WEBHOOK_SECRET_VARIABLE = "ESPALIER_WEBHOOK_SECRET"
SECRET_VARIABLES = (DATABASE_VARIABLE, WEBHOOK_SECRET_VARIABLE)
"""Of the service alone: searches and preflights run code of others, and are not given them."""


@settings
class LimitsConfig:
    """The most that a client may ask for, and that a process may take for it."""

    most_params: int = option(200_000_000, "parameters of a network that clients may name", ge=1)
    most_image_size: int = option(512, "pixels a side that clients may resize images to", ge=1)
    most_trials: int = option(
        1000, "trials of a search, or networks of a family, that clients may ask for", ge=1
    )
    most_epochs: int = option(
        1000, "epochs of each kind of training that clients may ask for", ge=1
    )
    most_concurrency: int = option(64, "trials at once that clients may ask for", ge=1)
    most_searches: int = option(1000, "searches of one owner that wait or run at a time", ge=1)
    most_hours: float | None = option(
        None,
        "working time of a search, in hours, after which it ends with what it has; by default any",
        ge=1,
    )
    memory_gb: float = option(
        16.0, "memory that a preflight, and each trial of a search, may take, in GB", ge=1
    )


@settings
class ServiceConfig:
    """One service: what it keeps, where it listens, who may use it, and where searches run."""

    runs: str = option("espalier-runs", "folder that holds all searches")
    host: str = option(
        "127.0.0.1",
        "address to listen on; for one that others reach there must be tokens (`espalier token`)",
    )
    port: int = option(8000, "port to listen on; 0 picks one", ge=0, le=65535)
    max_running: int = option(1, "searches at once; others wait in the queue", ge=1)
    database: str = option(
        "",
        "sqlite:///FILE or postgresql://USER@HOST/NAME of its records; by default service.db in "
        f"--runs. {DATABASE_VARIABLE} sets it without showing a password to others",
    )
    data_root: str = option(
        ".data", "folder that holds the data sets and image folders that clients may name"
    )
    builders: tuple[str, ...] = option(
        (), "module:callable of a network, or of data, that clients may name; repeatable"
    )
    tasks: tuple[str, ...] = option(
        (), "module:callable of a task that clients may name; repeatable"
    )
    register_as: tuple[str, ...] = option(
        (),
        "name in MLflow's registry that clients may register networks under, which also moves its "
        "alias `best`: none that anything in production goes by; repeatable",
    )
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    mlflow_url: str = option("", "MLflow server to log to; by default its own")
    mlflow_public_url: str = option(
        "", "address of MLflow for those who use this service; by default the one it uses itself"
    )
    mlflow_port: int = option(5000, "port of its own MLflow server; 0 picks one", ge=0, le=65535)
    ray_address: str = option(
        "",
        "job server of a Ray cluster to run searches on, such as http://10.0.0.1:8265; the nodes "
        "share the folders of this machine. By default searches are processes of this machine",
    )
    ray_python: str = option("python", "interpreter on the cluster's nodes")
    device: Device = option("auto", "auto, cpu or cuda")
    allowed_hosts: tuple[str, ...] = option(
        (), "name under which others reach this service; repeatable"
    )
    cors_origins: tuple[str, ...] = option(
        (), "origin of another site whose pages may use this service; repeatable"
    )
    webhooks: tuple[str, ...] = option(
        (),
        "address that is told of every search that is over, by a POST of JSON, signed if "
        f"{WEBHOOK_SECRET_VARIABLE} is set; repeatable",
    )

    def __post_init__(self) -> None:
        if self.mlflow_url:
            require_defaults(self, ("mlflow_port",), "beside another MLflow server (mlflow_url)")
        if not self.ray_address:
            require_defaults(self, ("ray_python",), "without a cluster (ray_address)")
        require(
            not _has_password(self.database),
            "database",
            "an address without a password, which others would see: set "
            f"{DATABASE_VARIABLE} in its place",
            "an address with one",
        )
        for name in ("mlflow_url", "mlflow_public_url"):
            require(
                "@" not in getattr(self, name).partition("://")[2].partition("/")[0],
                name,
                "an address without a password, which others would see: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in its place",
                "an address with one",
            )
        public = self.mlflow_public_url
        is_web = not public or _is_web_address(public)
        require(is_web, "mlflow_public_url", "http://HOST or https://HOST", public)
        for url in self.webhooks:  # which may hold a secret: it is not repeated
            require(_is_web_address(url), "webhooks", "http://HOST or https://HOST", "another form")

    @property
    def folder(self) -> Path:
        """Of all searches, as an absolute path."""
        return Path(self.runs).absolute()

    @property
    def database_url(self) -> str:
        """Of the records, if it is not the folder's own file; empty if it is."""
        return self.database or os.environ.get(DATABASE_VARIABLE, "")


def _has_password(database: str) -> bool:
    """Whether a database's address names a password, as user:password@ or among its options."""
    scheme, _, rest = database.partition("://")
    if scheme.startswith("sqlite"):
        return False
    return ":" in rest.rpartition("@")[0] or "password=" in rest.partition("?")[2]


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:
        return False
