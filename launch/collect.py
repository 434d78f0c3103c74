"""Lets experts play into a dataset on disk: `--config=configs/NAME.py --out=DIR`.

`launch/distill.py --config.collect.dataset=DIR --config.collect.steps_per_round=0` then learns from
it. Resumes if it was stopped.
"""

from _main import run
from _processes import join_processes
from absl import flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "experts and collection; see configs/")
_OUT = flags.DEFINE_string("out", None, "directory of the dataset; made if it is missing")
flags.mark_flags_as_required(["config", "out"])


_HEEDED = (
    *("experts", "together", "view", "rules", "seed", "learn.together"),
    *(f"collect.{x}" for x in ("num_envs", "initial_steps", "expert_epsilon", "dataset", "follow")),
)


def main() -> None:
    join_processes()  # before what takes seconds to import: half of its flags are refused at once
    from jaxdistill import settings, terminal
    from jaxdistill.run import data, distill_settings

    chosen = settings.build(distill_settings.Settings, _CONFIG.value.to_dict())
    _tell_idle()
    info = data.collect(chosen, _OUT.value)
    steps = info["length"] * info["num_envs"]
    terminal.say(f"{_OUT.value}: {steps} steps of each of {', '.join(info['games'])}")


def _tell_idle() -> None:
    """Says which settings, of those given by flag, are not of what is collected.

    They are not refused: a config and its flags are checked together, as a run's, and one that
    learns nothing here may be what makes them fit these experts.
    """
    from jaxdistill import terminal

    given = config_flags.get_override_values(flags.FLAGS["config"])
    idle = [x for x in given if x not in _HEEDED and not x.startswith(("experts[", "rules."))]
    if idle:
        terminal.say(
            f"note: {', '.join(idle)}: no effect on what is collected; for launch/distill.py"
        )


if __name__ == "__main__":
    run(main, resumes=True)
