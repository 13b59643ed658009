#!/usr/bin/env bash
# Make the stored run, bundle and API checkpoint, and record what they answer. Only the code of the commit in README.md makes
# what the test is for: call this in a checkout of that commit, with its virtual environment first in PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PALM_BEFORE_0_2=$folder OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 NO_COLOR=1 COLUMNS=120

cp -r "$here/data" "$here/configurations" "$folder"
cd "$folder"
mkdir expected

echo "== a finished run and its bundle"
palm-train run configurations/finished.toml
palm-export run/finished --output bundle --precision fp32

echo "== a run that is stopped midway"
palm-train run configurations/stopped.toml > log.txt &
process=$!
until grep -q '^step 58/' log.txt; do sleep 0.01; done
kill -TERM "$process"
wait "$process" && exit 1 || test $? = 130
rm log.txt

echo "== checkpoints of the Python API, and what they answer"
python "$here/two_heads.py" "$folder/data" "$folder/api_checkpoint" expected/two_heads.json

echo "== without the name of this folder"
find run api_checkpoint -name report.html -delete
find run api_checkpoint -name config.toml -exec sed -i "s#$folder#\${PALM_BEFORE_0_2}#g" {} +
if grep -rl "$folder" .; then exit 1; fi

echo "== what they answer"
cp -r run scratch_run  # evaluate writes into a run, and a resumed run changes
for split in dev test; do
    palm-train evaluate run/finished --split "$split" --json "expected/evaluate_$split.json"
done
palm-train predict run/finished --input data/texts.jsonl --output expected/predict.jsonl
palm-train predict api_checkpoint/pred.step6 --text "water red peppers tonight" > expected/predict_api.jsonl
palm-serve check bundle --provider CPU --precision fp32 > expected/check.txt
python "$here/served.py" bundle data/texts.jsonl expected/served.jsonl
palm-train run run/stopped/config.toml --resume
cp run/stopped/events.jsonl expected/resumed_events.jsonl
cp run/stopped/metrics.json expected/resumed_metrics.json
rm -rf run
mv scratch_run run

echo "== into this folder"
for name in run bundle api_checkpoint expected; do
    rm -rf "${here:?}/$name"
    cp -r "$name" "$here/$name"
done
cd "$here"
find run bundle api_checkpoint expected data configurations -type f | LC_ALL=C sort | xargs sha256sum > SHA256SUMS
