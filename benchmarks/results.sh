#!/usr/bin/env bash
# Makes the tables of docs/results.md anew, the cheapest rows first: each row is a run in OUT, and a run
# that is there already is not made again. About ten hours on 2 cores; stop it at any moment, and the
# same command goes on. The experts found on the web are asked for in JAXDISTILL_EXPERTS, the folder
# that holds them, and left out without it.
#
#     benchmarks/results.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/results}

row() { # NAME CONFIG [flags]; rows of the same experts share their measured scores
    local run=$out/$1 config=$2
    shift 2
    python launch/distill.py --workdir="$run" --config="configs/$config" \
        --cache_dir="$out/played" "$@"
}

measure() { # NAME TABLE [flags]; a run's student again, in other games
    local run=$out/$1 table=$out/$1/$2.json
    shift 2
    [[ -f $table ]] || python launch/evaluate.py --workdir="$run" --out="$table" "$@"
}

train() { # NAME GAMES CONFIG [flags]; then 100 games of each
    local run=$out/$1 games=$2 config=$3
    shift 3
    python launch/train_expert.py --workdir="$run" --config="configs/$config" "$@" \
        --config.eval_epsilon=0.05 --config.epsilon_end=0.05
    for game in $games; do
        [[ -f $run/$game.json ]] ||
            python launch/evaluate.py --expert="$run/experts/$game" --out="$run/$game.json"
    done
}

# One expert, 3,200 updates: losses, temperatures, a second seed, whose states. 5 to 10 minutes each.
one=experiments/single.py
for loss in kl mse nll q_values; do
    row "loss_$loss" $one:pong --config.learn.loss="$loss"
done
for temperature in 0.001 0.1 1.0; do # the default, 0.01, is loss_kl
    row "temperature_$temperature" $one:pong --config.learn.q_temperature="$temperature"
done
for loss in kl nll; do # is their order more than chance?
    row "loss_${loss}_seed_1" $one:pong --config.learn.loss="$loss" --config.seed=1
done
for who in fixed expert student half; do
    row "states_$who" "experiments/states.py:$who"
done

# Students smaller than their expert. 5 to 15 minutes each.
for game in pong freeway breakout; do
    rounds=200
    [[ $game != breakout ]] || rounds=600 # the hardest to copy: 74% with net1 after 200
    for network in net1 net3; do
        row "size_${network}_$game" $one:$game --config.network="$network" \
            --config.learn.rounds=$rounds --config.learn.batch_per_game=128 \
            --config.collect.final_expert_share=0.5 --config.collect.expert_share_rounds=$rounds \
            --config.learn.loss=q_values --config.learn.first_loss=q_kl --config.learn.first_rounds=40
    done
done

# Past the expert: one of little training, and as many steps more with and without it. 10 minutes each.
train reward_half breakout train_expert.py --config.games=breakout --config.total_steps=400000
half=breakout=$out/reward_half/experts/breakout
train reward_beside_it breakout "train_expert.py:$half" --config.total_steps=400000 \
    --config.epsilon_start=0.1
train reward_from_it breakout "train_expert.py:$half" --config.total_steps=400000 \
    --config.epsilon_start=0.1 --config.warm_start=True --config.expert_weight=0.0

# The multi-task baseline: one network, three games, no experts. Half an hour.
train multitask "breakout pong freeway" train_expert.py --config.games=breakout,pong,freeway \
    --config.total_steps=300000 --config.hold_exponent=1.6 --config.epsilon_fraction=0.33

# Three experts, one student: `make quickstart`, and nothing set but the experts. An hour each.
row three_quickstart quickstart.py
measure three_quickstart again --episodes=100 --seed=1
measure three_quickstart breakout_400 --game=breakout --episodes=400 --seed=2
row three_defaults \
    merge.py:breakout=experts/breakout.pth,pong=experts/pong.pth,freeway=experts/freeway.pth

# Their weights merged without distilling them, 2 to 6 minutes each, and the reference's own recipe. An hour.
for method in mean task_arithmetic fisher htcl taylor_one_shot taylor_iterative aligned_mean; do
    python launch/merge_weights.py --workdir="$out/weights_$method" --method=$method \
        --config=configs/merge_weights.py --cache_dir="$out/played"
done
row reference reference.py

# Experts found on the web. Two hours.
if [[ -n ${JAXDISTILL_EXPERTS:-} ]]; then
    row web "thirdparty.py:$JAXDISTILL_EXPERTS"
fi

python benchmarks/results.py "$out"
