#!/bin/sh
# The study of blood cells, from nothing: study.sh DATASET_DIR OUTPUT_DIR [RUNS_AT_ONCE]
# A run that stopped goes on where it was.
set -eu
data=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
jobs=${3:-2}
bundle=$(dirname "$0")/../../../bundles/bccd_amat

study() {
    python -m monai_amat compare --bundle "$bundle" --overlays small --dataset_dir "$data" --jobs "$jobs" "$@"
}

# The paper starts from COCO's weights. Here a network is trained on clean images first, and every arm, STD like the
# others, goes on from it.
study --output_dir "$out/start" --arms std --evaluation clean --noise_levels "[0.0]"
start="$out/start/arms/std/seed=0/models/model.pt"

# Noise at 160x160 pixels counts double at the paper's 320x320: its ε of 5, 10 and 15 are 2.5, 5 and 7.5.
arms() {
    study --output_dir "$out" --initial_weights "$start" --max_epochs 20 --reference sat:2.5 "$@"
}
levels="[0.0, 2.5, 5.0, 7.5]"
all="std sat:2.5 sat:5 amat amat_shuffled"

# The paper's levels 0, 5, 10 and 15, by PGD-100 on the 37 test images.
arms --arms $all --noise_levels "$levels"

# Lower ones, where STD falls: 0, 0.5 and 2 at 320x320 pixels.
arms --arms $all --evaluation low_noise --noise_levels "[0.0, 0.25, 1.0]"

# The attack raising the class term alone, which takes more cells away. With worst.py, the stronger of both by image.
arms --arms $all --evaluation class_attack --noise_levels "[0.0, 2.5, 5.0]" --attack_loss \
    '{"_target_": "monai_amat.tasks.detection.DetectionLoss", "network": "@initial_network", "weights": {"box": 0.0, "dfl": 0.0}}'

# Stronger attacks on three of the networks.
arms --arms std sat:2.5 amat --noise_levels "$levels" --strength
arms --arms $all --noise_levels "$levels"
