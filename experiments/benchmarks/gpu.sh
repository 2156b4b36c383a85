#!/usr/bin/env bash
# What a GPU gives, and how much of it training and drawing use, in about two minutes and
# without a network: experiments/benchmarks/gpu.sh FOLDER [--preset small ...]
# Every part has a process, a log and a time limit of its own (LIMIT, seconds).
set -u
out=${1:?the folder of results} here=$(cd "$(dirname "$0")" && pwd)
shift
mkdir -p "$out"
part() {
    timeout "${LIMIT:-100}" python3 "$here/$1.py" "$2" --out "$out" "${@:3}" \
        > "$out/$2.log" 2>&1 || echo "$2 stopped with $?: $(tail -n 1 "$out/$2.log")"
}
for name in rates bare compiled; do
    part gpu "$name" "$@" &
done
part gpu_product product "$@" &
wait
python3 "$here/gpu.py" table --out "$out" "$@"
