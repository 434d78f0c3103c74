"""The conventions that a state_dict's own names identify, as one table."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdistill import networks, tasks
from jaxdistill.experts.formats.layers import (
    SAME,
    Arrays,
    Conv,
    Plan,
    PlannedCore,
    PlannedSection,
    PlannedStream,
    Quantiles,
    Statistics,
    Support,
    Weights,
    brief,
    flax,
    flax_norm,
    named,
    noisy,
    recurrent,
)
from jaxdistill.tasks.atari import ATARI, NUM_ACTIONS, USUAL, Game, Rules
from jaxdistill.tasks.combat import COMBAT
from jaxdistill.tasks.lander import LANDER
from jaxdistill.tasks.views import AnyView, Vector, View, described
from jaxdistill.text import short_repr

# CRL-Atari: the union of the minimal actions of its three games.
UNION_GAMES = ("breakout", "pong", "space_invaders")
UNION_ACTIONS = (0, 1, 3, 4, 11, 12)
ALL_ACTIONS = tuple(range(NUM_ACTIONS))
ALL_ENGINES = tuple(range(LANDER.num_actions))


@dataclasses.dataclass(frozen=True)
class Convention:
    """Where a family of files keeps its layers, and what its outputs stand for.

    Attributes:
      name: how it is called in messages.
      plan: its layers. Those with convolutions take frames divided by 255, the others numbers as
        they are.
      outputs: "q" or "logits".
      actions: the sets of its suite's actions (in Atari ALE's) that its outputs can be for, told
        apart by their number; empty for the game's own minimal actions.
      suite: whose tasks it plays.
      tasks: the tasks by the rows of its plan's embedding.
      inside: what the name of the state_dict in the file has to contain, where those of its tensors
        say too little.
      view: what networks with convolutions see, but for the number of frames.
      aside: pattern of names that it has besides, and that do not play.
      fits: what tells it from others of the same names.
      rules: its own game, as its program trains: see `rules_of`.
      variants: other rules, by a word in the file's path or its program's name that says so.
      notes: what a person should read.
    """

    name: str
    plan: Plan
    outputs: str
    actions: tuple[tuple[int, ...], ...] = ()
    suite: str = "atari"
    tasks: tuple[str, ...] = ()
    inside: str = ""
    view: View = dataclasses.field(default_factory=View)
    aside: str | None = None
    fits: Callable[[Arrays], bool] = lambda arrays: True
    rules: Rules = USUAL
    variants: tuple[tuple[str, Rules], ...] = ()
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def tensors(self) -> frozenset[str]:
        """Names of all its tensors."""
        return frozenset(self.plan.tensors())

    def names(self, arrays: Arrays) -> frozenset[str]:
        """The names that may be its tensors: all but those that are left aside."""
        return frozenset(name for name in arrays if not self._is_aside(name))

    def has(self, arrays: Arrays) -> bool:
        """Whether these are all its tensors, and no others but those that are left aside."""
        # No more is looked at than it takes: a file may have many names, in many places.
        others = (name for name in arrays if name not in self.tensors)
        return arrays.keys() >= self.tensors and all(map(self._is_aside, others))

    def _is_aside(self, name: str) -> bool:
        return self.aside is not None and re.fullmatch(self.aside, name) is not None


def _nature(
    *keys: str, to: Callable[[str], Weights] = named, padding: int | str = 0
) -> tuple[Conv, ...]:
    layers = zip(keys, networks.NATURE_CONVS, strict=True)
    return tuple(Conv(to(key), layer.stride, layer.kernel, padding) for key, layer in layers)


def _nature_linear(convs: tuple[Conv, ...], hidden: str, action: str, **fields: Any) -> Plan:
    """Convolutions, one dense layer and the layer of all outputs."""
    return Plan(convs=convs, hidden=(named(hidden),), action=named(action), **fields)


_REFERENCE = _nature("conv1", "conv2", "conv3")
_CRL = _nature("features.0", "features.2", "features.4")
_CLEANRL = _nature("network.0", "network.2", "network.4")

# The public multi-task lander: Q-networks of three layers, called so in its agents' checkpoints.
# One that tasks share sees the 8 numbers of the state and, *after* them, its task's learnt vector,
# as `networks.Network` does too: the row of the embedding in this order.
LANDER_TASKS = ("lander/standard", "lander/windy", "lander/heavy")
LANDER_PLAN = Plan(hidden=(named("fc1"), named("fc2")), action=named("fc3"))

# The public fighter's distilled policy. Its outputs are the six keys, the click, yaw and pitch.
SKILLS_PLAN = Plan(
    hidden=(named("encoder.0"), named("encoder.2"), named("encoder.4")),
    streams=(
        PlannedStream(named("movement_head.0"), named("movement_head.2"), (0, 1, 2, 3, 4, 5)),
        PlannedStream(named("aiming_head.0"), named("aiming_head.2"), (7, 8), bounded=True),
        PlannedStream(named("clicking_head.0"), named("clicking_head.2"), (6,)),
    ),
)

# FIRE is pressed for who is trained behind FireReset around EpisodicLife, after every lost life; so
# does EnvPool, where a life ends an episode.
FIRE_RESET = Rules(fire_after_life=True)
# As Machado et al. 2018 advise, with a game's own actions or with all.
_STICKY = Rules(repeat_action_probability=0.25, noop_max=1)
_MACHADO = dataclasses.replace(_STICKY, full_actions=True)
_CLEANBA_GAMES = (("machado", _MACHADO),)

_MEANS = ("noisy layers: their means are taken, without noise",)
_SUPPORT = Support(atoms=networks.Atoms(-10.0, 10.0, 51))
_DEFAULT_SUPPORT = "the file does not hold the returns of its atoms: 51 of -10..10 are assumed"

# Flax. Networks are trees of layers that are numbered by their kind.
_FLAX_CONVS = ("Conv_0", "Conv_1", "Conv_2")
_FLAX = Plan(
    convs=_nature(*_FLAX_CONVS, to=flax),
    hidden=(flax("Dense_0"),),
    action=flax("Dense_1"),
    flax=True,
)
# CleanRL's and cleanba's PPO: a list of a body, an actor and a critic.
_FLAX_PPO = Plan(
    convs=_nature(*(f"0.params.{name}" for name in _FLAX_CONVS), to=flax),
    hidden=(flax("0.params.Dense_0"),),
    head="actor_critic",
    action=flax("1.params.Dense_0"),
    value=flax("2.params.Dense_0"),
    flax=True,
)
_DOPAMINE = dataclasses.replace(_FLAX, convs=_nature(*_FLAX_CONVS, to=flax, padding=SAME))
_DOPAMINE_ATOMS, _DOPAMINE_QUANTILES = 51, 200
_ZEROS = View(padding="zero")  # before a game's first frame

# PureJaxQL's. A BatchNorm of its input is there, seen or not, with its share of the parameters.
_PQN = dataclasses.replace(
    _FLAX,
    convs=_nature(*(f"CNN_0.{name}" for name in _FLAX_CONVS), to=flax),
    hidden=(flax("CNN_0.Dense_0"),),
    action=flax("Dense_0"),
)
_PQN_NORMS = tuple(flax_norm(f"CNN_0.LayerNorm_{i}") for i in range(4))


def _outputs(count: int) -> Callable[[Arrays], bool]:
    """Whether the last layer of a network of Dopamine's has so many numbers for each action."""

    def fits(arrays: Arrays) -> bool:
        size = arrays["Dense_1.bias"].size
        return 0 < size <= count * NUM_ACTIONS and size % count == 0

    return fits


