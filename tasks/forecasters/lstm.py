"""A long short-term memory along the sequence."""

from tasks.forecasters.arithmetic import lstm
from tasks.forecasters.recurrent import Recurrent


class Lstm(Recurrent):
    """See `Recurrent`; four gates and a cell."""

    n_gates, unit = 4, lstm
