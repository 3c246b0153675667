#!/bin/sh
# Builds a program for WebAssembly, without exceptions and threads, whose loop JavaScript drives,
# and runs it with node.
#
#     tests/cross/wasm.sh
#
# The compiler is zig. ZIG names it, or it is fetched into a folder that goes away at the end
# (350 MB; ASYNCIO_CROSS_FOLDER=folder keeps it there). The exit code is 0 when all is well, 1 when
# something is not, 77 when there is no zig or no node.
set -eu

cd "$(dirname "$0")/../.."
command -v node >/dev/null || { echo "no node: apt-get install nodejs"; exit 77; }

. tests/cross/zig.sh

# zig adds an option of its own that clang has no use for here, and says so of each file of its
# library.
"$ZIG" c++ -std=c++20 -target wasm32-wasi -Os -fno-exceptions -fno-rtti -mexec-model=reactor \
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Werror \
    -Wno-unused-command-line-argument -I. tests/cross/wasm/loop.cpp -o "$folder/loop.wasm" \
    >"$folder/zig.log" 2>&1 || { cat "$folder/zig.log"; exit 1; }
echo "$(($(wc -c <"$folder/loop.wasm"))) bytes of WebAssembly"
node --no-warnings tests/cross/wasm/host.mjs "$folder/loop.wasm"