def _sees_pixels(arrays: Arrays) -> bool:
    """Whether a network of PureJaxQL's sees pixels over 255: a BatchNorm of them never learnt."""
    beginning = {"BatchNorm_0.scale": 1, "BatchNorm_0.bias": 0}
    return all((arrays[name] == x).all() for name, x in beginning.items() if name in arrays)


def _pqn(name: str, norms: tuple[Weights, ...]) -> Convention:
    return Convention(
        name,
        dataclasses.replace(_PQN, norms=norms),
        "q",
        aside=r"BatchNorm_0\.(scale|bias)",
        fits=_sees_pixels,
        rules=FIRE_RESET,
    )


def _sections(section: str, block: str, to: Callable[[str], Weights]) -> tuple[PlannedSection, ...]:
    """IMPALA's three; the names are templates of a section's and a block's layers."""

    def blocks(i: int) -> tuple[Weights, Weights, Weights, Weights]:
        one, two, three, four = (
            to(block.format(section=i, block=b, conv=c)) for b in (0, 1) for c in (0, 1)
        )
        return one, two, three, four

    return tuple(PlannedSection(to(section.format(section=i)), blocks(i)) for i in range(3))


_CLEANBA = dataclasses.replace(
    _FLAX_PPO,
    convs=(),
    sections=_sections(
        "0.params.ConvSequence_{section}.Conv_0",
        "0.params.ConvSequence_{section}.ResidualBlock_{block}.Conv_{conv}",
        flax,
    ),
)

