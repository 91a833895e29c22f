"""Every tag, param and metric name that Espalier writes to MLflow.

Nothing else is written: the recorders call `require` on each name first. The few names
that belong to MLflow itself, and that its pages read, are listed in `MLFLOW_FIELDS`.

FLOPs are fvcore's count in eval mode at batch 1, where one fused multiply-add is one.
Shares are fractions from 0 to 1. `{score}` in the name of a metric stands for the score that the
networks of a study are measured by, such as accuracy: see `of_score`.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FieldKind = Literal["tag", "param", "metric"]
FieldType = Literal["text", "boolean", "integer", "real"]

TAG_SEARCH = "espalier.search"
TAG_KIND = "espalier.kind"
TAG_KEY = "espalier.key"
TAG_ORIGIN = "espalier.origin"
TAG_PROFILE = "espalier.profile"
TAG_ARCHITECTURE = "espalier.architecture"
TAG_BUDGET = "espalier.budget"
TAG_ON_FRONT = "espalier.on_front"
TAG_FAILURE = "espalier.failure"
TAG_STATE = "espalier.state"
TAG_INEXACT = "espalier.inexact"
TAG_SCORE = "espalier.score"
TAG_SCORE_METRIC = "espalier.score_metric"
TAG_SCORE_DIRECTION = "espalier.score_direction"

PARAM_MODEL = "model"
PARAM_WEIGHTS = "weights"
PARAM_DATA = "data"
PARAM_BUDGET = "budget"
PARAM_SEED = "seed"
PARAM_SPARSITY_STRENGTH = "sparsity_strength"
PARAM_SHIFT = "shift"
PARAM_CRITERION = "criterion"
PARAM_GRANULARITY = "granularity"
PARAM_POLARIZATION_T = "polarization_t"
PARAM_LAYER_STRENGTH = "layer_strength"
PARAM_BRANCH_STRENGTH = "branch_strength"
PARAM_BLOCK_STRENGTH = "block_strength"
PARAM_TARGET_FLOPS = "target_flops"
PARAM_PRUNING_SCHEDULE = "pruning_schedule"
PARAM_COST_EXPONENT = "cost_exponent"
PARAM_TARGET = "target"
PARAM_ITERATIVE_EPOCHS = "iterative_epochs"
PARAM_ITERATIVE_UNITS = "iterative_units"
PARAM_ITERATIVE_MINIBATCHES = "iterative_minibatches"
PARAM_ITERATIVE_SURGERY_EVERY = "iterative_surgery_every"
PARAM_ITERATIVE_SCORE_MOMENTUM = "iterative_score_momentum"
PARAM_ITERATIVE_LEARNING_RATE = "iterative_learning_rate"
PARAM_ITERATIVE_FLOPS_PENALTY = "iterative_flops_penalty"
PARAM_ITERATIVE_RESET_MOMENTUM = "iterative_reset_momentum"
PARAM_ITERATIVE_SCORE_EVERY = "iterative_score_every"
PARAM_GATES_AT = "gates_at"
PARAM_GATE_FORM = "gate_form"
PARAM_GATE_PENALTY = "gate_penalty"
PARAM_GATE_THRESHOLDS = "gate_thresholds"
PARAM_GATE = "gate"
PARAM_SETTLE_EPOCHS = "settle_epochs"
PARAM_FREEZE_BUT = "freeze_but"
PARAM_EPOCHS = "epochs"
PARAM_FINE_TUNE_EPOCHS = "fine_tune_epochs"
PARAM_SCRATCH_EPOCHS = "scratch_epochs"
PARAM_BATCH_SIZE = "batch_size"
PARAM_LEARNING_RATE = "learning_rate"
PARAM_WEIGHT_DECAY = "weight_decay"
PARAM_SCHEDULE = "schedule"
PARAM_FINE_TUNE_LEARNING_RATE = "fine_tune_learning_rate"
PARAM_FINE_TUNE_SCHEDULE = "fine_tune_schedule"
PARAM_SCRATCH_LEARNING_RATE = "scratch_learning_rate"
PARAM_WARMUP_EPOCHS = "warmup_epochs"
PARAM_FINE_TUNE_WARMUP_EPOCHS = "fine_tune_warmup_epochs"
PARAM_DROP_AT = "drop_at"
PARAM_DROP_BY = "drop_by"
PARAM_OPTIMIZER = "optimizer"
PARAM_NESTEROV = "nesterov"
PARAM_CLIP_NORM = "clip_norm"
PARAM_EMA_DECAY = "ema_decay"
PARAM_LABEL_SMOOTHING = "label_smoothing"
PARAM_CROP = "crop"
PARAM_CROP_AREA = "crop_area"
PARAM_AUGMENT = "augment"
PARAM_AUGMENT_MAGNITUDE = "augment_magnitude"
PARAM_MIXUP = "mixup"
PARAM_CUTMIX = "cutmix"
PARAM_EQUAL_COMPUTE = "equal_compute"
PARAM_COMPUTE_LIMIT = "compute_limit"
PARAM_DISTILL = "distill"
PARAM_DISTILL_FROM = "distill_from"
PARAM_DISTILL_TEMPERATURE = "distill_temperature"
PARAM_DISTILL_WEIGHT = "distill_weight"
PARAM_TRIALS = "trials"
PARAM_SCORING_BATCHES = "scoring_batches"
PARAM_ALPHA = "alpha"

METRIC_VALIDATION_SCORE = "validation_{score}"
METRIC_TEST_SCORE = "test_{score}"
METRIC_FLOPS = "flops"
METRIC_FLOPS_SHARE = "flops_share"
METRIC_NUM_PARAMS = "num_params"
METRIC_CHANNELS = "channels"
METRIC_BASE_FLOPS = "base_flops"
METRIC_BASE_NUM_PARAMS = "base_num_params"
METRIC_BASE_CHANNELS = "base_channels"
METRIC_TRAIN_LOSS = "train_loss"
METRIC_EPOCH_VALIDATION_SCORE = "epoch_validation_{score}"
METRIC_LEARNING_RATE_NOW = "learning_rate_now"
METRIC_SPARSITY = "sparsity"
METRIC_SCORE_BEFORE_PRUNING = "{score}_before_pruning"
METRIC_SCORE_AFTER_PRUNING = "{score}_after_pruning"
METRIC_SCORE_AFTER_FINE_TUNING = "{score}_after_fine_tuning"
METRIC_SCORE_AGAINST_BASE = "{score}_against_base"
METRIC_VIEW_ORDER = "view_order"
METRIC_FRONT_SIZE = "front_size"
METRIC_HYPERVOLUME = "hypervolume"
METRIC_COMPUTE = "compute"
METRIC_UNCOUNTED = "uncounted_multiply_adds"
METRIC_BASE_UNCOUNTED = "base_uncounted_multiply_adds"
METRIC_PEARSON_PER_LAYER = "pearson_per_layer"
METRIC_SPEARMAN_PER_LAYER = "spearman_per_layer"
METRIC_KENDALL_PER_LAYER = "kendall_per_layer"
METRIC_PEARSON_ALL = "pearson_all"
METRIC_SPEARMAN_ALL = "spearman_all"
METRIC_KENDALL_ALL = "kendall_all"
METRIC_LAYERS_LEFT_OUT = "layers_left_out"

MLFLOW_PARENT = "mlflow.parentRunId"
MLFLOW_DESCRIPTION = "mlflow.note.content"
MLFLOW_RUN_NAME = "mlflow.runName"
MLFLOW_RUN_COLOUR = "mlflow.runColor"

COLOURS = {
    "base": "#8f5bd6",
    "sparse": "#f0e442",
    "fine-tuned": "#d55e00",
    "from-scratch": "#0072b2",
    "copycat": "#cc79a7",
    "tempered": "#56b4e9",
    "uniform": "#e69f00",
    "random": "#999999",
    "bottleneck": "#009e73",
    "wrn": "#b3a100",
}
"""Of each origin, in MLflow's charts as in our own: Okabe and Ito's, told apart by all.

