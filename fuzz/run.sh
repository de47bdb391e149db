#!/usr/bin/env bash
# Fuzzes every target in turn, or those of $TARGETS, for $SECONDS_TOTAL together. `make fuzz` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds_total=${SECONDS_TOTAL:-3600}
cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-target}/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
if ! command -v c++ >/dev/null; then
    echo "a C++ compiler is needed: libFuzzer is built from source (Debian: apt install g++)"
    exit 1
fi

# With --target, build scripts and macros are not instrumented. The flags would rebuild everything: a folder of its own.
flags="--cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags="$flags -Cllvm-args=-sanitizer-coverage-$option"
done
RUSTFLAGS="$flags" CARGO_TARGET_DIR="$out/build" "$cargo" build --locked --package anabranch-fuzz --bin fuzz \
    --features libfuzzer --profile fuzz --target "$host"
fuzz=$out/build/$host/fuzz/fuzz

read -r -a targets <<<"${TARGETS:-$(ls fuzz/corpus | tr '\n' ' ')}"
seconds=$((seconds_total / ${#targets[@]}))
[ "$seconds" -ge 1 ] || seconds=1 # 0 would be for ever
failed=()
for target in "${targets[@]}"; do
    case $target in
        etl_*) length=8192 memory=6144 ;; # Parquet's pages: fuzz/README.md
        delivered_parquet) length=16384 memory=6144 ;;
        snapshot | backup | kinesis_event | firehose_event) length=8192 memory=1024 ;;
        *) length=4096 memory=1024 ;;
    esac
    mkdir -p "$out/corpus/$target" "$out/artifacts/$target"
    echo "=== $target: $seconds s"
    if ANABRANCH_FUZZ_TARGET=$target "$fuzz" "$out/corpus/$target" "fuzz/corpus/$target" -max_total_time="$seconds" \
        -max_len="$length" -rss_limit_mb="$memory" -timeout=20 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="$out/artifacts/$target/" >"$out/$target.log" 2>&1; then
        grep -E "number_of_executed_units|peak_rss" "$out/$target.log" || true
    else
        failed+=("$target")
        tail -n 40 "$out/$target.log"
        file=$(sed -n 's/.*Test unit written to //p' "$out/$target.log" | tail -n 1)
        echo "FAILED. The input again, without libFuzzer:"
        echo "  ANABRANCH_FUZZ_INPUT=$(realpath "${file:-.}") $cargo test -p anabranch-fuzz --test corpora $target -- --exact --nocapture"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "${#targets[@]} targets, $seconds s each: nothing found"
