"""The libraries that benches compare with, in an environment of their own below .venv, made from their lock when first asked for."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).resolve().parents[1] / "benchmarks/peers"


def peers_python() -> Path:
    """The interpreter of that environment. Made anew when the lock changes; needs the network then."""
    lock = PEERS / "requirements.lock"
    home = Path(sys.prefix) / f"peers-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python, uv = home / "bin/python", Path(sys.executable).parent / "uv"
    if not (home / "complete").exists():
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock], check=True)
        (home / "complete").touch()
    return python


def run_bench(script: str, *arguments: str, peers: bool, threads: int = 2) -> str:
    """What a script of tests/benchmarks/peers prints, run by the peers' interpreter or by ours, on *threads* threads."""
    limits = {name: str(threads) for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    command = [str(peers_python() if peers else sys.executable), str(PEERS / script), *arguments]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
