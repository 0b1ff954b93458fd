#!/bin/sh
# Everything in README.md here, from nothing: study.sh DATASET_DIR OUTPUT_DIR [RUNS_AT_ONCE] [--id value ...]
# A run that stopped goes on where it was.
#
# PROMISE12 (T2, whole gland: one channel, two classes) stands in for Task05_Prostate. Half the resolution (2 units of a
# spacing that its files do not tell; 128x128 pixels), every fourth slice, four folds: 10 volumes to train, 1 for
# validation, 3 for the test. ε is a quarter of the paper's: it is spread over a twelfth of the values, so that it is
# about as much a value.
set -eu
data=$1
out=$2
jobs=${3:-2}
[ $# -lt 3 ] && shift $# || shift 3
bundle=$(dirname "$0")/../../../bundles/prostate_amat

python -m monai_amat compare --bundle "$bundle" --overlays small --dataset_dir "$data" --output_dir "$out" \
    --jobs "$jobs" --reference sat:10 --arms std sat:5 sat:10 amat --delta 2.5 --max_margin 10 \
    --in_channels 1 --num_classes 2 \
    --n_splits 4 --slice_step 4 --spacing "[2.0, 2.0]" --patch_size "[128, 128]" --batch_size 8 --val_batch_size 16 \
    --max_epochs 15 --iterations_per_epoch 20 --val_interval 15 \
    --noise_levels "[0.0, 2.5, 5.0, 10.0]" --evaluation_steps 40 --test_slices "None" "$@"
