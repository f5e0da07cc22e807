"""Which forecasters are nets: trained in torch, and their graphs are matrices of weights."""

from tasks.forecasters import FORECASTERS, get_forecaster_class
from tasks.forecasters.parts.net import Net

NETS = [name for name in FORECASTERS if issubclass(get_forecaster_class(name), Net)]
