"""The duel in plain Python, one environment at a time: no arrays, only floats.

The rules of `jaxdistill.tasks.combat` once more, written as one would without JAX, to compare
speeds with; `combat.py` compares what both say first.
"""

import math


class Fighter:
    """A body; see `physics.Body`."""

    def __init__(self, x, z, health):
        self.x, self.y, self.z, self.vx, self.vy, self.vz = x, 0.0, z, 0.0, 0.0, 0.0
        self.yaw = self.pitch = 0.0
        self.on_ground, self.sprinting, self.invulnerable, self.health = True, False, 0, health

    def move(self, w, a, s, d, space, sprint):
        self.sprinting, ground = sprint, self.on_ground
        vx = 0.0 if abs(self.vx) < 0.005 else self.vx
        vy = 0.0 if abs(self.vy) < 0.005 else self.vy
        vz = 0.0 if abs(self.vz) < 0.005 else self.vz
        forward, strafe = 0.98 * (w - s), 0.98 * (d - a)
        push = ((0.13 if sprint else 0.1) if ground else 0.02) / max(
            math.hypot(forward, strafe), 1.0
        )
        ahead, aside = forward * push, strafe * push
        if space and ground:
            vy = 0.42
            if sprint and forward > 0:
                ahead += 0.2
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        vx += aside * cos + ahead * sin
        vz += ahead * cos - aside * sin
        self.x, self.y, self.z = self.x + vx, self.y + vy, self.z + vz
        self.on_ground = self.y <= 0 and vy <= 0
        if self.y < 0:
            self.y = vy = 0.0
        inertia = 0.546 if ground else 0.91
        self.vx, self.vz = vx * inertia, vz * inertia
        self.vy = vy if self.on_ground else (vy - 0.08) * 0.98

    def look(self):
        level = math.cos(self.pitch)
        return level * math.sin(self.yaw), math.sin(self.pitch), level * math.cos(self.yaw)

    def local(self, x, y, z):
        sin, cos, rise, level = (
            math.sin(self.yaw),
            math.cos(self.yaw),
            math.sin(self.pitch),
            math.cos(self.pitch),
        )
        ahead = x * sin + z * cos
        return x * cos - z * sin, y * level - ahead * rise, y * rise + ahead * level

    def meets(self, other):
        enters, leaves = -math.inf, math.inf
        lows = (other.x - 0.3 - self.x, other.y - self.y - 1.62, other.z - 0.3 - self.z)
        for low, size, along in zip(lows, (0.6, 1.8, 0.6), self.look(), strict=True):
            along = along if abs(along) >= 1e-9 else 1e-9
            first, second = low / along, (low + size) / along
            if first > second:
                first, second = second, first
            enters, leaves = max(enters, first), min(leaves, second)
        return enters <= leaves and leaves >= 0 and enters <= 3.0

    def strike(self, other):
        if not self.meets(other):
            return False
        hit = other.invulnerable == 0
        if hit:
            x, z = other.x - self.x, other.z - self.z
            size = math.hypot(x, z)
            knock = (1.0 if self.sprinting else 0.4) / size if size > 1e-6 else 0.0
            other.vx, other.vz = other.vx / 2 + x * knock, other.vz / 2 + z * knock
            other.vy = min(other.vy / 2 + 0.4, 0.4)
            other.invulnerable = 10
        self.vx, self.vz, self.sprinting = self.vx * 0.6, self.vz * 0.6, False
        return hit


class Duel:
    """One duel; `step` returns observation, reward and whether it is over."""

    def __init__(self, x, z, health=100.0):
        self.agent, self.bot = Fighter(0.0, 0.0, health), Fighter(x, z, health)
        self.tick = self.dealt = self.taken = 0

    def step(self, action):
        agent, bot = self.agent, self.bot
        w, a, s, d, space, sprint, click = (value > 0.5 for value in action[:7])
        turn = math.radians(27)
        yaw = agent.yaw + min(max(action[7], -turn), turn)
        agent.yaw = yaw - 2 * math.pi * round(yaw / (2 * math.pi))
        steepest = math.pi / 2 - 1e-4
        pitch = agent.pitch + min(max(action[8], -turn), turn)
        agent.pitch = min(max(pitch, -steepest), steepest)
        x, y, z = agent.x - bot.x, agent.y - bot.y, agent.z - bot.z
        distance = math.sqrt(x * x + y * y + z * z)
        if distance >= 0.1:
            bot.yaw, bot.pitch = math.atan2(x, z), math.atan2(y, math.hypot(x, z))
        runs = distance > 1.5
        if click and agent.strike(bot):
            self.dealt, bot.health = self.dealt + 1, bot.health - 1
        if self.tick % 3 == 0 and distance <= 3.0 and bot.strike(agent):
            self.taken, agent.health = self.taken + 1, agent.health - 1
        agent.move(w, a, s, d, space, sprint)
        bot.move(runs, False, False, False, False, runs)
        agent.invulnerable = max(agent.invulnerable - 1, 0)
        bot.invulnerable = max(bot.invulnerable - 1, 0)
        self.tick += 1
        health = agent.health - bot.health
        reward = 0.5 * self.dealt - 0.25 * self.taken + 0.015 * health
        over = self.tick >= 400 or min(agent.health, bot.health) <= 0
        return self.observation(), reward, over

    def observation(self):
        agent, bot = self.agent, self.bot
        seen = []
        for x, y, z, scale in (
            (bot.x - agent.x, bot.y - agent.y, bot.z - agent.z, 10),
            (agent.vx, agent.vy, agent.vz, 2),
            (bot.vx, bot.vy, bot.vz, 2),
        ):
            size = math.sqrt(x * x + y * y + z * z)
            if size > 1e-6:
                seen += agent.local(x / size, y / size, z / size)
            else:
                seen += 0.0, 0.0, 0.0
            seen.append(size / scale)
        seen += agent.health / 20, bot.health / 20
        seen += 1.0 if agent.on_ground else -1.0, 1.0 if bot.on_ground else -1.0
        seen += agent.local(*bot.look())
        seen.append(agent.invulnerable / 10)
        return [min(max(value, -1.0), 1.0) for value in seen]
