"""What becomes of every option of the original project's commands, with a value to try.

A line is `option value -> what`, and `what` is one of: options of nano-llada that must be in a command it runs; `told`,
one printed line about the option and why it has no effect; `refused`, an error that names it. An option has more than
one line where its values fare differently. Behind `|` stands what the option needs besides. A line that begins with
`base:` holds what the command needs in any case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

COUNT = 328

LOOP = """
--num-workers 2 -> told
--grad-clip 0.5 -> --clip-norm 0.5
--log-interval 7 -> --log-every 7
--save-interval 9 -> --save-every 9
--save-dir elsewhere -> --runs elsewhere
--run-name mine -> --name mine
--dtype bfloat16 -> --precision auto
--dtype float32 -> --precision fp32
--dtype float16 -> refused
--seed 3 -> --seed 3
--mask-token <|mask|> -> told
--mask-token [M] -> refused
"""
SHAPE = """
--hidden-size 64 -> --hidden-size 64
--num-hidden-layers 2 -> --num-layers 2
--num-attention-heads 2 -> --num-heads 2
--intermediate-size 96 -> --intermediate-size 96
--dropout 0.1 -> --dropout 0.1
--hidden-act silu -> told
--hidden-act gelu -> refused
--hidden-act relu -> refused
--rms-norm-eps 1e-4 -> --norm-eps 0.0001
--rope-theta 5e5 -> --rope-theta 500000.0
--max-position-embeddings 4096 -> --max-length 4096
--inference-rope-scaling -> told
"""
GIVEN_SHAPE = """
--hidden-size 64 -> told
--num-hidden-layers 2 -> told
--num-attention-heads 2 -> told
--intermediate-size 96 -> told
--dropout 0.1 -> --dropout 0.1
--hidden-act silu -> told
--hidden-act gelu -> refused
--rms-norm-eps 1e-4 -> told
--rope-theta 5e5 -> told
--max-position-embeddings 4096 -> --max-length 4096
--inference-rope-scaling -> told
"""
TUNING = """
--data y.jsonl -> --data y.jsonl
--tokenizer-dir . -> --tokenizer .
--tokenizer-dir nowhere -> told
--device cpu -> --device cpu
--weight-decay 0.2 -> --weight-decay 0.2
--warmup-steps 11 -> --warmup-steps 11
--max-seq-len 128 -> --sequence-length 128
--epochs 5 -> --epochs 5
--learning-rate 1e-5 -> --learning-rate 1e-5
--load-from weights/z.pt -> --init-from weights/z.pt
"""
DECAY = """
--final-decay-ratio 0.3 -> --decay-share 0.3
--final-lr-ratio 0.2 -> --min-lr-ratio 0.2
--iid-mask-eps 0.01 -> told
--resume-optimizer-state -> refused
"""
STREAMING = """
--batch-size 8 -> --batch-size 8
--accumulation-steps 4 -> --batch-size 64 --micro-batch-size 16
--accumulation-steps 4 | --batch-size 2 -> --batch-size 8 --micro-batch-size 2
--accumulation-steps 0 -> refused
--streaming -> told
--steps-per-epoch 10 -> told
--steps-per-epoch 10 | --streaming --epochs 2 --accumulation-steps 3 -> --steps 8
"""
BUDGET = """
--gen-cap-start-ratio 0.1 -> told
--gen-cap-end-ratio 0.5 -> told
--gen-max-decode-per-step 16 -> told
--gen-repeat-window 64 -> told
"""
WRITING = f"""
{BUDGET}
--gen-repeat-penalty 0 -> told
--gen-repeat-penalty 0.15 -> refused
--gen-steps 32 -> --steps 32
--gen-cfg-scale 1.5 -> --guidance 1.5
--gen-temp 0.8 -> --temperature 0.8
--gen-top-k 8 -> told
--gen-top-k 8 | --gen-temp 0.8 -> --temperature 0.8 --top-k 8
"""
THRESHOLDS = """
--gen-confidence-threshold 0.7 -> --threshold 0.7
--gen-steps 32 | --gen-confidence-threshold 0.7 -> told
--llada2-enable-parallel-decoding -> --threshold 0.9
--llada2-enable-parallel-decoding | --gen-confidence-threshold 0.7 -> --threshold 0.7
"""
EVALUATION = """
--tokenizer-dir . -> told
--max-new-tokens 9 -> --max-new-tokens 9
--device cpu -> --device cpu
"""
MASKS = """
--mask-token <|mask|> -> told
--mask-token [M] -> refused
"""
LOSS = """
--eval-data y.jsonl -> eval --suites likelihood --text y.jsonl --limit 800 --batch-size 16
--jsonl-field content -> told
--jsonl-field content | --eval-data y.jsonl -> --text-field content
--eval-batch-size 4 -> told
--eval-batch-size 4 | --eval-data y.jsonl -> --batch-size 4 --limit 200
--eval-max-batches 3 -> told
--eval-max-batches 3 | --eval-data y.jsonl -> --limit 48
"""

TABLE = {
    "scripts.train.train_pretrain": f"""
