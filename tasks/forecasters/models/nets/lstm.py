"""A long short-term memory along the sequence."""

from tasks.forecasters.graph.graph_ops import lstm
from tasks.forecasters.parts.recurrent import Recurrent


class Lstm(Recurrent):
    """See `Recurrent`; four gates and a cell."""

    n_gates, unit = 4, lstm
