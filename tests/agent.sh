#!/usr/bin/env bash
# Asks the AI agent from outside, with real curl: broken sources, bad options, --serve under load, and SIGTERM.
#
#     tests/agent.sh [AGENT]      AGENT: the built examples/6_agent/ai_agent.cpp; without it, it is built first
#
# Prints one line per check; exits 1 if one does not hold. Takes about half a minute.
set -u
agent=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.." || exit 1
dir=$(mktemp -d)
server=
failed=0
cleanup() {
    if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null; wait "$server" 2>/dev/null; fi
    rm -rf "$dir"
}
trap cleanup EXIT

if [ -z "$agent" ]; then
    agent=$dir/agent
    ${CXX:-g++} -std=c++20 -O2 -pthread -I. examples/6_agent/ai_agent.cpp -o "$agent" || exit 1
fi

check() { # check SENTENCE COMMAND...: the sentence is true if the command succeeds
    local sentence=$1
    shift
    if "$@"; then
        echo "ok      $sentence"
    else
        echo "FAILED  $sentence   [$*]"
        failed=1
    fi
}
gives() { # gives STATUS OPTIONS...: how the agent ends; output in $dir/out and $dir/err
    local status=$1
    shift
    "$agent" "$@" >"$dir/out" 2>"$dir/err"
    local got=$?
    [ $got -eq "$status" ] || { echo "exit $got instead of $status; it said:"; cat "$dir/out" "$dir/err"; return 1; }
}
says() { grep -q -- "$2" "$dir/$1" || { echo "no \"$2\" in:"; cat "$dir/$1"; return 1; }; }
is_json() {
    command -v python3 >/dev/null || return 0
    python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$1" 2>/dev/null || { echo "not JSON:"; cat "$1"; return 1; }
}

listen() { # listen OPTIONS...: starts a server on a free port; its number is in $port
    : >"$dir/server"
    "$agent" --serve 0 "$@" >"$dir/server" 2>&1 &
    server=$!
    port=
    while [ -z "$port" ]; do
        kill -0 "$server" 2>/dev/null || { echo "the server ended:"; cat "$dir/server"; exit 1; }
        port=$(sed -n 's/^listening on http:\/\/127\.0\.0\.1:\([0-9]*\).*/\1/p' "$dir/server")
        [ -n "$port" ] || sleep 0.05
    done
}
ended() { # ended STATUS: the server ends by itself, with that status
    wait "$server"
    local got=$?
    server=
    [ $got -eq "$1" ] || { echo "exit $got; it said:"; cat "$dir/server"; return 1; }
}
ask() { # ask NUMBER: one question; in $dir/got.NUMBER then is "status seconds retry-after"
    curl -sS --max-time 120 -o "$dir/body.$1" -w '%{http_code} %{time_total} %header{retry-after}\n' \
        "http://127.0.0.1:$port/ask?q=$1+museum" >"$dir/got.$1"
}
ask_at_once() { # ask_at_once COUNT: that many questions; their processes are in $asking
    rm -f "$dir"/got.*
    asking=
    local i
    for ((i = 1; i <= $1; ++i)); do
        ask "$i" &
        asking="$asking $!"
    done
}
count() { cat "$dir"/got.* 2>/dev/null | grep -c "^$1 "; } # count STATUS
equals() { [ "$1" = "$2" ] || { echo "\"$1\" is not \"$2\""; return 1; }; }

# ---- options ----
check "--help ends with 0" gives 0 --help
check "  and shows the usage" says out "^usage: "
check "an unknown option ends with 2" gives 2 --nonsense
check "  and shows the usage" says err "^usage: "
check "an unknown source ends with 2" gives 2 --fail horoscope
check "an option without its value ends with 2" gives 2 --question
check "a port that is no number ends with 2" gives 2 --serve http
check "a port beyond 65535 ends with 2" gives 2 --serve 65536

# ---- one question ----
check "a question is answered" gives 0 --quick --json --question 'Is "the museum" free \ today?'
check "  in JSON" is_json "$dir/out"
check "  by all three sources" says out '"errors": {}'
check "the trace can be written" gives 0 --quick --trace "$dir/trace"
check "  in JSON" is_json "$dir/trace"
for how in "--fail news" "--slow weather" "--garbage knowledge" "--fail knowledge --garbage news"; do
    check "$how: the agent still answers" gives 0 --quick --json $how
    check "  in JSON" is_json "$dir/out"
    check "  with success" says out '"success": true'
    for source in weather news knowledge; do
        case $how in
        *$source*) check "  with an error for $source" says out "\"$source\": \"." ;;
        *) check "  with the part of $source" says out "\"$source\": {" ;;
        esac
    done
done
check "all sources broken: it ends in order" gives 0 --quick --json --fail news --slow weather --garbage knowledge
check "  without success" says out '"success": false'

# ---- many questions ----
listen --quick
check "another server on the same port ends with 1" gives 1 --quick --serve "$port"
check "  and says that the port is in use" says err "$port.*in use\|in use.*$port"
ask_at_once 200
wait $asking
check "--quick: 200 questions at once all get 200" equals "$(count 200)" 200
check "  and JSON" is_json "$dir/body.200"
check "  without errors" grep -q '"errors": {}' "$dir/body.200"
status=$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/")
check "another page gets 404" equals "$status" 404
status=$(curl -s -o "$dir/body" -w '%{http_code}' --get --data-urlencode 'q=Zoë & "me"' "http://127.0.0.1:$port/ask")
check "a question with special characters gets 200" equals "$status" 200
check "  and its own words back" says body '"query": "Zoë & \\"me\\""'
kill -TERM "$server"
check "SIGTERM ends it with 0" ended 0

# ---- too many questions, and SIGTERM while they run ----
listen
cores=$(nproc)
ask_at_once $((2 * cores + 3))
while [ "$(count 503)" -lt 3 ] && [ "$(count '...')" -lt $((2 * cores + 3)) ]; do sleep 0.05; done
kill -TERM "$server"
check "SIGTERM while questions run: it ends with 0" ended 0
wait $asking
check "2 x cores questions were answered" equals "$(count 200)" $((2 * cores))
check "  and the other three refused" equals "$(count 503)" 3
check "  with Retry-After" equals "$(cat "$dir"/got.* | grep '^503 ' | cut -d' ' -f3 | sort -u)" 5
check "  at once" equals "$(cat "$dir"/got.* | awk '$1 == 503 && $2 > 2')" ""
curl -s --max-time 5 "http://127.0.0.1:$port/ask?q=late" >"$dir/body"
check "afterwards the port is closed" equals "$?" 7

exit $failed
