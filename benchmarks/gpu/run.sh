#!/bin/bash
# run.sh [--dry] [OUT] [STAGE ...]: install the bundle into a folder of its own, then run the stages; tables go to OUT
# (default: $OUT, else benchmarks/gpu/out). --dry: every stage on the CPU at toy size, with the packages that are here.
# GPU_WORK: where models and searches are kept between runs (default: benchmarks/gpu/work). PYTHON: the interpreter.
# GPU_QUESTIONS: a folder of whole files for the stage question-answering (default: that of the bundle).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
dry=()
if [ "${1:-}" = "--dry" ]; then
  # Threads that sleep while they wait spare the fork server that passive processes need of their own.
  dry=(--dry); shift; export OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
fi
out=${1:-${OUT:-$here/out}}
if [ $# -gt 0 ]; then shift; fi
work=${GPU_WORK:-$here/work}
mkdir -p "$out" "$work"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ ${#dry[@]} -eq 0 ]; then
  shopt -s nullglob
  wheels=("$here"/bundle/part-*/wheels/*.whl)
  shopt -u nullglob
  if [ ${#wheels[@]} -gt 0 ]; then
    site="$work/site"
    named=$(printf '%s\n' "${wheels[@]##*/}")
    if [ "$(cat "$site/.wheels" 2>/dev/null)" != "$named" ]; then
      rm -rf "$site"
      "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "${wheels[@]}"
      printf '%s\n' "$named" > "$site/.wheels"
    fi
    export PYTHONPATH="$site:$PYTHONPATH"
  else
    echo "no wheels in $here/bundle: going on with the packages of this machine" >&2
  fi
fi
exec "$python" -m benchmarks.gpu.run "$out" "${dry[@]}" "$@"
