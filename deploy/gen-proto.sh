#!/usr/bin/env bash
# Generates the Python code of proto/v1/*.proto; with --check, only says whether the committed code is current.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
$python -m grpc_tools.protoc -I .links --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
  .links/pyswarm/proto/v1/*.proto
if [[ ${1:-} == --check ]]; then
  status=0
  for file in "$out"/pyswarm/proto/v1/*; do
    cmp -s "$file" "proto/v1/${file##*/}" || { echo "out of date: proto/v1/${file##*/} (run: make proto)" >&2; status=1; }
  done
  exit $status
fi
cp "$out"/pyswarm/proto/v1/* proto/v1/
