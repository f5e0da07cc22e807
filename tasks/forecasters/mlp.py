"""A small net of rectified layers, pooled over all series, all steps at once. Trained with Lightning; it predicts without torch."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tasks.core.about import Strict
from tasks.forecasters.arithmetic import Value, at_least
from tasks.forecasters.formula import Formula
from tasks.forecasters.preamble import Base, Preamble

Width = Annotated[int, Field(ge=1)]


class MlpParams(Strict):
    """base: what the net corrects, as in ridge. max_rows: origins in a fit, drawn evenly over the window when there are more.

    accelerator: `auto` takes a GPU where there is one, and then numbers differ from those of the CPU.
    """

    base: Base = "auto"
    hidden_sizes: tuple[Width, ...] = (64, 64)
    epochs: Annotated[int, Field(ge=1)] = 12
    learning_rate: Annotated[float, Field(gt=0)] = 0.006
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    batch_rows: Width = 1024
    max_rows: Annotated[int, Field(ge=100)] = 20_000
    accelerator: Literal["cpu", "auto"] = "cpu"


class Mlp(Formula):
    """z_hat = base + scale * net(inputs); the net learns the standardised target of each step."""

    Params = MlpParams

    def learn(self, x: np.ndarray, z: np.ndarray) -> None:
        """Adam on the squared error of the known pairs."""
        x, z = self._drawn(x, z)
        preamble = self._preamble()
        preamble.learn(x)
        base = preamble.choose_base(x, z, self.params.base)
        target = preamble.target(x, z, preamble.base(x, base))
        known = target[np.isfinite(target)]
        mean, sd = (float(known.mean()), float(known.std())) if len(known) else (0.0, 0.0)
        self.learned.update(base=np.array(base), mean=np.array(mean, dtype=np.float32), sd=np.array(sd, dtype=np.float32))
        if sd > 0:
            from tasks.forecasters.net import train_net  # noqa: PLC0415  (torch and Lightning take 11 s; only a fit needs them)

            self.learned.update(train_net(preamble.see(x).inputs, (target - np.float32(mean)) / np.float32(sd), self.params, self.seed))

    def formula(self, x: Value) -> Value:
        """See the class."""
        preamble = self._preamble()
        base = preamble.base(x, str(self.learned["base"]))
        seen = preamble.see(x)
        if "weights_0" not in self.learned:
            return base + seen.scale * self.learned["mean"] if self.schema.scale else base + self.learned["mean"]
        return base + (self._net(seen.inputs) * self.learned["sd"] + self.learned["mean"]) * seen.scale

    def _net(self, inputs: Value) -> Value:
        last = len(self.params.hidden_sizes)
        for layer in range(last + 1):
            inputs = inputs @ self.learned[f"weights_{layer}"] + self.learned[f"intercept_{layer}"]
            inputs = at_least(inputs, np.zeros(1, dtype=np.float32)) if layer < last else inputs
        return inputs

    def _preamble(self) -> Preamble:
        return Preamble(self.schema, self.learned)

    def _drawn(self, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(x) <= self.params.max_rows:
            return x, z
        rows = np.sort(np.random.default_rng(self.seed).choice(len(x), self.params.max_rows, replace=False))
        return x[rows], z[rows]
