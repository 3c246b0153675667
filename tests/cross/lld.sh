#!/bin/sh
# Has g++ link with lld, which takes a second where Debian's linker for mingw takes minutes: that
# g++ knows no other one by its options, so this is its -wrapper, which gets all that it runs.
case $1 in
*/collect2) ;;
*) exec "$@" ;;
esac
shift
for argument; do
    shift
    # Meson's, which lld does not know here.
    [ "$argument" = --allow-shlib-undefined ] || set -- "$@" "$argument"
done
exec ld.lld-19 "$@"
