#!/usr/bin/env bash
# Takes over from target/fuzz/corpus what reaches code that the committed corpora do not, up to $BYTES_MAX a target.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${CARGO_TARGET_DIR:-target}/fuzz
fuzz=$out/build/$(rustc -vV | sed -n 's/^host: //p')/fuzz/fuzz
for folder in fuzz/corpus/*/; do
    target=$(basename "$folder")
    [ -d "$out/corpus/$target" ] || continue
    new=$(mktemp -d)
    cp "$folder"* "$new/"
    ANABRANCH_FUZZ_TARGET=$target "$fuzz" -merge=1 -max_len=4096 -rss_limit_mb=6144 "$new" "$out/corpus/$target" >/dev/null 2>&1
    bytes=0
    while read -r size file; do
        [ -e "$folder$file" ] && continue
        bytes=$((bytes + size))
        [ "$bytes" -le "${BYTES_MAX:-8192}" ] || break
        cp "$new/$file" "${folder}found-${file:0:12}"
    done < <(cd "$new" && find . -type f -printf '%s %f\n' | sort -n)
    rm -rf "$new"
done
du -cb fuzz/corpus/*/* | tail -n 1
