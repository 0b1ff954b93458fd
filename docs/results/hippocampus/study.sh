#!/bin/sh
# Everything in README.md here, from nothing: study.sh DATASET_DIR OUTPUT_DIR [RUNS_AT_ONCE]
# A run that stopped goes on where it was. About six hours on two cores.
set -eu
data=$1
out=$2
jobs=${3:-2}
bundle=$(dirname "$0")/../../../bundles/hippocampus_amat

study() {
    python -m monai_amat compare --bundle "$bundle" --overlays small --dataset_dir "$data" --jobs "$jobs" \
        --reference sat:10 --train_cases 30 --iterations_per_epoch 20 --val_interval 10 "$@"
}
validation="--evaluation validation --section validation --evaluation_steps 20 --test_slices 34"
test="--section test --evaluation_steps 100 --test_slices 70"

# One seed of every rule, acceptance and control: settings are chosen on the validation volumes, then all are tested.
arms="std sat:1 sat:5 sat:10 sat:15 sat_uniform:15 sat_ramp:15 amat amat_path amat_boundary amat_running amat_shuffled
    amat_relative:max_margin=15 amat_relative:tolerance=0.3,max_margin=15,rule::decay=0.8 amat_balanced
    amat_balanced+amat_shuffled"
study --output_dir "$out/arms" --arms $arms --max_epochs 40 $validation
study --output_dir "$out/arms" --arms $arms --max_epochs 40 $test

# Three seeds of what the conclusions rest on, and how strong the attack on them is.
study --output_dir "$out/arms" --arms std sat:10 amat amat_shuffled amat_balanced --seeds 0 1 2 --max_epochs 40 \
    --evaluation seeds $test --strength

# Three times the training.
study --output_dir "$out/long" --arms std sat:10 amat --max_epochs 120 $test

# Dice over the classes that are present in a slice, instead of all.
study --output_dir "$out/present" --arms std sat:10 amat --max_epochs 40 --loss::dice_over present $test
