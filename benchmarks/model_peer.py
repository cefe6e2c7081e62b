#!/usr/bin/env python3
"""model_peer.py FOLDER IDS DTYPE EXPERTS CONTEXT: transformers on the windows that `upmoe eval` takes, and decoding.

Loads once, then answers each line on standard input: `perplexity` with "seconds nll", `decode PROMPT NEW` with "seconds
last_id". IDS: a file of uint16.
"""

import sys
import time

import numpy as np
import torch
import transformers

BATCH_TOKENS = 4096


def perplexity(model, ids: torch.Tensor, context: int) -> tuple[float, float]:
    windows = [w for w in ids.split(context) if len(w) == context]
    start, total, count = time.perf_counter(), 0.0, 0
    for first in range(0, len(windows), BATCH_TOKENS // context):
        batch = torch.stack(windows[first : first + BATCH_TOKENS // context])
        loss = model(batch, labels=batch, use_cache=False).loss  # mean over all but the first of each window
        total += loss.double().item() * batch.numel() * (context - 1) / context
        count += batch.numel() * (context - 1) // context
    return time.perf_counter() - start, total / count


def decode(model, prompt: torch.Tensor, new: int) -> tuple[float, float]:
    """Seconds for the tokens after the first, greedily."""

    def seconds(count: int) -> tuple[float, int]:
        start = time.perf_counter()
        out = model.generate(prompt[None], max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
        return time.perf_counter() - start, out[0, -1].item()

    one, _ = seconds(1)
    all_, last = seconds(new)
    return all_ - one, last


def main(folder: str, ids_file: str, dtype: str, experts: str, context: str) -> None:
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    how = {} if experts == "dense" else {"experts_implementation": experts}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **how).eval()
    ids = torch.from_numpy(np.fromfile(ids_file, np.uint16).astype(np.int64))
    with torch.inference_mode():
        for line in sys.stdin:
            verb, *numbers = line.split()
            if verb == "perplexity":
                answer = perplexity(model, ids, int(context))
            else:
                prompt, new = map(int, numbers)
                answer = decode(model, ids[:prompt], new)
            print(*answer, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