base: --data x.jsonl
{LOOP}
{SHAPE}
--data y.jsonl -> --data y.jsonl
--jsonl-field content -> --text-field content
--tokenizer-dir . -> --tokenizer .
--tokenizer-dir nowhere -> told
--tokenizer-dir . | --tokenizer-json tokenizer.json -> told
--tokenizer-json tokenizer.json -> --tokenizer tokenizer.json
--tokenizer-json tokenizer.json | --retrain-tokenizer -> told
--retrain-tokenizer -> tokenizer train --data x.jsonl --out tokenizer_retrained --vocab-size 6400 --tokenizer
--retrained-tokenizer-json-name own.json | --retrain-tokenizer -> tokenizer train --out own --tokenizer
--retrained-tokenizer-json-name own.json -> told
--retrained-tokenizer-json-name tokenizer.json | --retrain-tokenizer -> refused
--tokenizer-vocab-size 700 | --retrain-tokenizer -> tokenizer train --vocab-size 700
--tokenizer-vocab-size 700 -> told
--tokenizer-train-max-lines 10 | --retrain-tokenizer -> told
--tokenizer-train-max-lines 10 -> told
--target-vocab-size 6400 -> told
--load-from weights/z.pt -> --init-from weights/z.pt
--epochs 2 -> --epochs 2
--batch-size 8 -> --batch-size 8
--max-seq-len 1024 -> --sequence-length 1024 --max-length 1024
--lr 2e-4 -> --learning-rate 0.0002
--weight-decay 0.2 -> --weight-decay 0.2
""",
    "scripts.train.diffusion": f"""
base: --train --use-tokenizer --data x.jsonl
{SHAPE}
{BUDGET}
--train -> told
--use-tokenizer -> told
--data y.jsonl -> --data y.jsonl
--jsonl-field content -> --text-field content
--jsonl-sep ; -> told
--tokenizer-dir . -> --tokenizer .
--tokenizer-dir nowhere -> told
--target-vocab-size 6400 -> told
--seq-len 1024 -> --sequence-length 1024 --max-length 1024
--seq-len 128 -> --sequence-length 128
--batch-size 8 -> --batch-size 8
--weights-path elsewhere/a.pt -> --runs elsewhere --name a
--run-name b | --weights-path elsewhere/a.pt -> told
--run-name mine -> --name mine
--init-from-minimind weights/z.pt -> --init-from weights/z.pt
--learning-rate 2e-4 -> --learning-rate 2e-4
--lr-schedule cosine -> --schedule cosine
--lr-schedule wsd -> --schedule wsd
--lr-stable-ratio 0.4 -> --decay-share 0.6
--lr-stable-ratio 0.4 | --max-iters 100 --warmup-steps 10 -> --decay-share 0.5
--lr-stable-ratio 0.4 | --lr-schedule cosine -> told
--lr-stable-ratio 4 -> refused
--warmup-steps 11 -> --warmup-steps 11
--min-lr-ratio 0.2 -> --min-lr-ratio 0.2
--weight-decay 0.2 -> --weight-decay 0.2
--max-iters 50 -> --steps 50
--early-stop-patience 3 -> --patience 3
--early-stop-min-delta 0.01 -> --min-delta 0.01
--eval-interval 30 -> --eval-every 30
--sample-interval 30 -> told
--repeat-penalty-weight 0 -> told
--repeat-penalty-weight 0.1 -> refused
--repeat-penalty-min-run 3 -> told
--repeat-penalty-delay-steps 3 -> told
--repeat-penalty-warmup-steps 3 -> told
--mask-schedule iid_t -> told
--mask-schedule random -> --loss-weight uniform
--mask-schedule wsd -> --block-warmup-share 0.3 --block-decay-share 0.2 --block-size 32
--iid-mask-eps 0.01 -> told
--variable-length-prob 0.1 -> --random-length 0.1
--wsd-min-mask-ratio 0.1 -> told
--wsd-max-mask-ratio 0.9 -> told
--wsd-warmup-ratio 0.1 -> told
--wsd-stable-ratio 0.1 -> told
--use-block-curriculum -> --block-warmup-share 0.3 --block-size 32
--use-block-curriculum | --mask-schedule iid_t -> refused
--wsd-phase-ratios 0.1,0.8,0.1 -> told
--wsd-phase-ratios 0.1,0.8,0.1 | --use-block-curriculum -> --block-warmup-share 0.1 --block-decay-share 0.1
--wsd-block-sizes-up 1,8 -> told
--wsd-block-sizes-up 1,8 | --use-block-curriculum -> --block-warmup 1 8
--wsd-block-sizes-down 8,4 -> told
--wsd-block-sizes-down 8,4 | --use-block-curriculum -> --block-decay 8 4 --block-size 4
--time-weighted-loss -> told
--time-weight-eps 0.01 -> told
--use-doc-attention-mask -> told
--gen-temp 0.8 -> told
--gen-confidence-threshold 0.9 -> told
--gen-top-k 8 -> told
--gen-steps 64 -> told
--gen-repeat-penalty 0.15 -> told
--gen-cfg-scale 1.5 -> told
--llada2-enable-parallel-decoding -> told
--llada2-topk-merge -> --keep-best 3 --merge-best 3
--llada2-topk-merge-k 2 -> told
--llada2-topk-merge-k 2 | --llada2-topk-merge -> --keep-best 2 --merge-best 2
""",
    "scripts.train.train_sft_minimind": f"""
