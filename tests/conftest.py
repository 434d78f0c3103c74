"""What the tests share: four fake devices, recorded play, and scripted stand-ins for EnvPool."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib.util
import os
import pathlib
import sys
import tempfile
import time
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
import pytest
import quick_emulators
import quick_xla
from absl import flags
from jax import monitoring

from jaxdistill import networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.report import page
from jaxdistill.run import closing, training
from jaxdistill.tasks import atari
from jaxdistill.tasks.task import Played, Pool, Step, Suite, Task
from jaxdistill.tasks.views import View

# A resumed run compiles what the run before it compiled; within one session, once is enough, in
# this process and in those that it starts: a small program too takes five times as long to compile
# as to read. Where a directory is given, all sessions share it.
_compiled = tempfile.TemporaryDirectory(prefix="jaxdistill-tests-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _compiled.name)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# JAX, imported above, has read its environment already.
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# `XLA_FLAGS= make test` is the suite with the code that users have.
os.environ.setdefault("XLA_FLAGS", quick_xla.flags())

# Nor do programs find or leave games in anybody's home.
os.environ["XDG_CACHE_HOME"] = _compiled.name

LAUNCH = pathlib.Path(__file__).parents[1] / "launch"

jax.config.update("jax_num_cpu_devices", 4)  # before anything asks for a device

quick_emulators.install()

closing.COMPARED_STATES = 32  # of each game; thousands, one after the other, take a run's end

# Tracing makes many small objects that stay; Python need not look through all of them so often.
gc.set_threshold(50_000, 10, 10)


def pytest_configure() -> None:
    """Where others' programs are promised, their absence is an error: no test of them skips."""
    if not os.environ.get("JAXDISTILL_REQUIRE_PARITY"):
        return
    wanted = ("torch", "stable_baselines3", "cv2", "av")
    if missing := [name for name in wanted if importlib.util.find_spec(name) is None]:
        raise pytest.UsageError(
            f"JAXDISTILL_REQUIRE_PARITY is set and there is no {', '.join(missing)}: "
            f"pip install '.[parity]'"
        )


