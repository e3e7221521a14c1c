#!/usr/bin/env bash
# The main job on a real run: save four steps, look at them, restore each and compare every byte.
#
#     examples/demo.sh TPDE FIXTURES      TPDE: the binary; FIXTURES: the folder that tests/data/expand.py wrote
#
# Everything happens in a fresh temporary folder that is removed at the end. Exits with 1 if any byte differs.
set -euo pipefail

if (($# != 2)); then
    echo "usage: examples/demo.sh TPDE FIXTURES (or simply: make demo)" >&2
    exit 2
fi
if [[ ! -x $1 ]]; then
    echo "examples/demo.sh: no binary at $1; \`make build\` makes one" >&2
    exit 2
fi
if [[ ! -d $2 ]]; then
    echo "examples/demo.sh: no fixtures at $2; \`make fixtures\` writes them" >&2
    exit 2
fi
tpde=$(realpath "$1")
fixtures=$(realpath "$2")
python=${PYTHON:-python3}
[[ $python == */* ]] && python=$(realpath --no-symlinks "$python")

run=tinycode
steps=(0 40 50 200)

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' plain=''
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/tpde-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
# Neither the user's store nor the user's cache is touched.
export TPDE_STORE=$work/store TPDE_CACHE_DIR=$work/cache

source_of() { printf '%s/step-%05d' "$fixtures" "$1"; }

# Shows a command as one would type it, then runs it.
tell() {
    local shown=("tpde" "$@")
    printf '\n%s$ %s%s\n' "$bold" "${shown[*]}" "$plain" | sed "s#$work/##g; s#$fixtures/##g"
    "$tpde" "$@"
}

mkdir restored
tell init "$TPDE_STORE"
for step in "${steps[@]}"; do
    tell save "$(source_of "$step")" --store "$TPDE_STORE" --run "$run" --step "$step"
done
tell log "$run"
tell diff "$run@40" "$run@50"
for step in "${steps[@]}"; do
    tell restore "$run@$step" "restored/$step"
done

printf '\n%sEvery restored directory against the one that was saved%s\n\n' "$bold" "$plain"
identical=()
for step in "${steps[@]}"; do
    if diff -r "$(source_of "$step")" "restored/$step" >"diff-$step.txt" 2>&1; then
        identical+=("$step=yes")
    else
        identical+=("$step=NO")
    fi
done

"$tpde" log "$run" --json >log.json
GREEN=$green RED=$red DIM=$dim PLAIN=$plain "$python" - log.json "${identical[@]}" <<'PYTHON'
import json
import os
import sys

log = json.load(open(sys.argv[1]))
verdicts = dict(word.split("=") for word in sys.argv[2:])
stored = {str(entry["step"]): entry for entry in log["checkpoints"]}
green, red, dim, plain = (os.environ[name] for name in ("GREEN", "RED", "DIM", "PLAIN"))


def row(step, raw, kept, verdict):
    ratio = f"{raw / kept:,.1f}x" if kept else "-"
    colour = green if verdict == "yes" else red
    print(f"{step:>6} {raw:>14,} {kept:>14,} {ratio:>9}   {colour}{verdict}{plain}")


print(f"{dim}{'step':>6} {'raw bytes':>14} {'stored bytes':>14} {'ratio':>9}   restored identical{plain}")
for step, verdict in verdicts.items():
    row(step, stored[step]["raw_bytes"], stored[step]["stored_bytes"], verdict)
total = [sum(stored[step][key] for step in verdicts) for key in ("raw_bytes", "stored_bytes")]
row("all", *total, "yes" if set(verdicts.values()) == {"yes"} else "NO")
PYTHON

if [[ " ${identical[*]} " == *=NO\ * ]]; then
    printf '\n%sSome files did not come back as they were saved:%s\n' "$red" "$plain" >&2
    find . -maxdepth 1 -name 'diff-*.txt' -size +0 -exec head -n 5 {} + | sed "s#$work/##g; s#$fixtures/##g" >&2
    exit 1
fi
