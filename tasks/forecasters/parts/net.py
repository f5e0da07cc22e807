"""The base class of all nets: inputs, target, loss, and how a fit continues an earlier one.

A net's inputs are the last steps of its series as a sequence, oldest first, and all other columns;
it has an output for each step. Its layers are defined once, by the functions of `graph_ops`: they
are trained in torch (`training`), and forecast in numpy and ONNX without it.
"""

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from tasks.core.errors import ForecasterError
from tasks.core.schema import FeatureSchema
from tasks.core.strict import Strict
from tasks.forecasters.graph.graph_definition import Formula
from tasks.forecasters.graph.graph_ops import Value, clip, fill_nan, join_columns, take
from tasks.forecasters.parts.net_layers import NetInputs, TrainingHooks, WeightInitializer, Weights, Width
from tasks.forecasters.parts.normalizer import CLIP_SD, Base, NormalizedInputs, Normalizer, has_level_input

_MIN_HELD_ROWS = 20  # rows for early stopping; the loss of fewer is chance


class NetParams(Strict):
    """The parameters of every net.

    base, sees_level: the forecast that is corrected, and whether the last value itself is an input,
        as in ridge.
    loss: of the standardised error; `quantile` needs *quantile*.
    warm_epochs: epochs of a fit that continues an earlier one.
    schedule: how the learning rate falls after the first *warmup_frac* of all updates, in which it
        rises.
    accumulate_batches: batches in an update.
    max_rows: origins in a fit, drawn evenly over the window when there are more.
    patience_epochs: stop after so many epochs without a lower loss on the newest *held_frac* of the
        window, which is then not trained on, and keep the best weights; None: all epochs, all rows.
    gradient_checkpointing: compute each layer twice instead of keeping its values.
    checkpoint_every_epochs: how often a fit is saved, so that an interrupted one can continue.
    accelerator: `auto` is a GPU where there is one; its numbers differ from those of the CPU.
    precision: `auto` is mixed on a GPU and `32-true` elsewhere; `16-mixed` needs a GPU.
    devices, strategy: processes that share a batch.
    """

    base: Base = "auto"
    sees_level: bool | None = None
    loss: Literal["squared", "absolute", "quantile"] = "squared"
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    epochs: Width = 12
    warm_epochs: Width = 4
    learning_rate: Annotated[float, Field(gt=0)] = 0.006
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_frac: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    dropout_frac: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch_rows: Width = 1024
    accumulate_batches: Width = 1
    max_rows: Annotated[int, Field(ge=100)] = 20_000
    patience_epochs: Width | None = None
    held_frac: Annotated[float, Field(gt=0, lt=1)] = 0.2
    gradient_checkpointing: bool = False
    checkpoint_every_epochs: Width | None = None
    accelerator: Literal["cpu", "auto"] = "cpu"
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"] = "auto"
    devices: Width = 1
    strategy: Literal["auto", "ddp"] = "auto"

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if (self.loss == "quantile") != (self.quantile is not None):
            raise ValueError("`loss: quantile` and `quantile` (between 0 and 1) go together")
        if self.devices > 1 and self.strategy != "ddp":
            raise ValueError("more than one of `devices` needs `strategy: ddp`")
        return self


class SequenceParams(NetParams):
    """sequence_steps: length of the sequence with the last step; None: all lags without a gap."""

    sequence_steps: Annotated[int, Field(ge=2)] | None = None


