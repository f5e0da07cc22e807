"""REST, from which numbers are fetched that the socket did not bring."""

from collections.abc import Mapping

from tasks.core.errors import FeedError
from tasks.edges.feeds.websocket.messages import NumberedRecord, parse_numbered
from tasks.edges.feeds.websocket.sequencer import Gap

REFUSED = {401, 403, 407}
_LATER = {408, 425, 429}
_ANSWER_S = 5.0


class RestBackfill:
    """The records of a range of numbers at *url*, with {first} and {last} in it.

    records_field: the field of an answer that holds the records; None: the answer does.
    """

    def __init__(
        self, url: str, records_field: str | None, sequence_field: str, headers: Mapping[str, str], log: str
    ) -> None:
        import httpx

        self._client = httpx.Client(timeout=_ANSWER_S, headers=dict(headers), follow_redirects=True)
        self._url, self._records_field, self._sequence_field = url, records_field, sequence_field
        self._log = log

    def fetch(self, gap: Gap) -> list[NumberedRecord] | None:
        """Records of an answer about *gap*; None when there is no answer at the moment.

        Raises FeedError when access is refused.
        """
        import httpx

        url = self._url.replace("{first}", str(gap.first)).replace("{last}", str(gap.last))
        try:
            answer = self._client.get(url)
            if answer.status_code in REFUSED:
                raise FeedError(
                    f"{self._log}: `feed.source.backfill_url` refuses us: {answer.status_code}. Check it and"
                    " `feed.source.headers`, and the secrets in them."
                )
            if answer.is_server_error or answer.status_code in _LATER:
                return None
            if not answer.is_success:
                return []
            return parse_numbered(answer.content, self._records_field, self._sequence_field)
        except (httpx.HTTPError, ValueError):
            return None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