_SAMPLE_FACTORY = "encoder.encoders.obs.enc."
_SAMPLE_FACTORY_PLAN = Plan(
    convs=_nature(*(f"{_SAMPLE_FACTORY}conv_head.{i}" for i in (0, 2, 4))),
    hidden=(named(f"{_SAMPLE_FACTORY}mlp_layers.0"),),
    head="actor_critic",
    action=named("action_parameterization.distribution_linear"),
    value=named("critic_linear"),
)
_RUNNING = "obs_normalizer.running_mean_std.running_mean_std.obs."
_STATISTICS = Statistics(f"{_RUNNING}running_mean", f"{_RUNNING}running_var", 1e-5, 5.0)

_RAINBOW = Plan(
    convs=_nature("conv1", "conv2", "conv3"),
    head="dueling",
    action_hidden=(noisy("fc_h_a"),),
    action=noisy("fc_z_a"),
    value_hidden=(noisy("fc_h_v"),),
    value=noisy("fc_z_v"),
    support=_SUPPORT,
)


def _kaixhin(name: str, convs: tuple[Conv, ...]) -> Convention:
    return Convention(
        name,
        dataclasses.replace(_RAINBOW, convs=convs),
        "q",
        view=View(resize="linear", maximum="after", padding="zero"),
        aside=r".*_(sigma|epsilon)",
        notes=(*_MEANS, _DEFAULT_SUPPORT),
    )


NO_CRITIC = "its critic is left out: nothing here asks a recurrent expert for values"


def _has_gates(core: PlannedCore, arrays: Arrays) -> bool:
    """Whether the cell in the file is of this kind, by its gates."""
    shape = arrays[core.hidden.weight].shape
    return len(shape) == 2 and shape[0] == networks.CELLS[core.kind].gates * shape[1]


def _sample_factory_core(kind: str, statistics: Statistics | None) -> Convention:
    core = recurrent(kind, "core.core", "_l0")
    pixels = "" if statistics else ", pixels as they are"
    return Convention(
        f"Sample Factory, {kind.upper()}{pixels}",
        dataclasses.replace(
            _SAMPLE_FACTORY_PLAN, head="linear", value=None, core=core, statistics=statistics
        ),
        "logits",
        aside=r".*\.count|returns_normalizer\..*|critic_linear\..*",
        fits=functools.partial(_has_gates, core),
        rules=FIRE_RESET,
        notes=(NO_CRITIC,),
    )


def _four_convolutions(
    name: str, core: PlannedCore, head: tuple[str, str], size: int, view: View, **fields: Any
) -> Convention:
    """Four convolutions of 3x3 at stride 2, whose last picture has `size` rows, and a cell.

    Args:
      head: names of the actor and the critic.
    """
    plan = Plan(
        convs=tuple(Conv(named(f"conv{i}"), 2, 3, 1) for i in range(1, 5)),
        core=core,
        action=named(head[0]),
        activation="elu",
        frame_decay=fields.pop("frame_decay", 0.0),
    )

    def fits(arrays: Arrays) -> bool:
        shape = arrays[core.input.weight].shape
        return len(shape) == 2 and shape[1] == size**2 * arrays["conv4.bias"].size

    aside = rf"{head[1]}\.(weight|bias)"
    notes = (NO_CRITIC, *fields.pop("notes"))
    return Convention(
        name, plan, "logits", view=view, aside=aside, fits=fits, notes=notes, **fields
    )


