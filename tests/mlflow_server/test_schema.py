import re

import pytest

from mlflow_server import schema


def names_defined(prefix: str) -> list[str]:
    return [value for name, value in vars(schema).items() if name.startswith(prefix)]


@pytest.mark.parametrize("kind", ["tag", "param", "metric"])
def test_every_constant_is_a_field_of_its_kind_and_the_other_way_round(kind):
    constants = names_defined(f"{kind.upper()}_")
    assert sorted(constants) == sorted(field.name for field in schema.FIELDS if field.kind == kind)


def test_mlflow_fields_are_the_mlflow_constants():
    constants = [name for name in names_defined("MLFLOW_") if isinstance(name, str)]
    assert sorted(constants) == sorted(field.name for field in schema.MLFLOW_FIELDS)


def test_fields_are_unique_described_and_of_a_form_that_mlflow_accepts():
    fields = schema.FIELDS + schema.MLFLOW_FIELDS
    assert len({(field.kind, field.name) for field in fields}) == len(fields)
    for field in fields:
        assert field.description, field
        assert re.fullmatch(r"[A-Za-z_.]+", schema.of_score(field.name)), field


def test_tags_are_told_apart_from_those_of_other_programs():
    tags = [field.name for field in schema.FIELDS if field.kind == "tag"]
    assert all(name.startswith("espalier.") for name in tags)


def test_require_accepts_fields():
    names = [schema.METRIC_FLOPS, schema.METRIC_TRAIN_LOSS]
    schema.require("metric", names)  # an AssertionError for any other
    assert set(names) <= {field.name for field in schema.FIELDS if field.kind == "metric"}


def test_metrics_of_a_score_have_its_name():
    names = [name for name in names_defined("METRIC_") if "{score}" in name]
    assert sorted(schema.of_score(name) for name in names) == [
        *("accuracy_after_fine_tuning", "accuracy_after_pruning", "accuracy_against_base"),
        *(
            "accuracy_before_pruning",
            "epoch_validation_accuracy",
            "test_accuracy",
            "validation_accuracy",
        ),
    ]
    assert schema.of_score(schema.METRIC_TEST_SCORE, "mean_iou") == "test_mean_iou"
    schema.require("metric", [schema.of_score(name, "mean_iou") for name in names])


@pytest.mark.parametrize("name", ["test_", "test_{score}", "test_mean IoU", "pretest_accuracy"])
def test_require_knows_what_is_no_name_of_a_score(name):
    with pytest.raises(AssertionError, match="is not a metric"):
        schema.require("metric", [name])
    with pytest.raises(AssertionError, match="is not a tag"):
        schema.require("tag", ["test_accuracy"])


@pytest.mark.parametrize("name", ["accuracy", schema.PARAM_MODEL, ""])
def test_require_names_what_is_not_a_field(name):
    with pytest.raises(AssertionError, match=re.escape(f"{name!r} is not a metric")):
        schema.require("metric", [schema.METRIC_FLOPS, name])
