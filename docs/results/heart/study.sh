#!/bin/sh
# Everything in README.md here, from nothing: study.sh DATASET_DIR OUTPUT_DIR [RUNS_AT_ONCE] [--id value ...]
# A run that stopped goes on where it was.
#
# Task02_Heart at half the resolution (2.5 mm, 128x128 pixels), every fourth slice, two folds because of eight volumes:
# 4 to train, 1 for validation, 3 for the test. ε is half the paper's, which is about as much a pixel.
set -eu
data=$1
out=$2
jobs=${3:-2}
[ $# -lt 3 ] && shift $# || shift 3
bundle=$(dirname "$0")/../../../bundles/heart_amat

python -m monai_amat compare --bundle "$bundle" --overlays small --dataset_dir "$data" --output_dir "$out" \
    --jobs "$jobs" --reference sat:7.5 --arms std sat:2.5 sat:7.5 amat --delta 2.5 --max_margin 12.5 \
    --n_splits 2 --slice_step 4 --spacing "[2.5, 2.5]" --patch_size "[128, 128]" --batch_size 8 --val_batch_size 16 \
    --max_epochs 15 --iterations_per_epoch 20 --val_interval 15 \
    --noise_levels "[0.0, 2.5, 5.0, 7.5]" --evaluation_steps 40 --test_slices "None" "$@"
