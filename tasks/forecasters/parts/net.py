"""What all nets share: their inputs, their target, their loss, and the rule of going on from an
earlier fit.

A net sees the last steps of its series as a sequence, oldest first, and all other columns beside
it; it forecasts all steps at once. Its layers are written once, by the functions of `graph_ops`
(`net_layers`): they are trained in torch (`training`), and forecast in numpy and ONNX without it.
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

_LEAST_HELD = 20  # rows to stop by; on fewer the loss is luck


class NetParams(Strict):
    """What every net takes.

    base, sees_level: what the net corrects, and whether the last value itself is an input, as in
    ridge.
    loss: of the standardised error; `quantile` needs the *quantile* that is forecast.
    max_rows: origins in a fit, drawn evenly over the window when there are more. schedule: how the
    learning rate falls after it has risen over the first *warmup_frac* of all updates.
    patience_epochs: stop when that many epochs brought nothing on the newest *held_frac* of the
    window, which then only stops, and keep the best weights; None: all epochs, on all rows.
    accumulate_batches: batches in an update.
    gradient_checkpointing: compute each layer twice instead of keeping what it made. warm_epochs:
    of a fit that goes on from an earlier one.
    checkpoint_every_epochs: how often a fit is kept, so that a killed one goes on. accelerator:
    `auto` takes a GPU where there is one, and then numbers differ from those of the CPU; precision:
    `auto` is mixed on a GPU and `32-true` elsewhere, `16-mixed` needs one. devices, strategy:
    processes that share a batch.
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
    """sequence_steps: how many steps the net looks back on, the last one included; None: as many
    as the feature table has lags without a gap.
    """

    sequence_steps: Annotated[int, Field(ge=2)] | None = None