_LINEAR_HEADS = ("actor_linear", "critic_linear")
_BABY = tuple(
    _four_convolutions(
        f"baby-a3c, {kind.upper()}",
        recurrent(kind, kind),
        head,
        5,
        View(
            height=80,
            width=80,
            stack=1,
            resize="smooth",
            gray="stretched",
            crop=(35, 195),
            maximum="none",
        ),
        notes=("its own game skips 2 to 4 frames at random in a step; here 4",),
    )
    for kind, head in (
        ("gru", _LINEAR_HEADS),
        ("lstm", _LINEAR_HEADS),
        ("lstm", ("pol_func", "val_func")),
    )
)
_STARTER = _four_convolutions(
    "pytorch-a3c, as the universe starter agent",
    recurrent("lstm", "lstm"),
    _LINEAR_HEADS,
    3,
    View(
        height=42,
        width=42,
        stack=1,
        resize="linear",
        gray="mean",
        crop=(34, 194),
        steps=((80, 80),),
        gray_last=True,
        maximum="none",
    ),
    frame_decay=0.9999,
    notes=(
        "frames are normalised by their running mean and deviation since the game began; in its "
        "own program these go on from game to game",
    ),
)


def _pfrl_noisy(key: str, half: int | None = None) -> Weights:
    return Weights(f"{key}.mu.weight", f"{key}.mu.bias", half)


