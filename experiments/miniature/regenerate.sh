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
run=(uv run --extra demo --extra miniature)
targets=(fashion_mnist_test decorative_fonts thai_digits icon_themes clipart)

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
together "${run[@]}" python -m experiments.miniature.pretrain recipe="$recipe"
report "weights"
for data in "${targets[@]}"; do truth "$table" data="$data"; done
report "true accuracies"
for experiment in miniature miniature_ablations; do
  "${run[@]}" estimate.py +experiment=$experiment trainer="$trainer" data.limit="$images" \
    groundtruth="experiments/groundtruth/$table.csv" hydra.sweep.dir="outputs/$experiment"
  mkdir -p "experiments/miniature/$results"
  cp "outputs/$experiment/$experiment"*.{csv,png} "experiments/miniature/$results"
done
report "tables"
# ELPV, the default dataset of estimate.py; its epochs take three times as long as the others
truth "${table}_elpv" data=elpv zoo=miniature10 protocol.epochs=6
report "all"
