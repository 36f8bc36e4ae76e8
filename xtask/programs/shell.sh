# Arrays, substitutions, pipelines, subshells and background jobs.
set -eu

declare -A squares
for ((i = 0; i < 3000; i++)); do
    squares[$i]=$((i * i))
done
echo "entries: ${#squares[@]}, last: ${squares[2999]}"

text=
for ((i = 0; i < 2000; i++)); do
    text+="word$i "
done
upper=${text^^}
echo "length: ${#text}, tail: ${upper: -9}"

read -ra words <<<"$text"
without=${text//1/}
echo "words: ${#words[@]}, length without one digit: ${#without}"

total=0
for i in 1 2 3 4 5 6 7 8; do
    part=$(for ((j = 0; j < 200; j++)); do echo $((i * j)); done | (sum=0; while read -r n; do sum=$((sum + n)); done; echo "$sum"))
    total=$((total + part))
done
echo "pipelines: $total"

for i in 1 2 3 4 5 6; do
    (for ((j = 0; j < 2000; j++)); do line[j]="$i:$j"; done; echo "${line[*]}" >"job$i") &
done
wait
for i in 1 2 3 4 5 6; do
    echo "job $i: $(wc -c <"job$i")"
done

printf '%s\n' "${words[@]}" | sort | uniq | tail -n 1
trap 'echo "end: $?"' EXIT
exit 0
