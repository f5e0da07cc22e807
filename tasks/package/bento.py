"""The Bento as a plain folder: code, sealed release and requirements.

It has the code that the service imports and the locked requirements of that code alone, with
hashes. `bentoml serve <folder>` runs it, `bentoml containerize` takes it after `bentoml import`.
The code is found by reading the service's imports, so the chain (Prefect, DVC, torch, MLflow) is
not in it, and the build, which imports the service from these files alone, shows that nothing is
missing.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.core.errors import ReleaseError
from tasks.edges.settings import build_child_environment
from tasks.release.manifest import read_manifest

SERVICE = "deployments.forecaster.service:ForecasterService"
NAME = "tidemill_forecaster"
OURS = ("tasks", "deployments")
ASSETS = "deployments/forecaster/assets"
REQUIREMENTS = "deployments/forecaster/requirements.lock"  # with hashes, by `make lock`
BUILD_S = 300.0  # 5 s on a free machine; one that hangs is ended


def build_bento(release: Path, checkout: Path, folder: Path) -> None:
    """Build the Bento of the sealed *release* with the code of *checkout* into the new *folder*.

    Raises ReleaseError with what the build said.
    """
    work = folder.with_name(f"{folder.name}.build")
    context, home = work / "context", work / "home"
    try:
        sources = list_service_sources(checkout)
        for source in sources:
            (context / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkout / source, context / source)
        shutil.copytree(
            release, context / "release", ignore=shutil.ignore_patterns(work.name, "bento", "baseline")
        )
        (context / "bentofile.yaml").write_text(_render_bentofile(sources, read_manifest(release).digest))
        _run_build(checkout, context, home)
        built = _find_bento(home)
        # Instead of what BentoML makes of them, without hashes
        shutil.copyfile(checkout / REQUIREMENTS, Path(built) / "env/python/requirements.txt")
        shutil.move(built, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def list_service_sources(checkout: Path) -> list[Path]:
    """Files of this project that the service imports, directly or through others, or answers.

    They are relative to *checkout*, sorted.
    """
    wanted = [
        path.relative_to(checkout) for path in sorted((checkout / "deployments/forecaster").glob("*.py"))
    ]
    found: set[Path] = set()
    while wanted:
        source = wanted.pop()
        if source not in found:
            found.add(source)
            wanted += _list_imports(checkout, source)
            wanted += [
                parent / "__init__.py"
                for parent in source.parents[:-1]
                if (checkout / parent / "__init__.py").exists()
            ]
    found.update(path.relative_to(checkout) for path in sorted((checkout / ASSETS).iterdir()))
    return sorted(found)


def compute_sizes(folder: Path) -> dict[str, int]:
    """Bytes by the first two parts of the path, and `total`."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = "/".join(path.relative_to(folder).parts[:-1][:2]) or "."
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return {**sizes, "total": sum(sizes.values())}


def _list_imports(checkout: Path, source: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse((checkout / source).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in OURS:
                path = Path(*name.split("."))
                yield from (
                    p for p in (path.with_suffix(".py"), path / "__init__.py") if (checkout / p).is_file()
                )


def _render_bentofile(sources: list[Path], digest: str) -> str:
    lines = [
        f"service: {SERVICE}",
        f"name: {NAME}",
        f"description: Forecasts of release {digest}.",
        "labels:",
        f"  digest: {digest}",
        "include:",
        *(f"  - /{source.as_posix()}" for source in sources),
        "  - /release/",
        "python:",
        "  lock_packages: false",
    ]
    return "\n".join(lines) + "\n"


def _run_build(checkout: Path, context: Path, home: Path) -> None:
    version_name = read_manifest(context / "release").digest[:12]
    # named, or BentoML refuses it below a hidden folder, such as the one this stage writes in
    bentofile = str(context / "bentofile.yaml")
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "build",
        "-f",
        bentofile,
        "--version",
        version_name,
        "--output",
        "tag",
        str(context),
    ]
    # By path: in its folder, `tasks` would be the copy, which does not contain it
    parent_watch = checkout / "tasks/edges/parent_watch.py"
    environment = build_child_environment(BENTOML_HOME=str(home), PYTHONDONTWRITEBYTECODE="1")
    try:
        built = subprocess.run(
            [sys.executable, str(parent_watch), *command],
            cwd=context,
            env=environment,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ReleaseError(
            f"`bentoml build` did not end within {BUILD_S:.0f} s. Run the stage again: `dvc repro -f"
            " package`."
        ) from error
    if built.returncode:
        output = "\n".join((built.stdout + built.stderr).strip().splitlines()[-15:])
        raise ReleaseError(
            f"The Bento cannot be built: `bentoml build` ended with {built.returncode} and said:\n{output}"
        )


def _find_bento(home: Path) -> str:
    found = [path.parent for path in (home / "bentos" / NAME).glob("*/bento.yaml")]
    if len(found) != 1:
        raise ReleaseError(
            f"`bentoml build` left {len(found)} Bentos, one was expected. Run the stage again: `dvc repro -f"
            " package`."
        )
    return str(found[0])
