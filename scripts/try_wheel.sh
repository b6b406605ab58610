#!/bin/sh
# Builds the wheel, installs it into an empty environment outside of the checkout, and uses it there.
set -eu
here=$(pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"${PYTHON:-python3}" -m venv "$place/venv"
pip="$place/venv/bin/python -m pip --quiet --disable-pip-version-check"
$pip wheel --no-deps --wheel-dir "$here/dist" "$here"
wheel=$(ls -t "$here"/dist/nano_llada-*.whl | head -n 1)
$pip install -c "$here/constraints.txt" torch
$pip install -c "$here/constraints.txt" "$wheel"

cd "$place"
run="$place/venv/bin/nano-llada"
$run --version
$run doctor
$run data world --out world --documents 300 --chats 300 --seed 1
$run pretrain ar --data world/pretrain-train.jsonl --validation world/pretrain-validation.jsonl --name first \
    --steps 20 --batch-size 4 --sequence-length 64 --hidden-size 32 --num-layers 1 --num-heads 2 --cache cache --threads 1
$run generate runs/first --prompt "Tom has" --max-new-tokens 8
echo '{"format": "nano-llada-trace", "version": 1, "frames": []}' > empty.trace.json
$run trace empty.trace.json --html replay.html
"$place/venv/bin/python" -c "
import nano_llada
model = nano_llada.load('runs/first')
print(model, model.score('Tom has a ball.'))
"
# the bundled model talks, in both languages
printf 'Who are you?\n\344\275\240\345\245\275\n' | $run chat --threads 1
$run generate "Tell me a story about a dog." --max-new-tokens 60 --threads 1
if $run serve runs/first 2> refused; then
    echo "serve started without its extra"
    exit 1
fi
grep -q 'nano-llada\[serve\]' refused
echo "the wheel works: $(basename "$wheel"), $(du -k "$wheel" | cut -f 1) kB"