class Net(Formula):
    """z_hat = base + scale * (mean + sd * network(inputs)); the network learns the standardised
    target of each step.
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
    def forward(self, weights: Weights, inputs: NetInputs, aid: TrainingHooks) -> Value:
        """(n, H) of *inputs*, by the functions of `graph_ops` that know tensors."""

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """From weights drawn with the seed."""
        self._learn(x, z, None)

    def learn_on(self, x: np.ndarray, z: np.ndarray, start: Self) -> None:
        """From the weights of *start*, of this dataset or of another one with the same columns,
        over `warm_epochs`.

        Inputs and target are standardised anew, by the rows of this fit: what the weights know
        stands in standard deviations, so it can move to series of another level and size. Raises
        ForecasterError that names all that is not alike.
        """
        self._check_start(start)
        self._learn(x, z, start)

    def formula(self, x: Value) -> Value:
        """See the class."""
        preamble = self.normalizer
        base, seen = preamble.base(x, str(self.learned["base"])), preamble.transform(x)
        weights = {
            name.removeprefix("net."): array
            for name, array in self.learned.items()
            if name.startswith("net.")
        }
        if not weights:  # there was no target, or only one value of it
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
        preamble = self.normalizer
        preamble.learn(x)
        self._fit_sequence(x)
        wanted = (
            str(start.learned["base"])
            if start is not None and self.params.base == "auto"
            else self.params.base
        )
        base = preamble.decide_base(x, z, wanted)
        target = preamble.target(x, z, preamble.base(x, base))
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
            held_target = (preamble.target(held_x, held_z, preamble.base(held_x, base)) - mean) / sd
            held = (
                TrainingPairs(self._build_inputs(held_x), held_target)
                if np.isfinite(held_target).any()
                else None
            )
            weights = self._started(start) or self.build_initial_weights(
                pairs.inputs.statics.shape[1], WeightInitializer(self.seed)
            )
            epochs = self.params.epochs if start is None else self.params.warm_epochs
            self.learned.update(
                {f"net.{name}": array for name, array in fit_net(self, weights, pairs, held, epochs).items()}
            )

    def _split_rows(self, z: np.ndarray) -> tuple[slice, slice]:
        """Rows to learn from and rows to stop by, the newest; between them as many rows as have
        targets in both are left out.

        Rows come in order of time. Those whose last step is not known yet, at the end of the
        window, are the newest horizon_steps - 1 steps of all series: as many before the held rows
        reach into them.
        """
        n = len(z)
        if self.params.patience_epochs is None:
            return slice(n), slice(n, n)
        first_held = int(n * (1 - self.params.held_frac))
        complete = np.flatnonzero(np.isfinite(z[:, -1]))
        purge = n - 1 - int(complete[-1]) if len(complete) else n
        if n - first_held < _LEAST_HELD or first_held - purge < _LEAST_HELD:
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
        """Distances of the steps from the last value, in units of the scale and then of one
        standard deviation for all, so that the sequence keeps its shape.
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
        """Of the columns beside the sequence."""
        beside = None
        if self.reads_sequence:
            beside = tuple(name for name in self.schema.names if name not in self.steps)
        sees_level = has_level_input(self.params.sees_level, self.params.base, self.schema)
        return Normalizer(self.schema, self.learned, beside, sees_level=sees_level)

    def _started(self, start: Self | None) -> Weights:
        return (
            {}
            if start is None
            else {
                name.removeprefix("net."): array
                for name, array in start.learned.items()
                if name.startswith("net.")
            }
        )

    def _check_start(self, start: Self) -> None:
        other, said = start.schema, []
        if type(start) is not type(self):
            said.append(f"it is a {start.name}")
        else:
            said += [
                f"`{key}` is {getattr(start.params, key)} there and {getattr(self.params, key)} here"
                for key in sorted(set(type(self.params).model_fields) - set(NetParams.model_fields))
                if getattr(start.params, key) != getattr(self.params, key)
            ]
            there, here = start.normalizer.sees_level, self.normalizer.sees_level
            said += [f"`sees_level` is {there} there and {here} here"] if there != here else []
        mine, theirs = ([(c.name, c.role) for c in s.columns] for s in (self.schema, other))
        if mine != theirs:
            apart = sorted({name for name, _ in set(mine) ^ set(theirs)}) or "their order"
            said.append(f"its columns are others ({apart})")
        for key in ("horizon_steps", "scale", "last"):
            if getattr(other, key) != getattr(self.schema, key):
                said.append(
                    f"`{key}` is {getattr(other, key)!r} there and {getattr(self.schema, key)!r} here"
                )
        if said:
            raise ForecasterError(
                f"{self.name} cannot go on from that fit: {'; '.join(said)}. Weights go from net to net only"
                " between equal layers and equal columns: give both datasets the same `features.list`,"
                " horizon and parameters of layers, or train with `refit: full`."
            )


def join_net_inputs(inputs: NetInputs, state: Value) -> Value:
    """A net's state (n, K) and the static inputs in one row."""
    return join_columns([state, inputs.statics])


def get_lag_columns(schema: FeatureSchema, wanted: int | None, model: str) -> tuple[str, ...]:
    """The columns of the sequence, oldest first.

    Raises ForecasterError that says which lags to declare when there are fewer than *wanted*, or
    but one.
    """
    there = 1 + len(schema.lags("z"))
    if there < (wanted or 2):
        # A short list is written out
        lags = f"[1, ..., {wanted - 1}]" if wanted and wanted > 3 else f"{list(range(1, wanted or 12))}"
        raise ForecasterError(
            f"{model} needs a sequence of {wanted or 'at least 2'} steps, but the feature table has {there}"
            f" without a gap (z_last, z_lag_1, ...). Declare {{kind: lag, column: z, steps: {lags}}} in"
            " `features.list`" + (f", or set `sequence_steps` to at most {there}." if there > 1 else ".")
        )
    return (*(f"z_lag_{k}" for k in range((wanted or there) - 1, 0, -1)), schema.last)
