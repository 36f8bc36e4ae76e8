# A repository from its first commit to the collection of its garbage, branches merged in between.
set -eu

git init --quiet --initial-branch=main project
cd project

for round in $(seq 1 8); do
    mkdir -p "folder$round"
    for file in $(seq 1 25); do
        seq "$round" $((round * file)) >"folder$round/file$file.txt"
        seq 1 "$file" >>shared.txt
    done
    git add .
    git commit --quiet -m "round $round"
done

git checkout --quiet -b side HEAD~4
for round in 1 2 3; do
    seq 1 $((round * 1000)) >"side$round.txt"
    git add .
    git commit --quiet -m "side $round"
done
git checkout --quiet main
git merge --quiet -m "merge" side

git log --oneline --graph --stat | tail -n 40
git diff HEAD~3 --shortstat
git blame shared.txt | tail -n 3
git grep -c 17 | tail -n 5
git -c pack.threads=4 gc --quiet --aggressive --prune=now
git fsck --full --no-progress
git clone --quiet --no-local . ../copy
git -C ../copy rev-parse HEAD
git archive --format=tar HEAD | cksum
git status --short --branch