# Files that take minutes, the longest first: begun last, one worker would wait for the other.
LONGEST = tuple(
    f"test_{name}.py"
    for name in (
        *("distill", "processes", "effects", "skills", "run", "programs", "trainings", "students"),
        *("kill", "ppo_training", "flags", "collection", "other_views"),
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; workers are given files in this order."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="module", autouse=True)
def _of_bounded_memory():
    """What was compiled for one file serves no other; kept, it is 7 GB of a worker in the end."""
    yield
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > 2 * 2**30:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else what is free stays this process's


@pytest.fixture
def without_page(request, monkeypatch):
    """What a test makes has no page and no clips, a third of the time of a tiny run or training."""
    if not request.node.get_closest_marker("page"):
        monkeypatch.setattr(closing, "write_page", lambda *_: None)
        monkeypatch.setattr(training, "_record", lambda *_: {})
        monkeypatch.setattr(page, "write_training", lambda *_, **__: None)


class _Clock:
    """A clock that stands still until told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    @contextlib.contextmanager
    def compiles(self, seconds, event="/jax/core/compile/backend_compile_duration"):
        """What JAX says while it compiles for so long."""
        monitoring.record_scalar(event, 0.0, fun_name="f")
        self.now += seconds / 2
        yield
        self.now += seconds / 2
        monitoring.record_event_duration_secs(event, seconds, fun_name="f")


@pytest.fixture
def clock(monkeypatch):
    """The clock that `time` and so the package go by."""
    clock = _Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def program(monkeypatch, capsys):
    """`program(name, *flags)` runs one in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # or it would start itself anew
    monkeypatch.syspath_prepend(str(LAUNCH))
    # Programs in benchmarks/ that other tests import have flags of the same names.
    others = [
        (module, flag)
        for module, own in flags.FLAGS.flags_by_module_dict().items()
        for flag in own
        if module.startswith("benchmarks")
    ]
    for _, flag in others:
        delattr(flags.FLAGS, flag.name)
    known = set(flags.FLAGS)

    def clear():
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for name in ("_main", "_processes", "_cache", "_wandb"):
            sys.modules.pop(name, None)

    def load(name):
        clear()
        spec = importlib.util.spec_from_file_location("program", LAUNCH / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "program", module)  # absl asks whose flags they are
        spec.loader.exec_module(module)
        return module

    def run(name, *arguments):
        module = load(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            module.run(module.main)
        return ended.value.code or 0, *capsys.readouterr()

    run.load = load
    run.own = lambda name: {
        flag.name for flag in load(name) and flags.FLAGS.flags_by_module_dict().get("program", ())
    }
    yield run
    clear()
    for module, flag in others:
        flags.FLAGS[flag.name] = flag
        flags.FLAGS.register_flag_by_module(module, flag)


@pytest.fixture
def contents():
    """`contents(directory)`: everything in it, with its size and when it was last changed."""

    def listed(directory: pathlib.Path) -> dict[str, tuple[int, ...]]:
        return {
            str(path.relative_to(directory)): (
                path.lstat().st_mode,
                path.lstat().st_size,
                path.lstat().st_mtime_ns,
                path.lstat().st_ctime_ns,
            )
            for path in (directory, *directory.rglob("*"))
        }

    return listed


@pytest.fixture
def unprivileged():
    """A user who may not write where its permissions say so, as root may."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Hugging Face hub on this machine, which `huggingface_hub` takes for the only one."""
    constants = pytest.importorskip("huggingface_hub.constants")
    import hub_server

    served = hub_server.Hub()
    with pytest.MonkeyPatch.context() as patch:
        # Environment variables were read when it was imported.
        patch.setattr(constants, "ENDPOINT", served.endpoint)
        template = f"{served.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
        patch.setenv("HF_TOKEN", hub_server.TOKEN)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield served
    served.close()


class Play(NamedTuple):
    """Recorded play of a real pool: `steps[t]` is what `actions[t]` answered, `steps[-1]` the last.

    `observations[t]` is a copy, made at once, of `steps[t].observations`.
    """

    pool: atari.AtariPool
    steps: list[Step]
    actions: np.ndarray
    observations: np.ndarray


@pytest.fixture(scope="session")
def breakout_play() -> Play:
    """600 random steps of three Breakout games at once; every slot ends at least two games."""
    game = tasks.get("breakout")
    pool = atari.AtariPool(game, 3, seed=11)
    actions = np.random.default_rng(0).choice(game.actions, (600, 3))
    steps, observations = [pool.last], [pool.last.observations.copy()]
    for row in actions:
        steps.append(pool.step(row))
        observations.append(steps[-1].observations.copy())
    return Play(pool, steps, actions, np.stack(observations))


# Actions of a suite of their own, more than any test plays, so that they can say who chose them.
SCRIPTED = Suite(
    "scripted", tuple(map(str, range(256))), View(2, 2, 1), "uint8", 10, 0, facts=("length",)
)


@dataclasses.dataclass(frozen=True)
class ScriptedTask(Task):
    """What a `ScriptedPool` plays: all actions are valid."""

    suite: ClassVar[Suite] = SCRIPTED

    def pool(self, num_envs, *, seed, view=None, max_steps=None, threads=None):
        raise NotImplementedError("scripted pools are made by hand")

    def camera(self, *, seed, max_steps=None):
        raise NotImplementedError("nothing is to be seen of a script")


class ScriptedPool(Pool):
    """A pool whose games have scripted lengths and scores; what is counted, `Pool` counts.

    Its one fact of a game is how long it was. `sent` are the actions, -1 for who does not step.

    Args:
      episodes: per slot, the `(length, score)` or `(length, score, cut)` of its games in turn; the
        last is repeated for ever. The whole score arrives with a game's last step.
    """

    def __init__(self, episodes: list[list[tuple]], game: str = "pong", tag: int = 0):
        count = len(episodes)
        task = ScriptedTask(game, tuple(range(SCRIPTED.num_actions)), max_steps=10**6)
        super().__init__(task, count, None, task.max_steps)
        self.tag, self._episodes = tag, episodes
        self._played, self._ages = [0] * count, np.zeros(count, np.int32)
        self.sent: list[np.ndarray] = []
        self._begin(self._observations(), np.zeros(count))

    def _observations(self) -> np.ndarray:
        observations = np.full((self.num_envs, 1, 2, 2), self.tag, np.uint8)
        observations[:, 0, 0, 0] = np.arange(self.num_envs)
        observations[:, 0, 0, 1] = self._ages  # what is seen says where a game stands
        return observations

    def _send(self, actions: np.ndarray, rows: np.ndarray | None) -> None:
        self._rows = np.arange(self.num_envs) if rows is None else rows
        self.sent.append(np.full(self.num_envs, -1))
        self.sent[-1][self._rows] = actions

    def _receive(self) -> Played:
        n, rows = self.num_envs, self._rows
        rewards, ended, cut = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        self._ages[rows] = np.where(self.last.over, 0, self._ages + 1)[rows]
        for slot in rows:
            plan = self._episodes[slot]
            length, score, *rest = plan[min(self._played[slot], len(plan) - 1)]
            if self._ages[slot] == length:
                rewards[slot], ended[slot], cut[slot] = score, True, bool(rest and rest[0])
                self._played[slot] += 1
        none, own = np.zeros(len(rows)), self._observations()[rows]
        return Played(own, rewards[rows], none, ended[rows], cut[rows], self._sent)

    def skip(self, counts: np.ndarray) -> None:
        raise NotImplementedError("a script begins at its beginning")

    @property
    def states(self) -> np.ndarray:
        return self._ages.astype(np.uint32)

    @property
    def facts(self) -> dict[str, np.ndarray]:
        return {"length": self._ages.astype(float)}


@pytest.fixture
def own_tasks(monkeypatch):
    """None of one's own, and afterwards none again."""
    monkeypatch.setattr(tasks, "_added", {})
    yield
    tasks._added.clear()
    tasks.names.cache_clear()
    tasks._by_key.cache_clear()


class ScriptedEnvPool:
    """What `envpool.make` returns, playing a script.

    Args:
      rows: per step and environment `(reward, ended, cut, lives)`: the unclipped reward, whether
        the emulator's game ended, whether EnvPool says truncated, and the lives left.
      lives: at the reset.
    """

    def __init__(self, rows: list[list[tuple]], lives: int = 5):
        self._rows, self._lives, self._turn = rows, lives, 0
        self.sent: list[np.ndarray] = []

    def _observations(self) -> np.ndarray:
        return np.full((len(self._rows[0]), 4, 84, 84), self._turn, np.uint8)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        count = len(self._rows[0])
        info = {"lives": np.full(count, self._lives, np.int32), "ram": np.zeros((count, 128))}
        return self._observations(), info

    def send(self, index: np.ndarray) -> None:
        self.sent.append(np.array(index))

    def recv(self) -> tuple:
        rewards, ended, cut, lives = (
            np.array(x) for x in zip(*self._rows[self._turn], strict=True)
        )
        self._turn += 1
        info = {
            "reward": rewards.astype(np.float32),
            "terminated": ended.astype(np.int32),
            "lives": lives.astype(np.int32),
            "ram": np.zeros((len(lives), 128)),
        }
        # As EnvPool has it: a game that ends on its last step allowed is said to be truncated only.
        clipped = np.sign(rewards).astype(np.float32)
        return self._observations(), clipped, ended.astype(bool) & ~cut, cut.astype(bool), info


@pytest.fixture
def scripted_pool() -> type[ScriptedPool]:
    return ScriptedPool


@pytest.fixture
def scripted_envpool(monkeypatch: pytest.MonkeyPatch):
    """`scripted_envpool(rows)`: from now on `envpool.make` returns that script's player."""
    import envpool

    def install(rows: list[list[tuple]], lives: int = 5) -> ScriptedEnvPool:
        player = ScriptedEnvPool(rows, lives)
        monkeypatch.setattr(envpool, "make", lambda *args, **options: player)
        return player

    return install


@pytest.fixture(scope="session")
def watcher():
    """`watcher(game, seed, outputs)`: an expert of fixed numbers that answers to what moves.

    Its outputs are sums of differences between the newest and the oldest frame at a few places.
    They are whole multiples of 1/255 and their ties are broken by two ten-thousandths, far more
    than any machine rounds: it chooses alike everywhere.
    """

    def make(game: str, seed: int, outputs: str = "q", size: float = 1.0) -> Expert:
        chosen = tasks.get(game)
        actions = tuple(range(atari.NUM_ACTIONS)) if outputs == "q" else chosen.actions
        generator = np.random.default_rng(seed)
        kernel = np.zeros((84, 84, 4, len(actions)), np.float32)
        for output in range(len(actions)):
            places = np.divmod(generator.choice(84 * 84, 150, replace=False), 84)
            signs = generator.choice([-1.0, 1.0], 150)
            kernel[(*places, 3, output)], kernel[(*places, 0, output)] = signs, -signs
        bias = np.arange(len(actions)) * np.float32(0.0002)
        action = {"kernel": size * kernel.reshape(-1, len(actions)), "bias": size * bias}
        return Expert(
            name=f"watcher of {game}",
            network=networks.Network(convs=(), num_outputs=len(actions)),
            params={"params": {"action": jax.tree.map(np.float32, action)}},
            outputs=outputs,
            actions=actions,
            view=View(),
            game=game,
        )

    return make


@pytest.fixture(scope="session")
def skilled():
    """`skilled("aiming", seed)`: an untaught expert of a skill of combat.

    It has the preferences that chance gave it, and a critic; other fields as they are given.
    """

    def make(skill: str, seed: int = 0, **fields: Any) -> Expert:
        task = tasks.get(f"combat/{skill}")
        count, view = len(fields.get("actions", task.actions)), fields.get("view", task.view)
        network = networks.create("mlp_actor_critic_small", num_outputs=count)
        params = networks.init(network, jax.random.key(seed), view.shape)
        made = {
            "name": skill,
            "network": network,
            "params": jax.tree.map(lambda x: np.asarray(3 * x), params),
            "outputs": "logits",
            "actions": task.actions,
            "view": view,
            "game": task.name,
        }
        return Expert(**(made | fields))

    return make


@pytest.fixture(scope="session")
def lander_training(tmp_path_factory):
    """A tiny training of two landers by one network: its settings, directory and result."""
    pytest.importorskip("Box2D")  # here: its import warns
    from jaxdistill.learn import train_settings

    settings = train_settings.Settings(
        games=("lander/standard", "lander/windy"),
        network="mlp_task_embedding_layer_norm",
        num_envs=4,
        rollout_steps=8,
        total_steps=96,
        epochs=1,
        batch_per_game=16,
        learning_rate=0.05,
        eval_every=64,
        eval_episodes=2,
        eval_epsilon=0.0,
        final_episodes=4,
        max_steps=90,
    )
    workdir = tmp_path_factory.mktemp("landers") / "training"
    return settings, workdir, training.train(settings, workdir, command="train <it>")
