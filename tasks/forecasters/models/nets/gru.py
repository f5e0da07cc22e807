"""A gated recurrent unit along the sequence.

As good as the LSTM on short series, with a quarter fewer weights.
"""

from tasks.forecasters.graph.graph_ops import gru
from tasks.forecasters.parts.recurrent import Recurrent


class Gru(Recurrent):
    """See `Recurrent`; three gates."""

    n_gates, unit = 3, gru