CONVENTIONS = (
    Convention(
        "reference, dueling",
        Plan(
            convs=_REFERENCE,
            head="dueling",
            action_hidden=(named("fc_adv"),),
            action=named("advantage"),
            value_hidden=(named("fc_value"),),
            value=named("value"),
        ),
        "q",
        (ALL_ACTIONS,),
    ),
    Convention(
        "reference, plain",
        Plan(convs=_REFERENCE, hidden=(named("fc1"),), action=named("fc2")),
        "q",
        (ALL_ACTIONS,),
    ),
    Convention(
        "CRL-Atari, dueling",
        Plan(
            convs=_CRL,
            head="dueling",
            action_hidden=(named("advantage_stream.0"),),
            action=named("advantage_stream.2"),
            value_hidden=(named("value_stream.0"),),
            value=named("value_stream.2"),
        ),
        "q",
        (UNION_ACTIONS, ALL_ACTIONS),
    ),
    Convention(
        "CRL-Atari, plain",
        Plan(convs=_CRL, hidden=(named("fc.0"),), action=named("fc.2")),
        "q",
        (UNION_ACTIONS, ALL_ACTIONS),
    ),
    Convention(
        "CleanRL DQN",
        Plan(convs=_CLEANRL, hidden=(named("network.7"),), action=named("network.9")),
        "q",
        rules=FIRE_RESET,
    ),
    Convention(
        "CleanRL PPO",
        Plan(
            convs=_CLEANRL,
            hidden=(named("network.7"),),
            head="actor_critic",
            action=named("actor"),
            value=named("critic"),
        ),
        "logits",
        rules=FIRE_RESET,
    ),
    Convention(
        "CleanRL C51",
        _nature_linear(_CLEANRL, "network.7", "network.9", support=Support("atoms")),
        "q",
        rules=FIRE_RESET,
    ),
    Convention(
        "CleanRL QDagger",
        Plan(
            sections=_sections(
                "network.{section}.conv", "network.{section}.res_block{block}.conv{conv}", named
            ),
            hidden=(named("network.5"),),
            action=named("network.7"),
            torch_pool=True,
        ),
        "q",
        rules=FIRE_RESET,
    ),
    Convention(
        "atari-agents DQN",
        _nature_linear(_CRL, "head.0", "head.2"),
        "q",
        view=View(maximum="after", padding="zero"),
        rules=_STICKY,
        variants=(("classic", USUAL),),
    ),
    Convention(
        "atari-agents C51",
        _nature_linear(_CRL, "head.0", "head.2", support=Support("support")),
        "q",
        view=View(maximum="after", padding="zero"),
    ),
    Convention(
        "PFRL DQN",
        _nature_linear(_nature("0.layers.0", "0.layers.1", "0.layers.2"), "0.output", "1"),
        "q",
    ),
    Convention(
        "PFRL Rainbow",
        Plan(
            convs=_nature("conv_layers.0", "conv_layers.1", "conv_layers.2"),
            head="dueling",
            action_hidden=(_pfrl_noisy("main_stream", half=0),),
            action=_pfrl_noisy("a_stream"),
            value_hidden=(_pfrl_noisy("main_stream", half=1),),
            value=_pfrl_noisy("v_stream"),
            support=_SUPPORT,
        ),
        "q",
        aside=r".*\.sigma\.(weight|bias)",
        notes=(*_MEANS, _DEFAULT_SUPPORT),
    ),
    Convention(
        "PFRL IQN",
        _nature_linear(
            _nature("psi.0", "psi.2", "psi.4"), "f.0", "f.2", fractions=named("phi.0.linear")
        ),
        "q",
    ),
    Convention(
        "PFRL A3C",
        Plan(
            convs=(Conv(named("0"), 4, 8), Conv(named("2"), 2, 4)),
            hidden=(named("5"),),
            head="actor_critic",
            action=named("7.child_modules.0.0"),
            value=named("7.child_modules.1"),
        ),
        "logits",
    ),
    _kaixhin(
        "Kaixhin Rainbow 1.3",
        (Conv(named("conv1"), 4, 8, 1), *_nature("conv1", "conv2", "conv3")[1:]),
    ),
    _kaixhin("Kaixhin Rainbow 1.4", _nature("convs.0", "convs.2", "convs.4")),
    _kaixhin(
        "Kaixhin Rainbow 1.4, data-efficient",
        (Conv(named("convs.0"), 5, 5), Conv(named("convs.2"), 5, 5)),
    ),
    Convention(
        "CleanRL PPO, LSTM",
        _nature_linear(_CLEANRL, "network.7", "actor", core=recurrent("lstm", "lstm", "_l0")),
        "logits",
        aside=r"critic\.(weight|bias)",
        rules=FIRE_RESET,
        notes=(NO_CRITIC,),
    ),
    *_BABY,
    _STARTER,
    *(
        _sample_factory_core(kind, statistics)
        for kind in ("gru", "lstm")
        for statistics in (_STATISTICS, None)
    ),
    Convention(
        "Sample Factory",
        dataclasses.replace(_SAMPLE_FACTORY_PLAN, statistics=_STATISTICS),
        "logits",
        aside=r".*\.count|returns_normalizer\..*",
        rules=FIRE_RESET,
    ),
    Convention(
        "Sample Factory, pixels as they are",
        _SAMPLE_FACTORY_PLAN,
        "logits",
        aside=r"returns_normalizer\..*",
        rules=FIRE_RESET,
    ),
    Convention(
        "Dopamine DQN",
        _DOPAMINE,
        "q",
        inside="online_params",
        fits=_outputs(1),
        view=_ZEROS,
        rules=_STICKY,
    ),
    Convention(
        "Dopamine C51 or Rainbow",
        dataclasses.replace(_DOPAMINE, support=_SUPPORT),
        "q",
        inside="online_params",
        fits=_outputs(_DOPAMINE_ATOMS),
        notes=(_DEFAULT_SUPPORT,),
        view=_ZEROS,
        rules=_STICKY,
    ),
    Convention(
        "Dopamine QR-DQN",
        dataclasses.replace(_DOPAMINE, quantiles=Quantiles(_DOPAMINE_QUANTILES)),
        "q",
        inside="online_params",
        fits=_outputs(_DOPAMINE_QUANTILES),
        view=_ZEROS,
        rules=_STICKY,
    ),
    Convention(
        "Dopamine IQN",
        dataclasses.replace(
            _DOPAMINE,
            fractions=flax("Dense_0"),
            hidden=(flax("Dense_1"),),
            action=flax("Dense_2"),
        ),
        "q",
        inside="online_params",
        view=_ZEROS,
        rules=_STICKY,
    ),
    Convention(
        "CleanRL C51, Flax",
        dataclasses.replace(_FLAX, support=_SUPPORT),
        "q",
        inside="model_weights",
        notes=(_DEFAULT_SUPPORT,),
        rules=FIRE_RESET,
    ),
    Convention("CleanRL DQN, Flax", _FLAX, "q", rules=FIRE_RESET),
    _pqn("PureJaxQL", _PQN_NORMS),
    _pqn("PureJaxQL without LayerNorm", ()),
    Convention(
        "CleanRL or cleanba PPO, Flax",
        _FLAX_PPO,
        "logits",
        rules=FIRE_RESET,
        variants=_CLEANBA_GAMES,
    ),
    Convention(
        "cleanba IMPALA or PPO, residual",
        _CLEANBA,
        "logits",
        rules=FIRE_RESET,
        variants=_CLEANBA_GAMES,
    ),
    Convention(
        "multi-task lander, shared with embedding",
        dataclasses.replace(LANDER_PLAN, embedding="task_embedding.weight"),
        "q",
        (ALL_ENGINES,),
        suite=LANDER.name,
        tasks=LANDER_TASKS,
        inside="q_network",
    ),
    Convention(
        "multi-task lander, single or task-blind",
        LANDER_PLAN,
        "q",
        (ALL_ENGINES,),
        suite=LANDER.name,
        inside="q_network",
    ),
    Convention(
        "fighter, distilled from skills",
        SKILLS_PLAN,
        "logits",
        (tuple(range(COMBAT.num_actions)),),
        suite=COMBAT.name,
    ),
)


