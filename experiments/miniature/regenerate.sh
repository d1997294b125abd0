#!/usr/bin/env bash
# Build the benchmark in miniature from the Debian packages to the tables. Finished parts are kept: the same command
# resumes after a stop.
#   bash experiments/miniature/regenerate.sh cpu     two cores
#   bash experiments/miniature/regenerate.sh gpu     one GPU
set -euo pipefail
cd "$(dirname "$0")/../.."

recipe=${1:?"expected: regenerate.sh cpu, or gpu"}
case $recipe in
  cpu) workers=2 trainer=cpu images=500 table=miniature results=results ;;
  gpu) workers=4 trainer=gpu images=null table=miniature_gpu results=results_gpu ;;  # one table per protocol
  *) echo "regenerate.sh $recipe: expected cpu or gpu" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
run=(uv run --extra demo --extra miniature --extra segmentation --group pictures)
targets=(fashion_mnist_test decorative_fonts thai_digits icon_themes clipart)
# those of registration.md, of both halves in turn, so that a stop leaves some of each
registered=(
  emoji game_tiles animal_outlines oxygen_icons stamps digits land_tiles
  chess_pieces music_signs solar_cells game_terrain brain_regions game_creatures game_units
)

together() {  # run $workers processes that share the work; fail if one fails
  local jobs=()
  for worker in $(seq "$workers"); do "$@" & jobs+=($!); done
  for job in "${jobs[@]}"; do wait "$job"; done
}

truth() {  # arguments: name of the table, then settings
  together "${run[@]}" train_groundtruth.py +truth="miniature_$recipe" trainer="$trainer" "${@:2}" \
    records=experiments/miniature/records table="experiments/groundtruth/$1.csv"
}

began=$SECONDS
report() { echo "regenerate: $1 after $((SECONDS - began)) s"; }

"${run[@]}" python -m experiments.miniature.corpus --targets  # checks all packages before the long work
report "corpus"
for family in first second; do
  together "${run[@]}" python -m experiments.miniature.pretrain recipe="$recipe" family="$family"
done
report "weights"
for data in "${targets[@]}"; do truth "$table" data="$data"; done
report "true accuracies"

tabulate() {  # arguments: an experiment, its table of true accuracies, then settings
  "${run[@]}" estimate.py +experiment="$1" trainer="$trainer" groundtruth="experiments/groundtruth/$2.csv" \
    hydra.sweep.dir="outputs/$1" "${@:3}"
  mkdir -p "experiments/miniature/$results"
  cp "outputs/$1/$1"*.{csv,png} "experiments/miniature/$results"
}

for experiment in miniature miniature_ablations; do tabulate $experiment "$table" data.limit="$images"; done
tabulate images_needed "$table"
"${run[@]}" python -m experiments.miniature.analysis --folder "experiments/miniature/$results" \
  --rankings "experiments/miniature/$results/miniature_rankings.csv" --truth "experiments/groundtruth/$table.csv"
report "tables"
for data in "${targets[@]}" "${registered[@]}"; do truth "${table}_registered" data="$data"; done
report "true accuracies of the registered targets"
tabulate registered "${table}_registered" data.limit="$images"
report "table of the registered targets"
# ELPV, the default dataset of estimate.py; its epochs take three times as long as the others
truth "${table}_elpv" data=elpv zoo=miniature10 protocol.epochs=6
report "all"
