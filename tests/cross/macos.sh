#!/bin/sh
# Compiles the library, the tests and the examples for macOS, with Apple's headers and without a
# warning. Nothing is linked or run: there is no macOS here. musl.sh has it do the same for musl.
#
#     tests/cross/macos.sh [--syntax] [--jobs N] [TARGET...] [-- FILE...]
#
# TARGET: x86_64-macos, aarch64-macos (both when none is given), x86_64-linux-musl. FILE: these
# only. The compiler is zig, which brings the headers along. ZIG names it, or it is fetched into a
# folder that goes away at the end (350 MB; ASYNCIO_CROSS_FOLDER=folder keeps it there). --syntax:
# clang++-19 only checks them, with zig's headers and our own precompiled, which is far faster. The
# exit code is 0 when all of them compile, 1 when some do not, 77 when there is no zig.
set -eu

jobs=2
compile=compile
targets=
files=
left_out=
while [ $# -gt 0 ]; do
    case $1 in
    --syntax) compile=check ;;
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
    # Not the long test of memory, which asks glibc, nor what builds on what is not brought along;
    # and for macOS not the tests of worker processes, which it does not have.
    files=$(grep -LE '^#include <(openssl|SDL|uv|asio|glib|winsock2)' tests/*.cpp examples/*/*.cpp |
        grep -v '^tests/soak.cpp$')
    left_out=macos:tests/executors.cpp
fi

. tests/cross/zig.sh

# doctest alone: with all of /usr/include its headers would stand before Apple's.
mkdir -p "$folder/include/doctest" "$folder/logs"
doctest=${DOCTEST:-/usr/include/doctest/doctest.h}
cp "$doctest" "$folder/include/doctest/doctest.h"
rm -f "$folder"/logs/* "$folder"/*.pch
export folder compile

# One file for one target; its log stays where it did not compile. What examples hold of the
# library is the same in all of them, and compiled once. What zig defines for its libc++, clang++
# has to be told.
# shellcheck disable=SC2016
one='
compile() { # TARGET ARGUMENT...
    target=$1
    shift
    "$ZIG" c++ -target "$target" -O0 -g0 -fno-sanitize=all "$@" -c -o "$log.o"
}
check() {
    lib=$(dirname "$ZIG")/lib
    system=$lib/libc/include
    case $1 in
    *-macos) system="-target ${1%-macos}-apple-macosx13.0.0 -isystem $system/any-macos-any" ;;
    *-linux-musl) system="-target $1 -isystem $system/$1 -isystem $system/generic-musl
        -isystem $system/x86-linux-any -isystem $system/any-linux-any -D_LIBCPP_HAS_MUSL_LIBC" ;;
    esac
    shift
    clang++-19 -nostdinc -isystem "$lib/libcxx/include" \
        -isystem "$lib/libcxxabi/include" -isystem "$lib/include" $system \
        -D_LIBCPP_ABI_VERSION=1 -D_LIBCPP_ABI_NAMESPACE=__1 -D_LIBCPP_PSTL_BACKEND_SERIAL \
        -D_LIBCPP_HARDENING_MODE=_LIBCPP_HARDENING_MODE_DEBUG \
        -D_LIBCPP_HAS_NO_VENDOR_AVAILABILITY_ANNOTATIONS "$@" $output
}
options=-DASYNCIO_IMPLEMENTATION_DONE
output=-fsyntax-only
precompiled=$folder/$1.pch
[ ! -f "$precompiled" ] || options="$options -include-pch $precompiled"
case $2 in
asyncio.hpp) options="$options -x c++-header" output="-o $precompiled" ;;
tests/library.cpp | tests/no_threads.cpp) options= ;; # the library is in them
tests/swept_examples.cpp) options="$options -DLESSON=1" ;;
esac
if grep -q "^#error .* -fno-exceptions" "$2"; then
    options="-DASYNCIO_IMPLEMENTATION_DONE -fno-exceptions -fno-rtti"
elif grep -qE "^# *define ASYNCIO_(ALLOC|FATAL|NO_|BACKEND)" "$2"; then
    options=-DASYNCIO_IMPLEMENTATION_DONE # it makes another header of ours
fi
log=$folder/logs/$1-$(echo "$2" | tr / _)
$compile "$1" -std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Werror \
    $options -I. -Itests -isystem "$folder/include" \
    -DSOURCE_DIR=\"\" -DPROJECT_VERSION=\"\" -DCOMPILE_COMMAND=\"\" \
    "$2" >"$log" 2>&1 && rm -f "$log"
rm -f "$log.o"
exit 0'
for target in $targets; do
    [ "$compile" = compile ] || sh -c "$one" sh "$target" asyncio.hpp
    for file in $files; do
        [ "${target##*-}:$file" = "$left_out" ] || echo "$target $file"
    done
done >"$folder/list"
xargs -n 2 -P "$jobs" sh -c "$one" sh <"$folder/list"

count=$(wc -l <"$folder/list")
[ "$compile" = compile ] || count=$((count + $(echo $targets | wc -w)))
failed=0
for log in "$folder"/logs/*; do
    [ -f "$log" ] || continue
    failed=$((failed + 1))
    echo "--- ${log##*/}"
    head -n 40 "$log"
done
echo "$((count - failed)) compiled, $failed failed"
[ $failed = 0 ]
