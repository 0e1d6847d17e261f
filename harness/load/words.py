"""Prompts without a tokenizer: words that cost most tokenizers the same.

All have four letters. With a space before it, each is one token of the vocabularies of Qwen2 and
Qwen3.5, Llama 2 and 3, GPT-2, GPT-NeoX, Falcon, DeepSeek, Command R, Gemma 4 and Phi 3, and three
of the tokenizer that this program trains for synthetic weights; what they cost a server is
measured (`bodies.Calibration`).
"""

from __future__ import annotations

import random

_TEXT = """
acid also away back ball band bank bird blow blue book born both burn busy call
came camp care cast chip city code cold cook cool copy cost dark data date deep
drop east easy edge else even exit face fact fall farm feed feel feet file fill
fish five flat flow food foot fuel full gain game gate gift give glad goal gold
good hair half hall hand hang head heat help here high hold hole home hope host
idea item join jump just know rule land last late left life lift link lock look
lose luck made mail make mark menu moon move name need next nose open part past
peak pick pipe plot plus pull push race rain rank rare rate risk role roll room
"""
WORDS = tuple(_TEXT.split())
_BITS = 7  # of one word's place in the list
SPELT = 9  # words that spell a seed of 63 bits


def random_words(seed: int, count: int) -> list[str]:
    """The first `count` words of the endless text of `seed`.

    Texts of different seeds differ within their first nine words, which spell the seed: a prefix
    cache of whole blocks finds nothing in common.
    """
    spelt = [seed >> (_BITS * place) & 127 for place in range(min(count, SPELT))]
    # Whole 32-bit words of the generator, so that a longer text begins with the shorter one.
    rest = random.Random(seed).randbytes(-(-max(0, count - SPELT) // 4) * 4)
    return [WORDS[place] for place in spelt] + [
        WORDS[byte & 127] for byte in rest[: max(0, count - SPELT)]
    ]
