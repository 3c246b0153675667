#!/bin/sh
# Builds the tests for Windows with mingw, without a warning, and runs them under Wine.
#
#     tests/cross/wine.sh [--jobs N] [--repeat N] [TEST...]
#
# TEST: these only, as meson names them; all that Windows has when none is given. The build tree
# goes away at the end; ASYNCIO_CROSS_FOLDER=folder keeps it there. The exit code is 0 when all of
# them pass, as often as --repeat says, 1 when some do not, 77 without mingw, Wine or meson.
set -eu

jobs=2
repeat=1
while [ $# -gt 0 ]; do
    case $1 in
    --jobs) jobs=$2; shift 2 ;;
    --repeat) repeat=$2; shift 2 ;;
    -*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
    *) break ;;
    esac
done

cd "$(dirname "$0")/../.."
for tool in x86_64-w64-mingw32-g++-posix /usr/lib/wine/wine64 meson ninja; do
    command -v "$tool" >/dev/null || {
        echo "no $tool: apt-get install g++-mingw-w64-x86-64-posix wine64 wine meson ninja-build"
        exit 77
    }
done

if [ -n "${ASYNCIO_CROSS_FOLDER:-}" ]; then
    folder=$ASYNCIO_CROSS_FOLDER
    mkdir -p "$folder"
else
    folder=$(mktemp -d)
fi
export WINEDEBUG=-all WINEPREFIX="$folder/wine"
PATH=$PATH:/usr/lib/wine
end() {
    wineserver -k || true # this prefix's alone
    [ -n "${ASYNCIO_CROSS_FOLDER:-}" ] || rm -rf "$folder"
}
trap end EXIT

# The first start makes the prefix, which takes longer than a test may. It starts Wine's services,
# too, which stay until the end: with a test's output as theirs, meson would wait for them.
mkdir -p "$WINEPREFIX" # or the server refuses
wineserver -p </dev/null >/dev/null 2>&1 || true # it runs already
/usr/lib/wine/wine64 cmd /c exit </dev/null >/dev/null 2>&1

# The header after windows.h and before it; and that nothing of it shows in the declarations.
windows="x86_64-w64-mingw32-g++-posix -std=c++20 -I."
macros() { $windows -dM -E -x c++ - | sed 's/#define \([[:alnum:]_]*\).*/\1/' | LC_ALL=C sort; }
if [ $# -eq 0 ]; then
    for lean in -DAS_IT_IS -DWIN32_LEAN_AND_MEAN; do
        for name in windows_first windows_last; do
            $windows -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Werror \
                $lean -fsyntax-only "tests/compile/$name.cpp"
        done
    done
    sed '/^#endif .. ASYNCIO_HPP/q' asyncio.hpp | grep '^#include <' | macros >"$folder/known"
    if echo '#include "asyncio.hpp"' | macros | LC_ALL=C comm -13 "$folder/known" - |
        grep -v '^ASYNCIO_'; then
        echo "These macros come from asyncio.hpp."
        exit 1
    fi
fi

# With LLVM's tools, where they are: Debian's for mingw take a minute or more for each program.
llvm=
if command -v ld.lld-19 >/dev/null && command -v llvm-ar-19 >/dev/null; then
    llvm=$folder/llvm.ini
    cat >"$llvm" <<END
[binaries]
ar = 'llvm-ar-19'

[built-in options]
cpp_link_args = ['-static', '-wrapper', '$PWD/tests/cross/lld.sh']
END
fi
[ -d "$folder/build" ] ||
    meson setup --cross-file tests/cross/mingw.ini ${llvm:+--cross-file "$llvm"} \
        "$folder/build" >"$folder/setup.log" ||
    { cat "$folder/setup.log"; exit 1; }
ninja -C "$folder/build" -j "$jobs"
export ASYNCIO_TEST_TIMEOUT=300 # seconds for each case: Wine takes its time
meson test -C "$folder/build" --no-rebuild --print-errorlogs --num-processes "$jobs" \
    --timeout-multiplier 4 --repeat "$repeat" "$@" || exit 1
