#!/bin/sh
# Builds programs for a Cortex-M3, which has no operating system, without a warning; runs them under
# qemu; and says what they need of flash and RAM.
#
#     tests/cross/cortex_m3.sh [PROGRAM...]
#
# PROGRAM: three_tasks, embedded_no_os, no_system, sections, sections_and_exceptions; all when none
# is given. The last two are the library's own tests, which have the board's 4 MiB of flash and of
# RAM. The processor's clock counts instructions, so that a busy machine changes nothing. Three
# tasks and the loop may have 24 KiB of flash. DOCTEST names doctest.h. The exit code is 0 when all
# is well, 1 when something is not, 77 when a tool is not here.
set -eu

case ${1-} in
-*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
programs=${*:-three_tasks embedded_no_os no_system sections sections_and_exceptions}
most_flash=$((24 * 1024))

cd "$(dirname "$0")/../.."
for tool in arm-none-eabi-g++ qemu-system-arm "${DOCTEST:=/usr/include/doctest/doctest.h}"; do
    command -v "$tool" >/dev/null || [ -f "$tool" ] || {
        echo "no $tool: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi" \
            "libstdc++-arm-none-eabi-newlib qemu-system-arm doctest-dev"
        exit 77
    }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# What programs add to the command; /usr/include is another machine's, but for doctest.
mkdir "$folder/doctest"
cp "$DOCTEST" "$folder/doctest/doctest.h"
no_exceptions="-fno-exceptions -fno-rtti"
small="$no_exceptions --specs=nano.specs"
sections="-DASYNCIO_BACKEND_NONE -Wl,--defsym=flash_size=4M,--defsym=ram_size=4M -isystem $folder"
for file in implementation_without_system \
    futures tasks generators timeouts taskgroups locks queues; do
    sections="$sections tests/$file.cpp"
done

build() { # PROGRAM ARGUMENT...
    name=$1
    shift
    # g++ has a note about arguments that its version 7 passed in another way.
    arm-none-eabi-g++ -std=c++20 -Os -mthumb -mcpu=cortex-m3 -fno-threadsafe-statics \
        -ffunction-sections -fdata-sections -Wl,--gc-sections \
        -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Werror -Wno-psabi \
        -I. -nostartfiles -T tests/cross/cortex_m3/link.ld tests/cross/cortex_m3/start.cpp "$@" \
        -o "$folder/$name"
}
run() { # PROGRAM [ARGUMENT]
    timeout 120 qemu-system-arm -M mps2-an385 -icount shift=5,sleep=off \
        -nographic -monitor none -serial none \
        -semihosting-config "enable=on,target=native,arg=$1${2:+,arg=$2}" \
        -kernel "$folder/$1" </dev/null 2>&1
}
flash() { arm-none-eabi-size "$folder/$1" | awk 'NR == 2 { print $1 + $2 }'; }

passed=0
failed=0
result() { # NAME CODE
    if [ "$2" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    [ "$2" = 0 ] || echo "FAILED: $1 (exit code $2)"
}
try() { # NAME COMMAND...
    name=$1
    shift
    code=0
    "$@" || code=$?
    result "$name" "$code"
}

for program in $programs; do
    case $program in
    three_tasks) arguments="$small tests/cross/cortex_m3/three_tasks.cpp" ;;
    embedded_no_os) arguments="$small examples/cookbook/embedded_no_os.cpp" ;;
    no_system) arguments="$small tests/no_system.cpp" ;;
    sections) arguments="$no_exceptions $sections" ;;
    sections_and_exceptions) arguments=$sections ;;
    *) echo "there is no program '$program'"; exit 2 ;;
    esac
    echo "--- $program"
    # shellcheck disable=SC2086 # arguments are words
    if ! build "$program" $arguments; then
        result "$program does not build" 1
        continue
    fi
    arm-none-eabi-size "$folder/$program" |
        awk 'NR == 2 { print $1 + $2, "bytes of flash,", $2 + $3, "of RAM and the stack" }'
    try "$program" run "$program"
    if [ "$program" = no_system ]; then
        for word in backwards forgotten uncaught memory; do
            try "$program $word" run "$program" "$word"
        done
    fi
    if [ "$program" = three_tasks ] && [ "$(flash three_tasks)" -gt $most_flash ]; then
        result "three_tasks has more than $most_flash bytes of flash" 1
    fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
