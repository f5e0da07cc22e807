"""Releases that a request names by their version: loaded when first asked for, two of them kept.

Each takes as much memory as the release in use. They answer from the rows that it answers from.
"""

from collections import OrderedDict

from deployments.forecaster.loaded import BY_REQUEST, LoadedRelease, ReleaseChoice, list_value_columns
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.registered import find_kept_release
from deployments.forecaster.request import CHAMPION
from tasks.core.errors import TidemillError
from tasks.release import load_release

N_KEPT = 2


class VersionCache:
    """Used by one thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, LoadedRelease] = OrderedDict()  # by digest

    def find(self, current: LoadedRelease, model: str) -> LoadedRelease:
        """The release *model* with the rows of *current*; *current* itself for the champion.

        Raises ProblemError: 404 when there is none or no more, 503 when it cannot be loaded.
        """
        if model in {CHAMPION, current.choice.version}:
            return current
        record, folder = find_kept_release(current.manifest.dataset, model)
        if record.digest == current.manifest.digest:
            return current
        kept = self._kept.get(record.digest)
        if kept is None or kept.rows is not current.rows:
            kept = self._load(current, ReleaseChoice(folder, record.version, BY_REQUEST), kept)
            self._kept[record.digest] = kept
        self._kept.move_to_end(record.digest)
        while len(self._kept) > N_KEPT:
            self._kept.popitem(last=False)
        return kept

    def _load(
        self, current: LoadedRelease, choice: ReleaseChoice, kept: LoadedRelease | None
    ) -> LoadedRelease:
        try:
            release = load_release(choice.folder) if kept is None else kept.release
        except (TidemillError, OSError) as error:
            rule, way_out = "A release is verified before it answers.", "Report it to the operator."
            raise ProblemError(503, "model", str(error), rule, way_out) from error
        if missing := sorted(set(list_value_columns(release.rows)) - set(current.rows.columns)):
            fact = f"{choice.version} reads the columns {', '.join(missing)}, which the rows do not have"
            raise ProblemError(
                422, "model", fact, "A release answers from the newest rows.", "Ask for another."
            )
        assert release.manifest is not None, "load_release checks it"
        return LoadedRelease(
            release, release.manifest, choice, current.rows, current.rows_stamp, current.rows_version
        )
