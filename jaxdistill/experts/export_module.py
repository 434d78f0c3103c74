"""Our policies -> a PyTorch module: a Python file that needs PyTorch alone, and its weights.

`FILE.pth` holds the weights, and what `formats.load` needs to read them again, so that what was
trained further in PyTorch comes back. `FILE.py` beside it is the network, written out layer by
layer for people to read. Neither needs PyTorch to be written. Every network that is not recurrent
can be written so.
"""

from __future__ import annotations

import importlib.metadata
import keyword
import os
import pathlib
import pprint
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill import networks
from jaxdistill.experts import portable, torch_layout, torch_writer
from jaxdistill.experts.formats import module_file
from jaxdistill.experts.portable import Portable

LAYER_NORM_EPSILON = 1e-6  # flax's

_ACTIVATIONS = {
    "relu": "F.relu",
    "elu": "F.elu",
    "tanh": "torch.tanh",
    "leaky_relu": "F.leaky_relu",
    "selu": "F.selu",
    "sigmoid": "torch.sigmoid",
    "silu": "F.silu",
    "gelu": "F.gelu",
    "none": "",
}


def write(policy: Portable, path: str | os.PathLike[str]) -> pathlib.Path:
    """Writes a policy as a PyTorch file and, beside it, the module that it is for.

    Returns:
      The module's path: that of the weights with `.py`, as a name that Python can import.

    Raises:
      ValueError: `path` ends in `.py`, or as `portable.check`.
      OSError: one of the files cannot be written; then neither is there.
    """
    path = pathlib.Path(path)
    if path.suffix == ".py":
        raise ValueError(
            f"{path} would be the weights; name them, as {path.with_suffix('.pth')}, and the "
            f"module is written beside"
        )
    name = re.sub(r"\W", "_", path.stem, flags=re.ASCII)
    if not name.isidentifier() or keyword.iskeyword(name):
        name = f"policy_{name}"
    module = path.with_name(f"{name}.py")
    portable.check(policy, path, module)
    about = _about(policy)
    weights = torch_layout.to_torch(policy.params, policy.network, policy.shape)
    code = _Code(policy, about).module(name, path.name)
    portable.write_together(
        {
            module: code.encode(),
            path: torch_writer.dumps({"state_dict": weights, module_file.KEY: about}),
        }
    )
    return module


def _about(policy: Portable) -> dict[str, Any]:
    """What stands in both files, as plain values; `module_file.read` takes it."""
    return {
        "written_by": f"jaxdistill {importlib.metadata.version('jaxdistill')}",
        "from": policy.name,
        "outputs": policy.outputs,
        "tasks": [role.to_dict() | {"actions": list(role.actions)} for role in policy.roles],
        "action_names": list(policy.suite.action_names),
        **({"kinds": list(policy.suite.kinds)} if policy.suite.kinds else {}),
        "places": list(policy.places),
        "rules": policy.rules.to_dict(),
        "network": networks.to_dict(policy.network),
    }


