"""What launch/slurm.sbatch does with its job, with stand-ins for Slurm's own commands."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "slurm.sbatch"
# Ends as it is told to: on SIGTERM with a code, after a line has said that it is there.
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[1])))
print("begun", *sys.argv[2:], flush=True)
if sys.argv[1] == "ended":
    print("devices", os.environ.get("JAX_LOCAL_DEVICE_IDS"))
if sys.argv[1] != "ended":
    signal.pause()
"""


@pytest.fixture
def submit(tmp_path):
    """`submit(nodes, how)`: the job, begun; other keywords are variables that Slurm sets."""
    srun = f'while [[ $1 == --* ]]; do echo "$1" >> {tmp_path}/asked; shift; done; exec "$@"'
    commands = {"srun": srun, "scontrol": f'echo "$@" > {tmp_path}/requeued'}
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "program.py").write_text(PROGRAM)

    def submitted(nodes, *arguments, **of_slurm):
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "SLURM_JOB_NUM_NODES": str(nodes),
            "SLURM_JOB_ID": "17",
            **of_slurm,
        }
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments], env=environment, stdout=subprocess.PIPE, text=True
        )

    return submitted


@pytest.mark.parametrize("code", [0, 2])
def test_a_preempted_run_is_queued_again_if_it_ended_in_good_order(submit, tmp_path, code):
    job = submit(1, str(tmp_path / "program.py"), str(code))
    with job:
        assert job.stdout.readline() == "begun\n"
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == code
    requeued = tmp_path / "requeued"
    assert requeued.is_file() == (code == 0)
    assert code or requeued.read_text() == "requeue 17\n"


def test_a_finished_run_is_not_and_several_nodes_share_one(submit, tmp_path):
    with submit(2, str(tmp_path / "program.py"), "ended", "--workdir=x") as job:
        assert job.stdout.read() == "begun --workdir=x --coordinator=auto\ndevices None\n"
        assert job.wait(30) == 0
    assert not (tmp_path / "requeued").exists()
    assert (tmp_path / "asked").read_text() == "--kill-on-bad-exit=1\n"


def test_a_process_has_all_devices_and_cores_of_its_node(submit, tmp_path):
    node = {"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_ON_NODE": "96"}
    with submit(2, str(tmp_path / "program.py"), "ended", **node) as job:
        assert job.stdout.read().endswith("\ndevices 0,1,2,3,4,5,6,7\n")
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["--kill-on-bad-exit=1", "--cpus-per-task=96"]


def test_nothing_to_run_is_said():
    ended = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("usage: sbatch ")
