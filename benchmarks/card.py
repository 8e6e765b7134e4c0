"""What only a card can tell: memory and speed of the paper's batch in each precision, and whether it can be done
within 11 GB."""

import gc

import setting as S
import torch
from measure import product_rate, seconds, spread
from parts import product_shapes

WITHIN = 11e9  # bytes; an RTX 2080 Ti has 11 GB
STEPS, ROUNDS = 5, 10


def precisions() -> list:
    "Single precision, and the half precision the card computes itself."
    return ["float32", "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"]


def one(s, case, precision: str, cached: bool):
    "A step of ours in a precision, ready to be called."
    scaler = torch.amp.GradScaler(enabled=precision == "float16")
    return lambda: s.step(case, cached, precision, scaler)


def paper_batch(run) -> tuple:
    "The preset `paper` (published switches) and a batch of 32 paintings of middle length."
    s = run.published
    run.__dict__.pop("corrected", None)  # the other model, which `published` was made like, takes room on the card
    gc.collect()
    s.model.train()
    (case,) = s.cases(2 if run.quick else S.BATCH)
    return s, case


def memory_and_speed(run) -> dict:
    "Peak memory, paintings per second and projected hours."
    s, case = paper_batch(run)
    found = {}
    for precision in precisions():
        for cached in (True, False):
            action = one(s, case, precision, cached)
            s.drop_moments()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(run.device)
            action()
            action()
            took = spread([seconds(action, run.device) for _ in range(run.times(ROUNDS))])
            batches = -(-S.TRAIN_PAINTINGS // S.BATCH)
            found[f"{precision}, {'cached' if cached else 'not cached'}"] = dict(
                paintings=len(case.img),
                peak_bytes=torch.cuda.max_memory_allocated(run.device),
                reserved_bytes=torch.cuda.max_memory_reserved(run.device),
                seconds=took,
                paintings_a_second=len(case.img) / took["median"],
                run_hours=took["median"] * batches * S.EPOCHS / 3600,
            )
    return found


def within(run, size: float = WITHIN) -> dict:
    "The same in a process that may have no more than `size` bytes of the card: training, then writing."
    s, case = paper_batch(run)
    s.drop_moments()
    torch.cuda.empty_cache()
    total, found = torch.cuda.get_device_properties(run.device).total_memory, {}
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), run.device)
    try:
        for precision in precisions():
            try:
                action = one(s, case, precision, False)
                for _ in range(STEPS):
                    action()
                s.model.eval()
                s.write(s.encode_images(case.img), s.config.new_tokens)
                s.model.train()
                found[precision] = dict(ran=True, steps=STEPS)
            except torch.OutOfMemoryError as e:
                found[precision] = dict(ran=False, why=str(e)[:300])
            s.drop_moments()
            torch.cuda.empty_cache()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, run.device)
    return dict(bytes=size, precisions=found)


def card(run) -> dict:
    "All of it, with the arithmetic of the projection."
    batches = -(-S.TRAIN_PAINTINGS // S.BATCH)
    return dict(
        batches=memory_and_speed(run),
        within=within(run),
        products={p: product_rate(product_shapes(run), run.device, ROUNDS, getattr(torch, p)) for p in precisions()},
        arithmetic=f"{S.TRAIN_PAINTINGS} training paintings at most (docs/facts/protocol.md 2.3) / {S.BATCH} = "
        f"{batches} steps "
        f"an epoch, x {S.EPOCHS} epochs x the median seconds of a step",
    )
