# A few megabytes sorted by four threads, once in memory and once through temporary files.
set -eu

seq 1 250000 | awk '{ printf "%07d %d a line of some length\n", ($1 * 7919) % 1000003, $1 }' >lines
sort --parallel=4 lines -o sorted
sort --parallel=4 --buffer-size=1M --key=2,2nr lines -o reversed
sort --check sorted
cksum sorted reversed
sort --parallel=4 --unique --key=1.1,1.4 lines | wc -l