base: --data x.jsonl --load-from weights/x.pt
{LOOP.replace("--mask-token <|mask|> -> told", "").replace("--mask-token [M] -> refused", "")}
{GIVEN_SHAPE}
{TUNING}
{STREAMING}
--min-lr-ratio 0.2 -> --min-lr-ratio 0.2
""",
    "scripts.train.train_sft_diffusion": f"""
base: --data x.jsonl --load-from weights/x.pt
{LOOP}
{GIVEN_SHAPE}
{TUNING}
{STREAMING}
{DECAY}
--llada2-enable-block-diffusion -> --block-size 32 --mask-rate-min 0.05 --mask-rate-max 0.95
--llada2-block-size 16 -> told
--llada2-block-size 16 | --llada2-enable-block-diffusion -> --block-size 16
--llada2-alpha-min 0.1 -> told
--llada2-alpha-min 0.1 | --llada2-enable-block-diffusion -> --mask-rate-min 0.1
--llada2-alpha-max 0.9 -> told
--llada2-alpha-max 0.9 | --llada2-enable-block-diffusion -> --mask-rate-max 0.9
--llada2-enable-cap -> told
--llada2-enable-cap | --llada2-enable-block-diffusion -> --confidence-weight 0.1
--llada2-cap-lambda 0.3 -> told
--llada2-cap-lambda 0.3 | --llada2-enable-block-diffusion --llada2-enable-cap -> --confidence-weight 0.3
--llada2-enable-complementary-masking -> told
--llada2-enable-complementary-masking | --llada2-enable-block-diffusion -> --complementary
--llada2-quantize-effective-length -> told
--llada2-quantize-effective-length | --llada2-enable-block-diffusion -> --fill-multiple 32
""",
    "scripts.train.train_dpo_diffusion": f"""
base: --data x.jsonl --load-from weights/x.pt
{LOOP}
{TUNING}
{DECAY}
--reference-from weights/y.pt -> --reference weights/y.pt
--batch-size 8 -> --batch-size 16
--accumulation-steps 4 -> --batch-size 128 --micro-batch-size 32
--accumulation-steps 4 | --batch-size 2 -> --batch-size 16 --micro-batch-size 4
--dpo-beta 0.3 -> --beta 0.3
--llada2-block-size 16 -> --block-size 16
--llada2-alpha-min 0.1 -> told
--llada2-alpha-max 0.9 -> told
--llada2-quantize-effective-length -> --fill-multiple 32
""",
    "scripts.eval.eval_minimind": f"""
base: --checkpoint weights/x.pt
{EVALUATION}
{LOSS}
--checkpoint weights/y.pt -> --checkpoint weights/y.pt
--prompt hello -> --prompt hello
--temperature 0.8 -> --temperature 0.8
--top-k 20 -> told
--top-k 20 | --temperature 0.8 -> --temperature 0.8 --top-k 20
--top-k 20 | --temperature 0 -> told
--max-seq-len 128 -> told
--max-seq-len 128 | --eval-data y.jsonl -> --window 128
""",
    "scripts.eval.eval_diffusion": f"""
base: --checkpoint weights/x.pt
{EVALUATION}
{WRITING}
{THRESHOLDS}
{LOSS}
--checkpoint weights/y.pt -> --checkpoint weights/y.pt
--prompt hello -> --prompt hello
--seq-len 256 -> told
--eval-mask-ratio 0.5 -> told
--cond-ll-response yes -> refused
--cond-ll-nmc 64 -> told
""",
    "scripts.eval.eval_sft_one_prompt": f"""