def matching(arrays: Arrays, place: str) -> Convention | None:
    """The convention whose names these are, all of them and no others.

    Args:
      place: where in the file they are.
    """
    for convention in CONVENTIONS:
        if convention.inside in place and convention.has(arrays) and convention.fits(arrays):
            return convention
    return None


_NUMBERED = re.compile(r"(\w{1,80})_(\d{1,6})(?=\.)")


def as_linen(arrays: Arrays) -> Arrays:
    """Tensors of Flax by the names that its layers have since Linen: numbered by their kind.

    Before they were all numbered in one row, as in `Conv_0, Conv_1, Dense_2`.
    """
    found = {match[0]: match for name in arrays if (match := _NUMBERED.match(name))}
    names: dict[str, str] = {}
    counts: collections.Counter[str] = collections.Counter()
    for layer, match in sorted(found.items(), key=lambda item: int(item[1][2])):
        names[layer] = f"{match[1]}_{counts[match[1]]}"
        counts[match[1]] += 1

    def new(name: str) -> str:
        match = _NUMBERED.match(name)
        return names[match[0]] + name[match.end() :] if match else name

    return {new(name): array for name, array in arrays.items()}


def with_arguments(convention: Convention, arguments: Mapping[str, Any], where: str) -> Convention:
    """The convention as a file's program was called: with other atoms, activation or pixels."""
    plan, notes = convention.plan, convention.notes
    said: list[Any] = [arguments.get(name) for name in ("v_min", "v_max", "n_atoms")]
    numbers = all(type(n) in (int, float) and abs(n) < 1e9 for n in said)
    if plan.support and plan.support.atoms and numbers and said[0] < said[1] and said[2] > 1:
        low, high, count = said
        support = Support(atoms=networks.Atoms(float(low), float(high), int(count)))
        plan = dataclasses.replace(plan, support=support)
        notes = tuple(note for note in notes if note != _DEFAULT_SUPPORT)
    if convention.name.startswith("Sample Factory"):
        usual = {"nonlinearity": "relu", "obs_scale": 255}
        unsaid = (name for name in usual if name not in arguments)
        notes += tuple(f"no config.json says {x}: {usual[x]} is assumed" for x in unsaid)
        arguments = {**usual, **arguments}
        activation = arguments["nonlinearity"]
        if activation not in ("relu", "elu", "tanh"):
            shown = _said(activation)
            raise ValueError(f"{where}: nonlinearity is {shown}, expected relu, elu or tanh")
        less, over = arguments.get("obs_subtract_mean", 0), arguments["obs_scale"]
        if less != 0 or over not in (1, 255):
            raise ValueError(
                f"{where}: its pixels are less {_said(less)} and over {_said(over)}, "
                "by obs_subtract_mean and obs_scale of its config.json; expected 0, and 1 or 255"
            )
        plan = dataclasses.replace(plan, activation=activation, raw_pixels=over == 1)
    return dataclasses.replace(convention, plan=plan, notes=notes)


def _said(value: Any) -> str:
    """An argument of a program in a message."""
    return brief([value]) if isinstance(value, str) else short_repr(value)


def rules_of(
    convention: Convention,
    actions: Sequence[int],
    game: str | None,
    path: str,
    arguments: Mapping[str, Any],
) -> Rules:
    """How the game of a file's expert is played, as far as its convention and its names say.

    Args:
      actions: what its outputs stand for. All 18 where its game has fewer of its own say that it
        was trained with them, as those of cleanba's that are called machado.
    """
    own = None if game is None else tasks.get(game)
    if own is not None and own.suite != ATARI:
        return USUAL
    wide = not convention.actions and is_full(actions, game)
    names = "/".join(pathlib.Path(path).absolute().parts[-4:])  # the file's, and three folders'
    called = arguments.get("exp_name")
    called = called[:200] if isinstance(called, str) else ""
    said = f"{names} {called} {'machado' if wide else ''}".lower()
    found = (rules for word, rules in convention.variants if word in said)
    return with_full_set(next(found, convention.rules), wide, game)


