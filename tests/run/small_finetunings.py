"""What tests of going on from a student share: the shortest training of one."""

from jaxdistill.learn import train_settings


def going_on(student, game="breakout"):
    """One iteration by PPO in one game, without experts."""
    return train_settings.Settings(
        games=(game,),
        algorithm="ppo",
        student=str(student),
        num_envs=2,
        rollout_steps=4,
        total_steps=8,
        batch_per_game=8,
        epochs=1,
        max_steps=40,
        eval_every=8,
        eval_episodes=1,
        eval_epsilon=0.05,
        final_episodes=2,
        expert_weight=0.0,
    )
