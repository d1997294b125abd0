#!/usr/bin/env bash
# The benchmark in miniature from the packages to the tables. What is finished is kept: the same command goes on after a
# stop.
#   bash experiments/miniature/regenerate.sh cpu     two cores
#   bash experiments/miniature/regenerate.sh gpu     one GPU
set -euo pipefail
cd "$(dirname "$0")/../.."

recipe=${1:?"expected: regenerate.sh cpu, or gpu"}
case $recipe in
  cpu) workers=2 trainer=cpu images=500 table=miniature results=results ;;
  gpu) workers=4 trainer=gpu images=null table=miniature_gpu results=results_gpu ;;  # other protocols do not share a table
  *) echo "regenerate.sh $recipe: expected cpu or gpu" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
run=(uv run --extra demo --extra miniature)
targets=(fashion_mnist_test decorative_fonts thai_digits icon_themes clipart)

together() {  # so many processes, which share the work; fails if one does
  local jobs=()
  for worker in $(seq "$workers"); do "$@" & jobs+=($!); done
  for job in "${jobs[@]}"; do wait "$job"; done
}

truth() {  # the table's name, then settings
  together "${run[@]}" train_groundtruth.py +truth="miniature_$recipe" trainer="$trainer" "${@:2}" \
    records=experiments/miniature/records table="experiments/groundtruth/$1.csv"
}

began=$SECONDS
told() { echo "regenerate: $1 after $((SECONDS - began)) s"; }

"${run[@]}" python -m itm.miniature.corpus --targets  # so that no package is missed hours later
told "corpus"
together "${run[@]}" python experiments/miniature/pretrain.py recipe="$recipe"
told "weights"
for data in "${targets[@]}"; do truth "$table" data="$data"; done
told "true accuracies"
for experiment in miniature miniature_ablations; do
  "${run[@]}" estimate.py +experiment=$experiment trainer="$trainer" data.limit="$images" \
    groundtruth="experiments/groundtruth/$table.csv" hydra.sweep.dir="outputs/$experiment"
  mkdir -p "experiments/miniature/$results"
  cp "outputs/$experiment/$experiment"*.{csv,png} "experiments/miniature/$results"
done
told "tables"
# the photographs that estimate.py takes where none are named; an epoch of them takes three times as long
truth "${table}_elpv" data=elpv zoo=miniature10 protocol.epochs=6
told "all"
