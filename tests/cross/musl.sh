#!/bin/sh
# Compiles the library, the tests and the examples for Linux with musl instead of glibc, without a
# warning, as macos.sh does; then builds some of the tests, and runs them.
#
#     tests/cross/musl.sh [--syntax] [--jobs N] [-- FILE...]
#
# --syntax: clang++-19 only checks them, and nothing is run. The exit code is 0 when all of them
# compile and pass, 77 when there is no zig: see macos.sh, which takes the same variables.
set -eu

cd "$(dirname "$0")/../.."
. tests/cross/zig.sh
export ASYNCIO_CROSS_FOLDER="$folder" # for macos.sh
tests/cross/macos.sh x86_64-linux-musl "$@"
case " $* " in *" --syntax "*) exit 0 ;; esac

build() { # OUTPUT ARGUMENT...
    output=$1
    shift
    "$ZIG" c++ -target x86_64-linux-musl -std=c++20 -O0 -g0 -fno-sanitize=all -I. -Itests \
        -isystem "$folder/include" "$@" -o "$folder/$output"
}
for name in library implementation; do build $name.o -c tests/$name.cpp; done
for name in events streams processes; do
    build $name tests/$name.cpp "$folder/library.o" "$folder/implementation.o"
    "$folder/$name"
    rm "$folder/$name"
done
