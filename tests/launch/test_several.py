"""What several processes of one run have, and how they end."""

import os
import pathlib
import socket
import subprocess
import sys

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
PROGRAM = f"""
import sys
sys.path.insert(0, {str(LAUNCH)!r})
import _main, _processes

def main():
    _processes.join_processes()
    import jax
    from jaxdistill import meshes
    print("devices", jax.config.read("jax_cuda_visible_devices"), flush=True)
    meshes.meet("at first")
    if jax.process_index():
        raise ValueError("known to this one alone")
    meshes.meet("with one that does not come")

_main.run(main)
"""


def test_one_that_fails_ends_all_and_under_slurm_each_has_all_its_devices(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # As in a job of two nodes, whose processes are nevertheless told all that there is to know.
    slurm = {"JOB_ID": "17", "STEP_NODELIST": "a,b", "NTASKS": "2", "LOCALID": "0"}
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, str(program), f"--coordinator={address}"),
                *("--processes=2", f"--process={index}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {f"SLURM_{name}": value for name, value in slurm.items()}
            | {"SLURM_PROCID": str(index), "JAX_PLATFORMS": "cpu"},
        )
        for index in range(2)
    ]
    try:
        # One that waited for the other, as processes do that end in good order, would for minutes.
        written = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert written[0][0].startswith("devices all\n")
    assert processes[1].returncode == 2, written[1]
    assert "error: known to this one alone\n" in written[1][1]
    assert processes[0].returncode, "it did not meet the other"


ALONE = f"""
import sys
sys.path.insert(0, {str(LAUNCH)!r})
import _main, _processes
import jax

def initialize(**arguments):
    jax._src.distributed.global_state.client = object()  # as one has that waits for the others
    raise RuntimeError("DEADLINE_EXCEEDED:\\nnobody came")

jax.distributed.initialize = initialize
_main.run(_processes.join_processes)
"""


def test_processes_that_do_not_find_each_other_end_with_one_line(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(ALONE)
    arguments = ["--coordinator=first:1234", "--processes=2", "--process=1"]
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    *_, line = done.stderr.splitlines()
    assert done.returncode == 2
    assert line.startswith(
        "error: --coordinator=first:1234: the processes of this run did not find each other "
        "(DEADLINE_EXCEEDED: nobody came); start all of them within five minutes"
    )
    assert "Traceback" not in done.stderr