class _Code:
    """The text of a module, in the order in which `Network` runs its layers."""

    def __init__(self, policy: Portable, about: Mapping[str, Any]):
        self.policy, self.network, self.about = policy, policy.network, about
        self.layers = policy.params["params"]
        self.names = list(self.network.activations)  # those of the layers to come
        self.made: list[str] = []  # lines of __init__
        # What each row's task chooses of a table; the only one where there are no others.
        self.row = "task.long()" if policy.several else "0"

    def module(self, name: str, weights: str) -> str:
        """The whole file."""
        network = self.network
        shared = self._shared()
        if network.controllers:
            outputs = self._controlled()
        elif network.streams:
            outputs = self._streamed()
        else:
            outputs = self._headed()
        parts = [
            self._told(name, weights),
            "import math\n\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn",
            *([_NORM] if network.layer_norm and (network.convs or network.residual) else []),
            *([_NORMALISE] if network.input_clip else []),
            *([_SECTION] if network.residual else []),
        ]
        given = "observations, task" if self.policy.several else "observations"
        body = [
            *self._method("shared", "What the layers before the head make.", given, shared),
            *self._method(
                "forward", "Outputs (B, A).", given, [f"x = self.shared({given})", *outputs]
            ),
        ]
        if network.head == "actor_critic":
            lines = [f"x = self.shared({given})", *self._dense("value_fc", network.value_hidden)]
            self._layer("value")
            body += self._method(
                "critic", "State values (B,).", given, [*lines, "return self.value(x)[:, 0]"]
            )
        body += self._method("act", self._acts(), given, self._chosen(given), "@torch.no_grad()")
        made = [f"        {line}" for line in self.made]
        parts.append("\n".join([*_CLASS, *made, "", *_FILES, *body]).rstrip())
        about = pprint.pformat(dict(self.about), width=96, sort_dicts=False, compact=True)
        parts.append(f"ABOUT = {about}")
        return "\n\n\n".join(parts).replace("\n\n\nimport math", "\n\nimport math") + "\n"

    def _told(self, name: str, weights: str) -> str:
        """What the module is, how it is used, and what goes in and comes out."""
        told = self.policy.described()
        given = ", ".join(x["name"] for x in told["inputs"])
        lines = [
            f"{', '.join(role.game for role in self.policy.roles)}: one policy.",
            "",
            f"    from {name} import Policy",
            "",
            f'    policy = Policy.load("{weights}")',
            f"    outputs = policy({given})",
            f"    action = policy.act({given})",
            "",
        ]
        for x in (*told["inputs"], *told["outputs"]):
            shape = ", ".join(["B", *map(str, x["shape"][1:])])
            shape = f"({shape})" if "," in shape else "(B,)"
            kind = x["dtype"].replace("int32", "int64")  # PyTorch's own for indices
            lines.append(f"{x['name']}: {shape} {kind}, {told['means'][x['name']]}.")
        lines += [
            "",
            "`ABOUT` says more: the tasks in order, what is seen, what actions are called. What",
            "`save` writes, jaxdistill reads as an expert. Nothing but PyTorch is needed here.",
        ]
        text = "\n".join(lines)
        for name in ("tasks", "action_names", "kinds"):
            text = text.replace(f"`{name}`", f'`ABOUT["{name}"]`')
        return f'"""{text}\n"""'

    def _method(
        self, name: str, told: str, given: str, lines: Sequence[str], decorator: str = ""
    ) -> list[str]:
        """A method of the class."""
        indented = [f"        {line}" for line in lines]
        head = [f"    {decorator}"] if decorator else []
        head += [f"    def {name}(self, {given}):", f'        """{told}"""']
        return [*head, *indented, ""]

    def _shared(self) -> list[str]:
        """Lines that make x of what is seen."""
        network, policy, made = self.network, self.policy, self.made
        lines = ["x = observations.float()" + (" / 255" if policy.dtype == "uint8" else "")]
        if network.input_clip:
            made.append(f"self.input = Normalise({policy.shape}, {float(network.input_clip)!r})")
            lines.append("x = self.input(x)")
        channels = policy.shape[0]
        for i, layer in enumerate(network.convs, 1):
            (before, after), kernel = layer.pad, layer.kernel
            even = before == after
            padding = f", padding={before}" if even and before else ""
            made.append(
                f"self.conv{i} = nn.Conv2d({channels}, {layer.features}, {kernel}, "
                f"stride={layer.stride}{padding})"
            )
            x = "x" if even else f"F.pad(x, {(before, after, before, after)})"
            lines.append(self._activated(f"self.conv{i}({x})", f"conv_norm{i}", layer.features))
            channels = layer.features
        if network.residual:
            lines += self._sections(channels)
        if len(policy.shape) > 1:
            lines.append("x = x.flatten(1)")
        if network.fractions:
            vectors = self.layers["fractions"]["vectors"].shape
            made.append(
                f'self.fractions = nn.ParameterDict({{"vectors": torch.ones({tuple(vectors)})}})'
            )
            lines.append('x = x[:, None] * self.fractions["vectors"]  # one for each fraction')
        games = len(network.game_actions)
        if network.task_embedding:
            made.append(f"self.task_embedding = nn.Embedding({games}, {network.task_embedding})")
            lines.append("x = torch.cat([x, self.task_embedding(task.long())], 1)")
        if network.one_hot:
            lines.append(f"x = torch.cat([x, F.one_hot(task.long(), {games}).to(x.dtype)], 1)")
        return [*lines, *self._dense("fc", network.hidden), "return x"]

    def _sections(self, channels: int) -> list[str]:
        """Residual sections; see `convolutions.Section`."""
        network = self.network
        height, width = networks.grid(network.convs, *self.policy.shape[1:])
        lines, name = [], "none"
        for i, features in enumerate(network.residual, 1):
            name = self.names.pop(0)
            # As `_max_pool` has it: what reaches beyond the far edge is empty.
            top, left = (1 if network.torch_pool else size % 2 for size in (height, width))
            activation = _ACTIVATIONS[name] or "nn.Identity()"
            self.made.append(
                f"self.section{i} = Section({channels}, {features}, {activation}, "
                f"pad=({left}, 1, {top}, 1), norm={network.layer_norm})"
            )
            lines.append(f"x = self.section{i}(x)")
            height, width, channels = -(-height // 2), -(-width // 2), features
        if network.layer_norm:
            self.made.append(f"self.section_norm1 = ChannelNorm({channels})")
            lines.append("x = self.section_norm1(x)")
        lines.append(f"x = {_called(name, 'x')}")
        return lines

    def _layer(self, name: str) -> None:
        """A dense layer of __init__."""
        inputs, outputs = self.layers[name]["kernel"].shape
        self.made.append(f"self.{name} = nn.Linear({inputs}, {outputs})")

    def _dense(
        self, prefix: str, widths: Sequence[int], result: str = "x", given: str = "x"
    ) -> list[str]:
        """Lines of layers of these widths, from `given` to `result`."""
        lines = []
        for i, width in enumerate(widths, 1):
            name = f"{prefix}{i}"
            self._layer(name)
            x = given if i == 1 else result
            lines.append(self._activated(f"self.{name}({x})", f"{prefix}_norm{i}", width, result))
        return lines

    def _activated(self, text: str, norm: str, width: int, result: str = "x") -> str:
        """A line that assigns `result`: a layer's norm, if it has one, and the next activation."""
        if self.network.layer_norm:
            kind = f"nn.LayerNorm({width}, eps={LAYER_NORM_EPSILON})"
            if norm.startswith("conv"):
                kind = f"ChannelNorm({width})"
            self.made.append(f"self.{norm} = {kind}")
            text = f"self.{norm}({text})"
        return f"{result} = {_called(self.names.pop(0), text)}"

    def _branch(self, prefix: str, widths: Sequence[int], last: str, result: str) -> list[str]:
        """Lines of layers of their own on x, and of the last one."""
        lines = self._dense(prefix, widths, result)
        self._layer(last)
        return [*lines, f"{result} = self.{last}({result if widths else 'x'})"]

    def _headed(self) -> list[str]:
        """One layer of all outputs; with a dueling head, and means of distributions."""
        network, atoms = self.network, self.network.atoms
        if network.fractions:  # the last layer is linear, so its mean is that of the mean
            own = self._dense("action_fc", network.action_hidden)
            self._layer("action")
            return [*own, "outputs = self.action(x.mean(1))", *self._finished()]
        lines = self._branch("action_fc", network.action_hidden, "action", "outputs")
        dueling = network.head == "dueling"
        if dueling:
            lines += self._branch("value_fc", network.value_hidden, "value", "value")
        if atoms:
            lines.append(f"outputs = outputs.unflatten(1, ({network.num_outputs}, {atoms.count}))")
        if dueling:
            value = "value[:, None]" if atoms else "value"
            lines.append(f"outputs = outputs - outputs.mean(1, keepdim=True) + {value}")
        if atoms:
            ends = f"{float(atoms.low)!r}, {float(atoms.high)!r}, {atoms.count}"
            lines += [
                f"returns = torch.linspace({ends}, device=outputs.device)",
                "outputs = outputs.softmax(2) @ returns",
            ]
        return [*lines, *self._finished()]

    def _controlled(self) -> list[str]:
        """Every task's controller runs on all rows, and each row takes its own."""
        network, names = self.network, list(self.names)
        lines = [f"outputs = x.new_zeros(len(x), {network.num_outputs})"]
        for i, actions in enumerate(network.game_actions):
            self.names = list(names)  # each has layers of the same kind
            lines += self._branch(
                f"controller{i + 1}_fc", network.action_hidden, f"controller{i + 1}", "own"
            )
            lines += [
                "every = torch.zeros_like(outputs)",
                f"every[:, {list(actions)}] = own",
                f"outputs = torch.where((task == {i})[:, None], every, outputs)",
            ]
        return [*lines, *self._finished()]

    def _streamed(self) -> list[str]:
        """Every stream's outputs, each at its place."""
        streams, lines, parts = self.network.streams, [], []
        for i, stream in enumerate(streams, 1):
            lines += self._branch(f"stream{i}_fc", (stream.width,), f"stream{i}", f"own{i}")
            parts.append(f"torch.tanh(own{i})" if stream.bounded else f"own{i}")
        order = np.argsort([output for stream in streams for output in stream.outputs])
        joined = f"torch.cat([{', '.join(parts)}], 1)"
        return [*lines, f"outputs = {joined}[:, {order.tolist()}]", *self._finished()]

    def _finished(self) -> list[str]:
        """Lines that return outputs in the suite's order."""
        policy, lines = self.policy, list[str]()
        size, places = policy.suite.num_actions, policy.places
        if places != tuple(range(size)):
            lines += [
                f"every = outputs.new_zeros(len(outputs), {size})  # 0 where there is no output",
                f"every[:, {list(places)}] = outputs",
                "outputs = every",
            ]
        if policy.suite.kinds:
            for name, ends in zip(("low", "high"), policy.limits.tolist(), strict=True):
                rows = [f"    {str(row).replace('inf', 'math.inf')}," for row in ends]
                self.made += [f"{name} = [", *rows, "]"]
                self._buffer(name, f"torch.tensor({name})")
            lines.append(f"outputs = outputs.clamp(self.low[{self.row}], self.high[{self.row}])")
        return [*lines, "return outputs"]

    def _buffer(self, name: str, value: str) -> None:
        """What goes along to another device and is in no file of weights."""
        self.made.append(f'self.register_buffer("{name}", {value}, persistent=False)')

    def _acts(self) -> str:
        kind = "keys and angles (B, A)" if self.policy.suite.kinds else "actions (B,)"
        return f"The greedy {kind} among those that it was taught."

    def _chosen(self, given: str) -> list[str]:
        """Lines that return the greedy action."""
        policy, size = self.policy, self.policy.suite.num_actions
        self.made += [
            f'mask = torch.zeros(len(ABOUT["tasks"]), {size}, dtype=torch.bool)',
            'for row, known in zip(mask, ABOUT["tasks"]):',
            '    row[list(known["actions"])] = True',
        ]
        self._buffer("mask", "mask")
        lines = [f"outputs, mask = self({given}), self.mask[{self.row}]"]
        if policy.suite.factored is None:
            return [*lines, "return outputs.masked_fill(~mask, -math.inf).argmax(1)"]
        self._buffer("keys", 'torch.tensor([kind == "key" for kind in ABOUT["kinds"]])')
        return [
            *lines,
            "chosen = torch.where(self.keys, (outputs > 0).float(), outputs)",
            "return torch.where(mask, chosen, torch.zeros_like(chosen))",
        ]


def _called(activation: str, text: str) -> str:
    name = _ACTIVATIONS[activation]
    return f"{name}({text})" if name else text


_NORM = f'''class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel: (B, C, H, W) -> the same."""

    def __init__(self, channels):
        super().__init__(channels, eps={LAYER_NORM_EPSILON})

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)'''

_NORMALISE = '''class Normalise(nn.Module):
    """Each pixel less its own mean, over its own deviation, no further from 0 than `clip`."""

    def __init__(self, shape, clip):
        super().__init__()
        self.mean, self.scale = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.ones(shape))
        self.clip = clip

    def forward(self, x):
        return ((x - self.mean) * self.scale).clamp(-self.clip, self.clip)'''

_SECTION = '''class Section(nn.Module):
    """Convolution, maximum, two residual blocks (Espeholt et al. 2018, figure 3)."""

    def __init__(self, before, channels, activation, pad, norm):
        super().__init__()
        self.activation, self.pad = activation, pad
        self.conv = nn.Conv2d(before, channels, 3, padding=1)
        for name in ("block1", "block2"):
            for i in (1, 2):
                kind = ChannelNorm(channels) if norm else nn.Identity()
                self.add_module(f"{name}_norm{i}", kind)
                self.add_module(f"{name}_conv{i}", nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x):
        x = F.max_pool2d(F.pad(self.conv(x), self.pad, value=-math.inf), 3, stride=2)
        for name in ("block1", "block2"):
            y = x
            for i in (1, 2):
                y = self.activation(getattr(self, f"{name}_norm{i}")(y))
                y = getattr(self, f"{name}_conv{i}")(y)
            x = x + y
        return x'''

_CLASS = (
    "class Policy(nn.Module):",
    '    """The network, and the actions that it was taught; see above for what goes in."""',
    "",
    "    def __init__(self):",
    "        super().__init__()",
)

_FILES = '''    @classmethod
    def load(cls, path):
        """The policy with the weights in a file, for evaluation."""
        policy = cls()
        file = torch.load(path, map_location="cpu", weights_only=True)
        policy.load_state_dict(file["state_dict"])
        return policy.eval()

    def save(self, path):
        """Writes the weights as they are now."""
        torch.save({"state_dict": self.state_dict(), "KEY": ABOUT}, path)
'''.replace("KEY", module_file.KEY).split("\n")
