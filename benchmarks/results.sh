#!/usr/bin/env bash
# Makes the tables of docs/results.md anew, and those of docs/experiments.md that are measured from
# the emulator's own starts there: all or the named ones, the cheapest rows first. Each row is a run
# in OUT, and a run that is there already is not made again. About ten hours on 2 cores; stop it at
# any moment, and the same command goes on. The experts found on the web are asked for in
# JAXDISTILL_EXPERTS, the folder that holds them, and left out without it.
#
#     benchmarks/results.sh [OUT [TABLE...]]
#
# A table is named as its function below.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/results}

row() { # NAME CONFIG [flags]; rows of the same experts share their measured scores
    local run=$out/$1 config=$2
    shift 2
    python launch/distill.py --workdir="$run" --config="configs/$config" \
        --cache_dir="$out/played" "$@"
}

# Of each game, however soon fewer would do.
hundred=(--config.evaluate.report_episodes=100 --config.evaluate.report_width=0)

compare() { # NAME CONFIG [flags]; a row of 100 games
    row "$@" "${hundred[@]}"
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
            python launch/evaluate.py --expert="$run/experts/$game" --seed=1 --out="$run/$game.json"
    done
}

one=experiments/single.py

losses() { # One expert, 3,200 updates, two seeds. 5 minutes each.
    for seed in 0 1; do
        for loss in q_values nll kl mse; do
            compare "loss_${loss}_seed_$seed" $one:pong --config.learn.loss="$loss" \
                --config.seed="$seed"
        done
    done
}

temperature() { # The default, 0.01, is a row of losses.
    for temperature in 0.001 0.1 1.0; do
        compare "temperature_$temperature" $one:pong --config.learn.q_temperature="$temperature"
    done
    compare loss_kl_seed_0 $one:pong --config.learn.loss=kl --config.seed=0
}

states() { # Who drives. 5 minutes each.
    for who in fixed expert student half; do
        compare "states_$who" "experiments/states.py:$who"
    done
}

sizes() { # Students smaller than their expert. 5 to 15 minutes each.
    for game in pong freeway breakout; do
        local rounds=200
        [[ $game != breakout ]] || rounds=600 # the hardest to copy: 74% with net1 after 200
        for network in net1 net3; do
            compare "size_${network}_$game" $one:$game --config.network="$network" \
                --config.collect.steps_per_round=2048 \
                --config.learn.rounds=$rounds --config.learn.batch_per_game=128 \
                --config.collect.expert_share_rounds=$rounds \
                --config.collect.final_expert_share=0.5 --config.learn.loss=q_values \
                --config.learn.first_loss=q_kl --config.learn.first_rounds=40
        done
    done
}

past() { # An expert of little training; as many steps more with it and without. 10 minutes each.
    compare states_expert experiments/states.py:expert # which measures random play
    train reward_half breakout train_expert.py --config.games=breakout --config.total_steps=400000
    local half=breakout=$out/reward_half/experts/breakout
    train reward_beside_it breakout "train_expert.py:$half" --config.total_steps=400000 \
        --config.epsilon_start=0.1
    train reward_from_it breakout "train_expert.py:$half" --config.total_steps=400000 \
        --config.epsilon_start=0.1 --config.warm_start=True --config.expert_weight=0.0
}

without() { # The multi-task baseline: one network, three games, no experts. Half an hour.
    quickstart # which measures the experts
    train multitask "breakout pong freeway" train_expert.py --config.games=breakout,pong,freeway \
        --config.total_steps=300000 --config.hold_exponent=1.6 --config.epsilon_fraction=0.33
}

quickstart() { # Three experts, one student. Ten minutes.
    row three_quickstart quickstart.py
}

again() { # That student in other games.
    quickstart
    measure three_quickstart again --episodes=100 --seed=1
    measure three_quickstart breakout_400 --game=breakout --episodes=400 --seed=2
}

defaults() { # Nothing set but the experts. An hour.
    compare three_defaults \
        merge.py:breakout=experts/breakout.pth,pong=experts/pong.pth,freeway=experts/freeway.pth
}

weights() { # Not distilled, 2 to 6 minutes each, and the reference's own recipe, an hour.
    for method in mean task_arithmetic fisher htcl taylor_one_shot taylor_iterative aligned_mean; do
        python launch/merge_weights.py --workdir="$out/weights_$method" --method=$method \
            --config=configs/merge_weights.py --cache_dir="$out/played" "${hundred[@]}"
    done
    compare reference reference.py
}

web() { # Experts found on the web, and on from there. Two hours.
    local found=thirdparty.py:$JAXDISTILL_EXPERTS
    [[ -f $out/web/result-288.json ]] || row web "$found"
    row web "$found" --config.learn.rounds=576 --config.learn.shares=space_invaders=2
}

all="losses temperature states sizes past without quickstart again defaults weights"
[[ -z ${JAXDISTILL_EXPERTS:-} ]] || all+=" web"
for table in "${@:2}"; do
    [[ " $all " = *" $table "* ]] || {
        echo "no table $table; there are $all (web with JAXDISTILL_EXPERTS set)" >&2
        exit 2
    }
done
for table in "${@:2}"; do "$table"; done
[[ $# -gt 1 ]] || for table in $all; do "$table"; done
python benchmarks/results.py "$out"
