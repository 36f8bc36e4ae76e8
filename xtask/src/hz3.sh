#!/bin/sh
# hz3: runs a program on the memory allocator hz3, whose libraries lie in ../lib.

usage="usage: hz3 [--lane scale|fast|hardened] PROGRAM [ARGUMENT]..., hz3 [--lane scale|fast|hardened] --library, hz3 --version"

fail() {
    echo "hz3: $1" >&2
    exit 2
}

lane=scale
print=
while [ $# -gt 0 ]; do
    case $1 in
        --lane)
            [ $# -gt 1 ] || fail "--lane needs a name; $usage"
            lane=$2
            shift 2
            ;;
        --lane=*)
            lane=${1#--lane=}
            shift
            ;;
        --library)
            print=yes
            shift
            ;;
        --version)
            echo "hz3 @VERSION@"
            exit
            ;;
        --help)
            echo "$usage"
            exit
            ;;
        --)
            shift
            break
            ;;
        -*) fail "unknown option $1; $usage" ;;
        *) break ;;
    esac
done

case $lane in
    scale | fast | hardened) ;;
    *) fail "there is no lane '$lane'; $usage" ;;
esac

folder=$(dirname -- "$(readlink -f -- "$0")")
library=$(readlink -f -- "$folder/../lib")/libhakozuna_hz3_$lane.so
[ -r "$library" ] || fail "the library is missing: $library"
case $library in
    *[\ :]*) fail "LD_PRELOAD can't name $library: a space or a colon is in the path" ;;
esac

if [ -n "$print" ]; then
    echo "$library"
    exit
fi
[ $# -gt 0 ] || fail "no program; $usage"
command -v -- "$1" >/dev/null || fail "program not found: $1"

LD_PRELOAD=$library${LD_PRELOAD:+:$LD_PRELOAD}
export LD_PRELOAD
exec "$@"
