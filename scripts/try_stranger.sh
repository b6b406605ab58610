#!/bin/sh
# A fresh clone in the hands of somebody else: another user id that the system does not know, no HOME, a C locale, and
# umask 077 and then 022. A shortened demo, a chat and an export must work, and what is written must follow the umask.
#
#   [PYTHON=.venv/bin/python] sh scripts/try_stranger.sh
#
# PYTHON has the dependencies installed. Without root the user id stays as it is, which is said.
set -eu
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$(pwd)/$python ;; esac
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
git clone --quiet --no-hardlinks . "$place/clone"

if [ "$(id -u)" = 0 ]; then
    as="setpriv --reuid 54321 --regid 54321 --clear-groups"
    chown -R 54321:54321 "$place"
else
    as=""
    echo "not root: the user id stays $(id -u)"
fi

# where the dependencies are; an interpreter in somebody's home cannot be run by others, the system's own can
packages=$("$python" -c "import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))")
$as test -x "$python" || python=$(PATH=/usr/bin:/bin command -v python3)

for mask in 077 022; do
    (
        cd "$place/clone"
        umask "$mask"
        run() {
            $as env -i PATH=/usr/bin:/bin LC_ALL=C OMP_NUM_THREADS=1 PYTHONPATH="$place/clone/src:$packages" \
                PYTHONDONTWRITEBYTECODE=1 "$python" -m nano_llada "$@"
        }
        run demo --folder "runs/$mask" --skills copy identity --documents 300 --chats 300 --items 2 --ar-steps 4 \
            --ar-sft-steps 4 --diffusion-steps 4 --diffusion-sft-steps 4 --hidden-size 32 --num-layers 1 > "demo-$mask"
        printf 'Who are you?\n你是谁？\n/exit\n' | run chat "runs/$mask/diffusion-sft" > "chat-$mask"
        run export "runs/$mask/ar-sft" --out "exported-$mask"
        test "$(wc -l < "chat-$mask")" -ge 2
        wrong=$(find "runs/$mask" "exported-$mask" -perm "/$mask" | head -n 3)
        test -z "$wrong" || { echo "umask $mask is not followed by $wrong"; exit 1; }
        owner=$(stat -c %u "runs/$mask/ar-sft/config.json")
        echo "umask $mask: demo, chat and export work as user $owner, $(find "runs/$mask" | wc -l) files"
    )
done