base: --prompt hello --diffusion-checkpoint weights/x.pt
{EVALUATION}
{WRITING}
{THRESHOLDS}
{MASKS}
--prompt hi -> --prompt hi
--seq-len 256 -> told
--diffusion-checkpoint weights/y.pt -> --checkpoint weights/y.pt
--minimind-checkpoint weights/y.pt -> compare --checkpoints weights/y.pt
--ar-temperature 0.8 -> told
--ar-temperature 0.8 | --minimind-checkpoint weights/y.pt --gen-temp 0.8 -> --temperature 0.8
--ar-temperature 0.8 | --minimind-checkpoint weights/y.pt -> refused
--ar-top-k 20 -> told
--ar-top-k 20 | --minimind-checkpoint weights/y.pt --gen-top-k 8 -> refused
--no-chat-wrap -> --mode text
--no-chat-wrap | --minimind-checkpoint weights/y.pt -> refused
""",
    "scripts.eval.compare_cfg": f"""
base: --checkpoint weights/x.pt --prompt hello
{EVALUATION}
{MASKS}
--checkpoint weights/y.pt -> --checkpoint weights/y.pt
--prompt hi -> --prompt hi
--seq-len 256 -> told
--gen-steps 32 -> --steps 32
--cfg-on-scale 2.5 -> --guidance 2.5
--cfg-off-scale 0.5 -> --guidance 0.5
--gen-repeat-penalty 0 -> told
--gen-repeat-penalty 0.15 -> refused
--gen-repeat-window 64 -> told
--no-chat-wrap -> --mode text
""",
    "scripts.eval.compare_llada_styles": f"""
base: --checkpoint weights/x.pt --prompt hello
{EVALUATION}
{WRITING}
{MASKS}
--checkpoint weights/y.pt -> --checkpoints weights/y.pt
--prompt hi -> hi
--prompt-file prompts.txt -> first second
--prompt-file prompts.jsonl -> third
--prompt-file missing.txt -> refused
--prompt-field other | --prompt-file prompts.jsonl -> fourth
--prompt-field none | --prompt-file prompts.jsonl -> refused
--prompt-field other -> told
--max-samples 1 -> told
--seq-len 256 -> told
--gen-confidence-threshold 0.7 -> --thresholds 0.7
--task sft -> told
--task pretrain -> told
--no-chat-wrap -> told
--output outputs/mine.jsonl -> --out outputs/mine
""",
    "scripts.eval.eval_sft_hf_qa": f"""
base: --minimind-checkpoint weights/x.pt --diffusion-checkpoint weights/y.pt --dataset questions
{EVALUATION}
{BUDGET}
{MASKS}
--minimind-checkpoint weights/z.pt -> ar=weights/z.pt
--diffusion-checkpoint weights/z.pt -> diffusion=weights/z.pt
--dataset questions -> told
--dataset ./nowhere -> refused
--dataset-config none -> refused
--split train -> told
--split none -> refused
--question-field title -> told
--question-field none -> refused
--context-field title -> told
--context-field title | --include-context -> told
--answers-field none -> refused
--answers-field title -> told
--num-samples 2 -> told
--num-samples 0 -> refused
--seed 1 -> told
--seq-len 256 -> told
--ar-temperature 0.8 -> --temperature 0.8
--ar-top-k 20 -> told
--ar-top-k 20 | --ar-temperature 0.8 -> --top-k 20
--gen-temp 0.8 -> temperature=0.8
--gen-confidence-threshold 0.7 -> threshold=0.7
--gen-top-k 8 -> told
--gen-top-k 8 | --gen-temp 0.8 -> top_k=8
--gen-repeat-penalty 0 -> told
--gen-repeat-penalty 0.15 -> refused
--llada2-enable-parallel-decoding -> threshold=0.9
--gen-steps 32 -> steps=32
--gen-cfg-scale 1.5 -> guidance=1.5
--include-context -> told
--output outputs/mine.jsonl -> --out outputs/mine
""",
}


@dataclass(frozen=True)
class Case:
    """One option with a value, and what becomes of it."""

    command: str
    base: str
    option: str
    value: str
    needs: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.command.rsplit('.', 1)[-1]} {self.option} {self.value} {self.needs}".strip()


def cases() -> Iterator[Case]:
    """Every line of the table."""
    for command, text in TABLE.items():
        base, *lines = [line for line in text.splitlines() if line.strip()]
        for line in lines:
            given, _, becomes = line.partition(" -> ")
            given, _, needs = given.partition(" | ")
            option, _, value = given.partition(" ")
            yield Case(command, base.removeprefix("base: "), option, value, needs, becomes)
