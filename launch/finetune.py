"""Trains a distilled student further, by what it scores: `--workdir=RUN --config=...`

It goes on from the student that the run has chosen, with all its heads, by proximal policy
optimisation: in the games that the config names or, where it names none, in all games of the run at
once. `--config.expert_weight` above 0 keeps it near the run's experts, by a weight that falls to 0
over `--config.expert_fraction` of the training. Of several games the network is kept whose worst
game has gained most. Games are played by the rules that the student was distilled under, unless the
config says others, and with the actions that it was taught. See `configs/skills.py:finetune` and
`configs/finetune.py`. `--workdir` may be a student that was exported, too: it goes on without its
experts, into `--out`. Called again with the same settings it resumes.
"""

import pathlib

from _cache import cache_dir
from _main import BEGAN, command, run, tell_report
from _wandb import show
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "see configs/finetune.py")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "a distillation, whose student goes on; or a student that was exported"
)
_OUT = flags.DEFINE_string(
    "out", None, "directory of the training; by default `finetuned` in the --workdir of a run"
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "directory for a jax.profiler trace of 3 iterations"
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    from jaxdistill import settings, terminal
    from jaxdistill.experts import student
    from jaxdistill.learn import train_settings
    from jaxdistill.report import tables
    from jaxdistill.run import students, training

    if "student" in config_flags.get_override_values(flags.FLAGS["config"]):
        raise ValueError("--config.student is what --workdir says; leave it out")
    fields = _CONFIG.value.to_dict()
    fields["student"] = _WORKDIR.value
    exported = student.read(_WORKDIR.value)
    if exported and not _OUT.value:
        raise ValueError(
            f"{_WORKDIR.value} is a student that was exported, and stays as it is; give --out=DIR"
        )
    if not fields.get("games"):
        fields["games"] = tuple((exported or students.read(_WORKDIR.value)).games)
    chosen = settings.build(train_settings.Settings, fields)
    show(chosen)
    out = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value) / "finetuned")
    result = training.train(
        chosen,
        out,
        cache_dir=cache_dir(),
        command=command(),
        profile=_PROFILE.value,
        began=BEGAN,
    )
    tables.print_training(result)
    tell_report(out)
    terminal.say(f"experts saved in {out}/experts")


if __name__ == "__main__":
    run(main, resumes=True)
