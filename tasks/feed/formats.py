"""The formats that `feed.format` names, as decoders."""

from tasks.feed.decode import Contract, Decoder, JsonDecoder
from tasks.feed.params import FeedParams


def decoder_of(params: FeedParams, contract: Contract) -> Decoder:
    """The decoder of *params*' format."""
    return JsonDecoder(contract)