def is_full(actions: Sequence[int], game: str | None) -> bool:
    """Whether they are all 18, where `game` has fewer of its own."""
    return game is not None and len(actions) == NUM_ACTIONS > len(tasks.get(game).actions)


def with_full_set(rules: Rules, full: bool, game: str | None) -> Rules:
    """The rules, with all 18 actions where they or `full` say so and `game` may have them."""
    task = None if game is None else tasks.get(game)
    may = not isinstance(task, Game) or task.has_full_set
    return dataclasses.replace(rules, full_actions=may and (full or rules.full_actions))


class Near(NamedTuple):
    """What keeps tensors from being those of a convention that they resemble.

    Attributes:
      text: the same for a message.
      others: names that it does not explain; all of them where they are its own.
    """

    text: str
    others: tuple[str, ...]


def nearly(arrays: Arrays) -> Near | None:
    """The convention that these names resemble, if they do: the one with the fewest others."""

    def share(convention: Convention) -> float:
        return len(convention.tensors & arrays.keys()) / len(convention.tensors)

    def likeness(convention: Convention) -> tuple[int, float, int]:
        differing = convention.tensors ^ convention.names(arrays)
        return -len(differing), share(convention), len(convention.tensors)

    best = max((x for x in CONVENTIONS if share(x) >= 0.75), key=likeness, default=None)
    if best is None:
        return None
    missing = [name for name in best.plan.tensors() if name not in arrays]
    extra = tuple(sorted(best.names(arrays) - best.tensors))
    if missing:
        return Near(f"looks like {best.name}, but lacks {brief(missing)}", extra)
    if not extra:
        text = f"looks like {best.name}, but does not lie under {best.inside!r}"
        return Near(text, tuple(arrays))
    return Near(f"looks like {best.name}, but also has {brief(extra)}", extra)


def actions_of(
    convention: str,
    count: int,
    sets: Sequence[tuple[int, ...]],
    game: str | None,
    where: str,
) -> tuple[int, ...]:
    """The suite's actions (in Atari ALE's) that `count` outputs stand for.

    Args:
      sets: the sets the convention allows; empty for the game's minimal actions.

    Raises:
      ValueError: the number of outputs fits none, the game has to be known, or it is none of those
        whose union of actions they are.
    """
    for actions in sets:
        if len(actions) != count:
            continue
        is_union = actions == UNION_ACTIONS
        if is_union and game not in (None, *UNION_GAMES) and tasks.get(game).actions != actions:
            raise ValueError(
                f"{where}: is named like {convention}, whose {count} outputs are actions "
                f"{list(actions)} of {brief(UNION_GAMES)}, not those of {game}; describe it in a "
                "spec (--spec)"
            )
        return actions
    if sets:
        numbers = " or ".join(str(len(actions)) for actions in sets)
        raise ValueError(
            f"{where}: is named like {convention}, but has {count} outputs, expected {numbers}; "
            "describe it in a spec (--spec)"
        )
    if count == NUM_ACTIONS:
        return ALL_ACTIONS
    if game is None:
        raise ValueError(
            f"{where}: {convention} with {count} outputs, which are its game's own actions, and "
            "the file does not say which game; give --game"
        )
    actions = tasks.get(game).actions
    if len(actions) != count:
        raise ValueError(
            f"{where}: has {count} outputs, but {tasks.get(game).name} has {len(actions)} actions "
            f"{list(actions)}; is it another game's expert? if not, describe it in a spec (--spec)"
        )
    return actions


def check_plays(view: AnyView, count: int, game: str, where: str) -> None:
    """Refuses a network that sees something else than `game` shows.

    Args:
      view: what it sees.
      count: its outputs.

    Raises:
      ValueError: it sees a screen and the game shows numbers, or numbers and it shows a screen or
        others. Of two networks on numbers, one with other actions too: no mask mends that, but
        where actions are keys and angles it may have those of its whole suite.
    """
    task = tasks.get(game)
    shown = task.suite.view
    other = type(view) is not type(shown)
    if isinstance(view, Vector):
        counts = {len(task.actions)} | ({task.suite.num_actions} if task.suite.kinds else set())
        other |= view.whole != shown or count not in counts
    if other:
        raise ValueError(
            f"{where}: an expert that sees {described(view)} and has {count} actions does not "
            f"play {task.name}, which shows {described(shown)} and has {len(task.actions)} actions"
        )
