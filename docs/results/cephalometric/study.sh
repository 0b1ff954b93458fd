#!/bin/sh
# Everything in README.md here, from nothing: study.sh DATASET_DIR OUTPUT_DIR [RUNS_AT_ONCE]
# DATASET_DIR is the challenge's folder (RawImage, AnnotationsByMD). A run that stopped goes on where it was. About
# seven hours of one core.
set -eu
data=$1
out=$2
jobs=${3:-2}
bundle=$(dirname "$0")/../../../bundles/cephalometric_amat

# An eighth of the width, 100x80, 40 epochs. Noise is that of 200x160 times the square root of the pixel ratio, 1/2:
# the curve's ε 0, .5, 1.5 for the paper's 0, 1, 3, and 3 for 6; Δ 0.5 for 1, cap 2.5 for 5, SAT .5 and 1.5 for 1 and 3.
# Heads that come again in a later section are left out of training.
study() {
    python -m monai_amat compare --bundle "$bundle" --overlays small --dataset_dir "$data" --output_dir "$out" \
        --jobs "$jobs" --reference amat --drop_duplicates True --section test --evaluation_steps 100 "$@"
}

# Table 3 and figure 5: both plain networks, SAT at two noise levels, AMAT, and the control with shuffled margins.
# First four of them alone, whose networks meet stronger attacks too (ε .75, 20 images).
levels="[0.0, 0.5, 1.5, 3.0]"
study --arms std std+bce sat:1.5 amat --noise_levels "$levels" --strength
# Then the ways out of margins that do not move.
study --arms std sat:1.5 amat amat_running amat:initial_weights=std sat:1.5,initial_weights=std --reference sat:1.5 \
    --noise_levels "$levels"
cp "$out/summary.json" "$out/summary_ways_out.json"
study --arms std std+bce sat:0.5 sat:1.5 amat amat_shuffled --noise_levels "$levels"

# Three ways of the training forward: both halves normalised together (amat), each alone with the running statistics
# shared, or with statistics of its own for the noisy half.
few="[0.0, 1.5, 3.0]"
study --arms amat amat+separate_forwards amat+own_statistics --evaluation forwards --noise_levels "$few"
cp "$out/forwards/summary.json" "$out/forwards/summary_three.json"
study --arms amat amat+own_statistics --evaluation forwards --noise_levels "$few" --seeds 0 1

# The attack raising the other heat-map term, which is the one that STD(BCE) was trained on.
study --arms std std+bce amat --evaluation bce_attack --noise_levels "$few" \
    --attack_heatmap#_target_ monai_amat.tasks.landmarks.HeatmapBCE
