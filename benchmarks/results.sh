#!/usr/bin/env bash
# Makes every table of docs/results.md anew: each row is a run in OUT, and a run that is there
# already is not made again. Hours on 2 cores.
#
#     benchmarks/results.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/results}

row() { # NAME CONFIG [flags]
    local name=$1 config=$2
    shift 2
    python launch/distill.py --workdir="$out/$name" --config="configs/$config" "$@"
}

one=experiments/single.py
for loss in kl mse nll q_values; do
    row "loss_$loss" $one:pong --config.learn.loss="$loss"
done
for network in net1 net2 net3; do
    row "size_$network" $one:pong --config.learn.loss=q_values --config.network="$network"
done
for temperature in 0.001 0.01 0.1 1.0; do
    row "temperature_$temperature" $one:pong --config.learn.q_temperature="$temperature"
done
for who in expert fixed student mixed; do
    row "states_$who" "experiments/states.py:$who"
done
row merge quickstart.py --config.evaluate.report_episodes=100

python benchmarks/results.py "$out"
