"""MLflow's local database and the folder of its files."""

from importlib.metadata import version
from pathlib import Path

from tasks.edges.artifacts import write_text
from tasks.edges.files import replace_file
from tasks.edges.settings import apply_mlflow_environment
from tasks.edges.tracking import get_artifacts_folder, get_database_path


def update_database() -> None:
    """Create or migrate the local database.

    A new one appears by rename when it is whole, since MLflow's migrations are no transaction.
    """
    if _is_current():
        return  # another process was faster
    make_artifacts_folder()
    # 9 s; one process pays it
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine_with_retry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if get_database_path().exists():
        _upgrade_db(create_sqlalchemy_engine_with_retry(f"sqlite:///{get_database_path()}"))
    else:

        def make(path: Path) -> None:
            path.unlink(missing_ok=True)
            SqlAlchemyStore(f"sqlite:///{path}", str(get_artifacts_folder())).engine.dispose()

        replace_file(get_database_path(), make)
    write_text(_get_version_path(), version("mlflow") + "\n")


def _is_current() -> bool:
    return (
        get_database_path().exists()
        and _get_version_path().exists()
        and _get_version_path().read_text().strip() == version("mlflow")
    )


def _get_version_path() -> Path:
    """The file with the version of MLflow that made or migrated the database last."""
    return get_database_path().with_name("version")


def make_artifacts_folder() -> None:
    """Make the folder of the files of runs, and set what MLflow's client reads."""
    apply_mlflow_environment(get_artifacts_folder())
    get_artifacts_folder().mkdir(parents=True, exist_ok=True)
