"""Pushes a student to the Hugging Face hub: `--workdir=DIR --repo=USER/NAME`

DIR is the workdir of a run, or what `launch/export.py --format=student` wrote. The repository gets
the student, a model card with its scores, and a run's report and clips, in one commit;
`hf://USER/NAME` then stands wherever an expert's file can. `--dry_run=DIR` writes the files there
and pushes nothing. It needs `pip install 'jaxdistill[hub]'`, and a token: `hf auth login`.
"""

from _main import only_with, run
from absl import flags

_WORKDIR = flags.DEFINE_string("workdir", None, "a run, or the directory of an exported student")
_REPO = flags.DEFINE_string("repo", None, "USER/NAME of the repository; made if it is missing")
_REVISION = flags.DEFINE_string("revision", None, "branch to push to; by default the main one")
_PRIVATE = flags.DEFINE_bool("private", False, "a repository that is made is for its owner alone")
_LICENSE = flags.DEFINE_string("license", None, "the hub's name of the student's licence, as mit")
_DRY_RUN = flags.DEFINE_string("dry_run", None, "new directory for the files; nothing is pushed")
flags.mark_flags_as_required(["workdir", "repo"])


def main() -> None:
    from jaxdistill import terminal
    from jaxdistill.run import push

    if _DRY_RUN.value:
        only_with("a push without --dry_run", "private")
    address = push.push(
        _WORKDIR.value,
        _REPO.value,
        revision=_REVISION.value,
        private=_PRIVATE.value,
        license=_LICENSE.value,
        dry_run=_DRY_RUN.value,
    )
    if _DRY_RUN.value:
        terminal.say(f"nothing was pushed; what {address} would hold is in {_DRY_RUN.value}")
    else:
        terminal.say(f"pushed; read it as {address}")


if __name__ == "__main__":
    run(main)
