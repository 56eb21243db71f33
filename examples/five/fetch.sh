#!/usr/bin/env bash
# Puts the files that files.txt lists, a line of name, SHA-256 and address each, into data/ beside this script.
set -euo pipefail

usage() {
    cat <<'END'
Usage: fetch.sh [FOLDER]

Gets the data of this example into data/ beside this script: by curl from where it is public, or from FOLDER, which
has files of the same names. Files that are there already stay. Every file is compared with its SHA-256, and appears
whole or not at all.
END
}

fail() {
    echo "error: $1" >&2
    exit "${2:-1}"
}

sha256() {
    if command -v sha256sum >/dev/null; then
        sha256sum <"$1" | cut -d ' ' -f 1
    else
        shasum -a 256 <"$1" | cut -d ' ' -f 1
    fi
}

# get NAME ADDRESS FILE: writes the file from the folder, or from its address where no folder is given.
get() {
    if [ -n "$folder" ]; then
        cp -- "$folder/$1" "$3" || fail "$folder/$1 cannot be read"
    else
        curl --fail --silent --show-error --location --retry 2 --output "$3" -- "$2" || fail "$1 cannot be fetched from $2"
    fi
}

folder=
case "${1-}" in
-h | --help)
    usage
    exit
    ;;
-*) fail "there is no option $1: see fetch.sh --help" 2 ;;
esac
[ $# -le 1 ] || fail "one folder at most: see fetch.sh --help" 2
if [ $# = 1 ]; then
    folder=$(cd -- "$1" 2>/dev/null && pwd) || fail "$1 is no folder that can be read" 2
elif ! command -v curl >/dev/null; then
    fail "curl is not installed: install it, or name a folder that has the files" 2
fi

cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
mkdir -p data
partial=$(mktemp data/partial.XXXXXX)
trap 'rm -f -- "$partial"' EXIT
while read -r name sum address; do
    if [ -e "data/$name" ]; then
        [ "$(sha256 "data/$name")" = "$sum" ] || fail "data/$name is there and is another file: remove it"
        echo "data/$name is there already"
        continue
    fi
    get "$name" "$address" "$partial"
    [ "$(sha256 "$partial")" = "$sum" ] || fail "${folder:+$folder/}$name is not the file it was: its SHA-256 is not $sum"
    chmod 644 "$partial"
    mv -- "$partial" "data/$name"
    echo "data/$name"
done <files.txt
