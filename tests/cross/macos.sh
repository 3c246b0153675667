#!/bin/sh
# Compiles the library, the tests and the examples for macOS, with Apple's headers and without a
# warning. Nothing is linked or run: there is no macOS here.
#
#     tests/cross/macos.sh [--jobs N] [TARGET...] [-- FILE...]
#
# TARGET: x86_64-macos, aarch64-macos; both when none is given. FILE: these only. The compiler is zig,
# which brings the headers along. ZIG names it, or it comes from npm into a folder that goes away at
# the end (350 MB; ASYNCIO_CROSS_FOLDER=folder keeps it there). The exit code is 0 when all of them
# compile, 1 when some do not, 77 when there is no zig.
set -eu

jobs=2
targets=
files=
while [ $# -gt 0 ]; do
    case $1 in
    --jobs) jobs=$2; shift ;;
    --) shift; files=$*; break ;;
    -*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
    *) targets="$targets $1" ;;
    esac
    shift
done
: "${targets:=x86_64-macos aarch64-macos}"

cd "$(dirname "$0")/../.."
if [ -z "$files" ]; then
    # Not the tests of worker processes, which this version has on Linux only, nor the long one of
    # memory, which asks glibc; and not what builds on what macOS does not bring along.
    files=$(grep -LE '^#include <(openssl|SDL|uv|asio|glib|winsock2)' tests/*.cpp examples/*/*.cpp |
        grep -v -e '^tests/executors.cpp$' -e '^tests/soak.cpp$')
fi

. tests/cross/zig.sh

# doctest alone: with all of /usr/include its headers would stand before Apple's.
mkdir -p "$folder/include/doctest" "$folder/logs"
doctest=${DOCTEST:-/usr/include/doctest/doctest.h}
cp "$doctest" "$folder/include/doctest/doctest.h"
rm -f "$folder"/logs/*
export folder

# One file for one target; its log stays where it did not compile. What examples hold of the
# library is the same in all of them, and compiled once.
# shellcheck disable=SC2016
one='
options=-DASYNCIO_IMPLEMENTATION_DONE
case $2 in
tests/library.cpp) options= ;;
tests/swept_examples.cpp) options="$options -DLESSON=1" ;;
esac
if grep -q "^#error .* -fno-exceptions" "$2"; then
    options="$options -fno-exceptions -fno-rtti"
fi
log=$folder/logs/$1-$(echo "$2" | tr / _)
"$ZIG" c++ -std=c++20 -target "$1" -O0 -g0 -fno-sanitize=all -Wall -Wextra -Wpedantic -Wconversion -Wshadow \
    -Wold-style-cast -Werror $options -I. -Itests -isystem "$folder/include" \
    -DSOURCE_DIR=\"\" -DPROJECT_VERSION=\"\" -DCOMPILE_COMMAND=\"\" \
    -c "$2" -o "$log.o" >"$log" 2>&1 && rm -f "$log"
rm -f "$log.o"
exit 0'
for target in $targets; do
    for file in $files; do printf '%s\n%s\n' "$target" "$file"; done
done | xargs -n 2 -P "$jobs" sh -c "$one" sh

# shellcheck disable=SC2086
count=$(($(set -- $targets; echo $#) * $(set -- $files; echo $#)))
failed=0
for log in "$folder"/logs/*; do
    [ -f "$log" ] || continue
    failed=$((failed + 1))
    echo "--- ${log##*/}"
    head -n 40 "$log"
done
echo "$((count - failed)) compiled, $failed failed"
[ $failed = 0 ]