class Net(Formula):
    """z_hat = base + scale * (mean + sd * network(inputs)).

    The network learns the standardised target of each step.
    """

    Params = NetParams
    reads_sequence: ClassVar[bool] = True

    def __init__(self, schema: FeatureSchema, seed: int, **params: Any) -> None:
        super().__init__(schema, seed, **params)
        self.steps = (
            get_lag_columns(schema, self.params.sequence_steps, self.name) if self.reads_sequence else ()
        )

    @abstractmethod
    def build_initial_weights(self, n_statics: int, draw: WeightInitializer) -> Weights:
        """Weights before training, by name."""

    @abstractmethod
    def forward(self, weights: Weights, inputs: NetInputs, hooks: TrainingHooks) -> Value:
        """(n, H) of *inputs*, by the functions of `graph_ops` for tensors."""

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Train from random weights of the seed."""
        self._learn(x, z, None)

    def learn_on(self, x: np.ndarray, z: np.ndarray, start: Self) -> None:
        """Train from the weights of *start* over `warm_epochs`.

        start: a fit of this dataset, or of another one with the same columns. Inputs and target are
            standardised by the rows of this fit: weights are in units of standard deviations, so
            they transfer to series of another level and size.
        Raises ForecasterError with all differences between the two nets.
        """
        self._check_start(start)
        self._learn(x, z, start)

    def formula(self, x: Value) -> Value:
        """See the class."""
        normalizer = self.normalizer
        base, seen = normalizer.base(x, str(self.learned["base"])), normalizer.transform(x)
        weights = get_net_weights(self)
        if not weights:  # the fit had no target, or a constant one
            return (
                base + seen.scale * self.learned["mean"] if self.schema.scale else base + self.learned["mean"]
            )
        out = self.forward(weights, NetInputs(self._build_sequence(x, seen), seen.inputs), TrainingHooks())
        return base + (out * self.learned["sd"] + self.learned["mean"]) * seen.scale

    def _learn(self, x: np.ndarray, z: np.ndarray, start: Self | None) -> None:
        older, newer = self._split_rows(z)
        (held_x, held_z), (x, z) = (
            self._select_rows(x[newer], z[newer]),
            self._select_rows(x[older], z[older]),
        )
        normalizer = self.normalizer
        normalizer.learn(x)
        self._fit_sequence(x)
        wanted = (
            str(start.learned["base"])
            if start is not None and self.params.base == "auto"
            else self.params.base
        )
        base = normalizer.decide_base(x, z, wanted)
        target = normalizer.target(x, z, normalizer.base(x, base))
        known = target[np.isfinite(target)]
        mean, sd = (
            (np.float32(known.mean()), np.float32(known.std()))
            if len(known)
            else (np.float32(0), np.float32(0))
        )
        self.learned.update(base=np.array(base), mean=np.array(mean), sd=np.array(sd))
        if sd > 0:
            # Torch and Lightning take 11 s; only a fit needs them
            from tasks.forecasters.training.learner import TrainingPairs
            from tasks.forecasters.training.lightning import fit_net

            pairs = TrainingPairs(self._build_inputs(x), (target - mean) / sd)
            held_target = (normalizer.target(held_x, held_z, normalizer.base(held_x, base)) - mean) / sd
            held = (
                TrainingPairs(self._build_inputs(held_x), held_target)
                if np.isfinite(held_target).any()
                else None
            )
            weights = get_net_weights(start) or self.build_initial_weights(
                pairs.inputs.statics.shape[1], WeightInitializer(self.seed)
            )
            epochs = self.params.epochs if start is None else self.params.warm_epochs
            self.learned.update(
                {f"net.{name}": array for name, array in fit_net(self, weights, pairs, held, epochs).items()}
            )

    def _split_rows(self, z: np.ndarray) -> tuple[slice, slice]:
        """Rows to train on, and the newest rows, which stop the training.

        Rows between them with targets in both are left out. Rows are in order of time, and those at
        the end of the window whose last step is unknown are the newest horizon_steps - 1 steps of
        all series: so many rows before the held-out ones have targets in them.
        """
        n = len(z)
        if self.params.patience_epochs is None:
            return slice(n), slice(n, n)
        first_held = int(n * (1 - self.params.held_frac))
        complete = np.flatnonzero(np.isfinite(z[:, -1]))
        purge = n - 1 - int(complete[-1]) if len(complete) else n
        if n - first_held < _MIN_HELD_ROWS or first_held - purge < _MIN_HELD_ROWS:
            return slice(n), slice(n, n)
        return slice(first_held - purge), slice(first_held, n)

    def _select_rows(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(x) <= self.params.max_rows:
            return x, z
        rows = np.sort(np.random.default_rng(self.seed).choice(len(x), self.params.max_rows, replace=False))
        return x[rows], z[rows]

    def _build_inputs(self, x: np.ndarray) -> NetInputs:
        seen = self.normalizer.transform(x)
        return NetInputs(
            self._build_sequence(x, seen) if self.reads_sequence else np.empty((len(x), 0), dtype=np.float32),
            seen.inputs,
        )

    def _build_sequence(self, x: Value, seen: NormalizedInputs) -> Value:
        """Distances of the steps from the last value, in units of the scale.

        Divided by one standard deviation for all steps, so that the sequence keeps its shape.
        """
        return (
            clip(self._compute_distances(x, seen) / self.learned["sequence.sd"], CLIP_SD)
            if self.reads_sequence
            else x
        )

    def _fit_sequence(self, x: np.ndarray) -> None:
        if self.reads_sequence:
            distances = np.clip(self._compute_distances(x, self.normalizer.transform(x)), -1e30, 1e30)
            sd = np.sqrt(np.mean(np.square(distances, dtype=np.float64)))
            self.learned["sequence.sd"] = np.array(sd if sd > 0 else 1.0, dtype=np.float32)

    def _compute_distances(self, x: Value, seen: NormalizedInputs) -> Value:
        steps = take(x, [self.schema.index(name) for name in self.steps])
        return fill_nan((steps - seen.last) / seen.scale, np.zeros(1, dtype=np.float32))

    @property
    def normalizer(self) -> Normalizer:
        """The normalizer of the columns outside the sequence."""
        other_columns = None
        if self.reads_sequence:
            other_columns = tuple(name for name in self.schema.names if name not in self.steps)
        sees_level = has_level_input(self.params.sees_level, self.params.base, self.schema)
        return Normalizer(self.schema, self.learned, other_columns, sees_level=sees_level)

    def _check_start(self, start: Self) -> None:
        other, differences = start.schema, []
        if type(start) is not type(self):
            differences.append(f"it is a {start.name}")
        else:
            differences += [
                f"`{key}` is {getattr(start.params, key)} there and {getattr(self.params, key)} here"
                for key in sorted(set(type(self.params).model_fields) - set(NetParams.model_fields))
                if getattr(start.params, key) != getattr(self.params, key)
            ]
            there, here = start.normalizer.sees_level, self.normalizer.sees_level
            differences += [f"`sees_level` is {there} there and {here} here"] if there != here else []
        here_columns, there_columns = ([(c.name, c.role) for c in s.columns] for s in (self.schema, other))
        if here_columns != there_columns:
            names = sorted({name for name, _ in set(here_columns) ^ set(there_columns)}) or "their order"
            differences.append(f"its columns differ ({names})")
        for key in ("horizon_steps", "scale", "last"):
            if getattr(other, key) != getattr(self.schema, key):
                differences.append(
                    f"`{key}` is {getattr(other, key)!r} there and {getattr(self.schema, key)!r} here"
                )
        if differences:
            raise ForecasterError(
                f"{self.name} cannot continue that fit: {'; '.join(differences)}. Weights transfer only"
                " between nets with equal layers and columns: give both datasets the same `features.list`,"
                " horizon and parameters of layers, or train with `refit: full`."
            )


def get_net_weights(net: Net | None) -> Weights:
    """The learned weights of *net*, by name; none without a net."""
    prefix = "net."
    learned = {} if net is None else net.learned
    return {k.removeprefix(prefix): array for k, array in learned.items() if k.startswith(prefix)}


def join_net_inputs(inputs: NetInputs, state: Value) -> Value:
    """A net's state (n, K) and the static inputs, joined along columns."""
    return join_columns([state, inputs.statics])


def get_lag_columns(schema: FeatureSchema, wanted: int | None, model: str) -> tuple[str, ...]:
    """The columns of the sequence, oldest first.

    Raises ForecasterError with the lags to declare when there are fewer than *wanted*, or only one.
    """
    n_steps = 1 + len(schema.lags("z"))
    if n_steps < (wanted or 2):
        # A short list is written out
        lags = f"[1, ..., {wanted - 1}]" if wanted and wanted > 3 else f"{list(range(1, wanted or 12))}"
        raise ForecasterError(
            f"{model} needs a sequence of {wanted or 'at least 2'} steps, but the feature table has {n_steps}"
            f" without a gap (z_last, z_lag_1, ...). Declare {{kind: lag, column: z, steps: {lags}}} in"
            " `features.list`" + (f", or set `sequence_steps` to at most {n_steps}." if n_steps > 1 else ".")
        )
    return (*(f"z_lag_{k}" for k in range((wanted or n_steps) - 1, 0, -1)), schema.last)
