"""A small finished search to look at: a base network, and architectures of several origins."""

import math
from collections.abc import Mapping

from mlflow_server import RunRecorder, schema

ORIGINS = ("fine-tuned", "from-scratch", "copycat", "uniform")
BASE_FLOPS = 125_485_706
BASE_ACCURACY = 0.85


def accuracy(origin: str, share: float) -> float:
    """Of a network with this share of the base network's FLOPs; a fraction."""
    return 0.94 - 0.02 * ORIGINS.index(origin) - 0.12 * (1 - share) ** 2


MEAN_ABSOLUTE_ERROR = {
    schema.TAG_SCORE: "mean absolute error",
    schema.TAG_SCORE_METRIC: "mean_absolute_error",
    schema.TAG_SCORE_DIRECTION: "minimize",
}
"""What a search says that is measured by it."""


def record_search(
    recorder: RunRecorder, num_each: int, num_epochs: int = 10, score: Mapping[str, str] = {}
) -> None:
    """Record a base network that is not the best, and `num_each` architectures of every origin.

    score: tags of the search; one of an older version has none, and is measured by accuracy.
    """
    budget = {schema.TAG_BUDGET: "flops=50%"}
    metric = score.get(schema.TAG_SCORE_METRIC, "accuracy")
    recorder.open_run("search", kind="search", name="digits", tags={**budget, **score})
    networks = [("base", "base", 1.0, BASE_ACCURACY)]
    for number in range(num_each):
        share = 0.1 + 0.4 * (number + 1) / num_each
        networks += [(f"{o}-{number}", o, share, round(accuracy(o, share), 4)) for o in ORIGINS]
    for name, origin, share, final in networks:
        key = f"architecture/{name}"
        recorder.open_run(
            key,
            kind="architecture",
            name=name,
            parent="search",
            params={schema.PARAM_ALPHA: share},
            tags={schema.TAG_ORIGIN: origin, schema.TAG_ARCHITECTURE: name, **budget},
        )
        for epoch in range(num_epochs):
            curve = final * (1 - math.exp(-(epoch + 1) / 2))
            metrics = {schema.of_score(schema.METRIC_EPOCH_VALIDATION_SCORE, metric): curve}
            recorder.log_metrics(key, metrics, epoch)
        measured = {
            schema.of_score(schema.METRIC_VALIDATION_SCORE, metric): final,
            schema.of_score(schema.METRIC_TEST_SCORE, metric): round(final - 0.01, 4),
            schema.METRIC_FLOPS: round(share * BASE_FLOPS),
            schema.METRIC_NUM_PARAMS: round(share * 855_770),
        }
        recorder.log_metrics(key, measured)
        recorder.set_tags(key, {schema.TAG_ON_FRONT: origin == ORIGINS[0]})
        recorder.end_run(key, "finished")
    recorder.end_run("search", "finished")