That of the base network, which a mark of its own tells apart, is seen on black and on white."""


@dataclass(frozen=True)
class Field:
    """One name in the record: where it stands, what its value is, and in which unit.

    `unit` is empty where the value has none. Values of tags and params are stored as text,
    values of metrics as real numbers; `type` says what they mean.
    """

    name: str
    kind: FieldKind
    type: FieldType
    unit: str
    description: str


_FRACTION = "fraction 0–1"
_OF_SCORE = "the score's; shares as fractions 0–1"
_FLOPS = "fused multiply-adds, batch 1"
_COEFFICIENT = "coefficient −1–1"

FIELDS: tuple[Field, ...] = (
    Field(TAG_SEARCH, "tag", "text", "", "name of the search; also the experiment's name"),
    Field(TAG_KIND, "tag", "text", "", "such as search, trial, architecture or family"),
    Field(TAG_KEY, "tag", "text", "", "stable key of the run inside its search, as in trial/3"),
    Field(TAG_ORIGIN, "tag", "text", "", "fine-tuned, from-scratch or uniform"),
    Field(TAG_PROFILE, "tag", "text", "", "width profile shared by runs to be compared"),
    Field(TAG_ARCHITECTURE, "tag", "text", "", "id of the stored architecture"),
    Field(TAG_BUDGET, "tag", "text", "", "budget that the run had to meet, as written by the user"),
    Field(TAG_ON_FRONT, "tag", "boolean", "", "whether the architecture is Pareto-optimal"),
    Field(TAG_FAILURE, "tag", "text", "", "why the run failed or was killed"),
    Field(TAG_STATE, "tag", "text", "", "why a run has no network: failed, stopped early …"),
    Field(TAG_INEXACT, "tag", "text", "", "groups narrowed though others then change values"),
    Field(TAG_SCORE, "tag", "text", "", "what networks are measured by, such as mean IoU"),
    Field(TAG_SCORE_METRIC, "tag", "text", "", "the same in names of metrics, such as mean_iou"),
    Field(TAG_SCORE_DIRECTION, "tag", "text", "", "maximize or minimize"),
    Field(PARAM_MODEL, "param", "text", "", "name of the base network"),
    Field(PARAM_WEIGHTS, "param", "text", "", "trained weights that trials start from"),
    Field(PARAM_DATA, "param", "text", "", "name of the data set"),
    Field(PARAM_BUDGET, "param", "text", "", "all budgets of the search, as written by the user"),
    Field(PARAM_SEED, "param", "integer", "", "seed of every random generator of the run"),
    Field(PARAM_CRITERION, "param", "text", "", "pruning method"),
    Field(PARAM_GRANULARITY, "param", "text", "", "what is pruned, such as filter+branch"),
    Field(PARAM_SPARSITY_STRENGTH, "param", "real", "", "λ_S, weight of the sparsity penalty"),
    Field(PARAM_SHIFT, "param", "real", "", "b, shift inside the sparsity penalty"),
    Field(PARAM_POLARIZATION_T, "param", "real", "", "t of the polarization penalty"),
    Field(PARAM_LAYER_STRENGTH, "param", "real", "", "λ of the penalty on each layer's gate"),
    Field(PARAM_BRANCH_STRENGTH, "param", "real", "", "λ of the penalty on each branch's gate"),
    Field(PARAM_BLOCK_STRENGTH, "param", "real", "", "λ of the penalty on each block's gate"),
    Field(PARAM_TARGET_FLOPS, "param", "real", _FLOPS, "cost that pruning aimed for"),
    Field(PARAM_TARGET, "param", "text", "", "what a network was pruned to, of several targets"),
    Field(PARAM_PRUNING_SCHEDULE, "param", "text", "", "when channels go, if not all at once"),
    Field(
        PARAM_COST_EXPONENT,
        "param",
        "real",
        "",
        "power of the costs of channels by which their scores are divided, if not 0",
    ),
    Field(
        PARAM_ITERATIVE_EPOCHS, "param", "integer", "epochs", "in which iterative pruning is over"
    ),
    Field(
        PARAM_ITERATIVE_UNITS, "param", "integer", "", "channels, or units of them, that go at once"
    ),
    Field(PARAM_ITERATIVE_MINIBATCHES, "param", "integer", "", "of training between two removals"),
    Field(
        PARAM_ITERATIVE_SURGERY_EVERY, "param", "integer", "", "removals by gates before surgery"
    ),
    Field(PARAM_ITERATIVE_SCORE_MOMENTUM, "param", "real", _FRACTION, "of the average of scores"),
    Field(PARAM_ITERATIVE_LEARNING_RATE, "param", "real", "", "while channels go"),
    Field(
        PARAM_ITERATIVE_FLOPS_PENALTY, "param", "real", "", "taken from a score per FLOP it saves"
    ),
    Field(
        PARAM_ITERATIVE_RESET_MOMENTUM, "param", "boolean", "", "whether the optimizer begins anew"
    ),
    Field(PARAM_ITERATIVE_SCORE_EVERY, "param", "integer", "", "removals between two measurements"),
    Field(PARAM_GATES_AT, "param", "text", "", "where filter gates act: consumer or convolution"),
    Field(PARAM_GATE_FORM, "param", "text", "", "sigmoid, or clipped to 0 … 1"),
    Field(PARAM_GATE_PENALTY, "param", "text", "", "L1 on each gate, or on the mean of a layer's"),
    Field(PARAM_GATE_THRESHOLDS, "param", "text", "", "below which gates go, whatever the target"),
    Field(PARAM_GATE, "param", "text", "", "patterns of what is gated"),
    Field(PARAM_SETTLE_EPOCHS, "param", "integer", "epochs", "with gates at 0 or 1"),
    Field(PARAM_FREEZE_BUT, "param", "text", "", "what learns on after sparse training"),
    Field(PARAM_EPOCHS, "param", "integer", "epochs", "length of sparse training"),
    Field(PARAM_FINE_TUNE_EPOCHS, "param", "integer", "epochs", "length of fine-tuning"),
    Field(PARAM_SCRATCH_EPOCHS, "param", "integer", "epochs", "length of training from scratch"),
    Field(PARAM_BATCH_SIZE, "param", "integer", "examples", "examples in one training step"),
    Field(PARAM_LEARNING_RATE, "param", "real", "", "highest learning rate of the schedule"),
    Field(PARAM_WEIGHT_DECAY, "param", "real", "", "L2 penalty of the optimizer"),
    Field(PARAM_SCHEDULE, "param", "text", "", "how the learning rate falls, such as rni"),
    Field(
        PARAM_FINE_TUNE_LEARNING_RATE, "param", "real", "", "its highest in fine-tuning, if other"
    ),
    Field(PARAM_FINE_TUNE_SCHEDULE, "param", "text", "", "how it falls in fine-tuning, if other"),
    Field(PARAM_SCRATCH_LEARNING_RATE, "param", "real", "", "its highest from scratch, if other"),
    Field(PARAM_WARMUP_EPOCHS, "param", "integer", "epochs", "in which the learning rate rises"),
    Field(PARAM_FINE_TUNE_WARMUP_EPOCHS, "param", "integer", "epochs", "in fine-tuning, if other"),
    Field(
        PARAM_DROP_AT, "param", "text", "", "where the schedule step drops, as shares of the epochs"
    ),
    Field(PARAM_DROP_BY, "param", "real", "", "what each drop of the schedule step divides by"),
    Field(PARAM_OPTIMIZER, "param", "text", "", "sgd or adamw"),
    Field(PARAM_NESTEROV, "param", "boolean", "", "whether momentum is Nesterov's"),
    Field(PARAM_CLIP_NORM, "param", "real", "", "largest norm of the gradient of the loss"),
    Field(
        PARAM_EMA_DECAY,
        "param",
        "real",
        _FRACTION,
        "of the running average of the weights; 0: none",
    ),
    Field(
        PARAM_LABEL_SMOOTHING, "param", "real", _FRACTION, "of each label, spread over all classes"
    ),
    Field(PARAM_CROP, "param", "text", "", "how images are cropped: shifted or resized"),
    Field(
        PARAM_CROP_AREA,
        "param",
        "real",
        _FRACTION,
        "of an image that a resized crop leaves at least",
    ),
    Field(PARAM_AUGMENT, "param", "text", "", "none, randaugment or trivialaugment"),
    Field(PARAM_AUGMENT_MAGNITUDE, "param", "integer", "", "of randaugment, of 31"),
    Field(PARAM_MIXUP, "param", "real", "", "α of mixup; 0: none"),
    Field(PARAM_CUTMIX, "param", "real", "", "α of cutmix; 0: none"),
    Field(PARAM_EQUAL_COMPUTE, "param", "boolean", "", "smaller networks train for more epochs"),
    Field(PARAM_COMPUTE_LIMIT, "param", "real", "", "most that equal compute multiplies epochs by"),
    Field(PARAM_DISTILL, "param", "boolean", "", "the outputs of the base are imitated"),
    Field(PARAM_DISTILL_FROM, "param", "text", "", "architecture whose outputs are imitated"),
    Field(PARAM_DISTILL_TEMPERATURE, "param", "real", "", "T that softens outputs to imitate"),
    Field(PARAM_DISTILL_WEIGHT, "param", "real", _FRACTION, "of imitation in the loss"),
    Field(PARAM_TRIALS, "param", "integer", "trials", "trials that the search may start"),
    Field(PARAM_SCORING_BATCHES, "param", "integer", "minibatches", "seen by criteria and oracle"),
    Field(PARAM_ALPHA, "param", "real", "", "copycat factor by which a profile was rescaled"),
    Field(METRIC_VALIDATION_SCORE, "metric", "real", _OF_SCORE, "final, on the validation split"),
    Field(METRIC_TEST_SCORE, "metric", "real", _OF_SCORE, "measured once, on the test set"),
    Field(
        METRIC_SCORE_AGAINST_BASE,
        "metric",
        "real",
        _OF_SCORE,
        "how much better than the base network on the test set; negative if worse",
    ),
    Field(
        METRIC_VIEW_ORDER,
        "metric",
        "real",
        "the score's, negative where less is better",
        "what saved views are sorted by: the validation score; infinite for the base network",
    ),
    Field(METRIC_FLOPS, "metric", "integer", _FLOPS, "cost of the network, counted by fvcore"),
    Field(METRIC_FLOPS_SHARE, "metric", "real", _FRACTION, "flops divided by base_flops"),
    Field(METRIC_NUM_PARAMS, "metric", "integer", "parameters", "trainable parameters"),
    Field(METRIC_CHANNELS, "metric", "integer", "channels", "filters left of the pruned layers"),
    Field(METRIC_UNCOUNTED, "metric", "integer", _FLOPS, "that fvcore leaves out: attention …"),
    Field(METRIC_BASE_UNCOUNTED, "metric", "integer", _FLOPS, "the same of the unpruned network"),
    Field(METRIC_BASE_FLOPS, "metric", "integer", _FLOPS, "cost of the unpruned network"),
    Field(METRIC_BASE_NUM_PARAMS, "metric", "integer", "parameters", "of the unpruned network"),
    Field(METRIC_BASE_CHANNELS, "metric", "integer", "channels", "of the unpruned network"),
    Field(METRIC_TRAIN_LOSS, "metric", "real", "", "mean training loss of the epoch"),
    Field(
        METRIC_EPOCH_VALIDATION_SCORE,
        "metric",
        "real",
        _OF_SCORE,
        "on the validation split at the end of the epoch",
    ),
    Field(METRIC_LEARNING_RATE_NOW, "metric", "real", "", "learning rate at the end of the epoch"),
    Field(METRIC_SPARSITY, "metric", "real", _FRACTION, "share of channels with σ(γ) < 0.1"),
    Field(
        METRIC_SCORE_BEFORE_PRUNING,
        "metric",
        "real",
        _OF_SCORE,
        "in validation, of the sparse network, before channels are removed",
    ),
    Field(
        METRIC_SCORE_AFTER_PRUNING,
        "metric",
        "real",
        _OF_SCORE,
        "in validation, right after channels are removed",
    ),
    Field(
        METRIC_SCORE_AFTER_FINE_TUNING,
        "metric",
        "real",
        _OF_SCORE,
        "in validation, once the smaller network is fine-tuned",
    ),
    Field(METRIC_HYPERVOLUME, "metric", "real", _FRACTION, "that all networks dominate; of shares"),
    Field(METRIC_COMPUTE, "metric", "real", "image × FLOPs", "spent on training the network"),
    Field(METRIC_FRONT_SIZE, "metric", "integer", "architectures", "architectures on the front"),
    Field(METRIC_PEARSON_PER_LAYER, "metric", "real", _COEFFICIENT, "linear, mean over layers"),
    Field(METRIC_SPEARMAN_PER_LAYER, "metric", "real", _COEFFICIENT, "of ranks, mean over layers"),
    Field(METRIC_KENDALL_PER_LAYER, "metric", "real", _COEFFICIENT, "of orders, mean over layers"),
    Field(METRIC_PEARSON_ALL, "metric", "real", _COEFFICIENT, "linear, over all units"),
    Field(METRIC_SPEARMAN_ALL, "metric", "real", _COEFFICIENT, "of ranks, over all units"),
    Field(METRIC_KENDALL_ALL, "metric", "real", _COEFFICIENT, "of orders, over all units"),
    Field(
        METRIC_LAYERS_LEFT_OUT,
        "metric",
        "integer",
        "layers",
        "too small or of constant scores, and so not in the mean over layers",
    ),
)

MLFLOW_FIELDS: tuple[Field, ...] = (
    Field(MLFLOW_PARENT, "tag", "text", "", "run id of the parent, under which MLflow nests a run"),
    Field(MLFLOW_DESCRIPTION, "tag", "text", "", "description that MLflow shows above a run"),
    Field(MLFLOW_RUN_NAME, "tag", "text", "", "name that MLflow shows for a run"),
    Field(MLFLOW_RUN_COLOUR, "tag", "text", "", "colour of a run in MLflow's charts, by origin"),
)

_PLACE = "{score}"
_NAMES = frozenset((field.kind, field.name) for field in FIELDS if _PLACE not in field.name)
_OF_SCORES = re.compile(
    "|".join(
        re.escape(field.name).replace(re.escape(_PLACE), "[a-z0-9_]+")
        for field in FIELDS
        if _PLACE in field.name
    )
)


def view_order(origin: str, merit: float) -> float:
    """METRIC_VIEW_ORDER of an architecture: the base network comes first, then the best.

    merit: its validation score, negative where less is better.
    """
    return math.inf if origin == "base" else merit


def of_score(name: str, score: str = "accuracy") -> str:
    """The name of a metric with a score in it: METRIC_TEST_SCORE of mean_iou is test_mean_iou.

    score: in lower-case letters, digits and underscores.
    """
    return name.replace(_PLACE, score)


def require(kind: FieldKind, names: Iterable[str]) -> None:
    """Assert that every name is a field of this kind.

    Writing any other name is a mistake in Espalier, not in what a user gave it.
    """
    for name in names:
        is_of_score = kind == "metric" and _OF_SCORES.fullmatch(name)
        assert is_of_score or (kind, name) in _NAMES, (
            f"{name!r} is not a {kind} of Espalier: add it to mlflow_server.schema.FIELDS first"
        )
